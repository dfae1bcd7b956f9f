//! The replica's protocol.

use alloc::vec::Vec;

use crate::{Config, ConfigError, Index, Input, Membership, NodeId, Output, Recovered, Term, Time};

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
    /// Whether it answered within the last election timeout.
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
}

/// A replica's protocol.
#[derive(Clone, Debug)]
pub struct Raft;

impl Raft {
    /// A replica that starts from what its store held.
    ///
    /// # Errors
    /// When the options contradict each other, or what was recovered is no log.
    pub fn new(_config: Config, _recovered: Recovered, _now: Time) -> Result<Raft, ConfigError> {
        Ok(Raft)
    }
    /// Takes note of what happened.
    pub fn handle(&mut self, _now: Time, _input: Input) {}
    /// What to do next; [`Output::Wake`] when there is nothing more.
    pub fn poll(&mut self) -> Output {
        Output::Wake { at: None }
    }
    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        true
    }
    /// The current term.
    pub fn term(&self) -> Term {
        Term(0)
    }
    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        None
    }
    /// The last committed index known here.
    pub fn commit_index(&self) -> Index {
        Index(0)
    }
    /// The term of the entry at `index`; `None` when it is compacted away or not there.
    pub fn term_at(&self, _index: Index) -> Option<Term> {
        None
    }
    /// The membership effective at `index`, with the index of its entry; `index` lies within the retained log.
    pub fn membership_at(&self, _index: Index) -> (Index, &Membership) {
        unimplemented!()
    }
    /// A view from outside.
    pub fn status(&self) -> Status {
        unimplemented!()
    }
}
