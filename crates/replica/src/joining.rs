//! Taking nodes into a cluster that is founded, and being taken in, without I/O (C1, C2).
//!
//! A member invites a node that stands by ([`Invite`]), or a node asks any member to be taken in ([`JoinRequest`]).
//! Either way the newcomer learns the cluster's id and who its members are, keeps the id durably, and only then begins to acknowledge; the leader proposes the change of members.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Incarnation, Index, MemberRole, Membership, NodeId, NodeRecord};
use serde::{Deserialize, Serialize};

use crate::Founder;

/// What a node is to be in the cluster that it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum JoinRole {
    /// It is to vote: first it catches up as a learner, then it is promoted.
    #[default]
    Voter,
    /// It receives the log, and neither votes nor counts.
    Learner,
}

impl JoinRole {
    /// As the membership says it.
    pub fn member_role(self) -> MemberRole {
        match self {
            JoinRole::Voter => MemberRole::Voter,
            JoinRole::Learner => MemberRole::Learner,
        }
    }

    /// Whether a member of role `held` is at least that, or on its way there. One that is about to go is nothing any more.
    pub fn is_held_by(self, held: MemberRole) -> bool {
        match held {
            MemberRole::Voter | MemberRole::Promotable => true,
            MemberRole::Learner | MemberRole::Demoting => self == JoinRole::Learner,
            MemberRole::Retiring => false,
        }
    }
}

/// What a member tells a node that is to join, or that is a member and does not answer: which cluster it is, and who is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Which group it is about.
    pub group: GroupId,
    /// The cluster's id.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// Its members, as [`Membership::encode`] has them.
    pub membership: Bytes,
    /// Where in the log that membership lies.
    pub index: Index,
    /// Who is expected at the address; `None` for whoever is there.
    pub expected: Option<(NodeId, Incarnation)>,
}

/// What the invited node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InviteAnswer {
    /// It belongs to this cluster from here on, or did before.
    Accepted {
        /// Who it is; the role is the inviting side's to choose.
        record: NodeRecord,
    },
    /// It does not.
    Refused(JoinRefusal),
}

/// What a node that is to join asks of any member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Which group it is about.
    pub group: GroupId,
    /// Who it is.
    pub record: NodeRecord,
    /// What it is to be.
    pub role: JoinRole,
    /// The name of the cluster that it is for.
    pub cluster_name: String,
}

/// What the member answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// The newcomer belongs to this cluster from here on; it is a member, or the leader proposes that.
    Accepted {
        /// The cluster's id.
        cluster: ClusterId,
        /// Its members so far, as [`Membership::encode`] has them.
        membership: Bytes,
        /// Where in the log that membership lies.
        index: Index,
    },
    /// Only the leader takes nodes in.
    AskLeader {
        /// Where peers reach it.
        addresses: Vec<String>,
    },
    /// Not at this time: ask again.
    NotYet {
        /// Why, for people.
        reason: String,
    },
    /// It does not take this node in.
    Refused(JoinRefusal),
}

/// Why a node does not become a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum JoinRefusal {
    /// It is for a cluster of another name.
    #[error("the node is for cluster \"{node}\", this is cluster \"{cluster}\"")]
    ClusterName {
        /// What the node was told.
        node: String,
        /// The cluster's name.
        cluster: String,
    },
    /// It belongs to another cluster already.
    #[error("the node belongs to the cluster {cluster} already: a directory is of one cluster for ever")]
    OtherCluster {
        /// Which.
        cluster: ClusterId,
    },
    /// Its address belongs to another member: most likely its directory was wiped (C1).
    #[error("the member at this address is {member}, this directory is new: `coracle leave {member}`, then `join`")]
    Wiped {
        /// Who the cluster knows there.
        member: NodeId,
    },
    /// The cluster knows its id in another incarnation.
    #[error("node {node} is a member in another incarnation: its directory was wiped or copied")]
    Incarnation {
        /// Who.
        node: NodeId,
    },
    /// Somebody else is at the address.
    #[error("another node than the expected one is at this address: {node}")]
    Unexpected {
        /// Who is.
        node: NodeId,
    },
    /// It founds a cluster of its own, or waits for the peers that it was given.
    #[error("the node is founding a cluster with the peers that it was given: start it to stand by instead")]
    Founding,
    /// It and a member have no way of talking to each other.
    #[error(
        "the node is at {addresses} and the member {member} at {member_addresses}: they have no way of talking in common; give one of them an address of the other's kind as well"
    )]
    OutOfReach {
        /// Where the node is.
        addresses: String,
        /// Who cannot talk to it.
        member: NodeId,
        /// Where that member is.
        member_addresses: String,
    },
    /// Such a membership cannot be.
    #[error("the membership asked for cannot be: {why}")]
    Membership {
        /// Why not.
        why: String,
    },
}

impl Founder {
    /// Its record in a membership.
    pub fn record(&self, role: MemberRole) -> NodeRecord {
        NodeRecord {
            id: self.id,
            incarnation: self.incarnation,
            addresses: self.addresses.clone(),
            client_address: self.client_address.clone(),
            role,
            metadata: Bytes::new(),
        }
    }
}

/// The most bytes of a node's addresses.
const ADDRESS_BYTES_MAX: usize = 4 << 10;

/// Why nobody could talk to the node of this record, or it would take more room in the membership than is its due: it comes from outside.
fn flaw(record: &NodeRecord) -> Option<&'static str> {
    let bytes: usize = record.addresses.iter().map(String::len).sum::<usize>() + record.client_address.len();
    match record.addresses.iter().any(|address| !address.is_empty()) {
        false => Some("the node names no address"),
        true if bytes > ADDRESS_BYTES_MAX => Some("the node's addresses take more than 4 KiB"),
        true => None,
    }
}

