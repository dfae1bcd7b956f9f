//! Commands of clients and peers, from arrival to outcome.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use coracle_core::{Bug, Forwarded, Index, Input as RaftInput, NodeId, Outcome, ProposalId, RejectReason, Term, Time};

use super::Replica;
use crate::{
    Effect, ReplicaOptions, Reply, RequestError, RequestId,
    foreign::Foreign,
    slots::{Slots, pop_front_if},
};

/// The commands that are not with another leader.
#[derive(Debug)]
pub(super) struct Proposals {
    /// Clients' commands that wait to be handed on, the oldest first.
    pub(super) waiting: VecDeque<Waiting>,
    /// Peers' commands that wait to be handed to the core.
    foreign: VecDeque<(Foreign, Bytes)>,
    /// Commands that are with the core, by proposal id.
    proposed: Slots<Origin>,
    /// Committed commands, in order of index, that wait to be applied.
    committed: VecDeque<(Index, Origin)>,
}

/// A client's command that waits to be handed on.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: RequestId,
    pub(super) command: Bytes,
    /// How long it waits for a leader.
    pub(super) deadline: Time,
}

/// Who is to hear of a command's outcome.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// A client of this replica.
    Client(RequestId),
    /// A peer that forwarded it.
    Peer(Foreign),
    /// An operator who changes the membership.
    Change(RequestId),
}

/// A command's outcome.
enum End {
    Applied { index: Index, reply: Bytes },
    Rejected(RejectReason),
    Unknown,
}

/// Commands that go to the core together: the core takes or refuses them as a whole, so that a very large batch goes in parts.
struct Batch {
    commands: Vec<Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Batch {
    fn new(options: &ReplicaOptions) -> Batch {
        Batch { commands: Vec::new(), bytes: 0, bytes_max: options.raft.uncommitted_bytes_max / 16 }
    }
}

impl Default for Proposals {
    fn default() -> Proposals {
        Proposals {
            waiting: VecDeque::new(),
            foreign: VecDeque::new(),
            proposed: Slots::new(1),
            committed: VecDeque::new(),
        }
    }
}

impl Proposals {
    /// Names a change of membership for the core.
    pub(super) fn push_change(&mut self, origin: Origin) -> u64 {
        let id = self.proposed.next();
        self.proposed.push(origin);
        id
    }
}

impl Replica {
    pub(super) fn on_propose(&mut self, request: RequestId, command: Bytes) {
        let (max, got) = (self.options.command_bytes_max, command.len());
        if got > max && !self.clients.is_live(request) {
            let result = Err(RequestError::TooLarge { max, got });
            return self.effects.late.push_back(Effect::Reply { request, result });
        }
        if self.admit(request, got) {
            let deadline = self.now.plus(self.options.leader_wait);
            self.proposals.waiting.push_back(Waiting { request, command, deadline });
        }
    }

    /// Commands that a peer hands to this replica as the leader of `term` (C21).
    pub(super) fn on_forwarded(&mut self, peer: NodeId, term: Term, nonce: u64, sequence: u64, commands: Vec<Bytes>) {
        if sequence.checked_add(commands.len() as u64).is_none() {
            let fault = "sequences of forwarded commands out of range";
            let event = coracle_core::Event::PeerFault { peer, fault };
            return self.effects.late.push_back(Effect::Event(event));
        }
        let leads = self.raft.is_leader() && self.raft.term() == term;
        for (sequence, command) in (sequence..).zip(commands) {
            let foreign = Foreign { peer, term, nonce, sequence };
            if !leads {
                if let Some(outcome) = self.seen.outcome_elsewhere(&foreign) {
                    self.answers.push(foreign, outcome);
                }
            } else if self.seen.insert(&foreign) || self.options.raft.has_bug(Bug::ForwardedTwice) {
                // One over the limit comes from an origin with another one. Like a full queue it means: surely not appended.
                let fits = command.len() <= self.options.command_bytes_max;
                if fits && self.clients.admit_foreign(command.len()).is_ok() {
                    self.proposals.foreign.push_back((foreign, command));
                } else {
                    self.answers.push(foreign, Forwarded::Busy);
                }
            }
        }
    }

    /// Hands everything that waits to whom it belongs.
    pub(super) fn hand_on_commands(&mut self) {
        // While leadership moves nobody takes commands; soon it is known who leads (C14).
        if self.raft.is_transferring() {
            return;
        }
        if self.raft.is_leader() {
            self.propose_waiting();
        } else {
            while let Some((foreign, command)) = self.proposals.foreign.pop_front() {
                self.clients.release(command.len());
                self.end_foreign(foreign, Forwarded::NotLeader);
            }
            self.forward_waiting();
        }
    }

    fn propose_waiting(&mut self) {
        if self.proposals.waiting.is_empty() && self.proposals.foreign.is_empty() {
            return;
        }
        let mut batch = Batch::new(&self.options);
        while let Some((foreign, command)) = self.proposals.foreign.pop_front() {
            self.clients.release(command.len());
            if foreign.term == self.raft.term() {
                self.propose(&mut batch, Origin::Peer(foreign), command);
            } else {
                self.end_foreign(foreign, Forwarded::NotLeader);
            }
        }
        while let Some(Waiting { request, command, .. }) = self.proposals.waiting.pop_front() {
            self.clients.release(command.len());
            if self.clients.is_live(request) {
                self.propose(&mut batch, Origin::Client(request), command);
            } else {
                self.clients.finish(request);
            }
        }
        self.send_batch(&mut batch);
    }

