//! A replica, seen from outside.

use alloc::vec::Vec;

use super::{Raft, RoleState};
use crate::{CalledOff, Index, Membership, NodeId, Term};

/// What a replica does in its term (Raft §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected (thesis §9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// What a leader knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Who.
    pub id: NodeId,
    /// Its log equals the leader's up to here, durably.
    pub match_index: Index,
    /// What is sent next.
    pub next_index: Index,
    /// Whether it answered within the longest election timeout.
    pub is_active: bool,
    /// Whether it is being sent a snapshot.
    pub is_installing: bool,
}

/// A replica, seen from outside.
#[derive(Clone, Debug)]
pub struct Status {
    /// Who it is.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
    /// Where its log begins: the last index that was compacted.
    pub base_index: Index,
    /// Where its log ends.
    pub last_index: Index,
    /// What is durable of it.
    pub durable_index: Index,
    /// How many of its entries are damaged and not repaired yet (C19); this node neither votes nor campaigns unless it is 0.
    pub damaged_entries: usize,
    /// A damaged entry that no other member holds whole, as all have said ([`Event::Irreparable`](crate::Event::Irreparable)).
    pub lost_entry: Option<Index>,
    /// Whether the state is behind the log's start: this node waits for a snapshot, and leads only to hand over (C7).
    pub is_state_behind: bool,
    /// Whether a write of its log takes longer than its limit (C18); this node does not campaign meanwhile.
    pub is_disk_slow: bool,
    /// Whether a write of its log waits for space (C18); this node refuses proposals and does not campaign meanwhile.
    pub is_full: bool,
    /// What is known to be committed.
    pub commit_index: Index,
    /// What is applied.
    pub applied_index: Index,
    /// Where the effective membership's entry lies.
    pub membership_index: Index,
    /// The effective membership.
    pub membership: Membership,
    /// What a leader knows of its peers; empty on others.
    pub peers: Vec<Progress>,
    /// The changes of voters that a leader called off in its term, the last 16 in order; empty on others.
    pub called_off: Vec<CalledOff>,
}

impl Raft {
    /// This replica's role.
    pub fn role(&self) -> Role {
        match self.role {
            RoleState::Follower => Role::Follower,
            RoleState::PreCandidate(_) => Role::PreCandidate,
            RoleState::Candidate(_) => Role::Candidate,
            RoleState::Leader(_) => Role::Leader,
        }
    }

    /// A view from outside.
    pub fn status(&self) -> Status {
        let (membership_index, membership) = self.log.membership();
        Status {
            id: self.config.id,
            role: self.role(),
            term: self.term,
            leader: self.leader(),
            base_index: self.log.base().index,
            last_index: self.log.last_index(),
            durable_index: self.durable_index(),
            damaged_entries: self.repair.len(),
            lost_entry: self.repair.lost(),
            is_state_behind: self.is_state_behind(),
            is_disk_slow: self.is_disk_slow(),
            is_full: self.is_full(),
            commit_index: self.commit_index,
            applied_index: self.applying.applied,
            membership_index,
            membership: membership.clone(),
            peers: match &self.role {
                RoleState::Leader(leader) => leader.progress(self.now, self.config.election_timeout_max),
                _ => Vec::new(),
            },
            called_off: match &self.role {
                RoleState::Leader(leader) => leader.called_off.clone(),
                _ => Vec::new(),
            },
        }
    }
}
