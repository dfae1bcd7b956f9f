//! A simulated node: its disk outlives it, everything else is gone with a crash.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    time::Duration,
};

use coracle_core::{Config, Index, NodeId, Persist, Recovered, Term, Time};
use coracle_replica::{
    Effect, Input, LogWorker, Replica, ReplicaOptions, RequestId, SnapshotJob, SnapshotWorker, StateEffect,
    StateWorker, recover,
};
use coracle_storage::{LogStore, StateMachine};

use super::{Event, Step, World};
use crate::{
    Bug, Invariant, Phase, Violation, bugs,
    disk::{Disk, GROUP, LogState},
    faults::exponential,
};

/// A node, up or down.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: Disk,
    /// Counts crashes: what a worker of an earlier life has done reaches nobody.
    pub(super) life: u32,
    pub(super) running: Option<Running>,
    /// The log as the replica has asked for it, durable or not.
    pub(super) issued: LogState,
    pub(super) paused_until: Time,
    /// Crashes before one of its next effects.
    pub(super) is_doomed: bool,
    /// The next write of the log fails, or has failed, by the simulator's wish.
    pub(super) has_disk_error: bool,
}

/// What a crash takes away.
pub(super) struct Running {
    pub(super) replica: Replica,
    pub(super) log: LogWorker,
    pub(super) state: StateWorker,
    pub(super) snapshots: SnapshotWorker,
    pub(super) inbox: Vec<Input>,
    /// When it looks at its inputs next.
    pub(super) run_at: Option<Time>,
    /// How its clock differs from the simulator's.
    pub(super) clock_offset: Duration,
    pub(super) log_queue: Vec<Persist>,
    pub(super) is_log_busy: bool,
    pub(super) state_queue: VecDeque<StateEffect>,
    pub(super) is_state_busy: bool,
    pub(super) snapshot_job: Option<SnapshotJob>,
    /// When the snapshots' worker has done what it was given.
    pub(super) snapshots_free_at: Time,
    /// Requests without an answer.
    pub(super) waiting: BTreeSet<RequestId>,
    /// Requests that were cancelled with the latest inputs.
    pub(super) cancelled: BTreeSet<RequestId>,
    pub(super) term: Term,
    pub(super) commit: Index,
}

impl Node {
    pub(super) fn new(id: NodeId, founded: &Recovered) -> Node {
        let disk = Disk::founded(id, founded);
        let issued = disk.log.durable(LogState::clone);
        Node {
            id,
            disk,
            life: 0,
            running: None,
            issued,
            paused_until: Time::ZERO,
            is_doomed: false,
            has_disk_error: false,
        }
    }
}

