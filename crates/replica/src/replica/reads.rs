//! Queries: linearizable ones wait until the core vouches for an index and the state machine has come that far.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{Index, Input as RaftInput, ReadId, RejectReason, Time};

use super::Replica;
use crate::{
    Consistency, Effect, Reply, RequestError, RequestId, StateEffect,
    slots::{Slots, pop_front_if},
};

/// The queries on their way.
#[derive(Debug)]
pub(super) struct Reads {
    /// Not yet with the core, the oldest first.
    pub(super) waiting: VecDeque<Query>,
    /// The core could not tell: it is not asked again before.
    pub(super) retry_at: Option<Time>,
    /// With the core, by read id.
    asked: Slots<Query>,
    /// Waiting for the state machine to come to an index.
    ready: BTreeMap<Index, Vec<Query>>,
    /// With the state machine's worker, in order, and the index that the answer shows at least.
    answering: VecDeque<(RequestId, Index)>,
    /// When the core was last asked with success, and the index that it vouched for: everything that was acknowledged before is at or below it.
    fresh: Option<(Time, Index)>,
}

/// A linearizable query.
#[derive(Debug)]
pub(super) struct Query {
    request: RequestId,
    query: Bytes,
    /// How long it waits for a leader.
    pub(super) deadline: Time,
    /// Whether a lease is enough.
    is_lease: bool,
    /// When the core was last asked.
    asked_at: Time,
}

impl Default for Reads {
    fn default() -> Reads {
        Reads {
            waiting: VecDeque::new(),
            retry_at: None,
            asked: Slots::new(1),
            ready: BTreeMap::new(),
            answering: VecDeque::new(),
            fresh: None,
        }
    }
}

impl Reads {
    /// Somebody else may lead, or somebody at all.
    pub(super) fn ask_again(&mut self) {
        self.retry_at = None;
    }
}

impl Replica {
    pub(super) fn on_query(&mut self, request: RequestId, query: Bytes, consistency: Consistency) {
        if !self.admit(request, query.len()) {
            return;
        }
        match consistency {
            Consistency::Linearizable => self.wait_for_leader(request, query, false),
            Consistency::Lease => self.wait_for_leader(request, query, true),
            Consistency::Bounded { max_age } if self.is_fresh(max_age) => self.answer(request, query),
            Consistency::Bounded { .. } => self.wait_for_leader(request, query, false),
            // A state behind the start of the log is no state of the past either: a snapshot is on its way (C7).
            Consistency::Stale if self.is_behind_log() => {
                self.clients.release(query.len());
                let leader = self.raft.leader();
                self.finish(request, Err(RequestError::Rejected(RejectReason::NotLeader { leader })));
            }
            Consistency::Stale => self.answer(request, query),
        }
    }

    fn wait_for_leader(&mut self, request: RequestId, query: Bytes, is_lease: bool) {
        let deadline = self.now.plus(self.options.leader_wait);
        self.reads.waiting.push_back(Query { request, query, deadline, is_lease, asked_at: self.now });
    }

    /// Whether the state that a query meets now lacks nothing that was acknowledged longer ago than `max_age`: the age runs from when this replica asked.
    fn is_fresh(&self, max_age: Duration) -> bool {
        let is_recent = |(asked_at, index)| self.now.since(asked_at) <= max_age && index <= self.handed_index();
        !self.is_behind_log() && self.reads.fresh.is_some_and(is_recent)
    }

    /// Asks the core about everything that waits: as one question, as long as all are of one kind.
    pub(super) fn hand_on_reads(&mut self) {
        if self.reads.waiting.is_empty() || self.reads.retry_at.is_some() || self.view.leader.is_none() {
            return;
        }
        let mut first = ReadId(self.reads.asked.next());
        let (mut count, mut is_lease) = (0, false);
        while let Some(query) = self.reads.waiting.pop_front() {
            if !self.clients.is_live(query.request) {
                self.clients.release(query.query.len());
                self.clients.finish(query.request);
                continue;
            }
            if count > 0 && query.is_lease != is_lease {
                self.tell_core(RaftInput::Read { first, count, is_lease });
                (first, count) = (ReadId(self.reads.asked.next()), 0);
            }
            is_lease = query.is_lease;
            self.reads.asked.push(Query { asked_at: self.now, ..query });
            count += 1;
        }
        if count > 0 {
            self.tell_core(RaftInput::Read { first, count, is_lease });
        }
    }

