//! Changing the membership (C16; Raft §6; thesis §4).
//!
//! A change goes through at most three entries. The first states the intent: new voters are learners to be promoted, old ones are marked as on the way out. Once the learners keep up, the second begins the joint configuration, and once that is committed, the third ends it. Each leader derives the next step from the log alone, and nothing can refuse it.

use alloc::vec::Vec;

use super::{Raft, RoleState, proposals::Waiting};
use crate::{Bug, Entry, EntryKind, Index, MemberRole, Membership, NodeRecord, ProposalId, RejectReason, Run};

/// The most bytes of a membership: it goes to every peer, past all other limits.
const BYTES_MAX: usize = 256 << 10;

impl Membership {
    /// What states the intent to become `target`.
    fn intent(&self, target: Vec<NodeRecord>) -> Result<Membership, &'static str> {
        let wished = target.len();
        let mut next = Membership::new(self.cluster, target);
        if next.nodes.len() != wished {
            return Err("a node is named twice");
        }
        if !next.nodes.iter().all(|node| matches!(node.role, MemberRole::Voter | MemberRole::Learner)) {
            return Err("a node is to be a voter or a learner");
        }
        if !next.nodes.iter().any(|node| node.role == MemberRole::Voter) {
            return Err("nobody would vote");
        }
        for node in &mut next.nodes {
            let known = self.node(node.id);
            if known.is_some_and(|known| known.incarnation != node.incarnation) {
                return Err("a node of this id is a member in another incarnation");
            }
            node.role = match (node.role, self.is_voter(node.id)) {
                (MemberRole::Voter, false) => MemberRole::Promotable,
                (MemberRole::Learner, true) => MemberRole::Demoting,
                (role, _) => role,
            };
        }
        for leaving in self.voters().filter_map(|id| self.node(id)) {
            if next.node(leaving.id).is_none() {
                next.nodes.push(NodeRecord { role: MemberRole::Retiring, ..leaving.clone() });
                next.nodes.sort_by_key(|node| node.id);
            }
        }
        if next.joint().encode().len() > BYTES_MAX {
            return Err("the records of the nodes take more than 256 KiB");
        }
        Ok(next)
    }

    /// Whether it states an intent that is not carried out.
    fn is_changing(&self) -> bool {
        let is_intent = |role| matches!(role, MemberRole::Promotable | MemberRole::Retiring | MemberRole::Demoting);
        self.nodes.iter().any(|node| is_intent(node.role))
    }

    /// The joint configuration that carries the intent out.
    fn joint(&self) -> Membership {
        let mut next = self.clone();
        next.outgoing = self.voters().collect();
        for node in next.nodes.iter_mut().filter(|node| node.role == MemberRole::Promotable) {
            node.role = MemberRole::Voter;
        }
        next
    }

    /// What is left when the joint configuration ends.
    fn left(&self) -> Membership {
        let mut next = self.clone();
        next.outgoing.clear();
        next.nodes.retain(|node| node.role != MemberRole::Retiring);
        for node in next.nodes.iter_mut().filter(|node| node.role == MemberRole::Demoting) {
            node.role = MemberRole::Learner;
        }
        next
    }
}

impl Raft {
    pub(super) fn on_change_membership(&mut self, id: ProposalId, nodes: Vec<NodeRecord>) {
        let RoleState::Leader(leader) = &self.role else {
            let leader = self.leader();
            return self.reject_proposals(id, 1, RejectReason::NotLeader { leader });
        };
        let (index, membership) = self.log.membership();
        let is_settled = index <= self.commit_index && self.commit_index >= leader.term_start;
        let must_wait = !is_settled || membership.is_joint() || leader.transfer.is_some();
        if must_wait && !self.config.has_bug(Bug::TwoChangesAtOnce) {
            return self.reject_proposals(id, 1, RejectReason::ChangeInProgress);
        }
        match membership.intent(nodes) {
            Ok(next) => self.append_membership(&next, Some(id)),
            Err(why) => self.reject_proposals(id, 1, RejectReason::Membership { why }),
        }
    }

    /// Appends a membership, which is in force at once.
    fn append_membership(&mut self, membership: &Membership, waiting: Option<ProposalId>) {
        let first_index = self.log.last_index().next();
        let entry = Entry { kind: EntryKind::Membership, data: membership.encode() };
        if let (RoleState::Leader(leader), Some(id)) = (&mut self.role, waiting) {
            leader.waiting.push_back(Waiting::one(id, first_index, entry.size()));
            leader.uncommitted_bytes += entry.size();
        }
        if self.log.append(Run::new(first_index, self.term, [entry])).is_err() {
            unreachable!("a membership of our own decodes");
        }
        self.on_membership_changed();
    }

    /// Takes the next step of a change, as the log tells it: no step while leadership moves, since the target has to have the whole log, no step while a membership is not committed, none before an entry of this term is (thesis §4.1, and Ongaro's correction to it).
    pub(super) fn settle_membership(&mut self) {
        let RoleState::Leader(leader) = &self.role else { return };
        let (index, membership) = self.log.membership();
        let is_moving = leader.transfer.is_some() && !self.config.has_bug(Bug::ChangeDuringTransfer);
        if index > self.commit_index || self.commit_index < leader.term_start || is_moving {
            return;
        }
        if membership.is_joint() {
            let next = membership.left();
            self.append_membership(&next, None);
        } else if !membership.is_voter(self.config.id) {
            self.hand_over_removed();
        } else if membership.is_changing() {
            let next = membership.joint();
            if self.can_carry(&next) {
                self.append_membership(&next, None);
            }
        }
    }

    /// A leader that is not a voter any more hands over, and without anybody to take over just stops leading.
    fn hand_over_removed(&mut self) {
        self.on_transfer(None);
        if !self.is_transferring() {
            self.step_down(RejectReason::NotLeader { leader: None });
        }
    }

    /// Whether everybody who is to be promoted keeps up, and a majority of the new voters is alive and keeps up.
    fn can_carry(&self, joint: &Membership) -> bool {
        let RoleState::Leader(leader) = &self.role else { return false };
        let keeps_up = |id| match leader.peer_ref(id) {
            Some(peer) => {
                let is_active = self.now.since(peer.contact) < self.config.election_timeout_min;
                is_active && peer.match_index >= leader.commit_at_heartbeat && peer.match_index > Index::ZERO
            }
            None => id == self.config.id,
        };
        let voters = joint.voters().count();
        let is_new = |id: &crate::NodeId| !joint.outgoing.contains(id);
        joint.voters().filter(is_new).all(keeps_up) && 2 * joint.voters().filter(|id| keeps_up(*id)).count() > voters
    }
}
