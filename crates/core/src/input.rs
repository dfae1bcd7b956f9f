//! What a driver hands in.

use alloc::{boxed::Box, vec::Vec};
use core::time::Duration;

use bytes::Bytes;

use crate::{
    Base, ClusterId, Entry, EntryKind, HardState, Index, Membership, MembershipChange, Message, NodeId, ProposalId,
    ReadId, Run, SnapshotMeta, Term, Ticket,
};

/// What has happened. [`Raft::handle`](crate::Raft::handle) takes any number of these before outputs are polled.
#[derive(Clone, Debug)]
pub enum Input {
    /// A peer's message. The transport has made sure that `from` is who shook hands.
    Message(Message),
    /// Commands to replicate, named `first`, `first + 1` and so on. Each ends in exactly one [`Outcome`](crate::Outcome).
    Propose {
        /// The name of the first.
        first: ProposalId,
        /// The commands, in order.
        commands: Vec<Bytes>,
    },
    /// `count` linearizable reads, named `first`, `first + 1` and so on. Each ends in `ReadReady` or `ReadFailed`.
    Read {
        /// The name of the first.
        first: ReadId,
        /// How many.
        count: u32,
        /// Whether a leader may answer from its lease, without asking anybody (C13). Where there is none that holds, a round is made as ever.
        is_lease: bool,
    },
    /// Everything up to this ticket is durable.
    Persisted {
        /// The newest durable ticket.
        ticket: Ticket,
    },
    /// The write that is on its way found no space, before anything of it was written; it is tried again until there is some (C18). May come any number of times before its `Persisted`.
    NoSpace,
    /// A write or a sync of the log failed: the group stops for good (C18).
    PersistFailed,
    /// The answer to [`Output::ReadEntries`](crate::Output::ReadEntries).
    EntriesRead {
        /// The question's number.
        request: u64,
        /// What was found.
        result: LogRead,
    },
    /// The state machine has applied everything up to `applied`, and would recover to `flushed` after a power cut.
    Applied {
        /// The last applied index.
        applied: Index,
        /// The last index that survives a power cut.
        flushed: Index,
    },
    /// Delete the log up to here, as far as that is safe (C7).
    Compact {
        /// The last index to go.
        up_to: Index,
    },
    /// Change who is in the group (C16). Ends in one [`Outcome`](crate::Outcome): committed is the entry that states the intent, from which every leader goes on by itself.
    ///
    /// New voters are learners until they have caught up; then all changes of voters take effect at once, through a joint configuration (Raft §6).
    /// A change that does not come to that has an end ([`Event::ChangeCalledOff`](crate::Event::ChangeCalledOff)): learners that do not catch up stay what they were, and no voter leaves in their stead. What was asked for by itself does not end with it.
    ChangeMembership {
        /// The driver's name for it.
        id: ProposalId,
        /// What is to change.
        change: MembershipChange,
    },
    /// For so long this node prefers that others lead: it hands leadership over, declines to take it, and lets others campaign first (C15). It votes as ever, and campaigns late rather than never. Zero ends it.
    Weaken {
        /// For how long.
        duration: Duration,
    },
    /// Hand leadership over, to a voter of choice or to the one that is furthest (C14). Proposals are refused meanwhile.
    Transfer {
        /// To whom.
        to: Option<NodeId>,
    },
    /// The transfer of a snapshot to a peer has failed or was given up; the peer is probed again after a while.
    SnapshotSendFailed {
        /// To whom.
        peer: NodeId,
    },
    /// A snapshot that is being sent needs the log above this index to stay.
    SnapshotSending {
        /// To whom.
        peer: NodeId,
        /// What it covers.
        index: Index,
    },
    /// A piece of a snapshot is stored, or it is known not to be needed; the core answers the leader.
    SnapshotStored {
        /// Who sent it.
        from: NodeId,
        /// The piece's term: in another one no answer goes out.
        term: Term,
        /// Which snapshot.
        content: u64,
        /// The first byte that is missing.
        offset: u64,
        /// Whether the leader can stop.
        done: bool,
    },
    /// A snapshot is whole, its hash checked, and durable.
    SnapshotReceived {
        /// What it is.
        meta: Box<SnapshotMeta>,
    },
    /// The state machine has been replaced by the snapshot at `index`, durably. Answers [`Output::InstallSnapshot`](crate::Output::InstallSnapshot).
    SnapshotInstalled {
        /// What it covers.
        index: Index,
    },
    /// The transport lost the connection to a peer: optimistic sending stops until it answers.
    Unreachable {
        /// Which peer.
        peer: NodeId,
    },
    /// Time has passed. Only this fires timers, so it comes last in a batch of inputs (C11).
    Time,
}

/// What a read of the log found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRead {
    /// Entries from the first that was asked for, at least one, as many as the limit in bytes allows.
    Entries(Vec<Run>),
    /// The range does not begin in the log: it was compacted away, or cut off since it was asked for.
    Compacted,
    /// An entry does not match its checksum.
    Damaged {
        /// The first such.
        at: Index,
    },
}

/// What a node's store held when it started (C3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Term, vote and a commit index that is surely not too high.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: Base,
    /// The first index of each term in the retained log, in order.
    pub terms: Vec<(Index, Term)>,
    /// The membership entries of the whole retained log, in order.
    pub memberships: Vec<(Index, Membership)>,
    /// The last index of the log; the base's when it has no entries.
    pub last_index: Index,
    /// The most recent entries, up to `last_index`; how many is the store's choice. They begin after the last damaged one.
    pub tail: Vec<Run>,
    /// The damaged entries, in order; `terms` tells their terms, and their data have to come from peers (C19).
    pub damaged: Vec<Index>,
    /// Whether one of the damaged entries may hold a membership that is not in `memberships`.
    pub is_membership_damaged: bool,
    /// What the state machine has applied and would still have after a power cut.
    pub applied: Index,
}

impl Recovered {
    /// The store of a node that is to join `cluster`: an empty log, and nobody in it that this node knows of. It votes when asked, and campaigns only once it learns that it is a voter.
    pub fn joining(cluster: ClusterId) -> Recovered {
        let nobody = Membership::new(cluster, Vec::new());
        Recovered {
            hard_state: HardState::default(),
            base: Base { membership: Some(nobody), ..Base::default() },
            terms: Vec::new(),
            memberships: Vec::new(),
            last_index: Index::ZERO,
            tail: Vec::new(),
            damaged: Vec::new(),
            is_membership_damaged: false,
            applied: Index::ZERO,
        }
    }

    /// The store of a node that has just been founded: its log begins with `membership` at index 1, term 1 (C2).
    pub fn founded(membership: Membership) -> Recovered {
        let entry = Entry { kind: EntryKind::Membership, data: membership.encode() };
        Recovered {
            hard_state: HardState { term: Term(1), commit_index: Index(1), ..HardState::default() },
            base: Base::default(),
            terms: [(Index(1), Term(1))].into(),
            memberships: [(Index(1), membership)].into(),
            last_index: Index(1),
            tail: [Run::new(Index(1), Term(1), [entry])].into(),
            damaged: Vec::new(),
            is_membership_damaged: false,
            applied: Index::ZERO,
        }
    }
}
