//! What goes into a replica and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use coracle_core::{
    Event, Fatal, Index, InstallSnapshot, LogRead, MembershipChange, Message, NodeId, Persist, RejectReason, Runs,
    SnapshotMeta, Term, Ticket, Time,
};
use coracle_storage::Applied;

use crate::NoSpace;

/// The driver's name for a client's request; each is answered by exactly one [`Effect::Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How fresh a query's answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it was asked.
    Linearizable,
    /// It sees every write that was acknowledged before it was asked, as long as clocks drift apart by no more than the configured bound and no machine is suspended: a leader answers from its lease, without asking anybody (C13). Without a lease it is as `Linearizable`.
    Lease,
    /// It sees every write that was acknowledged longer ago than this. Where the replica cannot tell, it asks the leader.
    Bounded {
        /// The largest age of what is seen.
        max_age: Duration,
    },
    /// It sees what this replica has applied.
    Stale,
}

/// What has happened. What is rare and large is boxed, here and in what follows: most are moved by the thousand.
#[derive(Debug)]
pub enum Input {
    /// A peer's message.
    Message(Message),
    /// A client's command; it is forwarded when another node leads.
    Propose {
        /// The driver's name for it.
        request: RequestId,
        /// The command.
        command: Bytes,
    },
    /// A client's query.
    Query {
        /// The driver's name for it.
        request: RequestId,
        /// The query.
        query: Bytes,
        /// How fresh the answer has to be.
        consistency: Consistency,
    },
    /// A client gave up: its request needs no reply any more, and gets none.
    Cancel {
        /// Which.
        request: RequestId,
    },
    /// Change who is in the group (C16); rejected with a hint where another node leads. Replied to when the intent is committed: the leader carries it out, and says so by events.
    ChangeMembership {
        /// The driver's name for it.
        request: RequestId,
        /// What is to change.
        change: MembershipChange,
    },
    /// Prefer for so long that others lead (C15).
    Weaken {
        /// For how long; zero ends it.
        duration: Duration,
    },
    /// Take a snapshot now, and cut the log below what of it is durable. Replied to with the index that it covers.
    TakeSnapshot {
        /// The driver's name for it.
        request: RequestId,
    },
    /// Hand leadership over, to a voter of choice or to the one that is furthest; commands wait meanwhile (C14).
    Transfer {
        /// To whom.
        to: Option<NodeId>,
    },
    /// An effect was carried out.
    Done(Completion),
    /// A peer cannot be reached.
    Unreachable {
        /// Which.
        peer: NodeId,
    },
    /// Time has passed; comes last in a batch of inputs (C11).
    Time,
}

/// What came of an effect.
#[derive(Debug)]
pub enum Completion {
    /// Of [`Effect::Write`].
    Written {
        /// The write's.
        ticket: Ticket,
    },
    /// The write on its way finds no space, and is tried again until it does (C18): its [`Completion::Written`] comes later. May come any number of times.
    NoSpace(NoSpace),
    /// Of [`Effect::ReadLog`].
    LogRead {
        /// The question's number.
        request: u64,
        /// What was found.
        result: LogRead,
    },
    /// Of [`StateEffect::Apply`].
    Applied {
        /// How far the state machine is.
        applied: Applied,
        /// One reply for each command, in order.
        replies: Vec<Bytes>,
    },
    /// Of [`StateEffect::Query`].
    Answered {
        /// The request.
        request: RequestId,
        /// The answer.
        answer: Bytes,
    },
    /// Of [`StateEffect::Flush`].
    Flushed {
        /// How far the state machine is.
        applied: Applied,
    },
    /// Of [`StateEffect::TakeSnapshot`].
    SnapshotTaken {
        /// What it is.
        meta: Box<SnapshotMeta>,
    },
    /// Of [`StateEffect::TakeSnapshot`], for lack of space: it was given up.
    SnapshotNotTaken {
        /// Why, for people.
        what: String,
    },
    /// Of [`Effect::ReadSnapshot`]; `None` when the snapshot is gone.
    SnapshotRead {
        /// For whom.
        peer: NodeId,
        /// Which snapshot.
        content: u64,
        /// Where.
        offset: u64,
        /// The bytes.
        data: Option<Bytes>,
    },
    /// Of [`Effect::ReadSnapshot`]: what was read for this peer is not what was stored, and the snapshot was put aside.
    SnapshotDamaged {
        /// Which snapshot.
        content: u64,
        /// What is wrong and where, for people.
        what: String,
    },
    /// Of [`Effect::StoreSnapshot`].
    SnapshotStored {
        /// Who sent it.
        from: NodeId,
        /// The message's term.
        term: Term,
        /// Which snapshot.
        meta: Box<SnapshotMeta>,
        /// How many bytes of it are stored.
        offset: u64,
        /// Whether it is whole, its hash checked, and durable.
        whole: bool,
    },
    /// Of [`Effect::StoreSnapshot`], for lack of space: the piece was dropped.
    SnapshotNotStored {
        /// Why, for people.
        what: String,
    },
    /// Of [`StateEffect::InstallSnapshot`].
    SnapshotInstalled {
        /// How far the state machine is.
        applied: Applied,
    },
    /// Any effect failed for good: the replica stops.
    Failed {
        /// What failed, for people.
        what: String,
        /// Whether it was the log.
        is_log: bool,
        /// Whether the data is damaged or lost, rather than the storage out of order.
        is_damage: bool,
    },
}

