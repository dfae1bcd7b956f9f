//! The end of a run: faults stop, and the group has to converge (I13).

use std::time::Duration;

use coracle_core::{Index, Time};

use super::{Event, Step, World};
use crate::{
    Invariant, Phase, Violation,
    clock::Rate,
    faults::{DiskFaults, NetworkFaults},
    schedule::FaultKind,
};

/// How often convergence is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Within how many of the longest election timeouts the group has to converge.
const TIMEOUTS_MAX: u32 = 10;

impl World {
    /// Faults stop: everybody is up and reaches everybody.
    pub(super) fn heal(&mut self) -> Step {
        self.trace.line(self.now, || "all faults stop".into());
        self.phase = Phase::Drain;
        self.healed = Some(self.now);
        // A write that stalls goes on stalling.
        let stall = self.nodes.iter().map(|node| node.slow_until.since(self.now)).max().unwrap_or_default();
        self.deadline = self.now.plus(self.shape.election_timeout_max * TIMEOUTS_MAX + stall);
        if self.has_members_to_settle() {
            // A change that cannot be carried out is called off after a while, and another one may be needed.
            self.deadline =
                self.deadline.plus(self.shape.promotion_timeout + self.shape.election_timeout_max * TIMEOUTS_MAX);
        }
        self.faults.disk = DiskFaults::none();
        // A slow state machine is a fault, too: clients would wait for as long as it takes to catch up.
        self.shape.state_latency = self.shape.state_latency.min(Duration::from_micros(500));
        self.faults.network = NetworkFaults::none();
        self.network.heal();
        for node in 0..self.nodes.len() {
            self.mend(node);
            self.unmask(node)?;
            if self.nodes[node].running.is_none() {
                self.start(node)?;
            }
            self.wake(node, self.now);
        }
        self.schedule(LOOK_EVERY, Event::Converged);
        Ok(())
    }

    fn mend(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        this.paused_until = Time::ZERO;
        this.slow_until = Time::ZERO;
        this.is_doomed = false;
        this.is_doomed_after_reply = false;
        this.disk.switch.mend();
        self.set_rate(node, Rate::EVEN);
    }

    /// Whether the run is over and well.
    pub(super) fn converged(&mut self) -> Result<bool, Violation> {
        let missing = self.missing().or_else(|| self.tidy_up());
        let Some(missing) = missing else {
            return match self.phase {
                Phase::Faults | Phase::Drain => {
                    self.trace.line(self.now, || "converged; a last write".into());
                    self.phase = Phase::Verify;
                    self.schedule(LOOK_EVERY, Event::Converged);
                    Ok(false)
                }
                Phase::Verify => self.judge().map(|()| true),
            };
        };
        if self.now > self.deadline {
            return Err(Violation::new(Invariant::Liveness, missing));
        }
        self.schedule(LOOK_EVERY, Event::Converged);
        Ok(false)
    }

    /// Whether the membership may have to change yet.
    fn has_members_to_settle(&self) -> bool {
        !self.operator.gone.is_empty() || self.faults.every(FaultKind::Membership).is_some()
    }

    /// What is missing for the group to have converged.
    fn missing(&self) -> Option<String> {
        if !self.clients.is_idle(self.phase) {
            return Some(format!("clients wait for {} answers, and not for ever", self.clients.waiting()));
        }
        let Some(leader) = self.leader() else { return Some("there is no leader".into()) };
        let last = self.nodes[leader].issued.last();
        let Some(membership) = self.nodes[leader].issued.membership() else { return Some("nobody is a member".into()) };
        let members: Vec<usize> = membership.nodes.iter().filter_map(|node| self.slot_of(node.id)).collect();
        let behind = members.into_iter().find_map(|node| self.missing_at(node, leader, last));
        behind.or_else(|| (0..self.nodes.len()).find_map(|node| self.unanswered_at(node)))
    }

    /// Every request has ended, also where nobody is a member any more (C21).
    fn unanswered_at(&self, node: usize) -> Option<String> {
        let Some(running) = &self.nodes[node].running else { return Some(format!("n{node} is down")) };
        let waiting = running.waiting.len();
        (waiting > 0).then(|| format!("n{node} has not answered {waiting} requests: {:?}", running.waiting))
    }

    fn missing_at(&self, node: usize, leader: usize, last: Index) -> Option<String> {
        let this = &self.nodes[node];
        let Some(running) = &this.running else { return Some(format!("n{node} is down")) };
        let raft = running.replica.raft();
        let status = running.replica.status();
        if raft.leader() != Some(self.nodes[leader].id) {
            return Some(format!("n{node} follows {:?}, not n{leader}", raft.leader()));
        }
        let durable = this.disk.log.durable(|log| log.last());
        let indexes = [durable, this.issued.last(), raft.commit_index(), status.applied_index];
        if indexes != [last; 4] {
            let [durable, issued, commit, applied] = indexes;
            let where_it_is = format!("durable {durable}, last {issued}, commit {commit}, applied {applied}");
            return Some(format!("n{node} is not up to {last}: {where_it_is}"));
        }
        None
    }

    /// Everything at rest: equal logs, equal states, and clients that were told the truth.
    fn judge(&mut self) -> Step {
        let members = self.members();
        for node in &members {
            self.observe(*node)?;
            self.observe_state(*node)?;
            self.equal_logs(members[0], *node)?;
        }
        self.clients.workload.finish()
    }

    /// I2: the logs of two nodes are equal as far as both go back.
    fn equal_logs(&self, first: usize, node: usize) -> Step {
        let (log, other) = (&self.nodes[first].issued, &self.nodes[node].issued);
        let first = log.base.index.max(other.base.index).next();
        let differs = (first.0..=log.last().0).find(|index| log.entry(Index(*index)) != other.entry(Index(*index)));
        match differs {
            None => Ok(()),
            Some(index) => {
                let what = format!("n{first} and n{node} have converged and differ at {index}");
                Err(Violation::new(Invariant::LogMatching, what))
            }
        }
    }
}
