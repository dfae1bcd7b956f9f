//! Who is in the group: the record that every replica keeps in its log.

use alloc::{collections::BTreeSet, string::String, vec::Vec};

use bytes::{Buf, BufMut, Bytes};

use crate::{ClusterId, DecodeError, Incarnation, NodeId};

/// What a node is in a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Role {
    /// Votes and counts.
    Voter = 0,
    /// Receives the log, neither votes nor counts (thesis §4.2.1).
    Learner = 1,
    /// A learner that the leader promotes as soon as it has caught up; the intent is in the entry so that a new leader continues it.
    Promotable = 2,
    /// A voter that leaves the group together with the promotion of the learners that replace it: it votes until the joint configuration, there in the old half, and is gone after it.
    Retiring = 3,
    /// The same, but it stays as a learner.
    Demoting = 4,
}

impl Role {
    /// Whether it is what an intent makes of a node, until the change is carried out.
    pub(crate) fn is_waiting(self) -> bool {
        matches!(self, Role::Promotable | Role::Retiring | Role::Demoting)
    }
}

/// What the group knows of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeRecord {
    /// Who it is.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where its peers reach it, in the order in which they try.
    pub addresses: Vec<String>,
    /// Where clients reach it; leader hints carry this.
    pub client_address: String,
    /// What it is in the new configuration; a node that is only in the old one is a learner in the new.
    pub role: Role,
    /// The application's own.
    pub metadata: Bytes,
}

/// A change of the membership, relative to what the group is on its way to: a change that still waits for learners is added to, or taken back.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MembershipChange {
    /// These are to be what their records say, each a voter or a learner; a record of the same node is replaced, in the same incarnation.
    pub set: Vec<NodeRecord>,
    /// These are to go; each is a member.
    pub remove: Vec<NodeId>,
}

/// Who is in the group, effective as soon as it is appended (thesis §4.1).
///
/// While `outgoing` is not empty the group is in joint consensus (Raft §6): elections and commitment need a majority of the voters and a majority of `outgoing`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Membership {
    /// The cluster's id, drawn when it was founded.
    pub cluster: ClusterId,
    /// Every node, sorted by id.
    pub nodes: Vec<NodeRecord>,
    /// The voters of the old half of a joint configuration, sorted; empty outside of one.
    pub outgoing: Vec<NodeId>,
    /// Which of the changes that wait stand or fall together: the nodes of each request, sorted, when several wait. Empty when all that waits, if anything, was asked for together.
    #[cfg_attr(feature = "serde", serde(default))]
    pub changes: Vec<Vec<NodeId>>,
}

/// The version of the encoding, its first byte.
const VERSION: u8 = 1;

