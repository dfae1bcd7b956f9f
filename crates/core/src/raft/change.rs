//! Changing the membership (C16; Raft §6; thesis §4).
//!
//! A change goes through at most three entries. The first states the intent: new voters are learners to be promoted, old ones are marked as on the way out. Once the learners keep up, the second begins the joint configuration, and once that is committed, the third ends it. Each leader derives the next step from the log alone, and nothing can refuse it.

use alloc::vec::Vec;

use super::{Raft, RoleState, promotion::Step, proposals::Waiting};
use crate::{
    Bug, CallOff, CalledOff, Entry, EntryKind, Event, MemberRole, Membership, MembershipChange, NodeId, NodeRecord,
    ProposalId, RejectReason, Run,
};

/// The most bytes of a membership: it goes to every peer, past all other limits.
const BYTES_MAX: usize = 256 << 10;
/// How many of the changes that were called off last a leader tells.
const CALLED_OFF_MAX: usize = 16;
impl MembershipChange {
    /// Everybody who is to be in a group that has, or is on its way to, `membership`.
    fn target(self, membership: &Membership) -> Result<Vec<NodeRecord>, &'static str> {
        let mut target = membership.clone().left();
        for node in target.nodes.iter_mut().filter(|node| node.role == MemberRole::Promotable) {
            node.role = MemberRole::Voter;
        }
        let mut ids: Vec<NodeId> = self.set.iter().map(|node| node.id).chain(self.remove.iter().copied()).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("a node is named twice");
        }
        if self.remove.iter().any(|id| membership.node(*id).is_none()) {
            return Err("a node that is to go is no member");
        }
        target.nodes.retain(|node| ids.binary_search(&node.id).is_err());
        target.nodes.extend(self.set);
        Ok(target.nodes)
    }
}

impl Membership {
    /// What states the intent to make `change`.
    fn intent(&self, change: MembershipChange) -> Result<Membership, &'static str> {
        let mut named: Vec<NodeId> = change.set.iter().map(|node| node.id).chain(change.remove.clone()).collect();
        named.sort_unstable();
        let mut next = Membership::new(self.cluster, change.target(self)?);
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
        next.changes = self.changes_with(named);
        next.keep_waiting();
        if next.encode().len().max(next.joint().encode().len()) > BYTES_MAX {
            return Err("the records of the nodes take more than 256 KiB");
        }
        Ok(next)
    }

    /// What waits, by what was asked for together, once `named` are asked for: with whom they waited before they go on waiting.
    fn changes_with(&self, named: Vec<NodeId>) -> Vec<Vec<NodeId>> {
        let before = if self.changes.is_empty() { [self.waiting()].into() } else { self.changes.clone() };
        let is_apart = |change: &Vec<NodeId>| change.iter().all(|id| named.binary_search(id).is_err());
        let (mut apart, together): (Vec<_>, Vec<_>) = before.into_iter().partition(is_apart);
        let mut joined: Vec<NodeId> = together.into_iter().flatten().chain(named).collect();
        joined.sort_unstable();
        joined.dedup();
        apart.push(joined);
        apart
    }

    /// Forgets of `changes` who waits for nothing, and all of it when there are no two to tell apart.
    fn keep_waiting(&mut self) {
        let mut changes = core::mem::take(&mut self.changes);
        for change in &mut changes {
            change.retain(|id| self.node(*id).is_some_and(|node| node.role.is_waiting()));
        }
        changes.retain(|change| !change.is_empty());
        if changes.len() > 1 {
            self.changes = changes;
        }
    }

    /// Who waits for a change to be carried out, in order.
    fn waiting(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|node| node.role.is_waiting()).map(|node| node.id).collect()
    }

    /// Whose change stands or falls with that of `id`.
    fn together_with(&self, id: NodeId) -> Vec<NodeId> {
        self.changes.iter().find(|change| change.contains(&id)).cloned().unwrap_or_else(|| self.waiting())
    }

    /// Whether it states an intent that is not carried out.
    fn is_changing(&self) -> bool {
        self.nodes.iter().any(|node| node.role.is_waiting())
    }

    /// The joint configuration that carries the intent out.
    fn joint(&self) -> Membership {
        let mut next = self.clone();
        next.outgoing = self.voters().collect();
        next.changes.clear();
        for node in next.nodes.iter_mut().filter(|node| node.role == MemberRole::Promotable) {
            node.role = MemberRole::Voter;
        }
        next
    }

    /// What is left when the joint configuration ends.
    fn left(mut self) -> Membership {
        self.outgoing.clear();
        self.changes.clear();
        self.nodes.retain(|node| node.role != MemberRole::Retiring);
        for node in self.nodes.iter_mut().filter(|node| node.role == MemberRole::Demoting) {
            node.role = MemberRole::Learner;
        }
        self
    }

    /// The intent taken back for `ids`, which stay what they were.
    fn called_off(mut self, ids: &[NodeId]) -> Membership {
        for node in self.nodes.iter_mut().filter(|node| ids.contains(&node.id)) {
            node.role = match node.role {
                MemberRole::Promotable => MemberRole::Learner,
                MemberRole::Retiring | MemberRole::Demoting => MemberRole::Voter,
                role => role,
            };
        }
        self.keep_waiting();
        self
    }
}

