//! Messages on their way.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem::discriminant,
    sync::Arc,
};

use coracle_core::{Body, Message, NodeId, Run, Term};

/// Messages on their way.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Whether messages of a link arrive in the order in which they were sent.
    is_ordered: bool,
    envelopes: Vec<Envelope>,
}

/// A message with what it is compared by.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) message: Arc<Message>,
    /// Of the message but for the number of its round.
    form: u64,
}

impl Envelope {
    /// The leader and the term that this numbers a round of, and the number.
    fn round(&self) -> Option<(NodeId, Term, u64)> {
        match self.message.body {
            Body::Heartbeat { round, .. } if round > 0 => Some((self.message.from, self.message.term, round)),
            Body::HeartbeatResponse { round, .. } if round > 0 => Some((self.message.to, self.message.term, round)),
            _ => None,
        }
    }

    fn link(&self) -> (NodeId, NodeId) {
        (self.message.from, self.message.to)
    }

    /// What it is compared by, where `is_awaited` tells whether a leader waits for answers to a round.
    pub(crate) fn form(&self, is_awaited: &impl Fn(NodeId, Term, u64) -> bool) -> u64 {
        match self.round() {
            Some((leader, term, round)) if is_awaited(leader, term, round) => !self.form,
            _ => self.form,
        }
    }
}

impl Network {
    pub(crate) fn new(is_ordered: bool) -> Network {
        Network { is_ordered, envelopes: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.envelopes.len()
    }

    pub(crate) fn message(&self, at: usize) -> &Arc<Message> {
        &self.envelopes[at].message
    }

    /// What two networks are compared by: of each link the messages in their order.
    /// Where order means nothing there is one message of each kind, so that sorting by link and kind makes equal sets equal.
    pub(crate) fn form(&self, is_awaited: &impl Fn(NodeId, Term, u64) -> bool) -> Vec<u64> {
        let mut forms: Vec<_> = self.envelopes.iter().map(|it| (it.link(), it.form(is_awaited))).collect();
        if self.is_ordered {
            forms.sort_by_key(|(link, _)| *link);
        } else {
            forms.sort_unstable();
        }
        forms.into_iter().map(|(_, form)| form).collect()
    }

    /// Whether it may arrive next.
    pub(crate) fn may_arrive(&self, at: usize) -> bool {
        if !self.is_ordered {
            return true;
        }
        let link = self.envelopes[at].link();
        self.envelopes[..at].iter().all(|earlier| earlier.link() != link)
    }

    pub(crate) fn remove(&mut self, at: usize) {
        self.envelopes.remove(at);
    }

    /// Adds a message: at the end of its link, or to the set of those that may arrive in any order.
    /// There one that equals it but for the number of its round gives way to it.
    pub(crate) fn insert(&mut self, message: Arc<Message>, is_awaited: &impl Fn(NodeId, Term, u64) -> bool) {
        let envelope = Envelope { form: form_of(&message), message };
        if self.is_ordered {
            return self.envelopes.push(envelope);
        }
        let form = envelope.form(is_awaited);
        match self.envelopes.iter().position(|other| other.form(is_awaited) == form) {
            Some(at) => self.envelopes[at] = envelope,
            None => self.envelopes.push(envelope),
        }
    }
}

/// Where rounds begin or end and how entries are divided into runs makes no difference.
fn form_of(message: &Message) -> u64 {
    let Message { from, to, term, body } = message;
    let mut hasher = DefaultHasher::new();
    (from, to, term, discriminant(body)).hash(&mut hasher);
    match body {
        Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries } => {
            (prev_log_index, prev_log_term, leader_commit).hash(&mut hasher);
            hash_runs(entries, &mut hasher);
        }
        Body::Heartbeat { round, leader_commit } => (*round > 0, leader_commit).hash(&mut hasher),
        Body::HeartbeatResponse { round, promise } => (*round > 0, promise).hash(&mut hasher),
        body => body.hash(&mut hasher),
    }
    hasher.finish()
}

pub(crate) fn hash_runs(runs: &[Run], hasher: &mut impl Hasher) {
    for run in runs {
        for (index, entry) in run.iter() {
            (index, run.term(), entry).hash(hasher);
        }
    }
    // What follows is no entry.
    u64::MAX.hash(hasher);
}
