//! Deliberate bugs, by which the simulator shows that its checkers see something.
//!
//! Nothing of this is in a product: without the feature `bugs` there is no way to ask for one, and what asks is a constant.

use crate::Config;

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bug {
    /// Who got the vote is not written.
    VoteNotPersisted,
    /// The term is not written, but for that of the last entry.
    TermNotPersisted,
    /// A vote is asked for before the candidate's own, and the log that it claims, are durable (C5).
    CampaignBeforeDurable,
    /// A vote goes to a log that is behind (Raft §5.4.1).
    VoteForOlderLog,
    /// Each answer to a campaign counts, also the second of one voter.
    VoteCountedTwice,
    /// Votes of earlier terms count.
    StaleVote,
    /// Whoever asks for pre-votes is in the next term already (thesis §9.6).
    PreVoteRaisesTerm,
    /// Half of the voters are enough.
    QuorumTooSmall,
    /// Entries of earlier terms are committed by counting (Raft §5.4.2).
    OldTermCommitted,
    /// A leader begins without an entry of its term (Raft §8).
    NoNoop,
    /// A leader counts its own entries before they are durable.
    CountUnwritten,
    /// A follower acknowledges what is verified, durable or not (C4).
    AcknowledgeUnwritten,
    /// A truncation leaves what is durable, and what will be, as it was (C4).
    OldTicketAcknowledges,
    /// A follower cuts off whatever lies where entries arrive.
    TruncateOnAppend,
    /// A follower commits as far as its log goes, equal to the leader's or not (Raft §5.3).
    CommitBeyondVerified,
    /// A heartbeat tells a follower to commit what it may not hold.
    HeartbeatCommitUnchecked,
    /// Entries read from the log are sent without a look at whether they still belong there (C9).
    UncheckedLogRead,
    /// A read is answered without a round (thesis §6.4).
    ReadWithoutRound,
    /// A read is answered by a leader that has not committed in its term (thesis §6.4).
    ReadBeforeOwnCommit,
    /// Any echo counts for the newest round, also one of an earlier term.
    StaleEcho,
    /// Any answer to a question for a read is taken, also that to an earlier one (C24).
    UnmatchedReadAnswer,
    /// Promises count in full, as if all clocks went alike (C13).
    LeaseWithoutDrift,
    /// Promises count from when the answer came (C13).
    LeaseFromAnswer,
    /// A start forgets what was promised (C13).
    ForgottenPromise,
    /// Votes go to others in spite of a promise (C13).
    BrokenPromise,
    /// A lease outlives the handover (C14).
    LeaseDuringTransfer,
    /// What is committed is applied before it is durable here (C7).
    ApplyBeforeDurable,
    /// The log is cut up to what is applied, and nothing is flushed before (C7).
    CompactUnflushed,
    /// A snapshot begins the log anew, also one that the log covers (C8).
    SnapshotOverNewerLog,
    /// The state is replaced before the log's base is durable (C8).
    InstallBeforeBase,
    /// A snapshot tells of no members.
    SnapshotWithoutMembership,
    /// Who is told to campaign leads at once, without an election (C14).
    LeadWithoutElection,
    /// What was appended by a leader that steps down is reported as refused (C21).
    UnknownIsRefused,
    /// A forwarded command that arrives twice is proposed twice (C21).
    ForwardedTwice,
    /// A membership is in force only once it is committed (C16).
    ChangeAtCommit,
    /// Another change may begin before the last one has ended (C16).
    TwoChangesAtOnce,
    /// In a joint configuration the new half decides alone (Raft §6).
    JointByOneHalf,
    /// The number of votes that is needed stays that of the first membership.
    QuorumOfOldSize,
    /// Who has been removed goes on being counted.
    RemovedIsCounted,
    /// Learners vote and are counted.
    LearnerVotes,
    /// A change goes on while leadership is handed over (C14).
    ChangeDuringTransfer,
}

impl Config {
    /// Whether `bug` is built in.
    #[doc(hidden)]
    #[inline]
    #[must_use]
    #[cfg(feature = "bugs")]
    pub fn has_bug(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether `bug` is built in: it is not.
    #[doc(hidden)]
    #[inline(always)]
    #[must_use]
    #[cfg(not(feature = "bugs"))]
    pub const fn has_bug(&self, _bug: Bug) -> bool {
        false
    }
}
