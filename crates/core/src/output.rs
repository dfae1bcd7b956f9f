//! What a driver takes out.

use alloc::{boxed::Box, vec::Vec};

use crate::{
    Index, InstallSnapshot, Membership, Message, NodeId, ProposalId, ReadId, Role, Run, SnapshotMeta, Term, Ticket,
    Time,
};

/// What the driver has to do. Outputs come in the order of C10: sends that need no disk, the write, what has become durable, results and reads, what to apply, events.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a message. It may get lost.
    Send(Message),
    /// Write to the log, then hand in [`Input::Persisted`](crate::Input::Persisted). Writes are done in order.
    Persist(Persist),
    /// `count` proposals, from `first` on, have ended.
    Done {
        /// The first of them.
        first: ProposalId,
        /// How many.
        count: u32,
        /// How.
        outcome: Outcome,
    },
    /// `count` reads, from `first` on, may be answered from a state that has applied `index`.
    ReadReady {
        /// The first of them.
        first: ReadId,
        /// How many.
        count: u32,
        /// From which index on.
        index: Index,
    },
    /// `count` reads, from `first` on, cannot be answered by this node at this time.
    ReadFailed {
        /// The first of them.
        first: ReadId,
        /// How many.
        count: u32,
        /// Why.
        reason: RejectReason,
    },
    /// Apply these entries, in order; they follow the last ones. Then hand in [`Input::Applied`](crate::Input::Applied).
    Apply {
        /// The entries, no-ops and memberships included.
        entries: Vec<Run>,
    },
    /// Read `from..=to` of the log, at most `bytes_max` but at least one entry, then hand in [`Input::EntriesRead`](crate::Input::EntriesRead).
    ReadEntries {
        /// The question's number.
        request: u64,
        /// The first.
        from: Index,
        /// The last.
        to: Index,
        /// A limit in bytes.
        bytes_max: usize,
    },
    /// A peer needs a snapshot: say what is sent by `SnapshotSending`, and then send it.
    SendSnapshot {
        /// Who.
        peer: NodeId,
    },
    /// The snapshot for a peer is no longer needed, or no longer ours to send.
    StopSnapshot {
        /// Who.
        peer: NodeId,
    },
    /// A piece of a snapshot from the leader: store it and hand in [`Input::SnapshotStored`](crate::Input::SnapshotStored).
    StoreSnapshot {
        /// The leader.
        from: NodeId,
        /// The message's term.
        term: Term,
        /// The piece.
        piece: Box<InstallSnapshot>,
    },
    /// Replace the state machine by this snapshot, which is stored and whole; then hand in [`Input::SnapshotInstalled`](crate::Input::SnapshotInstalled).
    InstallSnapshot {
        /// What it is.
        meta: Box<SnapshotMeta>,
    },
    /// Something that an operator or a test may want to know.
    Event(Event),
    /// The group stops for good. Only events, `Wake`, and the refusal of what is handed in later follow.
    Fatal(Fatal),
    /// Nothing more to do until there is input, or until `at`.
    Wake {
        /// When to hand in [`Input::Time`](crate::Input::Time) at the latest.
        at: Option<Time>,
    },
}

/// One write to the log, all or nothing: cut off, then repair, then append, then set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Names the write.
    pub ticket: Ticket,
    /// Delete this index and all after it.
    pub truncate_from: Option<Index>,
    /// Write these over what lies there: damaged entries of the log, of these indexes and terms (C19). In order, and none of them is cut off.
    pub repaired: Vec<Run>,
    /// Append these; they follow what is left.
    pub entries: Vec<Run>,
    /// Set this.
    pub hard_state: Option<HardState>,
    /// The log begins here: delete this index and all before it. When the log does not hold (index, term) of the base, `truncate_from` has cut off everything.
    pub base: Option<Box<Base>>,
}

/// What must survive for safety, and a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Who got this node's vote in it.
    pub voted_for: Option<NodeId>,
    /// An index that is surely committed, and in this log (C6).
    pub commit_index: Index,
    /// Entries of the log are damaged (C19). Written no later than what makes the damage unseen.
    pub is_repairing: bool,
}

/// Where a log begins: just after what was compacted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Base {
    /// The last index that is not there any more.
    pub index: Index,
    /// Its term.
    pub term: Term,
    /// Where the membership entry lies that is effective at `index`.
    pub membership_index: Index,
    /// That membership; `None` only at index 0.
    pub membership: Option<Membership>,
}

