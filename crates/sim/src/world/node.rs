//! A simulated node: its disk outlives it, everything else is gone with a crash.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    time::Duration,
};

use coracle_core::{Config, Incarnation, Index, Membership, NodeId, Persist, Recovered, Term, Time};
use coracle_replica::{
    Effect, GroupWrites, Input, LogWorker, Replica, ReplicaOptions, RequestId, SnapshotJob, SnapshotWorker, Start,
    StateEffect, StateWorker, recover,
};
use coracle_storage::{LogStore, StateMachine, StorageError};

use super::{Event, Step, World, lease::Promised};
use crate::{
    Bug, Invariant, Phase, Violation, bugs,
    clock::{Clock, Rate},
    coverage::Milestone,
    disk::{Disk, GROUP, LogState},
    faults::exponential,
    overlap::{self, Brief, View, is_quorum},
};

/// A node, up or down.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) incarnation: Incarnation,
    /// What checkers call it: another one for each life of the machine's disk.
    pub(super) key: usize,
    /// It has lost its disk and goes on under the old id, by mistake.
    pub(super) is_impostor: bool,
    pub(super) disk: Disk,
    /// Counts crashes: what a worker of an earlier life has done reaches nobody.
    pub(super) life: u32,
    pub(super) running: Option<Running>,
    /// The log as the replica has asked for it, durable or not.
    pub(super) issued: LogState,
    pub(super) paused_until: Time,
    /// Crashes before one of its next effects.
    pub(super) is_doomed: bool,
    /// Crashes right after it has answered a client as a leader.
    pub(super) is_doomed_after_reply: bool,
    /// How fast its clock goes.
    pub(super) rate: Rate,
    /// Until then no write of its disk ends.
    pub(super) slow_until: Time,
    /// It has installed a snapshot.
    pub(super) has_installed: bool,
    /// What it promised a leader last; a crash does not end that.
    pub(super) promised: Option<Promised>,
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
    pub(super) clock: Clock,
    pub(super) log_queue: Vec<Persist>,
    /// What the log's worker is writing, as long as there is no space for it.
    pub(super) log_writes: GroupWrites,
    pub(super) is_log_busy: bool,
    pub(super) state_queue: VecDeque<StateEffect>,
    pub(super) is_state_busy: bool,
    pub(super) snapshot_job: Option<SnapshotJob>,
    /// When the snapshots' worker has done what it was given.
    pub(super) snapshots_free_at: Time,
    /// Linearizable queries without an answer.
    pub(super) queries: BTreeSet<RequestId>,
    /// Requests without an answer.
    pub(super) waiting: BTreeSet<RequestId>,
    /// Requests that were cancelled with the latest inputs.
    pub(super) cancelled: BTreeSet<RequestId>,
    pub(super) term: Term,
    pub(super) commit: Index,
    /// It leads, by what it has told last.
    pub(super) leads: bool,
}

impl Node {
    pub(super) fn new(slot: usize, start: &Recovered) -> Node {
        let id = NodeId(slot as u64 + 1);
        let disk = Disk::founded(id, start);
        let issued = disk.log.durable(LogState::clone);
        Node {
            id,
            incarnation: Incarnation(0),
            key: slot,
            is_impostor: false,
            disk,
            life: 0,
            running: None,
            issued,
            paused_until: Time::ZERO,
            is_doomed: false,
            is_doomed_after_reply: false,
            rate: Rate::EVEN,
            slow_until: Time::ZERO,
            has_installed: false,
            promised: None,
        }
    }
}

impl Node {
    /// The membership in force: what the replica goes by, which it may not have written yet.
    pub(super) fn membership(&self) -> Option<&Membership> {
        let running = self.running.as_ref();
        running.map(|running| running.replica.raft().membership_at(Index::MAX).1).or_else(|| self.issued.membership())
    }

