//! Leading without the state, only to hand over (C7, C19).
//!
//! A node whose state is behind its log's start cannot serve, and so does not campaign. But where no majority can be made without it, and its log is the longest, nobody else is elected either, and the snapshot that it waits for never comes. Then it is elected after all, brings the log of somebody who has the state to where its own is, and hands over to that one; it takes no proposals, answers no reads, and sends no snapshots meanwhile.

use alloc::vec::Vec;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
};
use crate::{Index, MemberRole, NodeId, Output, RejectReason, Time};

/// For how many of the longest election timeouts there has been no leader before a node stands in, whoever can serve goes first; and for how many it does so.
pub(super) const PATIENCE: u32 = 4;

/// What a node that stands in remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct StandIn {
    /// Who was asked, since all were.
    asked: Vec<NodeId>,
    /// When it gives up in this term.
    deadline: Time,
}

impl StandIn {
    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let StandIn { asked, deadline } = self;
        (asked.clone(), clock.is_armed(*deadline))
    }
}

impl Raft {
    /// Whether the state is behind the log's start.
    pub(super) fn is_state_behind(&self) -> bool {
        self.applying.applied < self.log.base().index
    }

    /// Whether this node leads without the state that belongs to its log: only to hand over.
    pub fn is_standing_in(&self) -> bool {
        self.is_leader() && self.is_state_behind()
    }

    /// Whether nobody has led for so long that nobody else can.
    pub(super) fn is_to_stand_in(&self) -> bool {
        let patience = self.config.election_timeout_max * PATIENCE;
        self.is_state_behind()
            && self.may_campaign_at_all()
            && !self.quorum.is_sole(self.config.id)
            && self.now.since(self.following.contact) >= patience
    }

    /// This node has been elected.
    pub(super) fn begin_to_stand_in(&mut self) {
        self.stand_in.asked.clear();
        self.stand_in.deadline = self.now.plus(self.config.election_timeout_max * PATIENCE);
    }

    /// Hands over to one voter after the other, and gives up when none takes over.
    pub(super) fn settle_stand_in(&mut self) {
        if !self.is_standing_in() {
            return;
        }
        self.refuse_snapshots();
        if self.is_transferring() {
            return;
        }
        if self.now >= self.stand_in.deadline {
            return self.step_down(RejectReason::NotLeader { leader: None });
        }
        if self.successor().is_none() {
            self.stand_in.asked.clear();
        }
        if let Some(to) = self.successor() {
            self.stand_in.asked.push(to);
            self.on_transfer(Some(to));
        }
    }

    /// Whoever needs a snapshot is asked again what it has, until somebody leads who can send one.
    fn refuse_snapshots(&mut self) {
        let mut refused = Vec::new();
        self.outputs.results.retain(|output| match output {
            Output::SendSnapshot { peer } => {
                refused.push(*peer);
                false
            }
            _ => true,
        });
        for peer in refused {
            self.on_snapshot_send_failed(peer);
        }
    }

    /// Who has not been asked yet, of those that answer the one whose log is furthest.
    fn successor(&self) -> Option<NodeId> {
        let RoleState::Leader(leader) = &self.role else { return None };
        let membership = self.log.membership().1;
        let candidates = leader.peers.iter().filter(|peer| {
            let stays = membership.node(peer.id).is_some_and(|node| node.role == MemberRole::Voter);
            let has_answered = peer.match_index >= self.log.base().index && peer.match_index > Index::ZERO;
            let is_willing = stays && has_answered && !peer.is_installing();
            is_willing && self.now.since(peer.contact) < self.config.election_timeout_min
        });
        let not_asked = candidates.filter(|peer| !self.stand_in.asked.contains(&peer.id));
        not_asked.max_by_key(|peer| peer.match_index).map(|peer| peer.id)
    }
}
