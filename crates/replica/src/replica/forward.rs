//! Commands of this replica's clients that are handed to the leader (C21).

use std::collections::VecDeque;

use bytes::Bytes;
use coracle_core::{Body, Forwarded, NodeId, RejectReason, Term, Time};

use super::{Replica, View, proposals::Waiting};
use crate::{
    ReplicaOptions, Reply, RequestError, RequestId,
    slots::{Slots, pop_front_if},
};

/// How many messages' worth of commands may be on their way to the leader.
const WINDOW: usize = 2;

/// What is with another leader.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// This start's own number.
    nonce: u64,
    /// What is on its way, by sequence; all of it to one leader in one term.
    sent: Slots<Sent>,
    /// The bytes of what is on its way.
    sent_bytes: usize,
    /// Whom it went to.
    target: Option<(NodeId, Term)>,
    /// A leader that nothing is forwarded to for the time being.
    blocked: Option<Blocked>,
}

#[derive(Debug)]
struct Sent {
    request: RequestId,
    /// Kept in case it comes back refused.
    command: Bytes,
    /// When its outcome counts as unknown.
    expires: Time,
    /// How long it waits for a leader, should it come back.
    deadline: Time,
}

#[derive(Debug)]
struct Blocked {
    leader: NodeId,
    term: Term,
    /// Whether a message from it ends this: it could not be reached. A leader that refused leads in this term no more.
    until_heard: bool,
}

impl Forwarding {
    pub(super) fn new(nonce: u64) -> Forwarding {
        Forwarding { nonce, sent: Slots::new(1), sent_bytes: 0, target: None, blocked: None }
    }

    /// A message of `from` arrived.
    pub(super) fn heard(&mut self, from: NodeId, term: Term) {
        if self.blocked.as_ref().is_some_and(|it| it.until_heard && it.leader == from && it.term == term) {
            self.blocked = None;
        }
    }

    /// Whether nothing more may be sent until there are answers.
    pub(super) fn is_full(&self, options: &ReplicaOptions) -> bool {
        self.sent_bytes >= options.forward_bytes_max.saturating_mul(WINDOW)
    }

    /// When the oldest outcome counts as unknown.
    pub(super) fn next_expiry(&self) -> Option<Time> {
        self.sent.front().map(|sent| sent.expires)
    }

    fn is_blocked(&self, leader: NodeId, term: Term) -> bool {
        self.blocked.as_ref().is_some_and(|it| it.leader == leader && it.term == term)
    }

    fn take(&mut self, sequence: u64) -> Option<Sent> {
        let sent = self.sent.take(sequence)?;
        self.sent_bytes -= sent.command.len();
        Some(sent)
    }

    fn pop(&mut self) -> Option<Sent> {
        let sent = self.sent.pop_front()?;
        self.sent_bytes -= sent.command.len();
        Some(sent)
    }
}

impl Replica {
    /// Sends what waits to the leader, if there is one that may be sent to.
    pub(super) fn forward_waiting(&mut self) {
        let View { term, leader } = self.view;
        let Some(leader) = leader.filter(|leader| *leader != self.options.raft.id) else { return };
        // A message of a term leaves only when the term is durable (C5).
        if self.proposals.waiting.is_empty() || self.terms.term != term || self.forwarding.is_blocked(leader, term) {
            return;
        }
        self.forwarding.target = Some((leader, term));
        while !self.forwarding.is_full(&self.options) {
            let sequence = self.forwarding.sent.next();
            let commands = self.take_message();
            if commands.is_empty() {
                return;
            }
            let nonce = self.forwarding.nonce;
            self.effects.send_early(leader, term, Body::Propose { nonce, sequence, commands });
        }
    }

    /// As many commands as go into one message.
    fn take_message(&mut self) -> Vec<Bytes> {
        let (mut commands, mut bytes) = (Vec::new(), 0);
        let bytes_max = self.options.forward_bytes_max;
        let expires = self.now.plus(self.options.forward_timeout);
        while let Some(next) = pop_front_if(&mut self.proposals.waiting, |next| {
            // A command counts a little more than its bytes, so that empty ones are bounded too.
            bytes += next.command.len() + 16;
            commands.is_empty() || bytes <= bytes_max
        }) {
            let Waiting { request, command, deadline } = next;
            if !self.clients.is_live(request) {
                self.clients.release(command.len());
                self.clients.finish(request);
                continue;
            }
            self.forwarding.sent_bytes += command.len();
            self.forwarding.sent.push(Sent { request, command: command.clone(), expires, deadline });
            commands.push(command);
        }
        commands
    }

    /// The leader says what became of some commands.
    pub(super) fn on_forward_outcomes(&mut self, from: NodeId, nonce: u64, sequence: u64, outcomes: Vec<Forwarded>) {
        let Some((leader, term)) = self.forwarding.target.filter(|(leader, _)| *leader == from) else { return };
        if nonce != self.forwarding.nonce {
            return;
        }
        let mut returned = VecDeque::new();
        for (offset, outcome) in outcomes.into_iter().enumerate() {
            let Some(sequence) = sequence.checked_add(offset as u64) else { return };
            let Some(sent) = self.forwarding.take(sequence) else { continue };
            match outcome {
                Forwarded::NotLeader => returned.push_back(sent),
                Forwarded::Applied { index, reply } => self.end_forward(&sent, Ok(Reply { data: reply, index })),
                Forwarded::Busy => self.end_forward(&sent, Err(RequestError::Rejected(RejectReason::Busy))),
                Forwarded::Unknown => self.end_forward(&sent, Err(RequestError::Unknown)),
            }
        }
        if !returned.is_empty() {
            self.forwarding.blocked = Some(Blocked { leader, term, until_heard: false });
            self.wait_again(returned);
        }
    }

    /// Commands that were surely not appended wait for another leader.
    fn wait_again(&mut self, mut returned: VecDeque<Sent>) {
        while let Some(Sent { request, command, deadline, .. }) = returned.pop_back() {
            self.proposals.waiting.push_front(Waiting { request, command, deadline });
        }
    }

    fn end_forward(&mut self, sent: &Sent, result: Result<Reply, RequestError>) {
        self.clients.release(sent.command.len());
        self.finish(sent.request, result);
    }

    /// The term or the leader changed: what is on its way may or may not take effect.
    pub(super) fn end_forwards(&mut self) {
        let View { term, leader } = self.view;
        if self.forwarding.target.is_some_and(|target| leader.map(|leader| (leader, term)) != Some(target)) {
            self.stop_forwards();
        }
    }

    /// The same, when the leader cannot be reached.
    pub(super) fn forwarding_unreachable(&mut self, peer: NodeId) {
        let View { term, leader } = self.view;
        if leader == Some(peer) {
            self.forwarding.blocked = Some(Blocked { leader: peer, term, until_heard: true });
        }
        if self.forwarding.target.is_some_and(|(leader, _)| leader == peer) {
            self.stop_forwards();
        }
    }

    pub(super) fn stop_forwards(&mut self) {
        self.forwarding.target = None;
        while let Some(sent) = self.forwarding.pop() {
            self.end_forward(&sent, Err(RequestError::Unknown));
        }
    }

    pub(super) fn expire_forwards(&mut self) {
        while self.forwarding.next_expiry().is_some_and(|expires| expires <= self.now) {
            if let Some(sent) = self.forwarding.pop() {
                self.end_forward(&sent, Err(RequestError::Unknown));
            }
        }
    }
}
