//! What an operator asks of the leader: to take a node in, and when it votes.

use std::time::Duration;

use coracle_core::{CallOff, Incarnation, Index, MemberRole, MembershipChange, NodeId, RejectReason, Status};
use coracle_replica::{
    Inquiry, Invite, InviteAnswer, JoinRefusal, JoinRole, RequestError, Wire, conflict, is_member, proposed,
};
use coracle_transport::{Address, Transport};

use crate::{Node, directory::Directory, reach};

/// Why a node was not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Only the leader takes nodes in: ask the one that leads.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
        /// Where clients reach it, if that is known.
        client_address: Option<String>,
    },
    /// The node cannot be reached, or does not answer yet.
    #[error("the node at {address} does not answer: {reason}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// Why.
        reason: String,
    },
    /// The node, or the cluster, refuses.
    #[error("the node at {address} does not join: {refusal}")]
    Refused {
        /// Where it is.
        address: String,
        /// Why.
        refusal: JoinRefusal,
    },
    /// Another change is under way, or the leader is new: try again later.
    #[error("another change of the members is under way: try again later")]
    ChangeInProgress,
    /// Surely without effect on the members.
    #[error("the change of the members was rejected: {0:?}")]
    Rejected(RejectReason),
    /// It may or may not have been taken in: look at the members.
    #[error("whether the node was taken in is unknown")]
    Unknown,
}

/// Why a member does not vote, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromotionError {
    /// It stays a learner: its promotion was called off.
    #[error("the node stays a learner: {reason}")]
    CalledOff {
        /// Why.
        reason: CallOff,
    },
    /// It stays a learner: it was not to vote, or an earlier leader called its promotion off.
    #[error("the node stays a learner: it was not to vote, or did not catch up in time")]
    Learner,
    /// It is no member any more.
    #[error("the node is no member any more")]
    NotMember,
    /// It does not vote yet.
    #[error("the node does not vote yet")]
    TimedOut,
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

impl Node {
    /// Takes the node at `address` in, on the leader: invites it, and proposes the change. Ends when the intent is committed; a new voter is promoted once it has caught up ([`Node::wait_until_voter`]).
    /// A node that is a member as asked for is left alone, a learner is promoted, and a member that has another address by now is known by it from here on. A voter stays one.
    ///
    /// # Errors
    /// When this node does not lead, the other one does not answer or refuses, or the change is not made.
    pub async fn join(&self, address: &Address, role: JoinRole) -> Result<NodeId, JoinError> {
        let status = self.leading()?;
        let invite = invite(&self.shared.directory, &status, None);
        let answer = ask(&*self.shared.transport, address, &invite).await;
        let answer = answer.map_err(|reason| JoinError::Unreachable { address: address.to_string(), reason })?;
        let refused = |refusal| JoinError::Refused { address: address.to_string(), refusal };
        let record = match answer {
            InviteAnswer::Accepted { record } => record,
            InviteAnswer::Refused(refusal) => return Err(refused(refusal)),
        };
        let status = self.leading()?;
        let refusal = conflict(&status.membership, &record);
        if let Some(refusal) = refusal.or_else(|| reach::conflict(&status.membership, &record)) {
            return Err(refused(refusal));
        }
        let id = record.id;
        if is_member(&status.membership, &record, role) && status.membership_index <= status.commit_index {
            return Ok(id);
        }
        let set = vec![proposed(&status.membership, record, role)];
        match self.change_membership(MembershipChange { set, remove: Vec::new() }).await {
            Ok(_) => Ok(id),
            Err(error) => Err(self.join_error(address, error)),
        }
    }

    /// The status, if this node leads.
    fn leading(&self) -> Result<std::sync::Arc<Status>, JoinError> {
        let status = self.shared.status.borrow().clone();
        if status.leader == Some(status.id) { Ok(status) } else { Err(self.not_leader(status.leader)) }
    }

    fn not_leader(&self, leader: Option<NodeId>) -> JoinError {
        JoinError::NotLeader { leader, client_address: self.leader_client_address() }
    }

    fn join_error(&self, address: &Address, error: RequestError) -> JoinError {
        match error {
            RequestError::Rejected(RejectReason::NotLeader { leader }) => self.not_leader(leader),
            RequestError::Rejected(RejectReason::ChangeInProgress) => JoinError::ChangeInProgress,
            RequestError::Rejected(RejectReason::Membership { why }) => {
                let refusal = JoinRefusal::Membership { why: why.to_owned() };
                JoinError::Refused { address: address.to_string(), refusal }
            }
            RequestError::Rejected(reason) => JoinError::Rejected(reason),
            _ => JoinError::Unknown,
        }
    }

    /// Waits on the leader until a member votes, and this is committed; at most for `deadline`. Elsewhere the node may be behind, and an answer be old.
    ///
    /// # Errors
    /// When it is not going to vote, or not in time.
    pub async fn wait_until_voter(&self, id: NodeId, deadline: Duration) -> Result<Index, PromotionError> {
        let mut status = self.shared.status.clone();
        let mut stopped = self.shared.stopped.clone();
        let promoted = async {
            let mut was_member = false;
            loop {
                if let Some(end) = promotion(&status.borrow_and_update(), id, &mut was_member) {
                    return end;
                }
                tokio::select! {
                    changed = status.changed() => changed.map_err(|_| PromotionError::Stopped)?,
                    _ = stopped.wait_for(Option::is_some) => return Err(PromotionError::Stopped),
                }
            }
        };
        tokio::time::timeout(deadline, promoted).await.unwrap_or(Err(PromotionError::TimedOut))
    }
}

/// How the promotion of `id` ended, if a committed membership says so.
fn promotion(status: &Status, id: NodeId, was_member: &mut bool) -> Option<Result<Index, PromotionError>> {
    let role = status.membership.node(id).map(|node| node.role);
    let was = std::mem::replace(was_member, *was_member || role.is_some());
    if status.membership_index > status.commit_index || status.membership.is_joint() {
        return None;
    }
    match role {
        Some(MemberRole::Voter | MemberRole::Retiring | MemberRole::Demoting) => Some(Ok(status.membership_index)),
        Some(MemberRole::Learner) => {
            let called_off = status.called_off.iter().rev().find(|it| it.nodes.contains(&id));
            Some(Err(called_off.map_or(PromotionError::Learner, |it| PromotionError::CalledOff { reason: it.reason })))
        }
        Some(MemberRole::Promotable) => None,
        None => was.then_some(Err(PromotionError::NotMember)),
    }
}

/// What a member tells of its cluster, to `expected` or to whoever is there.
pub(crate) fn invite(directory: &Directory, status: &Status, expected: Option<(NodeId, Incarnation)>) -> Inquiry {
    let membership = status.membership.encode();
    let cluster_name = directory.identity().cluster_name;
    let (cluster, index) = (status.membership.cluster, status.membership_index);
    let group = directory.group();
    let invite = Invite { group, cluster, cluster_name, membership, index, expected };
    Inquiry::Invite(invite)
}

/// Asks what is asked from outside of a group, for an answer of the kind that belongs to it.
pub(crate) async fn ask<A: Wire>(transport: &dyn Transport, address: &Address, inquiry: &Inquiry) -> Result<A, String> {
    let answer = transport.ask(address, inquiry.encode()).await.map_err(|error| error.to_string())?;
    if answer.is_empty() {
        return Err("it is not ready yet".to_owned());
    }
    A::decode(&answer).map_err(|error| error.to_string())
}
