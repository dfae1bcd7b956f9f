//! The list of what goes wrong in a run, drawn before anything happens.
//!
//! Each entry stands for itself: when one is left out the others strike at the same times with the same numbers.

use std::{fmt, time::Duration};

use coracle_core::{Rng, Time};

use crate::faults::{Faults, exponential};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    /// A node loses its power, at once or between two of its next effects.
    Crash,
    /// All nodes lose their power.
    PowerCut,
    /// The leader loses its power right after it has answered a client.
    CrashAfterReply,
    /// Nodes cannot reach each other, in one of several shapes.
    Partition,
    /// A node stands still; its clock does not.
    Pause,
    /// A link, or all links of a node, hold back what they carry.
    Stall,
    /// A node's transport reports that a peer is unreachable, true or not.
    Unreachable,
    /// The leader is told to hand over.
    Transfer,
    /// A node's clock goes faster or slower from now on.
    ClockRate,
    /// A node's clock leaps forward.
    ClockStep,
    /// The next operation of one kind on a node's disk fails.
    DiskError,
    /// A node's disk has no space for a while.
    DiskFull,
    /// A node's disk takes long for a while.
    DiskSlow,
    /// The operator asks for another membership.
    Membership,
    /// A machine loses what is on its disk, and comes back as another node.
    Wipe,
    /// A node is told to prefer that others lead.
    Weaken,
}

impl FaultKind {
    /// All of them.
    pub(crate) const ALL: [FaultKind; 16] = [
        FaultKind::Crash,
        FaultKind::PowerCut,
        FaultKind::CrashAfterReply,
        FaultKind::Partition,
        FaultKind::Pause,
        FaultKind::Stall,
        FaultKind::Unreachable,
        FaultKind::Transfer,
        FaultKind::ClockRate,
        FaultKind::ClockStep,
        FaultKind::DiskError,
        FaultKind::DiskFull,
        FaultKind::DiskSlow,
        FaultKind::Membership,
        FaultKind::Wipe,
        FaultKind::Weaken,
    ];

    /// Its name in reports and schedules.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FaultKind::Crash => "crash",
            FaultKind::PowerCut => "power-cut",
            FaultKind::CrashAfterReply => "crash-after-reply",
            FaultKind::Partition => "partition",
            FaultKind::Pause => "pause",
            FaultKind::Stall => "stall",
            FaultKind::Unreachable => "unreachable",
            FaultKind::Transfer => "transfer",
            FaultKind::ClockRate => "clock-rate",
            FaultKind::ClockStep => "clock-step",
            FaultKind::DiskError => "disk-error",
            FaultKind::DiskFull => "disk-full",
            FaultKind::DiskSlow => "disk-slow",
            FaultKind::Membership => "membership",
            FaultKind::Wipe => "wipe",
            FaultKind::Weaken => "weaken",
        }
    }
}

/// One thing that goes wrong at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Its place in the list.
    pub(crate) number: usize,
    pub(crate) at: Time,
    pub(crate) kind: FaultKind,
    /// Where its particulars are drawn from when it strikes: who, how long, in which shape.
    pub(crate) seed: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {:016x}", self.number, self.at, self.kind.name(), self.seed)
    }
}

/// Draws everything that goes wrong within `duration`, in order of time.
pub(crate) fn draw(rng: &mut Rng, faults: &Faults, duration: Duration) -> Vec<Fault> {
    let mut schedule = Vec::new();
    let end = Time::ZERO.plus(duration);
    for kind in FaultKind::ALL {
        // Numbers of its own for each kind: a rate that changes leaves the other kinds as they are.
        let mut rng = Rng::new(rng.next_u64());
        let Some(every) = faults.every(kind) else { continue };
        let mut at = Time::ZERO;
        loop {
            at = at.plus(exponential(&mut rng, every));
            if at >= end {
                break;
            }
            schedule.push(Fault { number: 0, at, kind, seed: rng.next_u64() });
        }
    }
    schedule.sort_by_key(|fault| (fault.at, fault.kind));
    for (number, fault) in schedule.iter_mut().enumerate() {
        fault.number = number;
    }
    schedule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultMix;

    #[test]
    fn a_schedule_is_in_order_and_within_its_time() {
        let faults = Faults::draw(&mut Rng::new(4), FaultMix::Swarm);
        let schedule = draw(&mut Rng::new(4), &faults, Duration::from_secs(100));
        assert!(schedule.len() > 10 && schedule.is_sorted_by_key(|fault| fault.at));
        assert!(schedule.iter().enumerate().all(|(number, fault)| fault.number == number));
        assert!(schedule.iter().all(|fault| fault.at < Time::ZERO.plus(Duration::from_secs(100))));
    }

    #[test]
    fn names_are_distinct() {
        let names: std::collections::BTreeSet<_> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), FaultKind::ALL.len());
    }
}
