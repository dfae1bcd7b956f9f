//! The node's status, as clients see it.

use coracle::{
    MemberStatus, Node, NodeStatus,
    client::pb::{Member, Role, StatusResponse},
};

use crate::api::StatusSource;

/// Tells the status of a node.
pub(crate) struct NodeSource(pub(crate) Node);

impl StatusSource for NodeSource {
    fn status(&self) -> StatusResponse {
        to_wire(self.0.status())
    }
}

fn to_wire(status: NodeStatus) -> StatusResponse {
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
        members: status.members.into_iter().map(member).collect(),
        stopped: status.stopped.unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        damaged_entries: status.damaged_entries as u64,
    }
}

fn role(name: &str) -> Role {
    match name {
        "follower" => Role::Follower,
        "pre-candidate" => Role::PreCandidate,
        "candidate" => Role::Candidate,
        "leader" => Role::Leader,
        "learner" => Role::Learner,
        _ => Role::Unspecified,
    }
}

fn member(member: MemberStatus) -> Member {
    Member {
        node_id: member.id.0,
        incarnation: member.incarnation.0,
        addresses: member.addresses,
        client_address: member.client_address,
        role: member.role,
        connected: member.is_connected,
        match_index: member.progress.map(|progress| progress.match_index.0),
    }
}