    /// Another disk, with nothing on it but what `start` says.
    pub(super) fn begin_with(&mut self, start: &Recovered) {
        self.disk = Disk::founded(self.id, start);
        self.issued = self.disk.log.durable(LogState::clone);
        self.has_installed = false;
    }
}

impl World {
    /// Starts a node from what its disk holds; when an operation of the disk fails, it is tried again later.
    pub(super) fn start(&mut self, node: usize) -> Step {
        if self.bug == Some(Bug::TruncateLog) && self.nodes[node].life > 0 {
            self.nodes[node].disk.log.lose_entries(2);
        }
        let opened = self.open(node);
        let disk = &self.nodes[node].disk;
        for _ in 0..disk.log.take_torn_tails() {
            self.report.milestones.count(Milestone::TornTail.name());
        }
        match opened {
            Ok((machine, start)) => self.start_with(node, machine, start),
            Err(StorageError::Damaged { .. }) if !disk.log.damaged().is_empty() => self.replace_damaged(node),
            // A process that cannot start ends, and is started again.
            Err(error) if disk.switch.has_failed() || matches!(error, StorageError::Full { .. }) => {
                self.trace.line(self.now, || format!("n{node} does not start: {error}"));
                self.power_off(node)
            }
            Err(error) => Err(broken(node, &error)),
        }
    }

    fn open(&self, node: usize) -> Result<(Box<dyn StateMachine>, Start), StorageError> {
        let disk = &self.nodes[node].disk;
        let opened = self.clients.workload.open(bugs::store(disk.kv_store(GROUP), self.bug))?;
        let mut machine = bugs::wrap(opened, self.bug, node);
        let snapshots = disk.snapshot_store(GROUP);
        let log: &dyn LogStore = &*disk.log;
        let start = recover(log, &*snapshots, &mut *machine, GROUP, self.shape.tail_bytes_max)?;
        let start = start.unwrap_or_else(|| Start {
            recovered: Recovered::joining(self.ghost.membership().cluster),
            applied: machine.applied(),
            snapshot: None,
            is_durable: machine.is_durable(),
            damaged_snapshots: Vec::new(),
        });
        Ok((machine, start))
    }

    fn start_with(&mut self, node: usize, machine: Box<dyn StateMachine>, mut start: Start) -> Step {
        if self.bug == Some(Bug::ForgetVote) {
            start.recovered.hard_state.voted_for = None;
        }
        let offset = self.rng.duration(Duration::ZERO, CLOCK_OFFSET_MAX);
        let nonce = self.rng.next_u64();
        let this = &mut self.nodes[node];
        this.issued = this.disk.log.durable(LogState::clone);
        let clock = Clock::new(self.now, self.now.plus(offset), this.rate);
        let term = start.recovered.hard_state.term;
        let options = self.replica_options(node, nonce);
        let replica = Replica::new(options, start, clock.read(self.now)).map_err(|error| broken(node, &error))?;
        self.trace.line(self.now, || format!("n{node} starts in term {term}"));
        let running = Running::new(replica, machine, &self.nodes[node].disk, clock, term);
        self.nodes[node].running = Some(running);
        self.observe_disk(node)?;
        self.offers_nothing_at_start(node)?;
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
        raft.promotion_timeout = shape.promotion_timeout;
        raft.election_timeout_min = shape.election_timeout_max / 2;
        if let Some(percent) = shape.lease_drift_percent {
            raft.lease_duration = raft.election_timeout_min;
            raft.clock_drift_percent = percent;
        }
        raft.append_bytes_max = shape.append_bytes_max;
        raft.inflight_messages_max = shape.inflight_messages_max;
        raft.inflight_bytes_max = shape.inflight_bytes_max;
        raft.uncommitted_bytes_max = shape.uncommitted_bytes_max;
        raft.unapplied_bytes_max = shape.unapplied_bytes_max;
        raft.apply_bytes_max = shape.apply_bytes_max;
        raft.reads_max = shape.reads_max;
        raft.tail_bytes_max = shape.tail_bytes_max;
        let mut options = ReplicaOptions::new(raft, nonce);
        options.log_entries_max = shape.log_entries_max;
        options.log_entries_kept = shape.log_entries_kept;
        options.snapshot_chunk_bytes = shape.snapshot_chunk_bytes;
        options.snapshot_timeout = shape.election_timeout_max * 3;
        options.requests_max = shape.requests_max;
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
        self.power_off(node)
    }

