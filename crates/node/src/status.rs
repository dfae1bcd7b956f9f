//! A node, seen from outside.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use coracle_core::{CalledOff, ClusterId, GroupId, Incarnation, Index, MemberRole, NodeId, Role, Status, Term};
use coracle_storage::{Durability, Store};
use coracle_transport::{PeerStats, Transport};
use serde::Serialize;

use crate::{directory::Directory, identity::Standing};

/// A node, seen from outside: what it knew a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Which group of the process it is.
    pub group: GroupId,
    /// Who it is.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's id.
    pub cluster: Option<ClusterId>,
    /// Whether it is founded.
    pub is_founded: bool,
    /// Its role: `follower`, `pre-candidate`, `candidate`, `leader` or `learner`; `joining` before it knows itself to be a member, `removed` once it knows that it is none any more.
    pub role: String,
    /// Its term.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
    /// Where clients reach the leader, if that is known.
    pub leader_client_address: Option<String>,
    /// The last index that was compacted.
    pub base_index: Index,
    /// Where its log ends.
    pub last_index: Index,
    /// What is durable of it.
    pub durable_index: Index,
    /// How many of its entries are damaged and not repaired yet (C19): unless it is 0, this node neither votes nor campaigns.
    pub damaged_entries: usize,
    /// A damaged entry that no other member holds whole, as all have said: it ends when a leader that is elected without this node writes another one there.
    pub lost_entry: Option<Index>,
    /// Whether its state is behind its log's start: it waits for a snapshot from a leader (C7).
    pub is_state_behind: bool,
    /// What its log lacks, while it waits for space (C18): meanwhile it refuses proposals and does not campaign.
    pub no_space: Option<String>,
    /// Whether a write of its log takes longer than its limit (C18): meanwhile it does not campaign.
    pub is_disk_slow: bool,
    /// What is known to be committed.
    pub commit_index: Index,
    /// What is applied.
    pub applied_index: Index,
    /// What an acknowledged write survives, as the store says at this moment.
    pub durability: Durability,
    /// The store's engine.
    pub engine: String,
    /// Peers' messages that were lost for lack of room here.
    pub messages_dropped: u64,
    /// Every node of the cluster, by id.
    pub members: Vec<MemberStatus>,
    /// The changes of voters that it called off last, since it leads.
    pub called_off: Vec<CalledOff>,
    /// Why it has stopped, once it has.
    pub stopped: Option<String>,
}

/// A node of the cluster, as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// Who.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where peers reach it.
    pub addresses: Vec<String>,
    /// Where clients reach it.
    pub client_address: String,
    /// What it is in the membership: `voter`, `learner`, `promotable`, `retiring` or `demoting`.
    pub role: String,
    /// Whether this is the node that tells.
    pub is_self: bool,
    /// Whether there is a connection to it; true for the node itself.
    pub is_connected: bool,
    /// What a leader knows of it; `None` on others.
    pub progress: Option<PeerProgress>,
    /// Frames sent to it.
    pub frames_sent: u64,
    /// Frames from it.
    pub frames_received: u64,
    /// Frames to it that were dropped.
    pub frames_dropped: u64,
}

/// What a leader knows of a peer's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PeerProgress {
    /// Its log equals the leader's up to here, durably.
    pub match_index: Index,
    /// What is sent next.
    pub next_index: Index,
    /// Whether it answered lately.
    pub is_active: bool,
    /// Whether it is being sent a snapshot.
    pub is_installing: bool,
}

/// What a store says of itself, also after it is closed. It does not keep the store open.
#[derive(Debug)]
pub(crate) struct StoreFacts {
    pub(crate) engine: &'static str,
    store: Weak<dyn Store>,
    /// What it said last.
    durability: Mutex<Durability>,
}

impl StoreFacts {
    pub(crate) fn of(store: &Arc<dyn Store>) -> StoreFacts {
        let durability = Mutex::new(store.durability());
        StoreFacts { engine: store.engine(), store: Arc::downgrade(store), durability }
    }

    /// As it is now: the settings of a server may change while a node runs.
    fn durability(&self) -> Durability {
        let mut durability = self.durability.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = self.store.upgrade() {
            *durability = store.durability();
        }
        *durability
    }
}

/// Puts a status together.
pub(crate) fn compose(
    status: &Status,
    store: &StoreFacts,
    directory: &Directory,
    transport: &dyn Transport,
    messages_dropped: u64,
    stopped: Option<String>,
) -> NodeStatus {
    let (identity, cluster) = (directory.identity(), directory.cluster());
    let members = status.membership.nodes.iter().map(|node| {
        let is_self = node.id == identity.node;
        let stats = if is_self { PeerStats::default() } else { transport.stats(directory.group(), node.id) };
        MemberStatus {
            id: node.id,
            incarnation: node.incarnation,
            addresses: node.addresses.clone(),
            client_address: node.client_address.clone(),
            role: member_role(node.role).to_owned(),
            is_self,
            is_connected: is_self || stats.is_connected,
            progress: status.peers.iter().find(|peer| peer.id == node.id).map(progress),
            frames_sent: stats.frames_sent,
            frames_received: stats.frames_received,
            frames_dropped: stats.frames_dropped,
        }
    });
    NodeStatus {
        group: directory.group(),
        id: identity.node,
        incarnation: identity.incarnation,
        cluster_name: identity.cluster_name.clone(),
        cluster,
        is_founded: cluster.is_some(),
        role: role(status, directory.standing()).to_owned(),
        term: status.term,
        leader: status.leader,
        leader_client_address: leader_client_address(status),
        base_index: status.base_index,
        last_index: status.last_index,
        durable_index: status.durable_index,
        damaged_entries: status.damaged_entries,
        lost_entry: status.lost_entry,
        is_state_behind: status.is_state_behind,
        no_space: directory.no_space().filter(|_| status.is_full),
        is_disk_slow: status.is_disk_slow,
        commit_index: status.commit_index,
        applied_index: status.applied_index,
        durability: store.durability(),
        engine: store.engine.to_owned(),
        messages_dropped,
        members: members.collect(),
        called_off: status.called_off.clone(),
        stopped,
    }
}

/// Where clients reach the leader, if it is known and says so.
pub(crate) fn leader_client_address(status: &Status) -> Option<String> {
    let leader = status.membership.node(status.leader?)?;
    (!leader.client_address.is_empty()).then(|| leader.client_address.clone())
}

fn role(status: &Status, standing: Standing) -> &'static str {
    match status.role {
        Role::Leader => "leader",
        _ if standing == Standing::Removed => "removed",
        _ if standing == Standing::Joining => "joining",
        Role::Follower if !status.membership.is_voter(status.id) => "learner",
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
    }
}

fn member_role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Promotable => "promotable",
        MemberRole::Retiring => "retiring",
        MemberRole::Demoting => "demoting",
    }
}

fn progress(peer: &coracle_core::Progress) -> PeerProgress {
    PeerProgress {
        match_index: peer.match_index,
        next_index: peer.next_index,
        is_active: peer.is_active,
        is_installing: peer.is_installing,
    }
}
