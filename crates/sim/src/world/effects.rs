//! What a replica asks for, done on virtual time.

use std::{mem, time::Duration};

use coracle_core::{
    AppendResult, Body, Event as RaftEvent, InstallSnapshot, Message, NodeId, Persist, Role, Term, Time,
};
use coracle_replica::{Completion, Effect, GroupWrites, Input, StateEffect, Work};

use super::{Done, Event, Step, World};
use crate::{Bug, Invariant, Violation, check, coverage::Milestone, disk::GROUP, faults::exponential};

/// How long a write that found no space waits before it is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// What the snapshots' worker is to do.
#[derive(Debug)]
pub(super) enum SnapshotWork {
    Read { peer: NodeId, content: u64, offset: u64, len: usize },
    Store { from: NodeId, term: Term, piece: Box<InstallSnapshot> },
}

impl World {
    /// Does what a replica asks for, or begins it.
    pub(super) fn act(&mut self, node: usize, effect: Effect) -> Step {
        match effect {
            Effect::Send(message) => self.send(node, message),
            Effect::Write(persist) => self.write(node, persist),
            Effect::ReadLog { request, from, to, bytes_max } => {
                let latency = self.disk_latency(node);
                self.later(node, latency, Done::ReadLog { request, from, to, bytes_max });
                Ok(())
            }
            Effect::State(effect) => {
                self.observe(node)?;
                self.state_effect(node, effect)
            }
            Effect::ReadSnapshot { peer, content, offset, len } => {
                self.snapshot_work(node, SnapshotWork::Read { peer, content, offset, len });
                Ok(())
            }
            Effect::StoreSnapshot { from, term, piece } => {
                self.snapshot_work(node, SnapshotWork::Store { from, term, piece });
                Ok(())
            }
            Effect::Reply { request, result } => self.reply(node, request, result),
            Effect::Event(event) => self.event(node, event),
            Effect::Fatal { reason, what } => self.fatal(node, &format!("{what} ({reason:?})")),
            Effect::Wake { .. } => Ok(()),
        }
    }

    /// A worker of this life of `node` is done after a while.
    pub(super) fn later(&mut self, node: usize, after: Duration, what: Done) {
        let life = self.nodes[node].life;
        self.schedule(after, Event::Done { node, life, what });
    }

    fn send(&mut self, node: usize, message: Message) -> Step {
        self.trace.line(self.now, || format!("n{node} > {:?}: {} {:?}", message.to, message.term, message.body));
        self.report.messages += 1;
        self.nodes[node].disk.log.durable(|durable| check::asserts(node, &message, durable))?;
        let Some(to) = self.slot_of(message.to).filter(|to| self.would_talk(node, *to)) else {
            if self.operator.is_gone(message.to) {
                self.network.dropped += 1;
                return Ok(());
            }
            return Err(Violation::new(Invariant::Ordering, format!("n{node} writes to nobody: {message:?}")));
        };
        match message.body {
            Body::PreVoteResponse { next_term, granted: true } => self.ghost.offers(next_term, message.to),
            Body::TimeoutNow => self.ghost.offers(message.term.next(), message.to),
            _ => {}
        }
        self.matches_leader(node, to, &message)?;
        self.keeps_promise(node, &message)?;
        let sent = self.now;
        let arrivals = self.network.send(sent, node, to);
        if let Some(at) = arrivals.again {
            self.queue.push(at, Event::Deliver { from: node, to, sent, message: Box::new(message.clone()) });
        }
        if let Some(at) = arrivals.first {
            self.queue.push(at, Event::Deliver { from: node, to, sent, message: Box::new(message) });
        }
        Ok(())
    }

    /// C4: what a follower acknowledges is its leader's, not only as long.
    fn matches_leader(&self, node: usize, to: usize, message: &Message) -> Step {
        let Body::AppendEntriesResponse { result: AppendResult::Matched { index }, .. } = message.body else {
            return Ok(());
        };
        let leader = &self.nodes[to];
        let leads = leader.running.as_ref().map(|running| running.replica.raft());
        if leads.is_none_or(|raft| raft.term() != message.term || !raft.is_leader()) {
            return Ok(());
        }
        let term = self.nodes[node].disk.log.durable(|log| log.term_at(index));
        if term.is_none_or(|term| leader.issued.holds(index, term) || leader.issued.last() < index) {
            return Ok(());
        }
        let what = format!("n{node} acknowledges {index}, where its log has {term:?} and n{to}'s another one");
        Err(Violation::new(Invariant::AckDurability, what))
    }

