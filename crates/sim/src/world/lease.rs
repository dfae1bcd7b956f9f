//! Leases: while one holds, nobody else leads, and nobody who made it possible helps to change that (C13).

use std::{collections::BTreeMap, time::Duration};

use coracle_core::{Body, Index, Input, Message, NodeId, Output, Term, Time};

use super::{Step, World, node::Running};
use crate::{
    Invariant, Violation,
    overlap::{Brief, is_quorum},
};

/// What a node promised: to help elect nobody but `to`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promised {
    to: NodeId,
    term: Term,
    /// For so long the leader may rely on it, whatever their clocks do.
    until: Time,
    /// For so long the leader may rely on it, if their clocks go alike.
    ends: Time,
}

/// The most rounds that are remembered.
const ROUNDS_MAX: usize = 10_000;

/// When leaders first sent their rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds(BTreeMap<(Term, NodeId, u64), Time>);

impl Rounds {
    fn sent(&mut self, leader: NodeId, term: Term, round: u64, now: Time) {
        self.0.entry((term, leader, round)).or_insert(now);
        if self.0.len() > ROUNDS_MAX {
            self.0.pop_first();
        }
    }

    fn sent_at(&self, leader: NodeId, term: Term, round: u64) -> Option<Time> {
        self.0.get(&(term, leader, round)).copied()
    }
}

impl World {
    /// C13: `node` leads in `term` from now on; whoever led in an earlier one has no lease any more, by its own clock. A later one may have begun before a paused node counts its votes.
    pub(super) fn no_earlier_leader_has_a_lease(&self, node: usize, term: Term) -> Step {
        let has_lease = |slot: &usize| {
            let running = self.nodes[*slot].running.as_ref().filter(|it| it.replica.raft().term() < term);
            running.is_some_and(|it| it.replica.raft().has_lease_at(it.clock.read(self.now)))
        };
        match (0..self.nodes.len()).find(has_lease) {
            None => Ok(()),
            Some(other) => {
                Err(Violation::new(Invariant::Lease, format!("n{node} leads in spite of the lease of n{other}")))
            }
        }
    }

    /// C13: whoever has promised something to a leader offers no vote to another node.
    pub(super) fn keeps_promise(&mut self, node: usize, message: &Message) -> Step {
        match message.body {
            Body::Heartbeat { round, .. } => {
                self.rounds.sent(message.from, message.term, round, self.now);
                self.rests_on_promises(node, message.term)
            }
            Body::HeartbeatResponse { round, promise } if promise > 0 => {
                let drift = self.shape.lease_drift_percent.unwrap_or(0);
                // The answer may have waited for a disk: the leader counts from when it sent the round.
                if let Some(sent_at) = self.rounds.sent_at(message.to, message.term, round) {
                    let promise = Duration::from_nanos(promise);
                    let until = sent_at.plus(promise * (100 - drift) / 100);
                    let mut promised =
                        Promised { to: message.to, term: message.term, until, ends: sent_at.plus(promise) };
                    // Answers to earlier rounds may come later.
                    let earlier =
                        self.nodes[node].promised.filter(|it| (it.to, it.term) == (promised.to, promised.term));
                    if let Some(earlier) = earlier {
                        promised.until = promised.until.max(earlier.until);
                        promised.ends = promised.ends.max(earlier.ends);
                    }
                    self.nodes[node].promised = Some(promised);
                }
                Ok(())
            }
            Body::PreVoteResponse { granted: true, .. } => self.may_offer(node, message),
            _ => Ok(()),
        }
    }

    /// A leader that believes in its lease has promises for it.
    fn rests_on_promises(&self, node: usize, term: Term) -> Step {
        let this = &self.nodes[node];
        let believes = |it: &Running| it.replica.raft().has_lease_at(it.clock.read(self.now));
        let Some(membership) = this.membership().filter(|_| this.running.as_ref().is_some_and(believes)) else {
            return Ok(());
        };
        let has_promised = |voter: NodeId| {
            let promised = self.slot_of(voter).and_then(|slot| self.nodes[slot].promised);
            let relies = promised.is_some_and(|it| it.to == this.id && it.term == term && self.now < it.ends);
            voter == this.id || relies || self.operator.is_gone(voter)
        };
        if is_quorum(membership, has_promised) {
            return Ok(());
        }
        let what = format!("n{node} believes in a lease that no majority of {} has promised", Brief(membership));
        Err(Violation::new(Invariant::Lease, what))
    }

    fn may_offer(&self, node: usize, message: &Message) -> Step {
        let this = &self.nodes[node];
        let Some(promised) = this.promised.filter(|it| it.to != message.to && self.now < it.until) else {
            return Ok(());
        };
        // Whoever is known to decide alone is free (C13): a leader that this leaves out has committed it before, and gave up its lease with that. And where there is a later leader, the lease was over before.
        if self.decides_alone(node) || self.ghost.has_led_between(promised.term, message.term) {
            return Ok(());
        }
        let what = format!("n{node} offers a vote to {:?} in spite of {promised:?}", message.to);
        Err(Violation::new(Invariant::Lease, what))
    }

    /// Whether a node is the only voter of a membership that is committed, with learners or without.
    fn decides_alone(&self, node: usize) -> bool {
        let this = &self.nodes[node];
        let Some((index, membership)) = this.running.as_ref().map(|it| it.replica.raft().membership_at(Index::MAX))
        else {
            return false;
        };
        index <= self.ghost.committed()
            && membership.voters().eq([this.id])
            && membership.outgoing.iter().all(|voter| *voter == this.id)
    }

    /// C13: whoever has just started may have promised something, and offers nobody a vote until that is over. A copy of it is asked, so that nothing comes of it.
    pub(super) fn offers_nothing_at_start(&self, node: usize) -> Step {
        let this = &self.nodes[node];
        let (Some(promised), Some(running)) = (this.promised, &this.running) else { return Ok(()) };
        let mut others = this.membership().into_iter().flat_map(|membership| &membership.nodes).map(|other| other.id);
        let Some(other) = others.find(|other| *other != this.id && *other != promised.to) else { return Ok(()) };
        let mut copy = running.replica.raft().clone();
        let (term, last_log_index) = (copy.term(), copy.status().last_index.next());
        let body = Body::PreVote { next_term: term.next(), last_log_index, last_log_term: term };
        copy.handle(running.clock.read(self.now), Input::Message(Message { from: other, to: this.id, term, body }));
        loop {
            match copy.poll() {
                Output::Send(message) if matches!(message.body, Body::PreVoteResponse { granted: true, .. }) => {
                    return self.may_offer(node, &message);
                }
                Output::Wake { .. } => return Ok(()),
                _ => {}
            }
        }
    }
}