impl Raft {
    pub(super) fn on_change_membership(&mut self, id: ProposalId, change: MembershipChange) {
        let RoleState::Leader(leader) = &self.role else {
            let leader = self.leader();
            return self.reject_proposals(id, 1, RejectReason::NotLeader { leader });
        };
        if self.persistence.is_full() {
            return self.reject_proposals(id, 1, RejectReason::NoSpace);
        }
        let (index, membership) = self.log.membership();
        let is_settled = index <= self.commit_index && self.commit_index >= leader.term_start;
        let is_moving = leader.transfer.is_some() || self.is_standing_in();
        let must_wait = !is_settled || membership.is_joint() || is_moving;
        if must_wait && !self.config.has_bug(Bug::TwoChangesAtOnce) {
            return self.reject_proposals(id, 1, RejectReason::ChangeInProgress);
        }
        match membership.intent(change) {
            Ok(next) => self.append_membership(&next, Some(id)),
            Err(why) => self.reject_proposals(id, 1, RejectReason::Membership { why }),
        }
    }

    /// Appends a membership, which is in force at once.
    fn append_membership(&mut self, membership: &Membership, waiting: Option<ProposalId>) {
        let first_index = self.log.last_index().next();
        let entry = Entry { kind: EntryKind::Membership, data: membership.encode() };
        if let RoleState::Leader(leader) = &mut self.role
            && (membership.is_joint() || !membership.is_changing())
        {
            leader.promotion = None;
        }
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
        let is_transferring = leader.transfer.is_some() && !self.config.has_bug(Bug::ChangeDuringTransfer);
        let is_moving = is_transferring || self.is_standing_in();
        if index > self.commit_index || self.commit_index < leader.term_start || is_moving {
            return;
        }
        if membership.is_joint() {
            let next = membership.clone().left();
            self.append_membership(&next, None);
        } else if !membership.is_voter(self.config.id) {
            self.hand_over_removed();
        } else if membership.is_changing() {
            let joint = membership.joint();
            match self.next_step_of_change(&joint) {
                Step::Wait => {}
                Step::Join => self.append_membership(&joint, None),
                Step::CallOff(reason) => self.call_off(reason),
            }
        }
    }

    /// Takes back what cannot be carried out, and what was asked for together with it: no voter leaves in the stead of a learner that does not come. What others asked for goes on.
    fn call_off(&mut self, reason: CallOff) {
        let membership = self.log.membership().1;
        let nodes = reason.node().map_or_else(|| membership.waiting(), |id| membership.together_with(id));
        let next = membership.clone().called_off(&nodes);
        self.append_membership(&next, None);
        let called_off = CalledOff { index: self.log.last_index(), reason, nodes };
        if let RoleState::Leader(leader) = &mut self.role {
            if leader.called_off.len() >= CALLED_OFF_MAX {
                leader.called_off.remove(0);
            }
            leader.called_off.push(called_off.clone());
        }
        self.outputs.events.push(Event::ChangeCalledOff(called_off));
    }

    /// A leader that is not a voter any more hands over, and without anybody to take over just stops leading.
    fn hand_over_removed(&mut self) {
        self.on_transfer(None);
        if !self.is_transferring() {
            self.step_down(RejectReason::NotLeader { leader: None });
        }
    }
}
