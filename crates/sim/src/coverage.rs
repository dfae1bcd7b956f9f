//! What runs have to have seen between them: a simulator that never comes to a place tests nothing there.

use std::{collections::BTreeMap, fmt};

/// How often things happened, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// Once more.
    pub(crate) fn count(&mut self, name: &'static str) {
        self.add_to(name, 1);
    }

    fn add_to(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    pub(crate) fn add(&mut self, other: &Counts) {
        for (name, count) in &other.0 {
            self.add_to(name, *count);
        }
    }

    /// How often `name` happened.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All names that happened at least once, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }

    /// How often anything happened.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, count)) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {name}")?;
        }
        Ok(())
    }
}

/// What has to happen at least once in a thousand seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Milestone {
    SnapshotOnLaterLeader,
    LongTruncation,
    SplitVote,
    ReadAcrossStepDown,
    TornTail,
    FullOnLeader,
    SpaceFound,
    SnapshotGivenUp,
    TransferTimedOut,
    LeaderInJoint,
    RemovedLeader,
    DamageFound,
    CrashInInstall,
    DamageRepaired,
}

impl Milestone {
    pub(crate) const ALL: [Milestone; 14] = [
        Milestone::SnapshotOnLaterLeader,
        Milestone::LongTruncation,
        Milestone::SplitVote,
        Milestone::ReadAcrossStepDown,
        Milestone::TornTail,
        Milestone::FullOnLeader,
        Milestone::SpaceFound,
        Milestone::SnapshotGivenUp,
        Milestone::TransferTimedOut,
        Milestone::LeaderInJoint,
        Milestone::RemovedLeader,
        Milestone::DamageFound,
        Milestone::CrashInInstall,
        Milestone::DamageRepaired,
    ];

    /// What happened, so that "it never happened that" can stand before it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Milestone::SnapshotOnLaterLeader => "a node that had installed a snapshot led later",
            Milestone::LongTruncation => "ten or more uncommitted entries were truncated",
            Milestone::SplitVote => "a vote was split",
            Milestone::ReadAcrossStepDown => "a round of reads met a step-down",
            Milestone::TornTail => "a torn tail was recovered",
            Milestone::FullOnLeader => "the leader's disk was full",
            Milestone::SpaceFound => "a write that had waited for space went on",
            Milestone::SnapshotGivenUp => "a snapshot was given up for lack of space",
            Milestone::TransferTimedOut => "a transfer timed out",
            Milestone::LeaderInJoint => "the leader changed inside a joint configuration",
            Milestone::RemovedLeader => "a removed leader stepped down",
            Milestone::CrashInInstall => "a node crashed while it installed a snapshot",
            Milestone::DamageFound => "a damaged entry was found",
            Milestone::DamageRepaired => "a damaged entry was repaired",
        }
    }
}
