//! One node: the real core, and a driver of a few lines round it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use coracle_core::{
    Body, Config, Event, HardState, Index, Input, InstallSnapshot, LogRead, Message, NodeId, Outcome, Output, Persist,
    Raft, ReadId, SnapshotMeta, Term, Time,
};

use crate::{
    Bug, Settings,
    disk::{Disk, Machine, hash_write, snapshot_meta},
    ghost::{Fault, Ghost},
};

/// How far a clock goes on by a heartbeat. No number of these reaches [`TIMEOUT`].
const HEARTBEAT: Duration = Duration::from_nanos(2);
/// How far a clock goes on when a node loses patience: beyond every limit of the core.
const TIMEOUT: Duration = Duration::from_secs(1_000);

/// One node: the core, its disk, its state machine and its clock.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) raft: Raft,
    pub(crate) disk: Disk,
    /// The write that is under way.
    pub(crate) writing: Option<Persist>,
    pub(crate) machine: Machine,
    clock: Time,
    /// How often it was started.
    boots: u64,
    /// The number of the last question to a leader.
    questions: u64,
    /// Of all that makes a difference.
    pub(crate) fingerprint: u64,
}

/// What a step of a node leaves behind for the others.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<Arc<Message>>,
    /// The node has moved its commit index on.
    pub(crate) is_commit_moved: bool,
    /// The entry of the membership that was in force before.
    pub(crate) membership_before: Index,
}

fn config(id: NodeId, boots: u64) -> Config {
    Config {
        heartbeat_interval: Duration::from_nanos(1),
        election_timeout_min: Duration::from_secs(1),
        election_timeout_max: Duration::from_secs(2),
        disk_write_max: Duration::from_secs(50_000_000),
        // Each entry travels alone, so that a peer may have any part of what it lacks.
        append_bytes_max: 1,
        ..Config::new(id, boots)
    }
}

fn start(id: NodeId, disk: &Disk, clock: Time, boots: u64) -> Raft {
    match Raft::new(config(id, boots), disk.recover(), clock) {
        Ok(raft) => raft,
        Err(error) => panic!("a node does not start from its own disk: {error}"),
    }
}

impl Node {
    pub(crate) fn new(id: NodeId, disk: Disk) -> Node {
        let machine = disk.flushed;
        let raft = start(id, &disk, Time::ZERO, 1);
        Node { id, raft, disk, writing: None, machine, clock: Time::ZERO, boots: 1, questions: 0, fingerprint: 0 }
    }

    /// A heartbeat is due.
    pub(crate) fn beat(&mut self) -> Input {
        self.clock = self.clock.plus(HEARTBEAT);
        Input::Time
    }

    /// All timers run out.
    pub(crate) fn time_out(&mut self) -> Input {
        self.clock = self.clock.plus(TIMEOUT);
        Input::Time
    }

    /// Flushes the state machine, and has the log compacted up to there.
    pub(crate) fn flush(&mut self) -> [Input; 2] {
        self.disk.flushed = self.machine;
        let applied = self.machine.applied;
        [Input::Applied { applied, flushed: applied }, Input::Compact { up_to: applied }]
    }

    /// The write that is under way is durable.
    pub(crate) fn finish_write(&mut self) -> Option<Input> {
        let persist = self.writing.take()?;
        self.disk.write(&persist);
        Some(Input::Persisted { ticket: persist.ticket })
    }

    /// Stops at any moment and starts again from the disk. The write that is under way is on the disk, or is not.
    pub(crate) fn crash(&mut self, is_write_kept: bool, settings: &Settings) {
        if let Some(persist) = self.writing.take()
            && is_write_kept
        {
            self.disk.write(&persist);
        }
        if settings.bug == Some(Bug::ForgetVote) {
            self.disk.hard_state = HardState { voted_for: None, ..self.disk.hard_state };
        }
        self.machine = self.disk.flushed;
        self.boots += 1;
        self.questions = 0;
        self.clock = self.clock.plus(TIMEOUT);
        self.raft = start(self.id, &self.disk, self.clock, self.boots);
    }

