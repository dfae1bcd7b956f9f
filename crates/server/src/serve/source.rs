//! The node, as clients and operators see it.

use std::time::Duration;

use coracle::{
    JoinError, JoinRole, MemberStatus, Node, NodeStatus, RequestError, TransferError,
    client::{
        ClusterError, Refusal, RefusalKind,
        pb::{self, Member, MembersResponse, Role, StatusResponse},
    },
    core::{CallOff, CalledOff, Index, NodeId, RejectReason},
    level::Error,
    transport::Address,
};

use crate::api::{Operated, Operator};

/// When to try again after `Busy`.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Tells the status of a node, and does with it what operators ask.
pub(crate) struct NodeSource(pub(crate) Node);

#[tonic::async_trait]
impl Operator for NodeSource {
    fn status(&self) -> StatusResponse {
        to_wire(self.0.status())
    }

    fn members(&self) -> MembersResponse {
        members(self.0.status())
    }

    async fn join(&self, address: Address, learner: bool) -> Operated<NodeId> {
        let role = if learner { JoinRole::Learner } else { JoinRole::Voter };
        self.0.join(&address, role).await.map_err(|error| self.not_joined(error))
    }

    async fn leave(&self, id: NodeId) -> Operated<()> {
        let status = self.leading()?;
        if status.members.iter().all(|member| member.id != id) {
            return Err(not_member(id));
        }
        match self.0.leave(id).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn transfer(&self, to: Option<NodeId>) -> Operated<NodeId> {
        let status = self.leading()?;
        match to.map(|to| (to, status.members.iter().find(|member| member.id == to))) {
            Some((to, None)) => return Err(not_member(to)),
            Some((to, Some(_))) if to == status.id => return Ok(to),
            Some((to, Some(member))) if member.role != "voter" => {
                return Err(refused(RefusalKind::Refused, format!("node {to} is a {}; only voters lead", member.role)));
            }
            _ => {}
        }
        self.0.transfer(to).await.map_err(|error| match error {
            TransferError::NotLeader { .. } => self.not_leader(),
            TransferError::Nobody => {
                refused(RefusalKind::NotTakenOver, "no other voter is there and keeps up, to take leadership over")
            }
            _ => refused(RefusalKind::NotTakenOver, error.to_string()),
        })
    }

    fn weaken(&self, duration: Duration) {
        self.0.weaken(duration);
    }

    async fn snapshot(&self) -> Operated<Index> {
        self.0.snapshot().await.map_err(|error| self.failed(&error))
    }
}

impl NodeSource {
    /// The status, if this node leads.
    fn leading(&self) -> Operated<NodeStatus> {
        let status = self.0.status();
        if status.role == "leader" { Ok(status) } else { Err(self.not_leader()) }
    }

    fn not_leader(&self) -> ClusterError {
        Error::NotLeader { leader: self.0.leader_client_address() }.into()
    }

    fn no_space(&self) -> Error {
        Error::NoSpace(self.0.no_space().unwrap_or_else(|| "no space in the log".to_owned()))
    }

    fn not_joined(&self, error: JoinError) -> ClusterError {
        let text = error.to_string();
        match error {
            JoinError::NotLeader { client_address, .. } => Error::NotLeader { leader: client_address }.into(),
            JoinError::Unreachable { .. } => refused(RefusalKind::Unreachable, text),
            JoinError::Refused { .. } => refused(RefusalKind::Refused, text),
            JoinError::ChangeInProgress => refused(RefusalKind::ChangeInProgress, text),
            JoinError::Rejected(reason) => self.failed(&RequestError::Rejected(reason)),
            _ => Error::Unknown(text).into(),
        }
    }