/// What is to be done. Each that names a completion is answered by it once; those for the same worker are done in order.
#[derive(Debug)]
pub enum Effect {
    /// Send a message. It may get lost.
    Send(Message),
    /// Write to the log: [`Completion::Written`]. For the log's worker.
    Write(Persist),
    /// Read from the log: [`Completion::LogRead`]. Works while a write is under way.
    ReadLog {
        /// The question's number.
        request: u64,
        /// The first.
        from: Index,
        /// The last.
        to: Index,
        /// A limit in bytes.
        bytes_max: usize,
    },
    /// Work for the state machine's worker.
    State(StateEffect),
    /// Read from a stored snapshot: [`Completion::SnapshotRead`], or [`Completion::SnapshotDamaged`].
    ReadSnapshot {
        /// For whom.
        peer: NodeId,
        /// Which snapshot.
        content: u64,
        /// Where.
        offset: u64,
        /// How many bytes at most.
        len: usize,
    },
    /// Store a piece of a snapshot, in order of arrival: [`Completion::SnapshotStored`], or [`Completion::SnapshotNotStored`].
    StoreSnapshot {
        /// Who sent it.
        from: NodeId,
        /// The message's term.
        term: Term,
        /// The piece.
        piece: Box<InstallSnapshot>,
    },
    /// Answer a client.
    Reply {
        /// The request.
        request: RequestId,
        /// How it ended.
        result: Result<Reply, RequestError>,
    },
    /// Tell those who listen.
    Event(Event),
    /// Stop for good; only replies to later requests and `Wake` follow.
    Fatal {
        /// The core's reason, if it was the core's.
        reason: Option<Fatal>,
        /// For people.
        what: String,
    },
    /// Nothing more to do until there is input, or until `at`.
    Wake {
        /// When to hand in [`Input::Time`] at the latest.
        at: Option<Time>,
    },
}

/// Work for the state machine's worker, done in order.
#[derive(Debug)]
pub enum StateEffect {
    /// Apply entries: [`Completion::Applied`].
    Apply {
        /// The entries.
        entries: Runs,
    },
    /// Answer a query: [`Completion::Answered`].
    Query {
        /// The request.
        request: RequestId,
        /// The query.
        query: Bytes,
    },
    /// Make the state durable: [`Completion::Flushed`].
    Flush,
    /// Take a snapshot of the state as it is; reading it goes on beside later work: [`Completion::SnapshotTaken`], or [`Completion::SnapshotNotTaken`].
    TakeSnapshot {
        /// The last entry given to be applied before, its term, and the membership in force there: the worker fills in the rest.
        /// `last_included_index` is what the state machine has applied when the effect's turn comes.
        meta: Box<SnapshotMeta>,
    },
    /// Replace the state by a stored snapshot: [`Completion::SnapshotInstalled`].
    InstallSnapshot {
        /// Which.
        meta: Box<SnapshotMeta>,
    },
}

/// How a request ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The state machine's reply or answer.
    pub data: Bytes,
    /// Where the command was committed; for a query, what the state machine had applied at least.
    pub index: Index,
}

/// How a request ended otherwise (C21).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Surely without effect.
    #[error("rejected: {0:?}")]
    Rejected(RejectReason),
    /// Surely without effect: the command is longer than the peers could be told of.
    #[error("command_bytes_max is {max}: got a command of {got} bytes")]
    TooLarge {
        /// The limit, in bytes.
        max: usize,
        /// The command's length.
        got: usize,
    },
    /// It may or may not take effect.
    #[error("the outcome is unknown")]
    Unknown,
}
