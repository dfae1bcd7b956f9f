//! Whether a change of voters can take its next step, and when it cannot any more (C16; thesis §4.2.1).

use alloc::vec::Vec;
use core::time::Duration;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
    replication::Peer,
};
use crate::{CallOff, Config, Index, Membership, NodeId, Time};

/// In how many rounds a learner has to catch up (thesis §4.2.1).
pub(super) const ROUNDS_MAX: u32 = 10;

/// What a change of voters waits for; kept for as long as one waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Promotion {
    /// Who is to be promoted.
    learners: Vec<Learner>,
    /// Since when everybody who is to be promoted has caught up, and no majority of those who would vote is alive.
    blocked_since: Option<Time>,
}

/// How a learner catches up: in a round it replicates what the log held when it began.
#[derive(Clone, Debug)]
struct Learner {
    id: NodeId,
    /// Since when this leader waits for it: a silence from before is no reason to give it up.
    since: Time,
    /// When it came nearer for the last time.
    progressed_at: Time,
    match_index: Index,
    /// The snapshot that was being sent to it last, by what it covers, and how much of it has arrived.
    transfer: Option<(Index, u64)>,
    /// What has to be replicated in this round.
    target: Index,
    began: Time,
    /// Whether the last round was as short as an election timeout.
    is_near: bool,
    /// How many rounds in a row took longer, and transfers began anew meanwhile.
    slow_rounds: u32,
}

/// What a change of voters can do next.
pub(super) enum Step {
    Wait,
    Join,
    CallOff(CallOff),
}

impl Promotion {
    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let Promotion { learners, blocked_since } = self;
        let learners: Vec<_> = learners.iter().map(|learner| learner.canonical(clock)).collect();
        (learners, blocked_since.map(|since| clock.age(since)))
    }

    /// A piece of a snapshot has arrived at a learner, which has all bytes before `offset`.
    pub(super) fn on_received(&mut self, id: NodeId, offset: u64, now: Time) {
        if let Some(learner) = self.learners.iter_mut().find(|learner| learner.id == id)
            && let Some((_, received)) = &mut learner.transfer
            && *received < offset
        {
            *received = offset;
            learner.progressed_at = now;
        }
    }
}

impl Learner {
    fn new(id: NodeId, target: Index, now: Time) -> Learner {
        Learner {
            id,
            since: now,
            progressed_at: now,
            match_index: Index::ZERO,
            transfer: None,
            target,
            began: now,
            is_near: false,
            slow_rounds: 0,
        }
    }

    fn canonical(&self, clock: Clock) -> impl Form + use<> {
        let Learner { id, since, progressed_at, match_index, transfer, target, began, is_near, slow_rounds } = self;
        let times = (clock.age(*since), clock.age(*progressed_at), clock.age(*began));
        (*id, times, *match_index, *transfer, *target, *is_near, *slow_rounds)
    }

    /// Looks at how far it is.
    fn observe(&mut self, peer: &Peer, last_index: Index, round_max: Duration, now: Time) {
        if peer.match_index > self.match_index {
            self.match_index = peer.match_index;
            self.progressed_at = now;
        }
        if let Some(covers) = peer.installing_index()
            && self.transfer.is_none_or(|(known, _)| known != covers)
        {
            self.slow_rounds += u32::from(self.transfer.is_some());
            self.transfer = Some((covers, 0));
            self.progressed_at = now;
        }
        if self.match_index >= self.target {
            self.is_near = now.since(self.began) < round_max;
            self.slow_rounds = if self.is_near { 0 } else { self.slow_rounds + 1 };
            (self.target, self.began, self.progressed_at) = (last_index, now, now);
        }
    }

    /// Whether it lags by less than an election timeout, as far as is known.
    fn is_ready(&self, round_max: Duration, now: Time) -> bool {
        self.is_near && now.since(self.began) < round_max
    }

    /// Why it is waited for no longer.
    fn verdict(&self, peer: &Peer, config: &Config, now: Time) -> Option<CallOff> {
        let (node, patience) = (self.id, config.promotion_timeout);
        // A snapshot that it waits for is this leader's to make.
        let is_ours = peer.is_installing() && peer.installing_index().is_none();
        let idle_max = if is_ours { patience.saturating_mul(ROUNDS_MAX) } else { patience };
        if now.since(peer.contact.max(self.since)) >= patience {
            Some(CallOff::Silent { node })
        } else if now.since(self.progressed_at) >= idle_max {
            Some(CallOff::Stalled { node })
        } else {
            (self.slow_rounds >= ROUNDS_MAX).then_some(CallOff::TooSlow { node })
        }
    }
}

impl Raft {
    /// Joint consensus begins when everybody who is to be promoted has caught up, and a majority of the new voters is alive and keeps up.
    /// What does not come to that has an end: a learner is not heard of, or does not come nearer, for too long, or does not catch up in so many rounds; or no majority of the new voters is alive for too long.
    pub(super) fn next_step_of_change(&mut self, joint: &Membership) -> Step {
        let is_alive = self.is_majority_alive(joint);
        let (now, last_index, config) = (self.now, self.log.last_index(), &self.config);
        let round_max = config.election_timeout_min;
        let RoleState::Leader(leader) = &mut self.role else { return Step::Wait };
        let promotion = leader.promotion.get_or_insert_default();
        let is_new = |id: &NodeId| !joint.outgoing.contains(id);
        promotion.learners.retain(|learner| joint.voters().any(|id| id == learner.id));
        for id in joint.voters().filter(is_new) {
            if promotion.learners.iter().all(|learner| learner.id != id) {
                promotion.learners.push(Learner::new(id, last_index, now));
            }
        }
        for learner in &mut promotion.learners {
            let Some(peer) = leader.peers.iter().find(|peer| peer.id == learner.id) else { continue };
            learner.observe(peer, last_index, round_max, now);
            if let Some(reason) = learner.verdict(peer, config, now) {
                return Step::CallOff(reason);
            }
        }
        if promotion.learners.iter().any(|learner| !learner.is_near) {
            promotion.blocked_since = None;
        }
        if !promotion.learners.iter().all(|learner| learner.is_ready(round_max, now)) {
            return Step::Wait;
        }
        let blocked_since = *promotion.blocked_since.get_or_insert(now);
        match now.since(blocked_since) >= config.promotion_timeout {
            _ if is_alive => Step::Join,
            true => Step::CallOff(CallOff::NoMajority),
            false => Step::Wait,
        }
    }

    /// Whether a majority of the new voters answers and keeps up.
    fn is_majority_alive(&self, joint: &Membership) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let keeps_up = |id| match leader.peer_ref(id) {
            Some(peer) => {
                let is_active = self.now.since(peer.contact) < self.config.election_timeout_min;
                is_active && peer.match_index >= leader.commit_at_heartbeat && peer.match_index > Index::ZERO
            }
            None => id == self.config.id,
        };
        2 * joint.voters().filter(|id| keeps_up(*id)).count() > joint.voters().count()
    }

    /// A peer says how much of a snapshot it has.
    pub(super) fn note_received(&mut self, from: NodeId, offset: u64) {
        let now = self.now;
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(promotion) = &mut leader.promotion
        {
            promotion.on_received(from, offset, now);
        }
    }
}