    fn failed(&self, error: &RequestError) -> ClusterError {
        let RequestError::Rejected(reason) = error else {
            return Error::Unknown("the leader changed, or the node stopped, before the answer".to_owned()).into();
        };
        match reason {
            RejectReason::NotLeader { .. } => self.not_leader(),
            RejectReason::Busy => Error::Busy { retry_after: RETRY_AFTER }.into(),
            RejectReason::Stopped => Error::Closed.into(),
            RejectReason::NoSpace => self.no_space().into(),
            RejectReason::NoQuorum => Error::Unavailable("no majority of the nodes answered in time".to_owned()).into(),
            RejectReason::ChangeInProgress => {
                refused(RefusalKind::ChangeInProgress, "another change of the members is under way")
            }
            RejectReason::Membership { why } => {
                refused(RefusalKind::Refused, format!("the membership asked for cannot be: {why}"))
            }
            other => Error::Unavailable(format!("refused: {other:?}")).into(),
        }
    }
}

fn refused(kind: RefusalKind, reason: impl Into<String>) -> ClusterError {
    Refusal::new(kind, reason).into()
}

fn not_member(id: NodeId) -> ClusterError {
    refused(RefusalKind::NotMember, format!("node {id} is no member of the cluster"))
}

fn members(status: NodeStatus) -> MembersResponse {
    MembersResponse {
        node_id: status.id.0,
        leader_id: status.leader.map(|id| id.0),
        term: status.term.0,
        last_index: status.last_index.0,
        commit_index: status.commit_index.0,
        members: wire_members(&status),
        called_off: status.called_off.iter().map(called_off).collect(),
    }
}

fn called_off(called_off: &CalledOff) -> pb::CalledOff {
    let reason = match called_off.reason {
        CallOff::Silent { .. } => "silent",
        CallOff::Stalled { .. } => "stalled",
        CallOff::TooSlow { .. } => "too-slow",
        CallOff::NoMajority => "no-majority",
        _ => "unknown",
    };
    pb::CalledOff {
        index: called_off.index.0,
        nodes: called_off.nodes.iter().map(|id| id.0).collect(),
        reason: reason.to_owned(),
        blamed: called_off.reason.node().map(|id| id.0),
    }
}

fn wire_members(status: &NodeStatus) -> Vec<Member> {
    let leads = status.role == "leader";
    let member = |member: &MemberStatus| {
        let own = (leads && member.is_self).then_some(status.last_index);
        Member {
            node_id: member.id.0,
            incarnation: member.incarnation.0,
            addresses: member.addresses.clone(),
            client_address: member.client_address.clone(),
            role: member.role.clone(),
            connected: member.is_connected,
            match_index: member.progress.map(|progress| progress.match_index).or(own).map(|index| index.0),
            state: if leads { state(member).to_owned() } else { String::new() },
        }
    };
    status.members.iter().map(member).collect()
}

/// How a member does, as its leader sees it.
fn state(member: &MemberStatus) -> &'static str {
    match &member.progress {
        _ if member.is_self => "leading",
        Some(progress) if progress.is_active && progress.is_installing => "installing",
        Some(progress) if progress.is_active => "replicating",
        _ => "silent",
    }
}

fn to_wire(status: NodeStatus) -> StatusResponse {
    let members = wire_members(&status);
    StatusResponse {
        node_id: status.id.0,
        incarnation: status.incarnation.0,
        cluster_name: status.cluster_name,
        cluster_id: status.cluster.map(|id| id.0),
        role: role(&status.role).into(),
        term: status.term.0,
        leader_id: status.leader.map(|id| id.0),
        leader_client_address: status.leader_client_address.unwrap_or_default(),
        base_index: status.base_index.0,
        last_index: status.last_index.0,
        durable_index: status.durable_index.0,
        commit_index: status.commit_index.0,
        applied_index: status.applied_index.0,
        engine: status.engine,
        durability: status.durability.to_string(),
        members,
        stopped: status.stopped.unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        damaged_entries: status.damaged_entries as u64,
        no_space: status.no_space.unwrap_or_default(),
        is_disk_slow: status.is_disk_slow,
        lost_entry: status.lost_entry.map(|index| index.0),
        is_state_behind: status.is_state_behind,
    }
}

fn role(name: &str) -> Role {
    match name {
        "follower" => Role::Follower,
        "pre-candidate" => Role::PreCandidate,
        "candidate" => Role::Candidate,
        "leader" => Role::Leader,
        "learner" => Role::Learner,
        "joining" => Role::Joining,
        "removed" => Role::Removed,
        _ => Role::Unspecified,
    }
}
