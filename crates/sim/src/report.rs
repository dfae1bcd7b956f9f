//! What came of a run.

use std::{fmt, time::Duration};

use crate::{Counts, FaultMix, Nodes, Options, coverage::Milestone};

/// What a run has seen, when no checker objected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// How many seeds this covers.
    pub seeds: u64,
    /// A hash over all events and the final state: equal for equal seeds and options.
    pub hash: u64,
    /// How long it took in virtual time.
    pub virtual_time: Duration,
    /// How many events happened.
    pub events: u64,
    /// The faults that struck, by kind.
    pub faults: Counts,
    /// What a run comes to now and then, and has to.
    pub milestones: Counts,
    /// Crashes of nodes, a power cut being one of each.
    pub crashes: u64,
    /// Changes of the membership whose intent was committed.
    pub membership_changes: u64,
    /// Messages sent.
    pub messages: u64,
    /// Messages dropped.
    pub dropped: u64,
    /// Messages delivered twice.
    pub duplicated: u64,
    /// Elections won.
    pub elections: u64,
    /// Leaders of a term that was not the first to have one.
    pub leader_changes: u64,
    /// Snapshots taken.
    pub snapshots_taken: u64,
    /// Snapshots installed on a node that was too far behind.
    pub snapshots_installed: u64,
    /// Times at which a node cut off uncommitted entries.
    pub truncations: u64,
    /// Times at which a log was compacted.
    pub compactions: u64,
    /// Entries committed.
    pub committed: u64,
    /// Commands of clients that were acknowledged.
    pub acknowledged: u64,
    /// Queries that were answered.
    pub answered: u64,
    /// Attempts of clients whose outcome was unknown.
    pub unknown: u64,
    /// Operations that clients left at an unknown outcome.
    pub left_open: u64,
    /// Retries that were answered from the session table.
    pub answered_from_session: u64,
}

impl Report {
    /// Adds another run.
    pub fn add(&mut self, other: &Report) {
        self.seeds += other.seeds;
        self.hash = self.hash.wrapping_add(other.hash);
        self.virtual_time += other.virtual_time;
        self.faults.add(&other.faults);
        self.milestones.add(&other.milestones);
        for (sum, part) in [
            (&mut self.events, other.events),
            (&mut self.crashes, other.crashes),
            (&mut self.membership_changes, other.membership_changes),
            (&mut self.messages, other.messages),
            (&mut self.dropped, other.dropped),
            (&mut self.duplicated, other.duplicated),
            (&mut self.elections, other.elections),
            (&mut self.leader_changes, other.leader_changes),
            (&mut self.snapshots_taken, other.snapshots_taken),
            (&mut self.snapshots_installed, other.snapshots_installed),
            (&mut self.truncations, other.truncations),
            (&mut self.compactions, other.compactions),
            (&mut self.committed, other.committed),
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.answered, other.answered),
            (&mut self.unknown, other.unknown),
            (&mut self.left_open, other.left_open),
            (&mut self.answered_from_session, other.answered_from_session),
        ] {
            *sum += part;
        }
    }

    /// What has to happen now and then in groups of `nodes`, and never did: a test that does not reach these tests little.
    pub fn never_happened(&self, nodes: Nodes) -> Vec<&'static str> {
        let has_peers = nodes != Nodes::Exactly(1);
        let mut missing: Vec<&'static str> = [
            (self.snapshots_installed == 0 && has_peers, "a snapshot was installed"),
            (self.truncations == 0 && has_peers, "uncommitted entries were truncated"),
            (self.leader_changes == 0, "the leader changed"),
            (self.left_open == 0, "a client left an operation at an unknown outcome"),
            (self.answered_from_session == 0, "a retry was answered from the session table"),
        ]
        .into_iter()
        .filter_map(|(is_missing, what)| is_missing.then_some(what))
        .collect();
        // The places to come to, each of which takes a rare coincidence.
        let names = Milestone::ALL.map(Milestone::name);
        missing.extend(names.into_iter().filter(|name| has_peers && self.milestones.of(name) == 0));
        missing
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seeds {}, virtual time {:.0} s, events {}",
            self.seeds,
            self.virtual_time.as_secs_f64(),
            self.events
        )?;
        writeln!(
            f,
            "faults: {}; {} nodes crashed, {} of {} messages dropped, {} duplicated",
            self.faults, self.crashes, self.dropped, self.messages, self.duplicated
        )?;
        writeln!(
            f,
            "group: {} elections won, {} leader changes, {} snapshots taken, {} installed, {} truncations, {} compactions, {} changes of members, {} entries committed",
            self.elections,
            self.leader_changes,
            self.snapshots_taken,
            self.snapshots_installed,
            self.truncations,
            self.compactions,
            self.membership_changes,
            self.committed
        )?;
        writeln!(
            f,
            "clients: {} commands acknowledged, {} queries answered, {} outcomes unknown, {} left at that, {} retries answered from the session table",
            self.acknowledged, self.answered, self.unknown, self.left_open, self.answered_from_session
        )?;
        write!(f, "it happened that (how often): {}", self.milestones)
    }
}

