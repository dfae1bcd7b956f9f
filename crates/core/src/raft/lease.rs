//! Leases: reads that a leader answers without asking anybody (C13; thesis §6.4.1).
//!
//! A voter promises with each answer to a round to help elect nobody else for a while. For the leader that time runs from the moment at which it sent the round, less what clocks may drift; while the promises of a majority of each half hold, there is no other leader.

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
};
use crate::{Bug, NodeId, Time};

/// Of the rounds within one heartbeat interval, so many are remembered.
const ROUNDS_PER_INTERVAL: u32 = 8;

/// What a voter promised last.
#[derive(Clone, Debug)]
pub(super) struct Promise {
    /// Until when it helps to elect nobody else.
    until: Time,
    /// Whom it was given to; `None` after a start, when that is forgotten.
    to: Option<NodeId>,
}

impl Promise {
    /// What a node that has just started may have promised before.
    pub(super) fn after_start(until: Time) -> Promise {
        Promise { until, to: None }
    }

    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let Promise { until, to } = self;
        // One that has passed keeps nobody from anything.
        clock.is_armed(*until).then_some(*to)
    }
}

/// What a leader's lease rests on, apart from the promises.
#[derive(Clone, Debug, Default)]
pub(super) struct Lease {
    /// When rounds were sent, in order; not all of them.
    rounds: VecDeque<(u64, Time)>,
    /// Leadership was handed over in this term: whoever was told may yet campaign (C14).
    is_void: bool,
}

impl Lease {
    /// There is no lease for the rest of the term.
    pub(super) fn make_void(&mut self) {
        self.is_void = true;
    }

    /// Remembers when a round was sent, as far as it makes a difference, for as long as it can.
    pub(super) fn record(&mut self, round: u64, now: Time, interval: Duration, lease: Duration) {
        while self.rounds.front().is_some_and(|(_, sent_at)| now.since(*sent_at) > lease) {
            self.rounds.pop_front();
        }
        let gap = interval / ROUNDS_PER_INTERVAL;
        if self.rounds.back().is_none_or(|(_, sent_at)| now.since(*sent_at) >= gap) {
            self.rounds.push_back((round, now));
        }
    }

    pub(super) fn canonical(&self, clock: Clock, newest: u64) -> impl Form {
        let Lease { rounds, is_void } = self;
        let rounds: Vec<_> = rounds.iter().map(|(round, at)| (newest.wrapping_sub(*round), clock.age(*at))).collect();
        (rounds, *is_void)
    }

    /// When `round` was sent, or an earlier time.
    fn sent_at(&self, round: u64) -> Option<Time> {
        self.rounds.iter().rev().find(|(recorded, _)| *recorded <= round).map(|(_, sent_at)| *sent_at)
    }
}

impl Raft {
    /// Promises the leader `to` to help elect nobody else; returns for how many nanoseconds.
    pub(super) fn promise(&mut self, to: NodeId) -> u64 {
        let lease = self.config.lease_duration;
        if lease.is_zero() {
            return 0;
        }
        self.promise = Promise { until: self.promise.until.max(self.now.plus(lease)), to: Some(to) };
        Time::ZERO.plus(lease).0
    }

    /// Whether a promise keeps this node from helping to elect `candidate`. Whoever got it has given its lease up when it campaigns.
    pub(super) fn has_promised_against(&self, candidate: NodeId) -> bool {
        let is_kept = self.now < self.promise.until && self.promise.to != Some(candidate);
        is_kept && !self.config.has_bug(Bug::BrokenPromise)
    }

    /// A peer echoed `round`, and promised something with it.
    pub(super) fn take_promise(&mut self, from: NodeId, round: u64, promise: u64) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(sent_at) = leader.lease.sent_at(round) else { return };
        // Nobody promises for long: what a peer says is not to overflow, nor to outlast its own clock.
        let promised = Duration::from_nanos(promise).min(self.config.election_timeout_max);
        let drift = if self.config.has_bug(Bug::LeaseWithoutDrift) { 0 } else { self.config.clock_drift_percent };
        let kept = promised * (100 - drift) / 100;
        let sent_at = if self.config.has_bug(Bug::LeaseFromAnswer) { self.now } else { sent_at };
        if let Some(peer) = leader.peer(from) {
            peer.promised_until = peer.promised_until.max(sent_at.plus(kept));
        }
    }

    /// Whether a majority of each half keeps others from being elected right now, and this leader knows everything that is committed.
    pub(super) fn has_lease(&self) -> bool {
        self.has_lease_at(self.now)
    }

    /// The same when the clock says `now`, for those who look from outside.
    #[doc(hidden)]
    pub fn has_lease_at(&self, now: Time) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let is_kept = leader.transfer.is_none() && !leader.lease.is_void;
        let is_possible =
            !self.config.lease_duration.is_zero() && (is_kept || self.config.has_bug(Bug::LeaseDuringTransfer));
        let until = || {
            self.quorum.reached(|id| match leader.peer_ref(id) {
                Some(peer) => peer.promised_until,
                None if id == self.config.id => Time(u64::MAX),
                None => Time::ZERO,
            })
        };
        is_possible && self.commit_index >= leader.term_start && now < until()
    }
}