    /// What is not on the disk is gone; the node starts again later.
    pub(super) fn power_off(&mut self, node: usize) -> Step {
        let this = &mut self.nodes[node];
        this.running = None;
        this.life += 1;
        this.is_doomed = false;
        this.is_doomed_after_reply = false;
        this.disk.crash(&mut self.rng, self.faults.disk.torn);
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
        let clock = running.clock.read(now);
        let handing_over = running.handing_over();
        let was_reading = running.replica.raft().is_leader() && !running.queries.is_empty();
        for input in mem::take(&mut running.inbox) {
            if let Input::Cancel { request } = &input {
                // An answer that was made just before comes out nevertheless.
                running.waiting.remove(request);
                running.cancelled.insert(*request);
                running.queries.remove(request);
            }
            running.replica.handle(clock, input);
        }
        running.replica.handle(clock, Input::Time);
        if was_reading && !running.replica.raft().is_leader() {
            self.passes(Milestone::ReadAcrossStepDown);
        }
        self.drain(node)?;
        if let Some(running) = &mut self.nodes[node].running {
            running.cancelled.clear();
            let now = running.handing_over();
            if let (Some((term, index)), Some((term_now, index_now))) = (handing_over, now)
                && term == term_now
                && index != index_now
            {
                let what = format!("n{node} hands over in {term}, and has appended the membership at {index_now}");
                return Err(Violation::new(Invariant::Handover, what));
            }
        }
        self.observe_usage(node)?;
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
                    if let Some(at) = at {
                        let when = running.clock.when(at);
                        self.wake(node, when);
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
        let id = this.id;
        self.ghost.enters(node, id, term, || raft.membership_at(Index::MAX).1.voters().all(|voter| voter == id))?;
        let known = raft.commit_index();
        if raft.is_leader() && known > running.commit && raft.term_at(known) != Some(term) {
            let what = format!("n{node} leads in term {term} and commits {known}, which is of an earlier one");
            return Err(Violation::new(Invariant::CommitOnQuorum, what));
        }
        running.term = term;
        let known = mem::replace(&mut running.commit, commit);
        if this.issued.memberships_above(self.ghost.committed().max(commit)) > 1 {
            let what = format!("n{node} has more than one membership above {}, and only that is committed", commit);
            return Err(Violation::new(Invariant::ConfigOverlap, what));
        }
        if commit == known || !self.ghost.commits((this.key, term), known, commit, &this.issued)? {
            return Ok(());
        }
        self.committed_on_quorum(node)?;
        if self.ghost.membership_at(commit) { self.overlap() } else { Ok(()) }
    }

    /// I1: whoever leads has the votes of a majority of each half on their disks.
    pub(super) fn is_elected(&self, node: usize, term: Term) -> Step {
        let Some(membership) = self.nodes[node].membership() else { return Ok(()) };
        let id = self.nodes[node].id;
        let voted = |key: usize| self.ghost.vote_of(key, term) == Some(id);
        // A vote outlives the disk that it was written to.
        let has_voted = |voter: NodeId| {
            let here = self.slot_of(voter).is_some_and(|slot| voted(self.nodes[slot].key));
            here || self.operator.gone.iter().any(|lost| lost.id == voter && voted(lost.key))
        };
        if is_quorum(membership, has_voted) {
            return Ok(());
        }
        let what = format!("n{node} leads in term {term} without the votes of a majority of {}", Brief(membership));
        Err(Violation::new(Invariant::ElectionSafety, what))
    }

    /// I6, by the node that has just told of it.
    fn committed_on_quorum(&self, node: usize) -> Step {
        let (index, term) = (self.ghost.committed(), self.ghost.committed_term());
        let log = &self.nodes[node].issued;
        let holds = |id: NodeId| {
            let here =
                self.slot_of(id).is_some_and(|slot| self.nodes[slot].disk.log.durable(|log| log.holds(index, term)));
            // An acknowledgement outlives the disk that it speaks of.
            here || self.operator.gone.iter().any(|lost| lost.id == id && lost.log.holds(index, term))
        };
        // A leader counts by what it has appended, also what it has not asked its disk to write: a follower may tell of the commit first.
        let leader = self.leader().and_then(|leader| self.nodes[leader].membership());
        self.ghost.on_quorum([log.membership_at(index), self.nodes[node].membership(), leader], holds)
    }

    /// I11: whoever can decide anything meets whoever else can.
    pub(super) fn overlap(&self) -> Step {
        let views: Vec<View<'_>> = self.nodes.iter().enumerate().filter_map(|(slot, node)| view(slot, node)).collect();
        let durable: Vec<_> =
            views.iter().map(|view| self.nodes[view.node].disk.log.durable(LogState::last_position)).collect();
        let views: Vec<View<'_>> =
            views.into_iter().zip(durable).map(|(view, durable)| View { durable, ..view }).collect();
        overlap::check(&views)
    }

    /// I1: looks at what has become durable.
    pub(super) fn observe_disk(&mut self, node: usize) -> Step {
        let hard_state = self.nodes[node].disk.log.durable(|log| log.hard_state);
        self.ghost.hard_state(self.nodes[node].key, hard_state)
    }
}

/// How far apart the clocks of two nodes may start.
const CLOCK_OFFSET_MAX: Duration = Duration::from_secs(1200);
/// More effects at once than any replica has.
const EFFECTS_MAX: usize = 100_000;

impl Running {
    /// In which term it hands over, and where the newest membership of its log is.
    fn handing_over(&self) -> Option<(Term, Index)> {
        let raft = self.replica.raft();
        raft.is_transferring().then(|| (raft.term(), raft.membership_at(Index::MAX).0))
    }