impl World {
    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, node: usize) -> Step {
        let this = &mut self.nodes[node];
        if self.bug == Some(Bug::TruncateLog) && this.life > 0 {
            this.disk.log.lose_entries(2);
        }
        let opened = self
            .clients
            .workload
            .open(bugs::store(this.disk.kv_store(GROUP), self.bug))
            .map_err(|error| broken(node, &error))?;
        let mut machine = bugs::wrap(opened, self.bug, node);
        let snapshots = this.disk.snapshot_store(GROUP);
        let tail_bytes_max = self.shape.tail_bytes_max;
        let log: &dyn LogStore = &*this.disk.log;
        let mut start = recover(log, &*snapshots, &mut *machine, GROUP, tail_bytes_max)
            .map_err(|error| broken(node, &error))?
            .ok_or_else(|| Violation::new(Invariant::NoPanic, format!("n{node} has lost its log")))?;
        if self.bug == Some(Bug::ForgetVote) {
            start.recovered.hard_state.voted_for = None;
        }
        this.issued = this.disk.log.durable(LogState::clone);
        let offset = self.rng.duration(Duration::ZERO, Duration::from_secs(1000));
        let nonce = self.rng.next_u64();
        let (term, commit) = (start.recovered.hard_state.term, Index::ZERO);
        let options = self.replica_options(node, nonce);
        let replica = Replica::new(options, start, self.now.plus(offset)).map_err(|error| broken(node, &error))?;
        self.trace.line(self.now, || format!("n{node} starts in term {term}"));
        let running = Running::new(replica, machine, &self.nodes[node].disk, offset, (term, commit));
        self.nodes[node].running = Some(running);
        self.observe_disk(node)?;
        self.wake(node, self.now);
        Ok(())
    }

    fn replica_options(&self, node: usize, nonce: u64) -> ReplicaOptions {
        let shape = &self.shape;
        let mut raft = Config::new(self.nodes[node].id, nonce);
        #[cfg(feature = "bugs")]
        {
            raft.bug = self.bug.and_then(Bug::in_core);
        }
        raft.heartbeat_interval = shape.heartbeat_interval;
        raft.election_timeout_max = shape.election_timeout_max;
        raft.election_timeout_min = shape.election_timeout_max / 2;
        raft.append_bytes_max = shape.append_bytes_max;
        raft.inflight_messages_max = shape.inflight_messages_max;
        raft.tail_bytes_max = shape.tail_bytes_max;
        let mut options = ReplicaOptions::new(raft, nonce);
        options.log_entries_max = shape.log_entries_max;
        options.log_entries_kept = shape.log_entries_kept;
        options.snapshot_chunk_bytes = shape.snapshot_chunk_bytes;
        options.snapshot_timeout = shape.election_timeout_max * 3;
        options.forward_timeout = shape.forward_timeout;
        options
    }

    /// The power fails: whatever is not on the disk is gone.
    pub(super) fn crash(&mut self, node: usize) -> Step {
        if self.nodes[node].running.is_none() {
            return Ok(());
        }
        self.observe(node)?;
        self.trace.line(self.now, || format!("n{node} crashes"));
        self.report.crashes += 1;
        let this = &mut self.nodes[node];
        this.running = None;
        this.life += 1;
        this.is_doomed = false;
        this.has_disk_error = false;
        this.disk.crash(&mut self.rng);
        this.issued = this.disk.log.durable(LogState::clone);
        self.observe_disk(node)?;
        let down = match self.phase {
            Phase::Faults => exponential(&mut self.rng, self.faults.down),
            Phase::Drain | Phase::Verify => Duration::ZERO,
        };
        let life = self.nodes[node].life;
        self.schedule(down, Event::Restart { node, life });
        self.disconnect(node);
        Ok(())
    }

    pub(super) fn restart(&mut self, node: usize, life: u32) -> Step {
        let this = &self.nodes[node];
        if this.running.is_some() || this.life != life { Ok(()) } else { self.start(node) }
    }

    /// Lets a node look at its inputs at `at`, if it does not do so earlier.
    pub(super) fn wake(&mut self, node: usize, at: Time) {
        let at = at.max(self.now).max(self.nodes[node].paused_until);
        let Some(running) = &mut self.nodes[node].running else { return };
        if running.run_at.is_none_or(|earlier| earlier > at) {
            running.run_at = Some(at);
            self.queue.push(at, Event::Run { node });
        }
    }

    /// Something reaches a node; it looks at it soon.
    pub(super) fn input(&mut self, node: usize, input: Input) {
        if let Some(running) = &mut self.nodes[node].running {
            running.inbox.push(input);
            let at = self.now.plus(self.shape.loop_delay);
            self.wake(node, at);
        }
    }

    /// A node takes its inputs, then the time, and does what comes of them (C10, C11).
    pub(super) fn run_node(&mut self, node: usize) -> Step {
        let now = self.now;
        let paused_until = self.nodes[node].paused_until;
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        if running.run_at != Some(now) {
            return Ok(());
        }
        running.run_at = None;
        if paused_until > now {
            self.wake(node, paused_until);
            return Ok(());
        }
        let clock = now.plus(running.clock_offset);
        for input in mem::take(&mut running.inbox) {
            if let Input::Cancel { request } = &input {
                // An answer that was made just before comes out nevertheless.
                running.waiting.remove(request);
                running.cancelled.insert(*request);
            }
            running.replica.handle(clock, input);
        }
        running.replica.handle(clock, Input::Time);
        self.drain(node)?;
        if let Some(running) = &mut self.nodes[node].running {
            running.cancelled.clear();
        }
        self.observe(node)
    }

    fn drain(&mut self, node: usize) -> Step {
        let life = self.nodes[node].life;
        for _ in 0..EFFECTS_MAX {
            if self.nodes[node].is_doomed && self.rng.chance(self.faults.crash_between_effects) {
                return self.crash(node);
            }
            let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
            match running.replica.poll() {
                Effect::Wake { at } => {
                    let offset = running.clock_offset;
                    if let Some(at) = at {
                        let nanos = at.0.saturating_sub(offset.as_nanos() as u64);
                        self.wake(node, Time(nanos));
                    }
                    return Ok(());
                }
                effect => self.act(node, effect)?,
            }
            if self.nodes[node].life != life {
                return Ok(());
            }
        }
        let what = format!("n{node} has more than {EFFECTS_MAX} effects at once");
        Err(Violation::new(Invariant::Liveness, what))
    }

    /// I5, I6, I7, I16: looks at what a replica takes for committed.
    pub(super) fn observe(&mut self, node: usize) -> Step {
        let has_peers = self.nodes.len() > 1;
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return Ok(()) };
        let raft = running.replica.raft();
        let term = raft.term();
        // The replica may not yet have asked its disk for what it knows of: then it is looked at later.
        let mut commit = raft.commit_index().min(this.issued.last());
        while commit > running.commit && this.issued.term_at(commit) != raft.term_at(commit) {
            commit = commit.prev();
        }
        if term < running.term || commit < running.commit {
            let what = format!("n{node} falls from {} and {} to {term} and {commit}", running.term, running.commit);
            return Err(Violation::new(Invariant::Monotonic, what));
        }
        if self.bug == Some(Bug::Canary) && term > Term(2) {
            return Err(Violation::new(Invariant::Canary, "no term is above 2"));
        }
        if has_peers {
            self.ghost.enters(node, this.id, term)?;
        }
        let first = running.commit.next();
        if raft.is_leader() && commit >= first && raft.term_at(commit) != Some(term) {
            let what = format!("n{node} leads in term {term} and commits {commit}, which is of an earlier one");
            return Err(Violation::new(Invariant::CommitOnQuorum, what));
        }
        running.term = term;
        let known = mem::replace(&mut running.commit, commit);
        if commit == known || !self.ghost.commits((node, term), known, commit, &this.issued)? {
            return Ok(());
        }
        let (index, term) = (self.ghost.committed(), self.ghost.committed_term());
        let holds = self.nodes.iter().map(|node| node.disk.log.durable(|log| log.holds(index, term)));
        self.ghost.on_quorum(holds, self.nodes.len())
    }

    /// I1: looks at what has become durable.
    pub(super) fn observe_disk(&mut self, node: usize) -> Step {
        let hard_state = self.nodes[node].disk.log.durable(|log| log.hard_state);
        self.ghost.hard_state(node, hard_state)
    }
}

/// More effects at once than any replica has.
const EFFECTS_MAX: usize = 100_000;

impl Running {
    fn new(
        replica: Replica,
        machine: Box<dyn StateMachine>,
        disk: &Disk,
        clock_offset: Duration,
        (term, commit): (Term, Index),
    ) -> Running {
        let snapshots = disk.snapshot_store(GROUP);
        Running {
            replica,
            log: LogWorker::new(disk.log.clone(), GROUP),
            state: StateWorker::new(machine, snapshots.clone()),
            snapshots: SnapshotWorker::new(snapshots),
            inbox: Vec::new(),
            run_at: None,
            clock_offset,
            log_queue: Vec::new(),
            is_log_busy: false,
            state_queue: VecDeque::new(),
            is_state_busy: false,
            snapshot_job: None,
            snapshots_free_at: Time::ZERO,
            waiting: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            term,
            commit,
        }
    }
}

fn broken(node: usize, error: &dyn std::error::Error) -> Violation {
    Violation::new(Invariant::NoPanic, format!("n{node} does not start: {error}"))
}
