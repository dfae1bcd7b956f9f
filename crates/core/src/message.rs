//! What peers say to each other.

use alloc::{boxed::Box, vec::Vec};

use bytes::Bytes;

use crate::{Base, Index, Membership, NodeId, Run, Runs, Term};

/// A message between two replicas of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Message {
    /// Who sent it.
    pub from: NodeId,
    /// Whom it is for.
    pub to: NodeId,
    /// The sender's term when it sent it. A `PreVote` names the term it asks for inside.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a message says. Requests are the paper's; a response bears its request's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Body {
    /// Would you vote for me in `next_term`? Changes nobody's state (thesis §9.6).
    PreVote {
        /// The term that the sender would campaign in.
        next_term: Term,
        /// The sender's last entry.
        last_log_index: Index,
        /// Its term.
        last_log_term: Term,
    },
    /// Answers a `PreVote`.
    PreVoteResponse {
        /// The term that was asked for.
        next_term: Term,
        /// Whether the vote would be given.
        granted: bool,
    },
    /// Asks for a vote (Raft §5.2).
    RequestVote {
        /// The candidate's last entry.
        last_log_index: Index,
        /// Its term.
        last_log_term: Term,
        /// The leader itself has asked for this campaign: who hears it votes all the same (C14; thesis §4.2.3).
        is_transfer: bool,
    },
    /// Answers a `RequestVote`.
    RequestVoteResponse {
        /// Whether the vote is given.
        granted: bool,
    },
    /// Replicates entries (Raft §5.3).
    AppendEntries {
        /// The entry just before the new ones.
        prev_log_index: Index,
        /// Its term.
        prev_log_term: Term,
        /// The leader's commit index.
        leader_commit: Index,
        /// The new entries; none to probe where logs agree.
        #[cfg_attr(feature = "serde", serde(with = "crate::entry::as_bytes"))]
        entries: Runs,
    },
    /// Answers an `AppendEntries`, and says so again when more has become durable.
    AppendEntriesResponse {
        /// What has come of it.
        result: AppendResult,
        /// The state machine is behind the start of the log: only a snapshot helps (C7).
        needs_snapshot: bool,
    },
    /// The leader is alive. Deviation: the paper uses an empty `AppendEntries`; apart from it, a round of reads never waits for entries to become durable (C5).
    Heartbeat {
        /// The newest round; 0 asks for no answer.
        round: u64,
        /// The smaller of the leader's commit index and what it knows the receiver to hold.
        leader_commit: Index,
    },
    /// Answers a `Heartbeat`: the sender was in this term after the round had begun.
    HeartbeatResponse {
        /// The round that was asked for.
        round: u64,
        /// For how many nanoseconds from then on the sender helps elect nobody else; 0 promises nothing (C13).
        promise: u64,
    },
    /// A follower asks from which index on a read is linearizable (thesis §6.4).
    ReadIndex {
        /// The asker's boot nonce.
        nonce: u64,
        /// The asker's count of such questions.
        sequence: u64,
    },
    /// Answers a `ReadIndex`.
    ReadIndexResponse {
        /// The question's.
        nonce: u64,
        /// The question's.
        sequence: u64,
        /// The index; `None` when the asked node cannot tell: ask the leader again.
        index: Option<Index>,
    },
    /// The leader asks the receiver, which has the whole log, to campaign at once (thesis §3.10).
    TimeoutNow,
    /// A piece of a snapshot (Raft §7). Boxed, for it is rare and larger than all the others.
    InstallSnapshot(Box<InstallSnapshot>),
    /// Answers an `InstallSnapshot`: what the receiver wants next.
    InstallSnapshotResponse {
        /// Which snapshot, by its content.
        content: u64,
        /// The first byte that the receiver does not have.
        offset: u64,
        /// The snapshot is whole, or not needed: stop sending.
        done: bool,
    },
    /// Asks for entries that are damaged in the sender's log (C19). Says nothing of terms, and changes nobody's state.
    FetchEntries {
        /// The first that is wanted.
        first: Index,
        /// The last.
        last: Index,
        /// The term of all of them: an entry of another term is not meant.
        entry_term: Term,
    },
    /// Answers a `FetchEntries`.
    FetchEntriesResponse {
        /// The question's.
        first: Index,
        /// What the sender's log holds of it, from `first` on; none when it does not hold that.
        #[cfg_attr(feature = "serde", serde(with = "crate::entry::as_bytes"))]
        entries: Vec<Run>,
        /// Where the sender's log begins, when `first` is compacted away there.
        base: Option<Box<Base>>,
    },
    /// A follower hands a client's commands to the leader. Refused in another term than the message's (C21).
    Propose {
        /// The asker's boot nonce.
        nonce: u64,
        /// The sequence of the first command; the others follow.
        sequence: u64,
        /// The commands.
        commands: Vec<Bytes>,
    },
    /// Answers a `Propose`, in part or as a whole.
    ProposeResponse {
        /// The question's.
        nonce: u64,
        /// The sequence of the first outcome; the others follow.
        sequence: u64,
        /// What has come of the commands.
        outcomes: Vec<Forwarded>,
    },
}

/// What has come of an `AppendEntries`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum AppendResult {
    /// The receiver's log equals the leader's up to here, durably: min(verified, durable) (C4).
    Matched {
        /// Up to here.
        index: Index,
    },
    /// The receiver's log does not hold the entry before the new ones.
    Rejected {
        /// The request's, so that a late answer is known for what it is.
        prev_log_index: Index,
        /// The largest index at which the receiver's log may agree with the leader's.
        hint_index: Index,
        /// The term of the receiver's entry there.
        hint_term: Term,
    },
}

/// What has come of a forwarded command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Forwarded {
    /// It is committed and applied.
    Applied {
        /// Where.
        index: Index,
        /// The state machine's reply.
        reply: Bytes,
    },
    /// It was surely never appended, since the receiver does not lead in that term.
    NotLeader,
    /// It was surely never appended, since the leader's queue is full.
    Busy,
    /// It may or may not take effect.
    Unknown,
}

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SnapshotMeta {
    /// Names the content: a hash over the bytes, the index and the term. A transfer resumes only on the same one (C8).
    pub content: u64,
    /// The last entry that it covers (the paper's lastIncludedIndex).
    pub last_included_index: Index,
    /// Its term.
    pub last_included_term: Term,
    /// Where the membership entry lies that is effective there.
    pub membership_index: Index,
    /// That membership, full records, joint halves included.
    pub membership: Membership,
    /// How many bytes the state takes.
    pub size: u64,
    /// CRC-32 (IEEE) of those bytes.
    pub checksum: u32,
}

/// A piece of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct InstallSnapshot {
    /// Which snapshot.
    pub meta: SnapshotMeta,
    /// Where in the state these bytes lie.
    pub offset: u64,
    /// The bytes; they may be empty, to ask what the receiver has.
    pub data: Bytes,
}
