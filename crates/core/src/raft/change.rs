//! Changing the membership (C16; Raft §6; thesis §4).
//!
//! A change goes through at most three entries. The first states the intent: new voters are learners to be promoted, old ones are marked as on the way out. Once the learners keep up, the second begins the joint configuration, and once that is committed, the third ends it. Each leader derives the next step from the log alone, and nothing can refuse it.

use alloc::vec::Vec;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
    proposals::Waiting,
};
use crate::{
    Bug, Entry, EntryKind, Event, Index, MemberRole, Membership, MembershipChange, NodeId, NodeRecord, ProposalId,
    RejectReason, Run, Time,
};

/// The most bytes of a membership: it goes to every peer, past all other limits.
const BYTES_MAX: usize = 256 << 10;
/// In how many rounds learners have to catch up (thesis §4.2.1).
const ROUNDS_MAX: u32 = 10;

/// How the learners that are to be promoted catch up: in a round they replicate what the log held when it began (thesis §4.2.1).
#[derive(Clone, Debug)]
pub(super) struct Promotion {
    /// The entry that states the intent.
    intent: Index,
    /// Since when this leader waits: a silence from before the intent is no reason to give it up.
    since: Time,
    /// How many rounds took too long.
    slow_rounds: u32,
    /// What has to be replicated in this round.
    target: Index,
    began: Time,
}

impl Promotion {
    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let Promotion { intent, since, slow_rounds, target, began } = self;
        (*intent, clock.age(*since), *slow_rounds, *target, clock.age(*began))
    }
}

/// What a change of voters can do next.
enum Step {
    Wait,
    Join,
    CallOff,
}

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
    fn left(mut self) -> Membership {
        self.outgoing.clear();
        self.nodes.retain(|node| node.role != MemberRole::Retiring);
        for node in self.nodes.iter_mut().filter(|node| node.role == MemberRole::Demoting) {
            node.role = MemberRole::Learner;
        }
        self
    }

    /// The intent taken back: everybody stays what it was.
    fn called_off(mut self) -> Membership {
        for node in &mut self.nodes {
            node.role = match node.role {
                MemberRole::Promotable => MemberRole::Learner,
                MemberRole::Retiring | MemberRole::Demoting => MemberRole::Voter,
                role => role,
            };
        }
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
        let must_wait = !is_settled || membership.is_joint() || leader.transfer.is_some();
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
            let next = membership.clone().left();
            self.append_membership(&next, None);
        } else if !membership.is_voter(self.config.id) {
            self.hand_over_removed();
        } else if membership.is_changing() {
            let joint = membership.joint();
            match self.next_step_of_change(index, &joint) {
                Step::Wait => {}
                Step::Join => self.append_membership(&joint, None),
                Step::CallOff => {
                    let called_off = self.log.membership().1.clone().called_off();
                    self.append_membership(&called_off, None);
                    let index = self.log.last_index();
                    self.outputs.events.push(Event::ChangeCalledOff { index });
                }
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

    /// Joint consensus begins when everybody who is to be promoted has caught up, and a majority of the new voters is alive and keeps up.
    /// The change is called off when a learner is not heard of for long, or does not catch up in so many rounds.
    fn next_step_of_change(&mut self, intent: Index, joint: &Membership) -> Step {
        let now = self.now;
        let last_index = self.log.last_index();
        let RoleState::Leader(leader) = &mut self.role else { return Step::Wait };
        let is_new = |id: &NodeId| !joint.outgoing.contains(id);
        let peer_of = |id: NodeId| leader.peers.iter().find(|peer| peer.id == id);
        let contact = joint.voters().filter(is_new).filter_map(peer_of).map(|peer| peer.contact).min();
        let replicated = joint.voters().filter(is_new).filter_map(peer_of).map(|peer| peer.match_index).min();
        if let (Some(contact), Some(replicated)) = (contact, replicated) {
            let begin = |since, slow_rounds| Promotion { intent, since, slow_rounds, target: last_index, began: now };
            let promotion = match leader.promotion.take().filter(|promotion| promotion.intent == intent) {
                None => leader.promotion.insert(begin(now, 0)),
                Some(promotion) => leader.promotion.insert(promotion),
            };
            if now.since(contact.max(promotion.since)) >= self.config.promotion_timeout {
                return Step::CallOff;
            }
            if replicated < promotion.target {
                return Step::Wait;
            }
            let is_slow = now.since(promotion.began) >= self.config.election_timeout_min;
            *promotion = begin(promotion.since, promotion.slow_rounds + u32::from(is_slow));
            if promotion.slow_rounds >= ROUNDS_MAX {
                return Step::CallOff;
            }
            if is_slow || replicated == Index::ZERO {
                return Step::Wait;
            }
        }
        if self.is_majority_alive(joint) { Step::Join } else { Step::Wait }
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
}