    pub(super) fn deliver(&mut self, (from, to): (usize, usize), sent: Time, message: Message) -> Step {
        if let Some(later) = self.network.held(self.now, from, to) {
            self.queue.push(later, Event::Deliver { from, to, sent, message: Box::new(message) });
            return Ok(());
        }
        if !self.network.arrive(from, to) || self.is_fault_of_the_past(sent) {
            return Ok(());
        }
        if self.nodes[to].id != message.to || self.nodes[from].id != message.from || !self.would_talk(from, to) {
            self.network.dropped += 1;
        } else if self.nodes[to].running.is_some() {
            self.input(to, Input::Message(message));
        } else {
            self.network.dropped += 1;
            // A refused connection is noticed, though not each time.
            if self.rng.chance(0.3) {
                let peer = self.nodes[to].id;
                self.input(from, Input::Unreachable { peer });
            }
        }
        Ok(())
    }

    /// Whether a message was sent long before faults stopped: copies of a dead leader's heartbeats that go on arriving for a minute are a fault too.
    fn is_fault_of_the_past(&self, sent: Time) -> bool {
        self.healed.is_some_and(|healed| sent < healed && self.now.since(healed) > self.shape.heartbeat_interval)
    }

    fn disk_latency(&mut self, node: usize) -> Duration {
        let slow = self.nodes[node].slow_until.since(self.now);
        slow.max(exponential(&mut self.rng, self.faults.disk.latency))
    }

    /// A write of the log: what waits while one is under way goes together afterwards.
    fn write(&mut self, node: usize, persist: Persist) -> Step {
        self.trace.line(self.now, || format!("n{node} writes {persist:?}"));
        let this = &mut self.nodes[node];
        let membership = this.issued.membership_index();
        let batch = coracle_storage::LogBatch::new(GROUP, persist.clone());
        let first = batch.entries.first().map_or(this.issued.last().next(), coracle_core::Run::first);
        let mut before = match &batch.base {
            Some(base) if base.index.next() == first => Some(base.term),
            _ => this.issued.term_at(first.prev()),
        };
        for run in &batch.entries {
            self.ghost.appends(this.key, before, run)?;
            before = Some(run.term());
        }
        this.issued
            .apply(&batch)
            .map_err(|error| Violation::new(Invariant::Ordering, format!("n{node} writes {batch:?}: {error}")))?;
        if let Some(from) = batch.truncate_from
            && batch.base.is_none()
            && from <= self.ghost.committed()
        {
            self.keeps_committed(node, from)?;
        }
        if self.nodes[node].issued.membership_index() != membership {
            self.overlap()?;
        }
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        running.log_queue.push(persist);
        self.begin_write(node)
    }

    /// I5: a truncation leaves what was committed alone, at the node that knew it was.
    fn keeps_committed(&self, node: usize, from: coracle_core::Index) -> Step {
        let commit = self.nodes[node].running.as_ref().map_or(coracle_core::Index::ZERO, |running| running.commit);
        if from > commit {
            return Ok(());
        }
        let what = format!("n{node} truncates from {from} and knows that {commit} is committed");
        Err(Violation::new(Invariant::CommitImmutable, what))
    }

