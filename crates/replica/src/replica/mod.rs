//! The replica itself: where inputs go and where effects come from.
//!
//! | File | What |
//! |---|---|
//! | `mod.rs` | the state, inputs, the order of effects |
//! | `proposals.rs` | commands of clients and peers, from arrival to outcome |
//! | `forward.rs` | commands handed to another leader |
//! | `reads.rs` | queries |
//! | `apply.rs` | what the state machine does, and the replies |
//! | `compact.rs` | when the log is cut and snapshots are taken |
//! | `change.rs` | what operators ask for |
//! | `send.rs` | snapshots on their way to peers |
//! | `receive.rs` | snapshots that arrive |
//! | `time.rs` | deadlines |

mod apply;
mod change;
mod compact;
mod forward;
mod proposals;
mod reads;
mod receive;
mod send;
#[cfg(test)]
mod tests;
mod time;

use std::collections::VecDeque;

use coracle_core::{
    Body, ConfigError, Fatal, Index, Input as RaftInput, Message, NodeId, Output, Raft, RejectReason, Status, Term,
    Ticket, Time,
};

use self::{
    apply::Applying, compact::Compaction, forward::Forwarding, proposals::Proposals, reads::Reads, receive::Receiving,
    send::Sending,
};
use crate::{
    Completion, Effect, Input, ReplicaOptions, Reply, RequestError, RequestId, Start,
    clients::{Clients, Refused},
    effects::Effects,
    foreign::{Answers, Seen},
    slots::pop_front_if,
};

/// One replica of a group, without any I/O.
///
/// Hand in everything that has arrived with [`handle`](Replica::handle), then take what is to be done with [`poll`](Replica::poll) until it says [`Effect::Wake`].
/// Every client's request is answered by exactly one [`Effect::Reply`] (C21), unless it is cancelled.
#[derive(Debug)]
pub struct Replica {
    options: ReplicaOptions,
    raft: Raft,
    /// The time of the newest input.
    now: Time,
    /// What the core said when it had nothing more to do; `None` while it may have something.
    idle: Option<CoreIdle>,
    /// Nothing follows any more from what was handed in, but what waits in `effects`.
    is_settled: bool,
    /// It stopped for good.
    is_stopped: bool,
    /// Term and leader when they were last looked at.
    view: View,
    terms: DurableTerm,
    effects: Effects,
    clients: Clients,
    proposals: Proposals,
    forwarding: Forwarding,
    seen: Seen,
    answers: Answers,
    reads: Reads,
    applying: Applying,
    compaction: Compaction,
    sending: Sending,
    receiving: Receiving,
}

/// The core has nothing more to do.
#[derive(Clone, Copy, Debug)]
struct CoreIdle {
    /// Until then, or until there is input.
    wake: Option<Time>,
}

/// Who leads in which term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct View {
    term: Term,
    leader: Option<NodeId>,
}

/// Which term is durable: this node's own messages of a term leave only then (C5).
#[derive(Debug)]
struct DurableTerm {
    term: Term,
    /// Terms whose writes are under way.
    pending: VecDeque<(Ticket, Term)>,
}

impl Replica {
    /// A replica that starts from what its stores held.
    ///
    /// # Errors
    /// When the options contradict each other, or what was recovered is no log.
    pub fn new(options: ReplicaOptions, start: Start, now: Time) -> Result<Replica, ConfigError> {
        options.validate()?;
        let term = start.recovered.hard_state.term;
        let compaction = Compaction::new(&start);
        let applying = Applying::new(start.applied);
        let raft = Raft::new(options.raft.clone(), start.recovered, now)?;
        Ok(Replica {
            raft,
            now,
            idle: None,
            is_settled: false,
            is_stopped: false,
            view: View { term, leader: None },
            terms: DurableTerm { term, pending: VecDeque::new() },
            effects: Effects::new(options.raft.id),
            clients: Clients::new(&options),
            proposals: Proposals::default(),
            forwarding: Forwarding::new(options.boot_nonce),
            seen: Seen::new(term),
            answers: Answers::default(),
            reads: Reads::default(),
            applying,
            compaction,
            sending: Sending::default(),
            receiving: Receiving::default(),
            options,
        })
    }