/// How a proposal ended (C21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed: the first of the run is at `first_index`, the others follow.
    Committed {
        /// Where.
        first_index: Index,
    },
    /// Surely never appended.
    Rejected(RejectReason),
    /// Appended; it may or may not take effect.
    Unknown,
}

/// Why a proposal or read was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RejectReason {
    /// This node does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// A limit is reached: try again later.
    Busy,
    /// The log finds no space: nothing is appended until there is some (C18).
    NoSpace,
    /// The group has stopped.
    Stopped,
    /// No majority answered in time.
    NoQuorum,
    /// Another change of membership is under way, or the leader has not committed anything in its term yet: try again later.
    ChangeInProgress,
    /// The membership asked for cannot be.
    Membership {
        /// Why not.
        why: &'static str,
    },
}

/// A change of voters that was called off (C16).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CalledOff {
    /// The entry that takes it back.
    pub index: Index,
    /// Why.
    pub reason: CallOff,
    /// Who stays what it was, in order.
    pub nodes: Vec<NodeId>,
}

/// Why a change of voters was called off (thesis §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum CallOff {
    /// A node that was to be promoted was not heard of for the promotion timeout.
    #[error("node {node} was not heard of")]
    Silent {
        /// Who.
        node: NodeId,
    },
    /// It answered, and took nothing in for the promotion timeout.
    #[error("node {node} answers, and takes nothing in")]
    Stalled {
        /// Who.
        node: NodeId,
    },
    /// It took more in, and was not near in so many rounds.
    #[error("node {node} is too slow to catch up")]
    TooSlow {
        /// Who.
        node: NodeId,
    },
    /// No majority of those who would vote after the change was alive and kept up for the promotion timeout.
    #[error("no majority of those who would vote is alive and keeps up")]
    NoMajority,
}

impl CallOff {
    /// The node that is to blame, if it is one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            CallOff::Silent { node } | CallOff::Stalled { node } | CallOff::TooSlow { node } => Some(node),
            CallOff::NoMajority => None,
        }
    }
}

/// Something that an operator or a test may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The role, the term or the known leader changed.
    Role {
        /// The role.
        role: Role,
        /// The term.
        term: Term,
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Uncommitted entries were overwritten by a leader's.
    Truncated {
        /// The first of them.
        from: Index,
        /// The last of them.
        last: Index,
    },
    /// Another membership is in force.
    Membership {
        /// Its entry.
        index: Index,
    },
    /// The effective membership is committed.
    MembershipCommitted {
        /// Its entry.
        index: Index,
    },
    /// A change of voters was called off: it would have waited for ever.
    ChangeCalledOff(CalledOff),
    /// The log now begins after this index.
    Compacted {
        /// The last index that went.
        index: Index,
    },
    /// The state was replaced by a snapshot.
    SnapshotInstalled {
        /// What it covers.
        index: Index,
    },
    /// Leadership was not handed over in time: this node goes on leading.
    TransferAborted {
        /// To whom it was to go; `None` when no voter was there to take it.
        to: Option<NodeId>,
    },
    /// The log is damaged: this node neither votes nor campaigns until that is repaired (C19).
    Damaged {
        /// The first damaged entry.
        at: Index,
    },
    /// No other member holds the damaged entry, or not whole: all have said so. It ends when a leader that is elected without this node writes another entry there; where there is no majority without this node, only its own disk can bring the entry back (C19).
    Irreparable {
        /// Where.
        at: Index,
    },
    /// No entry of the log is damaged any more.
    Repaired,
    /// A write of the log takes longer than its limit.
    DiskSlow,
    /// It ended after all.
    DiskRecovered,
    /// A write of the log finds no space: until it does, proposals are refused, and this node does not campaign (C18).
    DiskFull,
    /// It found some.
    SpaceFound,
    /// A peer said what no correct peer says; it was ignored.
    PeerFault {
        /// Who.
        peer: NodeId,
        /// What.
        fault: &'static str,
    },
}

/// Why a group stops for good (C20): only on its own evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Fatal {
    /// A write or sync of the log failed.
    #[error("the log could not be written")]
    PersistFailed,
    /// The log does not hold what it is known to hold, and there is no peer that could.
    #[error("the entry at {at} is damaged, and no other node has it")]
    Damaged {
        /// Where.
        at: Index,
    },
    /// A leader of this node's own term shows that it acknowledged more than its log holds.
    #[error("the log lost acknowledged entries: the leader knows {acknowledged}, the log ends at {last_index}")]
    LostLog {
        /// What was acknowledged.
        acknowledged: Index,
        /// What is there.
        last_index: Index,
    },
}