impl Membership {
    /// A membership of `voters` without addresses: for tests and for groups inside one process.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        let nodes = voters
            .into_iter()
            .map(|id| NodeRecord {
                id,
                incarnation: Incarnation(0),
                addresses: Vec::new(),
                client_address: String::new(),
                role: Role::Voter,
                metadata: Bytes::new(),
            })
            .collect();
        Membership::new(ClusterId(0), nodes)
    }

    /// A membership outside of joint consensus.
    pub fn new(cluster: ClusterId, mut nodes: Vec<NodeRecord>) -> Membership {
        nodes.sort_by_key(|node| node.id);
        nodes.dedup_by_key(|node| node.id);
        Membership { cluster, nodes, outgoing: Vec::new(), changes: Vec::new() }
    }

    /// The voters of the new half, in order of id.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        let is_joint = self.is_joint();
        let votes = move |role: Role| match role {
            Role::Voter => true,
            // Who is on the way out votes in the old half only.
            Role::Retiring | Role::Demoting => !is_joint,
            Role::Learner | Role::Promotable => false,
        };
        self.nodes.iter().filter(move |node| votes(node.role)).map(|node| node.id)
    }

    /// The record of `id`.
    pub fn node(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.binary_search_by_key(&id, |node| node.id).ok().map(|at| &self.nodes[at])
    }

    /// Whether `id` votes, in either half.
    pub fn is_voter(&self, id: NodeId) -> bool {
        self.voters().any(|voter| voter == id) || self.outgoing.contains(&id)
    }

    /// Whether two majorities are needed.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The bytes that a log entry and a snapshot carry.
    ///
    /// `version u8, cluster u64, nodes u32`, each `id u64, incarnation u64, role u8, addresses u32, (length u32, text)…, client address (length u32, text), metadata (length u32, bytes)`, then `outgoing u32`, each `u64`, and where several changes wait `changes u32`, each `u32` nodes, each `u64`; integers little-endian.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        out.put_u8(VERSION);
        out.put_u64_le(self.cluster.0);
        out.put_u32_le(self.nodes.len() as u32);
        for node in &self.nodes {
            out.put_u64_le(node.id.0);
            out.put_u64_le(node.incarnation.0);
            out.put_u8(node.role as u8);
            out.put_u32_le(node.addresses.len() as u32);
            for address in &node.addresses {
                put_bytes(&mut out, address.as_bytes());
            }
            put_bytes(&mut out, node.client_address.as_bytes());
            put_bytes(&mut out, &node.metadata);
        }
        put_ids(&mut out, &self.outgoing);
        if !self.changes.is_empty() {
            out.put_u32_le(self.changes.len() as u32);
            self.changes.iter().for_each(|change| put_ids(&mut out, change));
        }
        out.into()
    }

    /// Reads what [`Membership::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are anything else, or name nobody who votes.
    pub fn decode(mut bytes: Bytes) -> Result<Membership, DecodeError> {
        let membership = decode(&mut bytes).ok_or(DecodeError::Membership)?;
        if bytes.is_empty() && membership.is_valid() { Ok(membership) } else { Err(DecodeError::Membership) }
    }

    /// Whether its lists are in order, each old voter has a record, and somebody votes: a peer may say otherwise.
    pub(crate) fn is_valid(&self) -> bool {
        self.nodes.windows(2).all(|pair| pair[0].id < pair[1].id)
            && self.outgoing.windows(2).all(|pair| pair[0] < pair[1])
            && self.outgoing.iter().all(|id| self.node(*id).is_some())
            && self.voters().next().is_some()
            && self.are_changes_valid()
    }

    /// Whether several changes are told apart if any are, each of nodes that wait, in order, and none of a node in two.
    fn are_changes_valid(&self) -> bool {
        let is_sorted = |change: &Vec<NodeId>| !change.is_empty() && change.windows(2).all(|pair| pair[0] < pair[1]);
        let named: BTreeSet<NodeId> = self.changes.iter().flatten().copied().collect();
        self.changes.len() != 1
            && self.changes.iter().all(is_sorted)
            && named.len() == self.changes.iter().map(Vec::len).sum::<usize>()
            && named.iter().all(|id| self.node(*id).is_some_and(|node| node.role.is_waiting()))
    }
}

fn decode(bytes: &mut Bytes) -> Option<Membership> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let cluster = ClusterId(bytes.try_get_u64_le().ok()?);
    let mut nodes = Vec::new();
    for _ in 0..bytes.try_get_u32_le().ok()? {
        nodes.push(decode_node(bytes)?);
    }
    let outgoing = take_ids(bytes)?;
    let mut changes = Vec::new();
    if !bytes.is_empty() {
        for _ in 0..bytes.try_get_u32_le().ok().filter(|count| *count > 0)? {
            changes.push(take_ids(bytes)?);
        }
    }
    Some(Membership { cluster, nodes, outgoing, changes })
}

fn decode_node(bytes: &mut Bytes) -> Option<NodeRecord> {
    let id = NodeId(bytes.try_get_u64_le().ok()?);
    let incarnation = Incarnation(bytes.try_get_u64_le().ok()?);
    let role = match bytes.try_get_u8().ok()? {
        0 => Role::Voter,
        1 => Role::Learner,
        2 => Role::Promotable,
        3 => Role::Retiring,
        4 => Role::Demoting,
        _ => return None,
    };
    let mut addresses = Vec::new();
    for _ in 0..bytes.try_get_u32_le().ok()? {
        addresses.push(take_text(bytes)?);
    }
    let client_address = take_text(bytes)?;
    let metadata = take_bytes(bytes)?;
    Some(NodeRecord { id, incarnation, addresses, client_address, role, metadata })
}

fn put_ids(out: &mut Vec<u8>, ids: &[NodeId]) {
    out.put_u32_le(ids.len() as u32);
    ids.iter().for_each(|id| out.put_u64_le(id.0));
}

fn take_ids(bytes: &mut Bytes) -> Option<Vec<NodeId>> {
    let mut ids = Vec::new();
    for _ in 0..bytes.try_get_u32_le().ok()? {
        ids.push(NodeId(bytes.try_get_u64_le().ok()?));
    }
    Some(ids)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_bytes(bytes: &mut Bytes) -> Option<Bytes> {
    let len = bytes.try_get_u32_le().ok()? as usize;
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

fn take_text(bytes: &mut Bytes) -> Option<String> {
    String::from_utf8(take_bytes(bytes)?.to_vec()).ok()
}
