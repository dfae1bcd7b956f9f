//! The smallest plan that shows the same.

use std::time::Duration;

use coracle_core::Time;

use super::Plan;
use crate::{Violation, faults::NetworkFaults, run, schedule::FaultKind, trace::Trace};

/// What is left of a plan that violates an invariant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Minimised {
    /// The smallest plan that was found.
    pub plan: Plan,
    /// What it shows.
    pub violation: Violation,
    /// How many plans were tried.
    pub tried: u64,
}

/// A search for something smaller.
struct Search<'a> {
    best: Plan,
    violation: Violation,
    failed_at: Time,
    tried: u64,
    goes_on: &'a mut dyn FnMut(&Plan) -> bool,
    is_over: bool,
}

impl Plan {
    /// Leaves out whatever is not needed to violate the same invariant, as long as `goes_on` says so, which is told the best plan so far before each run.
    /// `None` when the plan violates nothing.
    pub fn minimise(&self, goes_on: &mut dyn FnMut(&Plan) -> bool) -> Option<Minimised> {
        let (violation, failed_at) = run::attempt_level(self, Trace::default()).err()?;
        let mut search = Search { best: self.clone(), violation, failed_at, tried: 0, goes_on, is_over: false };
        search.run();
        let Search { best, violation, tried, .. } = search;
        Some(Minimised { plan: best, violation, tried })
    }

    /// A measure of how much there is to understand.
    fn size(&self) -> (usize, usize, Option<usize>, Duration) {
        (self.faults(), self.nodes(), self.options.clients_max, self.options.duration)
    }
}

impl Search<'_> {
    fn run(&mut self) {
        loop {
            let before = self.best.size();
            self.end_with_failure();
            self.leave_out_kinds();
            self.calm();
            self.leave_out_clients();
            self.leave_out_nodes();
            self.leave_out_faults();
            self.shorten();
            if self.best.size() == before || self.is_over {
                return;
            }
        }
    }

    /// Keeps a change if the same invariant is violated.
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut candidate = self.best.clone();
        change(&mut candidate);
        self.is_over |= !(self.goes_on)(&self.best);
        if self.is_over {
            return false;
        }
        self.tried += 1;
        match run::attempt_level(&candidate, Trace::default()) {
            Err((violation, at)) if violation.invariant == self.violation.invariant => {
                candidate.number();
                (self.best, self.violation, self.failed_at) = (candidate, violation, at);
                true
            }
            _ => false,
        }
    }

    /// Nothing after the failure matters.
    fn end_with_failure(&mut self) {
        let failed_at = self.failed_at;
        if failed_at.since(Time::ZERO) < self.best.options.duration {
            self.attempt(|plan| plan.end_at(failed_at.since(Time::ZERO) + Duration::from_millis(1)));
        }
    }

    fn leave_out_kinds(&mut self) {
        for kind in FaultKind::ALL {
            if self.best.schedule.iter().any(|fault| fault.kind == kind) {
                self.attempt(|plan| plan.schedule.retain(|fault| fault.kind != kind));
            }
        }
    }

    /// Makes network, disks and machines do as they should.
    fn calm(&mut self) {
        let changes: [fn(&mut Plan); 9] = [
            |plan| plan.faults.network = NetworkFaults::none(),
            |plan| plan.faults.network.drop = 0.0,
            |plan| plan.faults.network.duplicate = 0.0,
            |plan| plan.faults.network.tail = 0.0,
            |plan| plan.faults.network.in_order = true,
            |plan| plan.faults.network.queue_max = NetworkFaults::none().queue_max,
            |plan| plan.faults.disk.torn = 0.0,
            |plan| plan.shape.state_latency = Duration::ZERO,
            |plan| plan.spares = 0,
        ];
        for change in changes {
            let mut changed = self.best.clone();
            change(&mut changed);
            if changed.to_string() != self.best.to_string() {
                self.attempt(change);
            }
        }
    }

    fn leave_out_clients(&mut self) {
        let most = self.best.options.clients_max.unwrap_or(usize::MAX).min(run::clients(&self.best));
        for count in 1..most {
            if self.attempt(|plan| plan.options.clients_max = Some(count)) {
                return;
            }
        }
        self.best.options.clients_max = Some(most);
    }

    fn leave_out_nodes(&mut self) {
        for spares in 0..self.best.spares {
            if self.attempt(|plan| plan.spares = spares) {
                break;
            }
        }
        for members in 1..self.best.members {
            if self.attempt(|plan| plan.members = members) {
                return;
            }
        }
    }

    /// Delta debugging: leaves out ever smaller parts of the list, until no single fault can go.
    fn leave_out_faults(&mut self) {
        let mut part = self.best.schedule.len();
        while part > 0 && !self.is_over {
            let mut from = 0;
            let mut is_smaller = false;
            while from < self.best.schedule.len() {
                let to = (from + part).min(self.best.schedule.len());
                if self.attempt(|plan| drop(plan.schedule.drain(from..to))) {
                    is_smaller = true;
                } else {
                    from = to;
                }
            }
            // A fault may be needless once another one is gone.
            if part > 1 || !is_smaller {
                part /= 2;
            }
        }
    }

    /// Ends earlier, where the failure comes after all faults have stopped.
    fn shorten(&mut self) {
        for (part, whole) in [(1, 8), (1, 4), (1, 2), (3, 4), (9, 10)] {
            let shorter = self.best.options.duration * part / whole;
            if self.attempt(|plan| plan.end_at(shorter)) {
                return;
            }
        }
    }
}