    /// Hands the inputs in, and does what the core asks for until there is nothing to do.
    pub(crate) fn step(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        settings: &Settings,
        ghost: &mut Ghost,
    ) -> Outbox {
        let mut outbox = Outbox::default();
        let before = self.raft.commit_index();
        outbox.membership_before = self.raft.membership_at(Index::MAX).0;
        let run = AssertUnwindSafe(|| {
            for input in inputs {
                self.raft.handle(self.clock, input);
            }
            self.drain(settings, ghost, &mut outbox);
        });
        if catch_unwind(run).is_err() {
            ghost.blame(Fault::Panicked);
        }
        outbox.is_commit_moved = self.raft.commit_index() > before;
        if self.raft.is_leader() {
            ghost.note_leader(self.raft.term(), self.id);
        }
        self.fingerprint = self.form(settings);
        outbox
    }

    fn drain(&mut self, settings: &Settings, ghost: &mut Ghost, outbox: &mut Outbox) {
        loop {
            match self.raft.poll() {
                Output::Wake { .. } => return,
                Output::Send(message) => self.send(message, ghost, outbox),
                Output::Persist(persist) => self.persist(persist, settings),
                Output::Apply { entries } => {
                    for run in &entries {
                        for entry in run.entries() {
                            self.machine.apply(run.term(), entry);
                            ghost.note_applied(self.machine.applied, self.machine.chain);
                        }
                    }
                    self.tell_applied();
                }
                Output::ReadEntries { request, from, to, .. } => {
                    let runs = self.disk.read(from, to);
                    let result = if runs.is_empty() { LogRead::Compacted } else { LogRead::Entries(runs) };
                    self.tell(Input::EntriesRead { request, result });
                }
                Output::SendSnapshot { peer } => self.send_snapshot(peer, outbox),
                Output::StopSnapshot { .. } => {}
                Output::StoreSnapshot { from, term, piece } => self.store(from, term, &piece),
                Output::InstallSnapshot { meta } => self.install(&meta, ghost),
                Output::Done { outcome, .. } => self.check_outcome(outcome, ghost),
                Output::ReadReady { first, index, .. } => check_read(first, index, ghost),
                Output::ReadFailed { .. } => {}
                Output::Event(event) => note_event(&event, ghost),
                Output::Fatal(_) => ghost.blame(Fault::Stopped),
            }
        }
    }

    fn tell(&mut self, input: Input) {
        self.raft.handle(self.clock, input);
    }

    fn tell_applied(&mut self) {
        let (applied, flushed) = (self.machine.applied, self.disk.flushed.applied);
        self.tell(Input::Applied { applied, flushed });
    }

    fn persist(&mut self, persist: Persist, settings: &Settings) {
        let ticket = persist.ticket;
        if settings.scope.is_writing_slow {
            if settings.bug == Some(Bug::LyingDisk) {
                // It is on its way, and lost by a crash, but what waits for it does not wait.
                if let Some(earlier) = self.writing.take() {
                    self.disk.write(&earlier);
                }
                self.tell(Input::Persisted { ticket });
            }
            self.writing = Some(persist);
        } else {
            self.disk.write(&persist);
            self.tell(Input::Persisted { ticket });
        }
    }

    fn send(&mut self, message: Message, ghost: &mut Ghost, outbox: &mut Outbox) {
        if !self.is_true(&message) {
            ghost.blame(Fault::SaidTooEarly);
        }
        if let Body::ReadIndex { sequence, .. } = message.body {
            self.questions = sequence;
        }
        outbox.messages.push(Arc::new(message));
    }