/// Why `membership` has no place for `record`: it is unfit, another life of the node is in it, or another member is where this one is.
/// A voter on its way out makes room.
pub fn conflict(membership: &Membership, record: &NodeRecord) -> Option<JoinRefusal> {
    if let Some(why) = flaw(record) {
        return Some(JoinRefusal::Membership { why: why.to_owned() });
    }
    if membership.node(record.id).is_some_and(|known| known.incarnation != record.incarnation) {
        return Some(JoinRefusal::Incarnation { node: record.id });
    }
    let stays = |node: &&NodeRecord| node.id != record.id && node.role != MemberRole::Retiring;
    let is_there = |node: &&NodeRecord| node.addresses.iter().any(|address| record.addresses.contains(address));
    let there = membership.nodes.iter().filter(stays).find(is_there);
    there.map(|node| JoinRefusal::Wiped { member: node.id })
}

/// Whether `membership` has the node as `record` says, in `role` or on its way to it.
pub fn is_member(membership: &Membership, record: &NodeRecord, role: JoinRole) -> bool {
    let is_as_told = |known: &NodeRecord| {
        known.incarnation == record.incarnation
            && known.addresses == record.addresses
            && known.client_address == record.client_address
            && role.is_held_by(known.role)
    };
    membership.node(record.id).is_some_and(is_as_told)
}

/// How far the node is that is invited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// It stands by, or asks to be taken in.
    Free,
    /// It founds a cluster with the peers that it was given.
    Founding,
    /// It belongs to this cluster, durably or about to be.
    Cluster(ClusterId),
}

impl Invite {
    /// What follows for `own`, which is bound so far: the members that it is told, or why it does not come.
    ///
    /// # Errors
    /// The reason.
    pub fn consider(&self, own: &Founder, bond: Bond) -> Result<Membership, JoinRefusal> {
        if self.cluster_name != own.cluster_name {
            let (node, cluster) = (own.cluster_name.clone(), self.cluster_name.clone());
            return Err(JoinRefusal::ClusterName { node, cluster });
        }
        if self.expected.is_some_and(|expected| expected != (own.id, own.incarnation)) {
            return Err(JoinRefusal::Unexpected { node: own.id });
        }
        let membership = members(&self.membership, self.cluster)?;
        match bond {
            Bond::Founding => Err(JoinRefusal::Founding),
            Bond::Cluster(cluster) if cluster != self.cluster => Err(JoinRefusal::OtherCluster { cluster }),
            Bond::Cluster(_) => Ok(membership),
            Bond::Free => conflict(&membership, &own.record(MemberRole::Learner)).map_or(Ok(membership), Err),
        }
    }
}

/// The members that a cluster tells.
///
/// # Errors
/// When that is no membership of it.
pub fn members(bytes: &Bytes, cluster: ClusterId) -> Result<Membership, JoinRefusal> {
    let wrong = |why: &str| JoinRefusal::Membership { why: why.to_owned() };
    let membership = Membership::decode(bytes.clone()).map_err(|_| wrong("it does not decode"))?;
    if membership.cluster != cluster || membership.nodes.is_empty() {
        return Err(wrong("it is of another cluster, or of nobody"));
    }
    Ok(membership)
}

/// What a member knows when it is asked to take a node in.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Who is asked.
    pub id: NodeId,
    /// The cluster's name.
    pub cluster_name: &'a str,
    /// The membership in force.
    pub membership: &'a Membership,
    /// Where in the log it lies.
    pub index: Index,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
}

/// What follows from being asked to take a node in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is the answer.
    Answer(JoinAnswer),
    /// This node leads: it is to propose that this record is set.
    Propose(NodeRecord),
}

impl JoinRequest {
    /// What follows from it at the member `asked`. Only the leader says who is a member: what others know may be old.
    pub fn consider(&self, asked: Asked<'_>) -> Verdict {
        let Asked { id, cluster_name, membership, index, leader } = asked;
        if self.cluster_name != cluster_name {
            let (node, cluster) = (self.cluster_name.clone(), cluster_name.to_owned());
            return Verdict::Answer(JoinAnswer::Refused(JoinRefusal::ClusterName { node, cluster }));
        }
        if leader != Some(id) {
            let leader = leader.and_then(|leader| membership.node(leader));
            return Verdict::Answer(match leader {
                Some(leader) => JoinAnswer::AskLeader { addresses: leader.addresses.clone() },
                None => JoinAnswer::NotYet { reason: "it knows no leader".to_owned() },
            });
        }
        if let Some(refusal) = conflict(membership, &self.record) {
            return Verdict::Answer(JoinAnswer::Refused(refusal));
        }
        if is_member(membership, &self.record, self.role) {
            return Verdict::Answer(JoinAnswer::accepted(membership, index));
        }
        Verdict::Propose(proposed(membership, self.record.clone(), self.role))
    }
}

/// The record that makes a node what it is to be: a voter does not lose its vote by joining as a learner, and what the application keeps with a member stays, whatever the node itself says of it.
pub fn proposed(membership: &Membership, mut record: NodeRecord, role: JoinRole) -> NodeRecord {
    record.role = role.member_role();
    record.metadata = Bytes::new();
    if let Some(known) = membership.node(record.id) {
        record.metadata = known.metadata.clone();
        if JoinRole::Voter.is_held_by(known.role) {
            record.role = MemberRole::Voter;
        }
    }
    record
}

impl JoinAnswer {
    /// The newcomer is a member, or about to be.
    pub fn accepted(membership: &Membership, index: Index) -> JoinAnswer {
        JoinAnswer::Accepted { cluster: membership.cluster, membership: membership.encode(), index }
    }
}
