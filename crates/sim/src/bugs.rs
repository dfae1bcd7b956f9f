//! Deliberate bugs: each has to be found, or the checkers see too little.

mod tamper;

use std::{fmt, str::FromStr};

use coracle_core::Bug as CoreBug;

pub(crate) use self::tamper::{store, tamper, wrap};
use crate::Nodes;

/// A deliberate bug, which the checkers have to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// One inside the core or the replica; there with the feature `bugs` only.
    Core(CoreBug),
    /// A write is reported as durable when it has only begun.
    AcknowledgeBeforeDurable,
    /// A failed write of the log is reported as done.
    IgnoreDiskError,
    /// The state machine forgets that a command may have been applied before.
    SkipSessionCheck,
    /// Snapshots lack the sessions.
    SessionsNotInSnapshot,
    /// The applied index is written after what was applied, so that a crash in between applies it again.
    ApplyTwice,
    /// A start forgets who got the vote.
    ForgetVote,
    /// A start cuts off the last entries of the log.
    TruncateLog,
    /// Linearizable reads are served from whatever the asked node has applied.
    StaleRead,
    /// The state machine of one node now and then leaves out a command.
    SkipEntry,
    /// No bug, but an invariant that does not hold: it has to fail.
    Canary,
}

/// A bug by its name.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct KnownBug {
    /// By which it is asked for.
    pub name: &'static str,
    /// Which.
    pub bug: Bug,
    /// In groups of this size it shows.
    pub nodes: Nodes,
}

const fn core(name: &'static str, bug: CoreBug) -> KnownBug {
    KnownBug { name, bug: Bug::Core(bug), nodes: Nodes::Mixed }
}

const fn own(name: &'static str, bug: Bug) -> KnownBug {
    KnownBug { name, bug, nodes: Nodes::Mixed }
}

/// All of them; the canary is the last.
const ALL: &[KnownBug] = &[
    core("vote-not-persisted", CoreBug::VoteNotPersisted),
    core("term-not-persisted", CoreBug::TermNotPersisted),
    core("campaign-before-durable", CoreBug::CampaignBeforeDurable),
    core("vote-for-older-log", CoreBug::VoteForOlderLog),
    // A second vote of one voter decides only where more than one voter is needed.
    KnownBug { nodes: Nodes::Exactly(5), ..core("vote-counted-twice", CoreBug::VoteCountedTwice) },
    core("stale-vote", CoreBug::StaleVote),
    core("pre-vote-raises-term", CoreBug::PreVoteRaisesTerm),
    core("quorum-too-small", CoreBug::QuorumTooSmall),
    core("old-term-committed", CoreBug::OldTermCommitted),
    core("no-noop", CoreBug::NoNoop),
    core("count-unwritten", CoreBug::CountUnwritten),
    core("acknowledge-unwritten", CoreBug::AcknowledgeUnwritten),
    core("old-ticket-acknowledges", CoreBug::OldTicketAcknowledges),
    core("truncate-on-append", CoreBug::TruncateOnAppend),
    core("commit-beyond-verified", CoreBug::CommitBeyondVerified),
    core("heartbeat-commit-unchecked", CoreBug::HeartbeatCommitUnchecked),
    core("unchecked-log-read", CoreBug::UncheckedLogRead),
    core("read-without-round", CoreBug::ReadWithoutRound),
    core("read-before-own-commit", CoreBug::ReadBeforeOwnCommit),
    core("stale-echo", CoreBug::StaleEcho),
    core("unmatched-read-answer", CoreBug::UnmatchedReadAnswer),
    core("lease-without-drift", CoreBug::LeaseWithoutDrift),
    core("lease-from-answer", CoreBug::LeaseFromAnswer),
    core("forgotten-promise", CoreBug::ForgottenPromise),
    core("broken-promise", CoreBug::BrokenPromise),
    core("lease-during-transfer", CoreBug::LeaseDuringTransfer),
    core("apply-before-durable", CoreBug::ApplyBeforeDurable),
    core("compact-unflushed", CoreBug::CompactUnflushed),
    // A snapshot is overtaken by entries where leaders change while it is on its way.
    KnownBug { nodes: Nodes::Exactly(5), ..core("snapshot-over-newer-log", CoreBug::SnapshotOverNewerLog) },
    core("install-before-base", CoreBug::InstallBeforeBase),
    core("snapshot-without-membership", CoreBug::SnapshotWithoutMembership),
    core("lead-without-election", CoreBug::LeadWithoutElection),
    core("unknown-is-refused", CoreBug::UnknownIsRefused),
    core("forwarded-twice", CoreBug::ForwardedTwice),
    core("change-at-commit", CoreBug::ChangeAtCommit),
    core("two-changes-at-once", CoreBug::TwoChangesAtOnce),
    core("joint-by-one-half", CoreBug::JointByOneHalf),
    core("quorum-of-old-size", CoreBug::QuorumOfOldSize),
    core("removed-is-counted", CoreBug::RemovedIsCounted),
    core("learner-votes", CoreBug::LearnerVotes),
    core("change-during-transfer", CoreBug::ChangeDuringTransfer),
    own("acknowledge-before-durable", Bug::AcknowledgeBeforeDurable),
    own("ignore-disk-error", Bug::IgnoreDiskError),
    own("skip-session-check", Bug::SkipSessionCheck),
    own("sessions-not-in-snapshot", Bug::SessionsNotInSnapshot),
    own("apply-twice", Bug::ApplyTwice),
    own("forget-vote", Bug::ForgetVote),
    own("truncate-log", Bug::TruncateLog),
    own("stale-read", Bug::StaleRead),
    own("skip-entry", Bug::SkipEntry),
    own("canary", Bug::Canary),
];

impl Bug {
    /// All bugs that this build has; the canary is the last.
    pub fn all() -> impl Iterator<Item = KnownBug> {
        ALL.iter().filter(|known| known.bug.is_built_in()).copied()
    }

    /// Whether this build has it.
    fn is_built_in(self) -> bool {
        cfg!(feature = "bugs") || !matches!(self, Bug::Core(_))
    }

    /// What the core is to do wrong.
    #[cfg(feature = "bugs")]
    pub(crate) fn in_core(self) -> Option<CoreBug> {
        match self {
            Bug::Core(bug) => Some(bug),
            _ => None,
        }
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Bug, String> {
        let Some(found) = ALL.iter().find(|known| known.name == text) else {
            let names: Vec<&str> = Bug::all().map(|known| known.name).collect();
            return Err(format!("expected one of {}; got \"{text}\"", names.join(", ")));
        };
        if found.bug.is_built_in() {
            return Ok(found.bug);
        }
        Err(format!("\"{text}\" lies in the core, and this simulator was built without its feature \"bugs\""))
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALL.iter().find(|known| known.bug == *self).map_or("?", |known| known.name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bugs_read_back() {
        for known in Bug::all() {
            assert_eq!(known.name.parse::<Bug>(), Ok(known.bug));
            assert_eq!(known.bug.to_string(), known.name);
        }
        assert!("no-such-bug".parse::<Bug>().is_err());
        assert_eq!(ALL.last().map(|known| known.bug), Some(Bug::Canary));
    }

    #[test]
    fn a_bug_of_the_core_needs_its_feature() {
        assert_eq!("no-noop".parse::<Bug>().is_ok(), cfg!(feature = "bugs"));
    }
}