    /// Whether a crash right now would not make a lie of what the message says (C4, C5).
    fn is_true(&self, message: &Message) -> bool {
        let HardState { term, voted_for, .. } = self.disk.hard_state;
        let is_vote_for = |id| term > message.term || (term == message.term && voted_for == Some(id));
        let last = (self.disk.last_index(), self.disk.term_at(self.disk.last_index()).unwrap_or_default());
        match &message.body {
            Body::PreVote { .. } | Body::PreVoteResponse { granted: true, .. } => true,
            Body::RequestVote { last_log_index, last_log_term, .. } => {
                is_vote_for(self.id) && last == (*last_log_index, *last_log_term)
            }
            Body::RequestVoteResponse { granted: true } => is_vote_for(message.to),
            Body::AppendEntriesResponse { result: coracle_core::AppendResult::Matched { index }, .. } => {
                let is_durable = |index| self.raft.term_at(index).is_some_and(|term| self.disk.holds(index, term));
                let first = self.disk.base.index.0 + 1;
                term >= message.term && (first..=index.0).map(Index).all(is_durable)
            }
            _ => term >= message.term,
        }
    }

    /// A snapshot of what is applied, in one piece.
    fn send_snapshot(&mut self, peer: NodeId, outbox: &mut Outbox) {
        let index = self.machine.applied;
        let Some(term) = self.raft.term_at(index) else { return };
        let meta = snapshot_meta(self.machine, term, self.raft.membership_at(index));
        self.tell(Input::SnapshotSending { peer, index });
        let piece = InstallSnapshot { meta, offset: 0, data: bytes::Bytes::new() };
        let body = Body::InstallSnapshot(Box::new(piece));
        outbox.messages.push(Arc::new(Message { from: self.id, to: peer, term: self.raft.term(), body }));
    }

    fn store(&mut self, from: NodeId, term: Term, piece: &InstallSnapshot) {
        let meta = piece.meta.clone();
        self.tell(Input::SnapshotStored { from, term, content: meta.content, offset: meta.size, done: true });
        self.tell(Input::SnapshotReceived { meta: Box::new(meta) });
    }

    fn install(&mut self, meta: &SnapshotMeta, ghost: &mut Ghost) {
        let index = meta.last_included_index;
        // The content is the state itself.
        self.machine = Machine { applied: index, chain: meta.content };
        self.disk.flushed = self.machine;
        ghost.note_applied(index, self.machine.chain);
        ghost.reached.is_installed = true;
        self.tell(Input::SnapshotInstalled { index });
        self.tell_applied();
    }

    /// What a proposer is told to be committed is so: a majority holds it, as was seen when the commit index moved.
    fn check_outcome(&self, outcome: Outcome, ghost: &mut Ghost) {
        if let Outcome::Committed { first_index } = outcome {
            ghost.reached.is_acknowledged = true;
            if first_index > self.raft.commit_index() {
                ghost.blame(Fault::SaidTooEarly);
            }
        }
    }

    /// Of everything that makes a difference to what this node will do.
    fn form(&self, settings: &Settings) -> u64 {
        let mut hasher = DefaultHasher::new();
        if settings.is_naive {
            format!("{:?} {:?}", self.raft, self.writing).hash(&mut hasher);
        } else {
            self.raft.canonical().hash(&mut hasher);
            if let Some(persist) = &self.writing {
                hash_write(persist, &mut hasher);
            }
        }
        (&self.disk, &self.machine).hash(&mut hasher);
        if settings.scope.reads > 0 {
            // The names of questions, which are in messages and in what leaders remember.
            (self.boots, self.questions).hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn check_read(read: ReadId, index: Index, ghost: &mut Ghost) {
    ghost.reached.is_read = true;
    let began = ghost.reads.iter().find(|(id, _)| *id == read).map(|(_, index)| *index);
    if began.is_none_or(|began| index < began) {
        ghost.blame(Fault::StaleRead);
    }
}

fn note_event(event: &Event, ghost: &mut Ghost) {
    match event {
        Event::PeerFault { fault, .. } => ghost.blame(Fault::Blamed(fault)),
        Event::Truncated { .. } => ghost.reached.is_overwritten = true,
        _ => {}
    }
}
