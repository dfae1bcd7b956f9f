//! What of a replica's state makes a difference: the canonical form that a model checker compares (C25).
//!
//! Left out are times, of which only what they have brought about so far counts, the seed, counters, events, and what follows from the rest.
//! Every part takes itself to pieces without `..`, so that a new field does not compile until somebody has decided whether it counts.

use alloc::vec::Vec;
use core::{fmt::Debug, hash::Hash, time::Duration};

use super::{Outputs, Raft, RoleState, promotion::ROUNDS_MAX, stand_in};
use crate::{Config, Entry, Index, Run, Term, Time};

/// Something that two states can be compared by.
pub(crate) trait Form: Eq + Hash + Debug {}

impl<T: Eq + Hash + Debug> Form for T {}

/// Looks at times: only what they have brought about counts.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    now: Time,
    /// The ages at which something happens.
    thresholds: [Duration; 7],
}

impl Clock {
    fn new(now: Time, config: &Config) -> Clock {
        let thresholds = [
            config.heartbeat_interval * 2,
            config.election_timeout_min,
            config.election_timeout_max,
            config.election_timeout_max * 2,
            config.election_timeout_max * stand_in::PATIENCE,
            config.promotion_timeout,
            config.promotion_timeout.saturating_mul(ROUNDS_MAX),
        ];
        Clock { now, thresholds }
    }

    /// How many of the limits on ages the time since `since` has reached.
    pub(super) fn age(self, since: Time) -> usize {
        let age = self.now.since(since);
        self.thresholds.iter().filter(|threshold| age >= **threshold).count()
    }

    /// Whether a timer is armed, rather than about to fire.
    pub(super) fn is_armed(self, deadline: Time) -> bool {
        self.now < deadline
    }
}

/// Entries without how they are divided into runs, which means nothing.
pub(crate) fn entries_of<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Vec<(Index, Term, &'a Entry)> {
    runs.into_iter().flat_map(|run| run.iter().map(|(index, entry)| (index, run.term(), entry))).collect()
}

impl Raft {
    /// What makes a difference to what this replica will do: two replicas with equal forms, of equal options, answer equal inputs with equal outputs, but for the names of tickets and questions, and for when their timers fire.
    ///
    /// Times count only as far as they have run out: forms are comparable as long as the driver's clock moves on by less than any limit of the options, or past all of them.
    /// Take the form when all outputs are polled; those that wait count by their number.
    /// The names that others gave to what they ask, of proposals, reads and questions of peers, stay as they are.
    pub fn canonical(&self) -> impl Eq + Hash + Debug {
        let Raft {
            config,
            // Random numbers only say when timers fire.
            rng: _,
            now,
            term,
            voted_for,
            commit_index,
            log,
            // Follows from the log.
            quorum: _,
            role,
            election_deadline,
            following,
            promise,
            weakened_until,
            // Of the reports to come, not of the protocol.
            reported_membership: _,
            persistence,
            repair,
            applying,
            stand_in,
            installing,
            reads,
            last_log_request,
            fatal,
            outputs,
        } = self;
        let clock = Clock::new(*now, config);
        let (role_number, campaign, leader) = match role {
            RoleState::Follower => (0, None, None),
            RoleState::PreCandidate(campaign) => (1, Some(campaign), None),
            RoleState::Candidate(campaign) => (2, Some(campaign), None),
            RoleState::Leader(leader) => (3, None, Some(leader)),
        };
        let is_armed = leader.is_none() && clock.is_armed(*election_deadline);
        let role = (
            role_number,
            campaign.map(|campaign| campaign.canonical()),
            leader.map(|leader| leader.canonical(clock, *last_log_request)),
        );
        let timers = (is_armed, promise.canonical(clock), clock.is_armed(*weakened_until));
        let vote = (config.id, *term, *voted_for, *commit_index, *fatal);
        let repair = repair.canonical(clock, *last_log_request);
        let parts = (following.canonical(clock), persistence.canonical(clock), repair, reads.canonical(clock));
        // Only where the state is behind somebody asks for how long there was no leader.
        let leaderless = self.is_state_behind().then(|| (stand_in.canonical(clock), clock.age(following.contact)));
        let state = (leaderless, applying.canonical(*last_log_request), installing.as_ref().map(|it| it.canonical()));
        (vote, log.canonical(), role, timers, parts, state, outputs.canonical())
    }

    /// Whether an answer to `round` of this leader in `term` would count for reads that wait: what else rounds are numbered for makes no difference.
    pub fn is_round_awaited(&self, term: Term, round: u64) -> bool {
        match &self.role {
            RoleState::Leader(leader) => term == self.term && leader.reads.is_awaited(round),
            _ => false,
        }
    }
}

impl Outputs {
    fn canonical(&self) -> impl Form {
        let Outputs { ready, results, events: _, reported: _, is_dirty } = self;
        (ready.len(), results.len(), *is_dirty)
    }
}
