//! What goes wrong, and whom it strikes.

use std::time::Duration;

use coracle_core::Rng;
use coracle_replica::Input;

use super::{Event, Step, World};
use crate::{
    Phase,
    clock::Rate,
    coverage::Milestone,
    disk::DiskOp,
    faults::{Faults, exponential},
    network::Partition,
    schedule::{Fault, FaultKind},
};

/// The longest leap of a clock.
const STEP_MAX: Duration = Duration::from_secs(3600);
/// How often a write meets the end of the space when it is too late to wait for more, instead of finding it beforehand.
const EXHAUSTED: f64 = 0.125;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) -> Step {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        let rng = &mut Rng::new(fault.seed);
        let mut members = self.members();
        if members.is_empty() || rng.chance(0.1) {
            members = (0..self.nodes.len()).collect();
        }
        let any = members[rng.below(members.len() as u64) as usize];
        // A fault of the leader is worth more than one of anybody.
        let node = if rng.chance(0.3) { self.leader().unwrap_or(any) } else { any };
        self.trace.line(self.now, || format!("fault {fault}"));
        let struck = match fault.kind {
            FaultKind::Crash => self.strike_down(rng, node)?,
            FaultKind::PowerCut => self.cut_power()?,
            FaultKind::CrashAfterReply => self.doom_after_reply(),
            FaultKind::CrashInInstall => {
                self.dooms_install = true;
                true
            }
            FaultKind::Partition => self.partition(rng, &members),
            FaultKind::Pause => self.pause(rng, node),
            FaultKind::Stall => self.stall(rng, node, &members),
            FaultKind::Unreachable => self.lose_peer(rng, node, &members),
            FaultKind::Transfer => self.transfer(rng, any),
            FaultKind::ClockRate => self.change_rate(rng, node),
            FaultKind::ClockStep => self.step_clock(rng, node),
            FaultKind::DiskError => self.break_disk(rng, node),
            FaultKind::DiskFull => self.fill_disk(rng, node),
            FaultKind::DiskSlow => self.slow_disk(rng, node),
            FaultKind::Membership => self.change_members(rng),
            FaultKind::Wipe => self.wipe(rng, node)?,
            FaultKind::Rot => self.rot(rng, node),
            FaultKind::Weaken => self.weaken(rng, node),
        };
        if struck {
            self.trace.line(self.now, || format!("it struck, at or about n{node}"));
            self.report.faults.count(fault.kind.name());
        }
        Ok(())
    }

    /// At once, or between two of its next effects.
    fn strike_down(&mut self, rng: &mut Rng, node: usize) -> Result<bool, crate::Violation> {
        if self.nodes[node].running.is_none() {
            return Ok(false);
        }
        if rng.chance(0.5) {
            self.trace.line(self.now, || format!("n{node} is to crash between two effects"));
            self.nodes[node].is_doomed = true;
        } else {
            self.crash(node)?;
        }
        Ok(true)
    }

    fn cut_power(&mut self) -> Result<bool, crate::Violation> {
        for node in 0..self.nodes.len() {
            self.crash(node)?;
        }
        Ok(true)
    }

    fn doom_after_reply(&mut self) -> bool {
        let Some(leader) = self.leader() else { return false };
        self.nodes[leader].is_doomed_after_reply = true;
        true
    }

    /// The state is being replaced: the power goes before that is done.
    pub(super) fn doom_install(&mut self, node: usize, takes: Duration) {
        if std::mem::take(&mut self.dooms_install) && self.phase == Phase::Faults {
            let after = self.rng.duration(Duration::ZERO, takes);
            let life = self.nodes[node].life;
            self.schedule(after, Event::Crash { node, life });
        }
    }

    pub(super) fn crash_in_install(&mut self, node: usize, life: u32) -> Step {
        if self.phase != Phase::Faults || self.nodes[node].life != life {
            return Ok(());
        }
        self.passes(Milestone::CrashInInstall);
        self.crash(node)
    }

    fn partition(&mut self, rng: &mut Rng, members: &[usize]) -> bool {
        if members.len() < 2 {
            return false;
        }
        let leader = self.leader().and_then(|leader| members.iter().position(|member| *member == leader));
        let partition = Partition::draw(rng, members.len(), leader);
        let lasts = exponential(rng, self.faults.partition);
        self.trace.line(self.now, || format!("partition of {members:?} for {lasts:?}: {partition:?}"));
        self.network.cut(partition, members);
        self.schedule(lasts, Event::Join);
        true
    }

    /// The end of all partitions.
    pub(super) fn join(&mut self) {
        if self.phase == Phase::Faults {
            self.trace.line(self.now, || "partitions end".into());
            self.network.join();
        }
    }

    fn pause(&mut self, rng: &mut Rng, node: usize) -> bool {
        let lasts = rng.duration(Duration::ZERO, self.faults.pause_max);
        self.trace.line(self.now, || format!("n{node} pauses for {lasts:?}"));
        self.nodes[node].paused_until = self.now.plus(lasts);
        true
    }

    /// One link in one direction, or everything from and to the node.
    fn stall(&mut self, rng: &mut Rng, node: usize, members: &[usize]) -> bool {
        let until = self.now.plus(rng.duration(Duration::ZERO, self.faults.stall_max));
        let other = members[rng.below(members.len() as u64) as usize];
        if rng.chance(0.5) {
            self.network.hold(node, other, until);
            return other != node;
        }
        for other in 0..self.nodes.len() {
            self.network.hold(node, other, until);
            self.network.hold(other, node, until);
        }
        true
    }

    fn lose_peer(&mut self, rng: &mut Rng, node: usize, members: &[usize]) -> bool {
        let other = members[rng.below(members.len() as u64) as usize];
        if other == node {
            return false;
        }
        let peer = self.nodes[other].id;
        self.input(node, Input::Unreachable { peer });
        true
    }

    /// To a node, which may be down or far behind, or to whom the leader thinks best.
    fn transfer(&mut self, rng: &mut Rng, node: usize) -> bool {
        let gone = self.operator.gone.last().map(|lost| lost.id).filter(|_| rng.chance(0.1));
        let anywhere = self.nodes[rng.below(self.nodes.len() as u64) as usize].id;
        let to = match rng.below(4) {
            0 => Some(gone.unwrap_or(anywhere)),
            1 => Some(self.nodes[node].id),
            _ => None,
        };
        let Some(leader) = self.leader() else { return false };
        self.trace.line(self.now, || format!("n{leader} is to hand over to {to:?}"));
        self.input(leader, Input::Transfer { to });
        true
    }

    fn change_rate(&mut self, rng: &mut Rng, node: usize) -> bool {
        let rate = match self.shape.lease_drift_percent {
            _ if rng.chance(0.25) => Rate::EVEN,
            Some(percent) => Rate::draw_within(rng, percent),
            None => Rate::draw(rng),
        };
        self.set_rate(node, rate);
        true
    }

    /// A clock goes at another rate from now on, also over restarts.
    pub(super) fn set_rate(&mut self, node: usize, rate: Rate) {
        let now = self.now;
        self.nodes[node].rate = rate;
        if let Some(running) = &mut self.nodes[node].running {
            running.clock.set_rate(now, rate);
        }
        self.wake(node, now);
    }

    fn step_clock(&mut self, rng: &mut Rng, node: usize) -> bool {
        if self.shape.lease_drift_percent.is_some() {
            // Leases state what they do not hold across.
            return false;
        }
        // Short leaps are worse than long ones for what looks at durations.
        let max = if rng.chance(0.5) { STEP_MAX } else { self.shape.election_timeout_max * 2 };
        let by = rng.duration(Duration::ZERO, max);
        let now = self.now;
        let Some(running) = &mut self.nodes[node].running else { return false };
        self.trace.line(now, || format!("the clock of n{node} leaps by {by:?}"));
        running.clock.step(now, by);
        self.wake(node, now);
        true
    }

    fn break_disk(&mut self, rng: &mut Rng, node: usize) -> bool {
        let op = DiskOp::draw(rng);
        self.trace.line(self.now, || format!("n{node}: the next {op:?} fails"));
        self.nodes[node].disk.switch.fail_next(op);
        true
    }

    fn fill_disk(&mut self, rng: &mut Rng, node: usize) -> bool {
        if rng.chance(EXHAUSTED) {
            let op = DiskOp::draw_write(rng);
            self.trace.line(self.now, || format!("n{node}: the next {op:?} meets the end of the space"));
            self.nodes[node].disk.switch.exhaust_next(op);
            return true;
        }
        let lasts = Faults::full(rng);
        self.trace.line(self.now, || format!("the disk of n{node} is full for {lasts:?}"));
        if self.leader() == Some(node) {
            self.passes(Milestone::FullOnLeader);
        }
        self.nodes[node].disk.switch.set_full(true);
        self.schedule(lasts, Event::DiskFreed { node });
        true
    }

    fn slow_disk(&mut self, rng: &mut Rng, node: usize) -> bool {
        let lasts = rng.duration(Duration::ZERO, self.faults.disk.slow_max);
        self.nodes[node].slow_until = self.now.plus(lasts);
        true
    }

    fn weaken(&mut self, rng: &mut Rng, node: usize) -> bool {
        let duration = rng.duration(Duration::ZERO, self.shape.election_timeout_max * 10);
        self.input(node, Input::Weaken { duration });
        true
    }

    /// Who leads in the highest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let leading = |node: usize| {
            let raft = self.nodes[node].running.as_ref()?.replica.raft();
            raft.is_leader().then(|| (raft.term(), node))
        };
        (0..self.nodes.len()).filter_map(leading).max().map(|(_, node)| node)
    }
}