    /// Takes note of what happened; what follows from it comes out of [`poll`](Replica::poll).
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        self.is_settled = false;
        if self.is_stopped {
            return self.handle_stopped(input);
        }
        match input {
            Input::Message(message) => self.on_message(message),
            Input::Propose { request, command } => self.on_propose(request, command),
            Input::Query { request, query, consistency } => self.on_query(request, query, consistency),
            Input::Transfer { to } => self.tell_core(RaftInput::Transfer { to }),
            Input::Weaken { duration } => self.tell_core(RaftInput::Weaken { duration }),
            Input::ChangeMembership { request, change } => self.on_change_membership(request, change),
            Input::TakeSnapshot { request } => self.on_want_snapshot(request),
            Input::Cancel { request } => self.clients.cancel(request),
            Input::Done(completion) => self.on_completion(completion),
            Input::Unreachable { peer } => {
                self.tell_core(RaftInput::Unreachable { peer });
                self.forwarding_unreachable(peer);
                self.fail_transfer(peer);
            }
            Input::Time => self.on_time(),
        }
    }

    /// What to do next; [`Effect::Wake`] when there is nothing more.
    pub fn poll(&mut self) -> Effect {
        while !self.is_settled {
            self.hand_on();
            if let Some(effect) = self.effects.early.pop_front() {
                return effect;
            }
            if self.idle.is_none() && !self.is_stopped {
                match self.poll_core() {
                    Some(effect) => return effect,
                    None => continue,
                }
            }
            self.answers.send(&mut self.effects, self.options.forward_bytes_max);
            self.is_settled = true;
        }
        match self.effects.late.pop_front() {
            Some(effect) => effect,
            None => Effect::Wake { at: self.wake() },
        }
    }

    /// The protocol, for those who look often: [`Replica::status`] copies what it tells.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// How many requests are on their way, and how many bytes of theirs are held, for those who check that it is bounded.
    #[doc(hidden)]
    pub fn held(&self) -> (usize, usize) {
        (self.clients.count(), self.clients.bytes())
    }

    /// A view from outside.
    pub fn status(&self) -> Status {
        self.raft.status()
    }

    /// A replica that has stopped answers its clients and does nothing else.
    fn handle_stopped(&mut self, input: Input) {
        if let Input::Propose { request, .. }
        | Input::Query { request, .. }
        | Input::ChangeMembership { request, .. }
        | Input::TakeSnapshot { request } = input
        {
            self.refuse(request, RejectReason::Stopped);
        }
    }

    fn on_message(&mut self, message: Message) {
        let Message { from, to, term, .. } = message;
        if to != self.options.raft.id || from == to {
            return self.tell_core(RaftInput::Message(message));
        }
        self.forwarding.heard(from, term);
        // The core learns the terms of what passes by it.
        let pass = |body| RaftInput::Message(Message { from, to, term, body });
        match message.body {
            Body::Propose { nonce, sequence, commands } => {
                self.tell_core(pass(Body::Propose { nonce, sequence, commands: Vec::new() }));
                self.on_forwarded(from, term, nonce, sequence, commands);
            }
            Body::ProposeResponse { nonce, sequence, outcomes } => {
                self.tell_core(pass(Body::ProposeResponse { nonce, sequence, outcomes: Vec::new() }));
                self.on_forward_outcomes(from, nonce, sequence, outcomes);
            }
            Body::InstallSnapshotResponse { content, offset, done } => {
                self.tell_core(pass(Body::InstallSnapshotResponse { content, offset, done }));
                self.on_snapshot_response(from, term, content, offset, done);
            }
            body => self.tell_core(pass(body)),
        }
    }

    fn on_completion(&mut self, completion: Completion) {
        match completion {
            Completion::Written { ticket } => {
                self.terms.written(ticket);
                self.tell_core(RaftInput::Persisted { ticket });
            }
            Completion::NoSpace(_) => self.tell_core(RaftInput::NoSpace),
            Completion::LogRead { request, result } => self.tell_core(RaftInput::EntriesRead { request, result }),
            Completion::Applied { applied, replies } => self.on_applied(applied, replies),
            Completion::Answered { request, answer } => self.on_answered(request, answer),
            Completion::Flushed { applied } => self.on_flushed(applied),
            Completion::SnapshotTaken { meta } => self.on_snapshot_taken(*meta),
            Completion::SnapshotNotTaken { .. } => self.on_snapshot_not_taken(),
            Completion::SnapshotRead { peer, content, offset, data } => {
                self.on_snapshot_read(peer, content, offset, data);
            }
            Completion::SnapshotDamaged { content, .. } => self.on_snapshot_damaged(content),
            Completion::SnapshotStored { from, term, meta, offset, whole } => {
                self.on_snapshot_stored(from, term, meta, offset, whole);
            }
            // The leader sends it again.
            Completion::SnapshotNotStored { .. } => self.receiving.stored_none(),
            Completion::SnapshotInstalled { applied } => self.on_snapshot_installed(applied),
            // The core decides what a failed log means, and its outcomes come first.
            Completion::Failed { is_log: true, .. } => self.tell_core(RaftInput::PersistFailed),
            Completion::Failed { what, is_log: false, .. } => self.stop(None, what),
        }
    }

    /// Everything that the core is told goes through here.
    fn tell_core(&mut self, input: RaftInput) {
        self.raft.handle(self.now, input);
        self.idle = None;
    }

    /// Hands on what has gathered: to the core or another leader in one piece each, however many inputs it took.
    fn hand_on(&mut self) {
        if self.is_stopped {
            return;
        }
        self.look_at_leader();
        self.hand_on_commands();
        self.hand_on_reads();
        self.start_transfers();
        self.consider_compaction();
    }

    /// Notices that the term or the leader changed.
    fn look_at_leader(&mut self) {
        let view = View { term: self.raft.term(), leader: self.raft.leader() };
        if view == self.view {
            return;
        }
        self.view = view;
        self.end_forwards();
        self.reads.ask_again();
        if !self.raft.is_leader() {
            self.sending.clear();
        }
    }

    /// One output of the core: sends and writes leave at once, in its order; the rest waits until they are out (C10).
    fn poll_core(&mut self) -> Option<Effect> {
        match self.raft.poll() {
            Output::Send(message) => return Some(Effect::Send(message)),
            Output::Persist(write) => {
                self.terms.issued(&write);
                self.compaction.log.record(&write);
                if let Some(base) = &write.base {
                    self.compaction.base_index = base.index;
                }
                return Some(Effect::Write(write));
            }
            Output::ReadEntries { request, from, to, bytes_max } => {
                return Some(Effect::ReadLog { request, from, to, bytes_max });
            }
            Output::Done { first, count, outcome } => self.on_done(first, count, outcome),
            Output::ReadReady { first, count, index } => self.on_read_ready(first, count, index),
            Output::ReadFailed { first, count, reason } => self.on_read_failed(first, count, reason),
            Output::Apply { entries } => self.on_apply(entries),
            Output::SendSnapshot { peer } => self.on_send_snapshot(peer),
            Output::StopSnapshot { peer } => self.sending.stop(peer),
            Output::StoreSnapshot { from, term, piece } => self.on_store_snapshot(from, term, piece),
            Output::InstallSnapshot { meta } => self.on_install_snapshot(meta),
            Output::Event(event) => self.effects.late.push_back(Effect::Event(event)),
            Output::Fatal(reason) => self.stop(Some(reason), reason.to_string()),
            Output::Wake { at } => self.idle = Some(CoreIdle { wake: at }),
        }
        None
    }

    /// Takes a client's request; when that cannot be, it is answered.
    fn admit(&mut self, request: RequestId, bytes: usize) -> bool {
        match self.clients.admit(request, bytes) {
            Ok(()) => true,
            Err(Refused::Full) => {
                self.refuse(request, RejectReason::Busy);
                false
            }
            // A second reply under the same name could be taken for the first one's.
            Err(Refused::Duplicate) => false,
        }
    }

    /// Answers a request that was not taken.
    fn refuse(&mut self, request: RequestId, reason: RejectReason) {
        self.effects.late.push_back(Effect::Reply { request, result: Err(RequestError::Rejected(reason)) });
    }

    /// Answers a request that was taken.
    fn finish(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        if self.clients.finish(request) {
            self.effects.late.push_back(Effect::Reply { request, result });
        }
    }

    /// Why a request that waited for a leader in vain is refused.
    fn no_leader(&self) -> RejectReason {
        match self.raft.leader() {
            Some(leader) => RejectReason::NotLeader { leader: Some(leader) },
            None if self.raft.is_full() => RejectReason::NoSpace,
            None => RejectReason::NoQuorum,
        }
    }

    /// Stops for good: everything that waits gets its outcome first.
    fn stop(&mut self, reason: Option<Fatal>, what: String) {
        if self.is_stopped {
            return;
        }
        self.is_stopped = true;
        self.effects.early.clear();
        self.effects.late.retain(|effect| matches!(effect, Effect::Reply { .. } | Effect::Event(_)));
        self.stop_proposals();
        self.stop_forwards();
        self.stop_reads();
        self.stop_wanted();
        // Peers hear nothing more from a replica that has stopped.
        self.answers = Answers::default();
        self.sending.clear();
        self.effects.late.push_back(Effect::Fatal { reason, what });
    }

    /// The index that the effects handed out so far bring the state machine to.
    fn handed_index(&self) -> Index {
        self.applying.handed
    }
}

impl DurableTerm {
    fn issued(&mut self, write: &coracle_core::Persist) {
        if let Some(hard_state) = &write.hard_state
            && self.pending.back().map_or(self.term, |(_, term)| *term) != hard_state.term
        {
            self.pending.push_back((write.ticket, hard_state.term));
        }
    }

    fn written(&mut self, ticket: Ticket) {
        while let Some((_, term)) = pop_front_if(&mut self.pending, |(issued, _)| *issued <= ticket) {
            self.term = term;
        }
    }
}