    fn begin_write(&mut self, node: usize) -> Step {
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return Ok(()) };
        if running.is_log_busy || running.log_queue.is_empty() {
            return Ok(());
        }
        running.is_log_busy = true;
        running.log_writes = GroupWrites::new(vec![(GROUP, mem::take(&mut running.log_queue))]);
        self.write_log(node)
    }

    /// Writes what is to be written, or finds no space for it and tries again later.
    fn write_log(&mut self, node: usize) -> Step {
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return Ok(()) };
        let ticket = running.log_writes.tickets().next();
        let written = running.log_writes.write(&*this.disk.log);
        if let Some(no_space) = written.no_space {
            self.trace.line(self.now, || format!("n{node}: {no_space}"));
            self.input(node, Input::Done(Completion::NoSpace(no_space)));
            self.later(node, FULL_PAUSE, Done::LogAgain);
            return Ok(());
        }
        let Some((_, completion)) = written.completions.into_iter().next() else { return Ok(()) };
        let completion = match (completion, ticket) {
            (Completion::Failed { .. }, Some(ticket)) if self.bug == Some(Bug::IgnoreDiskError) => {
                Completion::Written { ticket }
            }
            (completion, _) => completion,
        };
        let latency = self.disk_latency(node);
        if self.bug == Some(Bug::AcknowledgeBeforeDurable) {
            self.later(node, latency, Done::LateSync);
            self.input(node, Input::Done(completion));
        } else {
            self.later(node, latency, Done::Log(completion));
        }
        Ok(())
    }

    /// A worker is done, unless its node has crashed since.
    pub(super) fn done(&mut self, node: usize, life: u32, what: Done) -> Step {
        if self.nodes[node].life != life {
            return Ok(());
        }
        match what {
            Done::Log(completion) => self.written(node, Some(completion)),
            Done::LogAgain => self.write_log(node),
            Done::LateSync => self.written(node, None),
            Done::State(completion) => self.state_done(node, completion),
            Done::SnapshotPiece => self.snapshot_piece(node),
            Done::ReadLog { request, from, to, bytes_max } => {
                let Some(running) = &self.nodes[node].running else { return Ok(()) };
                let completion = running.log.read(request, from, to, bytes_max);
                self.input(node, Input::Done(completion));
                Ok(())
            }
            Done::Snapshot(work) => self.snapshot_worked(node, work),
        }
    }

    fn written(&mut self, node: usize, completion: Option<Completion>) -> Step {
        self.trace.line(self.now, || format!("n{node} has written: {completion:?}"));
        if let Some(failed @ Completion::Failed { .. }) = completion {
            // The worker has ended: what waits for it is never done.
            self.input(node, Input::Done(failed));
            return Ok(());
        }
        let synced = self.nodes[node].disk.log.sync();
        synced.map_err(|error| Violation::new(Invariant::Ordering, format!("n{node}: {error}")))?;
        self.observe_disk(node)?;
        if let Some(running) = &mut self.nodes[node].running {
            running.is_log_busy = false;
        }
        if let Some(completion) = completion {
            self.input(node, Input::Done(completion));
        }
        self.begin_write(node)
    }

    fn state_effect(&mut self, node: usize, effect: StateEffect) -> Step {
        if let Some(running) = &mut self.nodes[node].running {
            running.state_queue.push_back(effect);
        }
        self.begin_state(node)
    }

    fn begin_state(&mut self, node: usize) -> Step {
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return Ok(()) };
        if running.is_state_busy {
            return Ok(());
        }
        let Some(effect) = running.state_queue.pop_front() else { return Ok(()) };
        self.trace.line(self.now, || format!("n{node} state: {}", describe(&effect)));
        if let StateEffect::Apply { entries } = &effect {
            let mut applied = running.state.machine().applied().applied;
            for run in entries {
                this.disk.log.durable(|log| self.ghost.applies(this.key, applied, run, log))?;
                applied = run.last();
            }
        }
        if let StateEffect::InstallSnapshot { meta } = &effect {
            this.disk.log.durable(|log| check::installs(node, meta.last_included_index, log))?;
            self.report.snapshots_installed += 1;
            this.has_installed = true;
        }
        running.is_state_busy = true;
        let is_install = matches!(effect, StateEffect::InstallSnapshot { .. });
        let completion = match running.state.run(effect) {
            Work::Done(completion) => Some(completion),
            Work::Snapshot(job) => {
                running.snapshot_job = Some(job);
                self.snapshot_piece_later(node);
                None
            }
        };
        let mut latency = exponential(&mut self.rng, self.shape.state_latency);
        if is_install {
            // All of the state is written, and synced.
            latency += exponential(&mut self.rng, self.faults.disk.latency * 4);
            self.doom_install(node, latency);
        }
        self.later(node, latency, Done::State(completion));
        Ok(())
    }

    fn state_done(&mut self, node: usize, completion: Option<Completion>) -> Step {
        if let Some(failed @ Completion::Failed { .. }) = completion {
            // The worker has ended: what waits for it is never done.
            self.input(node, Input::Done(failed));
            return Ok(());
        }
        self.nodes[node].disk.settle();
        if let Some(running) = &mut self.nodes[node].running {
            running.is_state_busy = false;
        }
        // A hash walks the whole state: now and then is enough to notice states that have parted.
        if self.rng.chance(0.01) {
            self.observe_state(node)?;
        }
        if let Some(completion) = completion {
            self.input(node, Input::Done(completion));
        }
        self.begin_state(node)
    }

    /// I4: states that have applied as much are equal.
    pub(super) fn observe_state(&mut self, node: usize) -> Step {
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return Ok(()) };
        let machine = running.state.machine();
        let applied = machine.applied().applied;
        // Who looks from outside meets no fault, and takes none away.
        let hash = this.disk.switch.unharmed(|| machine.state_hash());
        match hash {
            Some(hash) => self.ghost.state(this.key, applied, hash),
            None => Ok(()),
        }
    }

    fn snapshot_piece_later(&mut self, node: usize) {
        let latency = self.disk_latency(node);
        self.later(node, latency, Done::SnapshotPiece);
    }

    fn snapshot_piece(&mut self, node: usize) -> Step {
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        let Some(job) = &mut running.snapshot_job else { return Ok(()) };
        let Some(completion) = job.step() else {
            self.snapshot_piece_later(node);
            return Ok(());
        };
        running.snapshot_job = None;
        self.report.snapshots_taken += u64::from(matches!(completion, Completion::SnapshotTaken { .. }));
        self.trace.line(self.now, || format!("n{node} took a snapshot: {completion:?}"));
        if matches!(completion, Completion::SnapshotNotTaken { .. }) {
            self.passes(Milestone::SnapshotGivenUp);
        }
        self.input(node, Input::Done(completion));
        Ok(())
    }

    /// The snapshots' worker does one thing after the other.
    fn snapshot_work(&mut self, node: usize, work: SnapshotWork) {
        let latency = exponential(&mut self.rng, self.faults.disk.latency);
        let slow_until = self.nodes[node].slow_until;
        let Some(running) = &mut self.nodes[node].running else { return };
        let at = running.snapshots_free_at.max(self.now).max(slow_until).plus(latency);
        running.snapshots_free_at = at;
        self.later(node, at.since(self.now), Done::Snapshot(work));
    }

    fn snapshot_worked(&mut self, node: usize, work: SnapshotWork) -> Step {
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        let completion = match work {
            SnapshotWork::Read { peer, content, offset, len } => running.snapshots.read(peer, content, offset, len),
            SnapshotWork::Store { from, term, piece } => running.snapshots.store(from, term, *piece),
        };
        self.input(node, Input::Done(completion));
        Ok(())
    }

    fn event(&mut self, node: usize, event: RaftEvent) -> Step {
        self.trace.line(self.now, || format!("n{node} event: {event:?}"));
        match event {
            RaftEvent::Damaged { .. } => self.passes(Milestone::DamageFound),
            RaftEvent::Repaired => self.passes(Milestone::DamageRepaired),
            RaftEvent::Role { role: Role::Leader, term, .. } => {
                self.report.elections += 1;
                if self.nodes[node].has_installed {
                    self.passes(Milestone::SnapshotOnLaterLeader);
                }
                self.is_elected(node, term)?;
                self.no_earlier_leader_has_a_lease(node, term)?;
                self.ghost.leads(self.nodes[node].key, term, &self.nodes[node].issued)?;
                self.note_role(node, true);
                self.overlap()?;
            }
            RaftEvent::Role { .. } => self.note_role(node, false),
            RaftEvent::Truncated { from, last } => {
                self.report.truncations += 1;
                if last.0 >= from.0 + 9 {
                    self.passes(Milestone::LongTruncation);
                }
            }
            RaftEvent::SpaceFound => self.passes(Milestone::SpaceFound),
            RaftEvent::TransferAborted { to: Some(_) } => self.passes(Milestone::TransferTimedOut),
            RaftEvent::Compacted { .. } => self.report.compactions += 1,
            // A rejection that was overtaken by a later acknowledgement looks like a lost log to the leader.
            RaftEvent::PeerFault { .. } if self.network.may_reorder() => {}
            RaftEvent::PeerFault { peer, fault } => {
                let what = format!("n{node} says that {peer}, which is as correct as itself, sent: {fault}");
                return Err(Violation::new(Invariant::NoPanic, what));
            }
            _ => {}
        }
        Ok(())
    }

    /// A stop for good: right after a failed write, and a failure of the run otherwise.
    fn fatal(&mut self, node: usize, what: &str) -> Step {
        self.trace.line(self.now, || format!("n{node} stops: {what}"));
        let disk = &self.nodes[node].disk;
        if disk.switch.has_failed() || !disk.log.damaged().is_empty() {
            return self.crash(node);
        }
        Err(Violation::new(Invariant::NoPanic, format!("n{node} stops for good: {what}")))
    }
}

fn describe(effect: &StateEffect) -> String {
    match effect {
        StateEffect::Apply { entries } => format!("apply {entries:?}"),
        StateEffect::Query { request, .. } => format!("query {}", request.0),
        StateEffect::Flush => "flush".into(),
        StateEffect::TakeSnapshot { meta } => format!("take a snapshot at {}", meta.last_included_index),
        StateEffect::InstallSnapshot { meta } => format!("install the snapshot at {}", meta.last_included_index),
    }
}