    fn new(replica: Replica, machine: Box<dyn StateMachine>, disk: &Disk, clock: Clock, term: Term) -> Running {
        let snapshots = disk.snapshot_store(GROUP);
        Running {
            replica,
            log: LogWorker::new(disk.log.clone(), GROUP),
            state: StateWorker::new(machine, snapshots.clone()),
            snapshots: SnapshotWorker::new(snapshots),
            inbox: Vec::new(),
            run_at: None,
            clock,
            log_queue: Vec::new(),
            log_writes: GroupWrites::default(),
            is_log_busy: false,
            state_queue: VecDeque::new(),
            is_state_busy: false,
            snapshot_job: None,
            snapshots_free_at: Time::ZERO,
            queries: BTreeSet::new(),
            waiting: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            term,
            commit: Index::ZERO,
            leads: false,
        }
    }
}

/// What matters of a node for who can decide; what is durable is looked up apart.
fn view(slot: usize, node: &Node) -> Option<View<'_>> {
    let membership = node.membership().filter(|_| !node.is_impostor)?;
    let last = node.issued.last_position();
    let raft = node.running.as_ref().map(|running| running.replica.raft());
    let term = raft.map_or_else(|| node.issued.hard_state.term, coracle_core::Raft::term);
    let is_leader = raft.is_some_and(coracle_core::Raft::is_leader);
    Some(View { node: slot, id: node.id, membership, last, durable: last, term, is_leader })
}

fn broken(node: usize, error: &dyn std::error::Error) -> Violation {
    Violation::new(Invariant::NoPanic, format!("n{node} does not start: {error}"))
}
