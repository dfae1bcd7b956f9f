//! What a follower does with a leader's messages (Raft §5.3).

use alloc::vec::Vec;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
};
use crate::{AppendResult, Body, Bug, Event, Fatal, Index, NodeId, Run, Term, Time};

/// What a follower knows of its leader.
#[derive(Clone, Debug)]
pub(super) struct Following {
    /// The leader of the current term, if known. Not this node.
    pub(super) leader: Option<NodeId>,
    /// Who led the current term and does not any more.
    resigned: Option<NodeId>,
    /// When a leader was last heard; at first, when this node started.
    pub(super) contact: Time,
    /// The highest index proven equal to this term's leader's log (C4). At least the commit index.
    pub(super) verified: Index,
    /// Whether the leader waits for an acknowledgement.
    is_ack_wanted: bool,
    /// The last index acknowledged to this term's leader.
    acked: Index,
}

impl Following {
    pub(super) fn new(commit_index: Index, contact: Time) -> Following {
        Following {
            leader: None,
            resigned: None,
            contact,
            verified: commit_index,
            is_ack_wanted: false,
            acked: Index::ZERO,
        }
    }

    pub(super) fn on_term_changed(&mut self, commit_index: Index) {
        *self = Following::new(commit_index, self.contact);
    }

    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let Following { leader, resigned, contact, verified, is_ack_wanted, acked } = self;
        // Without a leader nobody asks when it was heard.
        let age = leader.map(|_| clock.age(*contact));
        (*leader, *resigned, age, *verified, *is_ack_wanted, *acked)
    }
}

impl Raft {
    /// A leader that asks for pre-votes in its own term has lost it, by a restart or for want of a majority, and cannot lead it again.
    /// What it sent before may still be on its way, and is not to keep others from campaigning.
    pub(super) fn note_resignation(&mut self, from: NodeId, term: Term) {
        if term == self.term && self.following.leader == Some(from) {
            self.following.leader = None;
            self.following.resigned = Some(from);
        }
    }

    /// Takes the sender of a leader's message of this term for the leader; false when somebody else is.
    pub(super) fn follow(&mut self, from: NodeId) -> bool {
        match (&self.role, self.following.leader) {
            _ if self.following.resigned == Some(from) => return false,
            (RoleState::Leader(_), _) => {
                self.fault(from, "a second leader in one term");
                return false;
            }
            (_, Some(leader)) if leader != from => {
                self.fault(from, "a second leader in one term");
                return false;
            }
            _ => {}
        }
        self.role = RoleState::Follower;
        self.following.leader = Some(from);
        self.following.contact = self.now;
        self.reset_election_timer();
        true
    }

    pub(super) fn on_append_entries(
        &mut self,
        from: NodeId,
        prev_log_index: Index,
        prev_log_term: Term,
        leader_commit: Index,
        entries: Vec<Run>,
    ) {
        if let Some(fault) = self.fault_of_entries(prev_log_index, prev_log_term, &entries) {
            return self.fault(from, fault);
        }
        // What is committed is in every leader's log (Raft §5.4.3): no check before it can fail.
        if prev_log_index > self.commit_index && self.log.term_at(prev_log_index) != Some(prev_log_term) {
            return self.reject_entries(from, prev_log_index, prev_log_term);
        }
        let end = entries.last().map_or(prev_log_index, Run::last);
        self.take_missing(from, &entries);
        if !self.append_missing(entries) {
            return self.fault(from, "a membership that does not decode");
        }
        self.following.verified = self.following.verified.max(end);
        self.following.is_ack_wanted = true;
        self.learn_commit(leader_commit);
    }