/// What a checker looks after, by the names of `hazards.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Invariant {
    /// I1: at most one leader per term, also by the votes on the disks.
    ElectionSafety,
    /// I2: logs that hold the same index and term are equal up to there.
    LogMatching,
    /// I3: what was committed is in every later leader's log.
    LeaderCompleteness,
    /// I4: the same entry is applied everywhere, and equal applied indexes mean equal states.
    StateMachineSafety,
    /// I5: what was committed never changes.
    CommitImmutable,
    /// I6: what is committed is durable on a majority.
    CommitOnQuorum,
    /// I7: term, commit and applied index do not fall.
    Monotonic,
    /// I8: what a message asserts is on its sender's disk.
    AckDurability,
    /// I9: what clients asked for and were answered has a legal order.
    Linearizability,
    /// I10: a read sees what was acknowledged before it.
    ReadFreshness,
    /// I11: majorities that can decide at the same time meet, and one membership at most is not committed.
    ConfigOverlap,
    /// I12: a command takes effect once, and its answer stays.
    ExactlyOnce,
    /// I13: once faults have stopped the group converges and every request has ended.
    Liveness,
    /// I14: what waits is within its limits.
    BoundedResources,
    /// I15: no panic, and no stop without a reason.
    NoPanic,
    /// I16: indexes are in order.
    Ordering,
    /// Thesis §9.6: a term begins by the wish of a majority, or by a handover.
    PreVote,
    /// C13: who has a lease is the only leader.
    Lease,
    /// C14: a leader that hands over changes no membership.
    Handover,
    /// The same seed gives the same run.
    Determinism,
    /// The canary, which does not hold.
    Canary,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self {
            Invariant::ElectionSafety => "I1 ",
            Invariant::LogMatching => "I2 ",
            Invariant::LeaderCompleteness => "I3 ",
            Invariant::StateMachineSafety => "I4 ",
            Invariant::CommitImmutable => "I5 ",
            Invariant::CommitOnQuorum => "I6 ",
            Invariant::Monotonic => "I7 ",
            Invariant::AckDurability => "I8 ",
            Invariant::Linearizability => "I9 ",
            Invariant::ReadFreshness => "I10 ",
            Invariant::ConfigOverlap => "I11 ",
            Invariant::ExactlyOnce => "I12 ",
            Invariant::Liveness => "I13 ",
            Invariant::BoundedResources => "I14 ",
            Invariant::NoPanic => "I15 ",
            Invariant::Ordering => "I16 ",
            Invariant::PreVote
            | Invariant::Lease
            | Invariant::Handover
            | Invariant::Determinism
            | Invariant::Canary => "",
        };
        write!(f, "{number}{self:?}")
    }
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen, and what was expected.
    pub what: String,
}

impl Violation {
    /// Something seen that goes against `invariant`.
    pub fn new(invariant: Invariant, what: impl Into<String>) -> Violation {
        Violation { invariant, what: what.into() }
    }
}

/// A run that a checker objected to.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// What is wrong.
    pub violation: Violation,
    /// When, since the start of the run.
    pub virtual_time: Duration,
    /// The last transitions before it, one per line.
    pub lines: Vec<String>,
    /// The command that shows it again.
    pub command: String,
}

impl Failure {
    pub(crate) fn command(seed: u64, options: &Options) -> String {
        let mut command = format!("cargo xtask sim --seed {seed} --nodes {}", options.nodes);
        if options.nodes == Nodes::Mixed {
            command.truncate(command.len() - " --nodes mixed".len());
        }
        if options.faults != FaultMix::Mixed {
            command.push_str(&format!(" --faults {}", options.faults));
        }
        if options.duration != Options::default().duration {
            command.push_str(&format!(" --seconds {}", options.duration.as_secs()));
        }
        if options.history_only {
            command.push_str(" --history-only");
        }
        if let Some(bug) = options.bug {
            command.push_str(&format!(" --bug {bug}"));
        }
        command
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} failed at {:.6} s: {}", self.seed, self.virtual_time.as_secs_f64(), self.violation)?;
        write!(f, "replay: {}", self.command)
    }
}
