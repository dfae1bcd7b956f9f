//! Handing leadership over (C14; thesis §3.10), and preferring that others have it (C15).

use core::time::Duration;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
    election::Campaign,
};
use crate::{Body, Bug, Event, Index, MemberRole, NodeId, RejectReason, Time};

/// A handover that is under way.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    to: NodeId,
    /// When the leader gives up and goes on leading.
    deadline: Time,
    /// Whether the target was told to campaign.
    is_sent: bool,
}

impl Transfer {
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let Transfer { to, deadline, is_sent } = self;
        (*to, clock.is_armed(*deadline), *is_sent)
    }
}

impl Raft {
    /// Whether leadership is being handed over: proposals are refused meanwhile.
    pub fn is_transferring(&self) -> bool {
        matches!(&self.role, RoleState::Leader(leader) if leader.transfer.is_some())
    }

    pub(super) fn on_transfer(&mut self, to: Option<NodeId>) {
        if to.is_none() && self.quorum.is_sole(self.config.id) {
            // There is nobody to hand over to, and nothing that failed.
            return;
        }
        if self.is_transferring() {
            // The one that is under way ends by its own deadline.
            return;
        }
        let target = self.transfer_target(to);
        let RoleState::Leader(leader) = &mut self.role else { return };
        match target {
            Some(to) => {
                let deadline = self.now.plus(self.config.election_timeout_max);
                leader.transfer = Some(Transfer { to, deadline, is_sent: false });
            }
            None => self.outputs.events.push(Event::TransferAborted { to }),
        }
    }

    /// The voter that is to lead: the one asked for, or of those that answer the one whose log is furthest.
    fn transfer_target(&self, to: Option<NodeId>) -> Option<NodeId> {
        let RoleState::Leader(leader) = &self.role else { return None };
        let is_active = |contact: Time| self.now.since(contact) < self.config.election_timeout_min;
        let membership = self.log.membership().1;
        let stays = |id| membership.node(id).is_some_and(|node| node.role == MemberRole::Voter);
        let candidates = leader.peers.iter().filter(|peer| {
            let has_answered = peer.match_index > Index::ZERO && is_active(peer.contact);
            stays(peer.id) && has_answered && to.is_none_or(|to| to == peer.id)
        });
        candidates.max_by_key(|peer| peer.match_index).map(|peer| peer.id)
    }

    /// Tells the target to campaign as soon as it has the whole log.
    pub(super) fn settle_transfer(&mut self) {
        let last_index = self.log.last_index();
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(transfer) = &leader.transfer else { return };
        let to = transfer.to;
        let has_everything = leader.peer_ref(to).is_some_and(|peer| peer.match_index == last_index);
        if let Some(transfer) = &mut leader.transfer
            && has_everything
            && !transfer.is_sent
        {
            transfer.is_sent = true;
            leader.lease.make_void();
            self.send(to, Body::TimeoutNow);
        }
    }

    /// Gives up after the longest election timeout: the target may be down.
    pub(super) fn check_transfer(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(transfer) = leader.transfer.take_if(|transfer| self.now >= transfer.deadline) {
            self.outputs.events.push(Event::TransferAborted { to: Some(transfer.to) });
            if !self.log.membership().1.is_voter(self.config.id) {
                // It is not a member any more, and nobody took over: the others elect one of themselves.
                self.step_down(RejectReason::NotLeader { leader: None });
            }
        }
    }

    /// Only the leader of the current term may ask for this (C14).
    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        if self.following.leader == Some(from) && self.may_campaign() && !self.is_weakened() {
            self.become_candidate(Campaign::by_transfer());
            if self.config.has_bug(Bug::LeadWithoutElection) {
                self.become_leader();
            }
        }
    }

    /// Prefers for a while that others lead (C15); a leader asks somebody else once.
    pub(super) fn on_weaken(&mut self, duration: Duration) {
        let now = self.now;
        self.weakened_until = if duration.is_zero() { Time::ZERO } else { now.plus(duration) };
        if self.is_leader() {
            if self.is_weakened() {
                self.on_transfer(None);
            }
        } else {
            // A campaign that is under way goes on; the next one waits.
            self.reset_election_timer();
        }
    }

    /// Whether this node prefers that others lead.
    pub fn is_weakened(&self) -> bool {
        self.now < self.weakened_until
    }
}