    fn propose(&mut self, batch: &mut Batch, origin: Origin, command: Bytes) {
        if batch.bytes.saturating_add(command.len()) > batch.bytes_max {
            self.send_batch(batch);
        }
        batch.bytes += command.len();
        batch.commands.push(command);
        self.proposals.proposed.push(origin);
    }

    /// The ids of a batch are the newest ones given out.
    fn send_batch(&mut self, batch: &mut Batch) {
        let commands = std::mem::take(&mut batch.commands);
        batch.bytes = 0;
        if !commands.is_empty() {
            let first = ProposalId(self.proposals.proposed.next() - commands.len() as u64);
            self.tell_core(RaftInput::Propose { first, commands });
        }
    }

    /// The core says what became of some proposals; committed ones are answered once they are applied.
    pub(super) fn on_done(&mut self, first: ProposalId, count: u32, outcome: Outcome) {
        for offset in 0..u64::from(count) {
            let Some(origin) = self.proposals.proposed.take(first.0.saturating_add(offset)) else { continue };
            match (outcome, origin) {
                (Outcome::Committed { first_index }, Origin::Change(request)) => {
                    self.change_committed(request, first_index.plus(offset));
                }
                (Outcome::Committed { first_index }, _) => self.commit(first_index.plus(offset), origin),
                (Outcome::Rejected(reason), _) => self.end(origin, End::Rejected(reason)),
                (Outcome::Unknown, _) => self.end(origin, End::Unknown),
            }
        }
    }

    /// A reply that was given before it was waited for is lost, and so is one that a snapshot swallowed.
    fn commit(&mut self, index: Index, origin: Origin) {
        let is_ahead = self.proposals.committed.back().is_none_or(|(last, _)| *last < index);
        if index > self.applying.applied.applied && is_ahead {
            self.proposals.committed.push_back((index, origin));
        } else {
            self.end(origin, End::Unknown);
        }
    }

    /// The command at `index` was applied.
    pub(super) fn on_reply(&mut self, index: Index, reply: Bytes) {
        self.skip_committed(index.prev());
        if let Some((_, origin)) = pop_front_if(&mut self.proposals.committed, |(at, _)| *at == index) {
            self.end(origin, End::Applied { index, reply });
        }
    }

    /// Whoever waits for a reply up to here gets none any more: a snapshot covers it.
    pub(super) fn skip_committed(&mut self, up_to: Index) {
        while let Some((_, origin)) = pop_front_if(&mut self.proposals.committed, |(at, _)| *at <= up_to) {
            self.end(origin, End::Unknown);
        }
    }

    fn end(&mut self, origin: Origin, end: End) {
        match origin {
            Origin::Client(request) | Origin::Change(request) => self.finish(
                request,
                match end {
                    End::Applied { index, reply } => Ok(Reply { data: reply, index }),
                    End::Rejected(reason) => Err(RequestError::Rejected(reason)),
                    End::Unknown => Err(RequestError::Unknown),
                },
            ),
            Origin::Peer(foreign) => self.end_foreign(
                foreign,
                match end {
                    End::Applied { index, reply } => Forwarded::Applied { index, reply },
                    // For a peer it is the same: surely not appended, and to be tried again.
                    End::Rejected(RejectReason::Busy | RejectReason::NoSpace) => Forwarded::Busy,
                    End::Rejected(_) => Forwarded::NotLeader,
                    End::Unknown => Forwarded::Unknown,
                },
            ),
        }
    }

    fn end_foreign(&mut self, foreign: Foreign, outcome: Forwarded) {
        self.clients.finish_foreign();
        self.answers.push(foreign, outcome);
    }

    /// When the first command that waits is refused. Without space and a leader that is earlier: it may be all that there is to say, and should be said while somebody listens (C18).
    pub(super) fn waiting_deadline(&self) -> Option<Time> {
        let first = self.proposals.waiting.front()?.deadline;
        Some(Time(first.0.saturating_sub(self.impatience().as_nanos() as u64)))
    }

    fn impatience(&self) -> Duration {
        let is_hopeless = self.raft.is_full() && self.raft.leader().is_none();
        if is_hopeless { self.options.leader_wait / 2 } else { Duration::ZERO }
    }

    /// Commands that found no way to a leader in time.
    pub(super) fn expire_waiting(&mut self) {
        let now = self.now.plus(self.impatience());
        while let Some(waiting) = pop_front_if(&mut self.proposals.waiting, |waiting| waiting.deadline <= now) {
            self.clients.release(waiting.command.len());
            let reason = if self.forwarding.is_full(&self.options) { RejectReason::Busy } else { self.no_leader() };
            self.finish(waiting.request, Err(RequestError::Rejected(reason)));
        }
    }

    /// What was not handed on is surely without effect; the rest may or may not be.
    pub(super) fn stop_proposals(&mut self) {
        while let Some(waiting) = self.proposals.waiting.pop_front() {
            self.finish(waiting.request, Err(RequestError::Rejected(RejectReason::Stopped)));
        }
        self.proposals.foreign.clear();
        while let Some((_, origin)) = self.proposals.committed.pop_front() {
            self.end(origin, End::Unknown);
        }
        while let Some(origin) = self.proposals.proposed.pop_front() {
            self.end(origin, End::Unknown);
        }
    }
}