    pub(super) fn on_read_ready(&mut self, first: ReadId, count: u32, index: Index) {
        for offset in 0..u64::from(count) {
            if let Some(query) = self.reads.asked.take(first.0.saturating_add(offset)) {
                let known = self.reads.fresh.get_or_insert((query.asked_at, index));
                *known = (known.0.max(query.asked_at), known.1.max(index));
                self.reads.ready.entry(index).or_default().push(query);
            }
        }
        self.answer_ready();
    }

    pub(super) fn on_read_failed(&mut self, first: ReadId, count: u32, reason: RejectReason) {
        let mut returned = Vec::new();
        for offset in 0..u64::from(count) {
            let Some(query) = self.reads.asked.take(first.0.saturating_add(offset)) else { continue };
            if matches!(reason, RejectReason::NotLeader { .. }) && self.now < query.deadline {
                returned.push(query);
            } else {
                self.fail_query(query, reason);
            }
        }
        if !returned.is_empty() {
            self.reads.retry_at = Some(self.now.plus(self.options.raft.heartbeat_interval));
        }
        for query in returned.into_iter().rev() {
            self.reads.waiting.push_front(query);
        }
    }

    /// Hands queries to the state machine whose index it will have applied by then: its worker keeps the order.
    pub(super) fn answer_ready(&mut self) {
        let handed = self.handed_index();
        while let Some(ready) = self.reads.ready.first_entry().filter(|ready| *ready.key() <= handed) {
            for query in ready.remove() {
                self.answer(query.request, query.query);
            }
        }
    }

    fn answer(&mut self, request: RequestId, query: Bytes) {
        self.clients.release(query.len());
        if !self.clients.is_live(request) {
            self.clients.finish(request);
            return;
        }
        self.reads.answering.push_back((request, self.handed_index()));
        self.effects.late.push_back(Effect::State(StateEffect::Query { request, query }));
    }

    pub(super) fn on_answered(&mut self, request: RequestId, answer: Bytes) {
        let at = self.reads.answering.iter().position(|(asked, _)| *asked == request);
        if let Some((_, index)) = at.and_then(|at| self.reads.answering.remove(at)) {
            self.finish(request, Ok(Reply { data: answer, index }));
        }
    }

    fn fail_query(&mut self, query: Query, reason: RejectReason) {
        self.clients.release(query.query.len());
        self.finish(query.request, Err(RequestError::Rejected(reason)));
    }

    /// Queries that found no leader in time.
    pub(super) fn expire_reads(&mut self) {
        let now = self.now;
        if self.reads.retry_at.is_some_and(|at| at <= now) {
            self.reads.retry_at = None;
        }
        while let Some(query) = pop_front_if(&mut self.reads.waiting, |query| query.deadline <= now) {
            let reason = self.no_leader();
            self.fail_query(query, reason);
        }
        self.expire_ready();
    }

    /// Queries that wait for entries which nobody sends: who is not a member any more may have asked its last leader and never hear of what came after.
    fn expire_ready(&mut self) {
        if self.view.leader.is_some() || self.reads.ready.is_empty() {
            return;
        }
        let now = self.now;
        let mut expired = Vec::new();
        self.reads.ready.retain(|_, queries| {
            expired.extend(queries.extract_if(.., |query| query.deadline <= now));
            !queries.is_empty()
        });
        for query in expired {
            self.fail_query(query, RejectReason::NoQuorum);
        }
    }

    /// When the first of them is due.
    pub(super) fn ready_deadline(&self) -> Option<Time> {
        if self.view.leader.is_some() {
            return None;
        }
        self.reads.ready.values().flatten().map(|query| query.deadline).min()
    }

    /// Queries have no effect, whatever became of them.
    pub(super) fn stop_reads(&mut self) {
        while let Some(query) = self.reads.waiting.pop_front().or_else(|| self.reads.asked.pop_front()) {
            self.fail_query(query, RejectReason::Stopped);
        }
        for query in std::mem::take(&mut self.reads.ready).into_values().flatten() {
            self.fail_query(query, RejectReason::Stopped);
        }
        while let Some((request, _)) = self.reads.answering.pop_front() {
            self.finish(request, Err(RequestError::Rejected(RejectReason::Stopped)));
        }
    }
}