impl Plan {
    fn end_at(&mut self, duration: Duration) {
        self.options.duration = duration;
        self.schedule.retain(|fault| fault.at.since(Time::ZERO) < duration);
    }

    /// What struck, one line each: when, what, and whom.
    pub fn strikes(&self) -> Vec<String> {
        let trace = Trace::of_faults();
        drop(run::attempt_level(self, trace.clone()));
        trace.last().0
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::Rng;

    use super::*;
    use crate::{Bug, FaultMix, Invariant, Nodes, Options};

    fn failing() -> impl Iterator<Item = Plan> {
        let options = Options {
            bug: Some(Bug::ForgetVote),
            nodes: Nodes::Exactly(5),
            faults: FaultMix::Swarm,
            ..Options::default()
        };
        (1..200).map(move |seed| Plan::draw(seed, &options)).filter(|plan| plan.run().is_err())
    }

    #[test]
    fn what_is_not_needed_is_left_out() {
        // Not every run can do without nodes: what the others drew would come otherwise.
        let smaller = |plan: Plan| plan.minimise(&mut |_| true).map(|smaller| (plan, smaller));
        let mut all = failing().take(8).filter_map(smaller);
        let (plan, smaller) = all.find(|(_, smaller)| smaller.plan.nodes() <= 3).unwrap();
        assert_eq!(smaller.violation.invariant, Invariant::ElectionSafety);
        assert!(smaller.plan.faults() * 2 < plan.faults() && smaller.plan.faults() > 0, "{}", smaller.plan);
        assert!(smaller.plan.options.duration < plan.options.duration);
        let again: Plan = smaller.plan.to_string().parse().unwrap();
        assert_eq!(again.run().unwrap_err().violation, smaller.violation);
        assert_eq!(again.strikes().len(), again.faults());
        let mut without = again;
        without.options.bug = None;
        assert!(without.run().is_ok());
    }

    #[test]
    fn a_search_ends_when_it_is_told_to() {
        let plan = failing().next().unwrap();
        let mut runs = 0;
        let stopped = plan.minimise(&mut |_| {
            runs += 1;
            runs <= 3
        });
        assert_eq!(stopped.unwrap().tried, 3);
        assert!(Plan::draw(Rng::new(1).next_u64(), &Options::default()).minimise(&mut |_| true).is_none());
    }
}
