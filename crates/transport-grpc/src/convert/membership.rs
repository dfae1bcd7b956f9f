//! Memberships, and what snapshots and logs say with them.

use coracle_core::{ClusterId, Incarnation, Index, MemberRole, Membership, NodeId, NodeRecord, SnapshotMeta, Term};

use super::{Malformed, missing};
use crate::pb;

pub(super) fn encode_meta(meta: SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        content: meta.content,
        last_included_index: meta.last_included_index.0,
        last_included_term: meta.last_included_term.0,
        membership_index: meta.membership_index.0,
        membership: Some(encode_membership(meta.membership)),
        size: meta.size,
        checksum: meta.checksum,
    }
}

pub(super) fn decode_meta(meta: pb::SnapshotMeta) -> Result<SnapshotMeta, Malformed> {
    let membership = meta.membership.ok_or_else(|| missing("SnapshotMeta", "membership"))?;
    Ok(SnapshotMeta {
        content: meta.content,
        last_included_index: Index(meta.last_included_index),
        last_included_term: Term(meta.last_included_term),
        membership_index: Index(meta.membership_index),
        membership: decode_membership(membership)?,
        size: meta.size,
        checksum: meta.checksum,
    })
}

pub(super) fn encode_membership(membership: Membership) -> pb::Membership {
    pb::Membership {
        cluster: membership.cluster.0,
        nodes: membership.nodes.into_iter().map(encode_node).collect(),
        outgoing: numbers(membership.outgoing),
        changes: membership.changes.into_iter().map(|ids| pb::WaitingChange { nodes: numbers(ids) }).collect(),
    }
}

/// Whether it is sorted and somebody votes is checked of all messages alike, whatever brought them.
pub(super) fn decode_membership(membership: pb::Membership) -> Result<Membership, Malformed> {
    Ok(Membership {
        cluster: ClusterId(membership.cluster),
        nodes: membership.nodes.into_iter().map(decode_node).collect::<Result<_, _>>()?,
        outgoing: ids(membership.outgoing),
        changes: membership.changes.into_iter().map(|change| ids(change.nodes)).collect(),
    })
}

fn numbers(ids: Vec<NodeId>) -> Vec<u64> {
    ids.into_iter().map(|id| id.0).collect()
}

fn ids(numbers: Vec<u64>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

fn encode_node(node: NodeRecord) -> pb::NodeRecord {
    let role = match node.role {
        MemberRole::Voter => pb::NodeRole::Voter,
        MemberRole::Learner => pb::NodeRole::Learner,
        MemberRole::Promotable => pb::NodeRole::Promotable,
        MemberRole::Retiring => pb::NodeRole::Retiring,
        MemberRole::Demoting => pb::NodeRole::Demoting,
    };
    pb::NodeRecord {
        id: node.id.0,
        incarnation: node.incarnation.0,
        addresses: node.addresses,
        client_address: node.client_address,
        role: role.into(),
        metadata: node.metadata,
    }
}

fn decode_node(node: pb::NodeRecord) -> Result<NodeRecord, Malformed> {
    let role = match node.role() {
        pb::NodeRole::Voter => MemberRole::Voter,
        pb::NodeRole::Learner => MemberRole::Learner,
        pb::NodeRole::Promotable => MemberRole::Promotable,
        pb::NodeRole::Retiring => MemberRole::Retiring,
        pb::NodeRole::Demoting => MemberRole::Demoting,
        // What this build does not know reads as unspecified.
        pb::NodeRole::Unspecified => return Err(Malformed::Role { node: node.id, role: node.role }),
    };
    Ok(NodeRecord {
        id: NodeId(node.id),
        incarnation: Incarnation(node.incarnation),
        addresses: node.addresses,
        client_address: node.client_address,
        role,
        metadata: node.metadata,
    })
}