    /// What no correct leader sends: gaps, falling terms, another history of what is committed.
    fn fault_of_entries(&self, prev: Index, prev_term: Term, entries: &[Run]) -> Option<&'static str> {
        if let Some(first) = entries.first() {
            let follows = entries.windows(2).all(|pair| pair[1].follows(&pair[0]));
            if first.first() != prev.next() || first.term() < prev_term || !follows {
                return Some("entries that do not follow each other");
            }
        }
        if entries.last().is_some_and(|run| run.term() > self.term || run.last() > Index::MAX) {
            return Some("entries of a later term, or out of range");
        }
        let base = self.log.base().index;
        let contradicts = |index: Index, term: Term| {
            index >= base && index <= self.commit_index && self.log.term_at(index) != Some(term)
        };
        // From the base on: its term is known, and what follows it is of no earlier one.
        let committed_part = |run: &Run| run.slice(base, self.commit_index);
        let contradicted = contradicts(prev, prev_term)
            || entries.iter().filter_map(committed_part).any(|run| self.log.first_difference(&run).is_some());
        contradicted.then_some("entries that contradict committed ones")
    }

    /// Appends what the log does not have; only where it has something else is it cut off (a shorter, delayed request cuts off nothing).
    /// False when an entry does not decode; those before it are there.
    fn append_missing(&mut self, entries: Vec<Run>) -> bool {
        let mut is_membership_changed = false;
        let mut is_whole = true;
        for run in entries {
            let Some(run) = run.into_slice(self.commit_index.next(), Index(u64::MAX)) else { continue };
            let cut = run.first() <= self.log.last_index() && self.config.has_bug(Bug::TruncateOnAppend);
            let difference = self.log.first_difference(&run).or(cut.then_some(run.first()));
            let Some(from) = difference else { continue };
            let membership = self.log.membership().0;
            if from <= self.log.last_index() {
                self.truncate(from);
                is_membership_changed |= membership >= from;
            }
            is_whole = run.into_slice(from, Index(u64::MAX)).is_none_or(|missing| self.log.append(missing).is_ok());
            is_membership_changed |= self.log.membership().0 != membership;
            if !is_whole {
                break;
            }
        }
        if is_membership_changed {
            self.on_membership_changed();
        }
        is_whole
    }

    /// Cuts off uncommitted entries.
    fn truncate(&mut self, from: Index) {
        assert!(from > self.commit_index, "committed entries stay");
        self.outputs.events.push(Event::Truncated { from, last: self.log.last_index() });
        self.log.truncate(from);
        self.persistence.on_truncated(from, self.config.has_bug(Bug::OldTicketAcknowledges));
        self.repair.on_truncated(from);
        self.following.verified = self.following.verified.min(from.prev());
    }

    /// Tells the leader where the logs may agree, skipping whole terms (Raft §5.3, last paragraphs).
    fn reject_entries(&mut self, from: NodeId, prev_log_index: Index, prev_log_term: Term) {
        let hint_index = self.log.agreement_at_most(prev_log_index.prev(), prev_log_term).max(self.commit_index);
        let hint_term = self.log.term_at(hint_index).unwrap_or_default();
        let result = AppendResult::Rejected { prev_log_index, hint_index, hint_term };
        let needs_snapshot = self.needs_snapshot();
        self.send(from, Body::AppendEntriesResponse { result, needs_snapshot });
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, round: u64, leader_commit: Index) {
        if leader_commit > self.log.last_index() {
            // The leader of this term knows from this node itself what its log holds: it has lost that (C20).
            let last_index = self.log.last_index();
            return self.stop(Fatal::LostLog { acknowledged: leader_commit, last_index });
        }
        // The leader says no more than this node acknowledged to it in this term, perhaps before a restart: so far the logs are equal.
        self.following.verified = self.following.verified.max(leader_commit);
        self.learn_commit(leader_commit);
        if round > 0 {
            let promise = self.promise(from);
            self.send(from, Body::HeartbeatResponse { round, promise });
            if self.needs_snapshot() {
                self.want_ack();
            }
        }
    }

    /// Commits what the leader has committed, as far as this log is known to equal the leader's (C4).
    pub(super) fn learn_commit(&mut self, leader_commit: Index) {
        if self.config.has_bug(Bug::CommitBeyondVerified) {
            self.following.verified = self.following.verified.max(leader_commit.min(self.log.last_index()));
        }
        self.commit_index = self.commit_index.max(leader_commit.min(self.following.verified));
        self.following.verified = self.following.verified.max(self.commit_index);
    }

    /// Asks for an acknowledgement of what is verified and durable.
    pub(super) fn want_ack(&mut self) {
        self.following.is_ack_wanted = true;
    }

    /// Acknowledges what is both verified and durable, as soon as it says something new (C4).
    pub(super) fn acknowledge(&mut self) {
        let Some(leader) = self.following.leader else { return };
        let verified = self.following.verified;
        let is_unwritten_enough = self.config.has_bug(Bug::AcknowledgeUnwritten);
        let index = if is_unwritten_enough { verified } else { verified.min(self.durable_index()) };
        if !self.following.is_ack_wanted || (index < verified && index <= self.following.acked) {
            return;
        }
        self.following.acked = index;
        self.following.is_ack_wanted = index < verified;
        let needs_snapshot = self.needs_snapshot();
        let result = AppendResult::Matched { index };
        self.send(leader, Body::AppendEntriesResponse { result, needs_snapshot });
    }
}
