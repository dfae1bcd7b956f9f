//! What goes wrong, and when.

use std::time::Duration;

use coracle_replica::Input;

use super::{Event, Step, World};
use crate::{Phase, faults::exponential, network::Partition};

/// A fault of a kind that comes again and again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Crash,
    Partition,
    /// The end of a partition.
    Join,
    Pause,
    Unreachable,
    /// The leader is told to hand over.
    Transfer,
}

impl World {
    pub(super) fn begin_faults(&mut self) {
        for fault in [Fault::Crash, Fault::Partition, Fault::Pause, Fault::Unreachable, Fault::Transfer] {
            self.again(fault);
        }
    }

    /// Schedules the next fault of this kind, if the seed has any.
    fn again(&mut self, fault: Fault) {
        let every = match fault {
            Fault::Crash => self.faults.crash_every,
            Fault::Partition => self.faults.partition_every.filter(|_| self.nodes.len() > 1),
            Fault::Pause => self.faults.pause_every,
            Fault::Unreachable => self.faults.unreachable_every.filter(|_| self.nodes.len() > 1),
            Fault::Transfer => self.faults.transfer_every.filter(|_| self.nodes.len() > 1),
            Fault::Join => None,
        };
        if let Some(every) = every {
            let after = exponential(&mut self.rng, every);
            self.schedule(after, Event::Fault(fault));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Step {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        self.again(fault);
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match fault {
            Fault::Crash => self.strike_down(node),
            Fault::Partition => self.partition(),
            Fault::Join => {
                self.trace.line(self.now, || "partitions end".into());
                self.network.join();
                Ok(())
            }
            Fault::Pause => {
                self.pause(node);
                Ok(())
            }
            Fault::Unreachable => {
                let peer = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
                if peer != self.nodes[node].id {
                    self.input(node, Input::Unreachable { peer });
                }
                Ok(())
            }
            Fault::Transfer => {
                self.transfer(node);
                Ok(())
            }
        }
    }

    /// One node or all, at once or between two of the next effects.
    fn strike_down(&mut self, node: usize) -> Step {
        if self.rng.chance(self.faults.crash_all) {
            for node in 0..self.nodes.len() {
                self.crash(node)?;
            }
            return Ok(());
        }
        let node = if self.rng.chance(0.3) { self.leader().unwrap_or(node) } else { node };
        if self.rng.chance(0.5) {
            self.nodes[node].is_doomed = true;
            return Ok(());
        }
        self.crash(node)
    }

    fn partition(&mut self) -> Step {
        let leader = self.leader();
        let partition = Partition::draw(&mut self.rng, self.nodes.len(), leader);
        self.trace.line(self.now, || format!("partition: {partition:?}"));
        self.network.cut(partition);
        self.report.partitions += 1;
        let lasts = exponential(&mut self.rng, self.faults.partition);
        self.schedule(lasts, Event::Fault(Fault::Join));
        Ok(())
    }

    fn pause(&mut self, node: usize) {
        let lasts = self.rng.duration(Duration::ZERO, self.faults.pause_max);
        self.trace.line(self.now, || format!("n{node} pauses for {lasts:?}"));
        self.nodes[node].paused_until = self.now.plus(lasts);
        self.report.pauses += 1;
    }

    /// To the node, which may be down or far behind, or to whom the leader thinks best.
    fn transfer(&mut self, node: usize) {
        let to = self.rng.chance(0.5).then_some(self.nodes[node].id);
        if let Some(leader) = self.leader() {
            self.trace.line(self.now, || format!("n{leader} is to hand over to {to:?}"));
            self.input(leader, Input::Transfer { to });
            self.report.transfers += 1;
        }
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
