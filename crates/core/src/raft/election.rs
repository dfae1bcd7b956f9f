//! Campaigns and votes (Raft §5.2, §5.4.1; thesis §9.6).

use alloc::vec::Vec;

use super::{Raft, RoleState, canonical::Form};
use crate::{Body, Bug, Index, NodeId, Term, quorum::Tally};

/// The answers to a campaign.
#[derive(Clone, Debug, Default)]
pub(super) struct Campaign {
    /// One per voter.
    votes: Vec<(NodeId, bool)>,
    /// Whether the leader asked for it (C14).
    pub(super) is_transfer: bool,
    /// Whether the requests have left; a candidate's wait for the disk (C5).
    pub(super) is_requested: bool,
}

impl Campaign {
    /// A campaign that the leader asked for.
    pub(super) fn by_transfer() -> Campaign {
        Campaign { is_transfer: true, ..Campaign::default() }
    }

    /// Notes the first answer of a voter; later ones change nothing.
    pub(super) fn record(&mut self, voter: NodeId, granted: bool) {
        if self.vote_of(voter).is_none() {
            self.votes.push((voter, granted));
        }
    }

    pub(super) fn canonical(&self) -> impl Form {
        let Campaign { votes, is_transfer, is_requested } = self;
        let mut votes = votes.clone();
        votes.sort_unstable();
        (votes, *is_transfer, *is_requested)
    }

    fn vote_of(&self, voter: NodeId) -> Option<bool> {
        self.votes.iter().find(|(id, _)| *id == voter).map(|(_, granted)| *granted)
    }
}

impl Raft {
    pub(super) fn reset_election_timer(&mut self) {
        let timeout = self.rng.duration(self.config.election_timeout_min, self.config.election_timeout_max);
        // A weakened node lets the others go first; should nobody be elected, it campaigns all the same.
        let courtesy = self.weakened_until.since(self.now).min(self.config.election_timeout_max * 3);
        self.election_deadline = self.now.plus(timeout).plus(courtesy);
    }

    pub(super) fn on_election_timeout(&mut self) {
        self.reset_election_timer();
        self.following.leader = None;
        if !self.may_campaign() && !self.is_to_stand_in() {
            self.role = RoleState::Follower;
            return;
        }
        if self.config.has_bug(Bug::PreVoteRaisesTerm) {
            self.enter_term(self.term.next());
        }
        let mut campaign = Campaign::default();
        campaign.record(self.config.id, true);
        self.role = RoleState::PreCandidate(campaign);
        let next_term = self.term.next();
        let (last_log_index, last_log_term) = (self.log.last_index(), self.log.last_term());
        let peers: Vec<NodeId> = self.quorum.voters().filter(|id| *id != self.config.id).collect();
        for to in peers {
            let body = Body::PreVote { next_term, last_log_index, last_log_term };
            // It asserts nothing that must be durable.
            self.send_at_once(to, body);
        }
        self.count_pre_votes();
    }

    /// Whether this node hears a leader, or is one, other than `candidate` (C15).
    pub(super) fn is_sticky_against(&self, candidate: NodeId) -> bool {
        match self.role {
            RoleState::Leader(_) => true,
            _ => {
                self.following.leader.is_some_and(|leader| leader != candidate)
                    && self.now.since(self.following.contact) < self.config.election_timeout_min
                    && !self.config.has_bug(Bug::BrokenPromise)
            }
        }
    }

    /// Whether a log that ends like this is at least as up-to-date as this one (Raft §5.4.1).
    fn is_up_to_date(&self, last_log_index: Index, last_log_term: Term) -> bool {
        (last_log_term, last_log_index) >= (self.log.last_term(), self.log.last_index())
            || self.config.has_bug(Bug::VoteForOlderLog)
    }

    /// Answers without changing or persisting anything.
    pub(super) fn on_pre_vote(&mut self, from: NodeId, next_term: Term, last_log_index: Index, last_log_term: Term) {
        let granted = next_term > self.term
            && !self.is_sticky_against(from)
            && !self.has_promised_against(from)
            && !self.is_repairing()
            && self.is_up_to_date(last_log_index, last_log_term);
        let body = Body::PreVoteResponse { next_term, granted };
        if granted {
            self.send_at_once(from, body);
        } else {
            // A refusal tells the sender this term, which it may adopt: that must be durable.
            self.send(from, body);
        }
    }

    pub(super) fn on_pre_vote_response(&mut self, from: NodeId, next_term: Term, granted: bool) {
        let RoleState::PreCandidate(campaign) = &mut self.role else { return };
        if next_term == self.term.next() {
            campaign.record(from, granted);
            self.count_pre_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        let RoleState::PreCandidate(campaign) = &self.role else { return };
        match self.quorum.tally(|id| campaign.vote_of(id)) {
            Tally::Won => self.become_candidate(Campaign::default()),
            Tally::Lost => self.role = RoleState::Follower,
            Tally::Open => {}
        }
    }

    pub(super) fn become_candidate(&mut self, campaign: Campaign) {
        self.enter_term(self.term.next());
        self.voted_for = Some(self.config.id);
        self.persistence.on_voted();
        self.following.leader = None;
        self.role = RoleState::Candidate(campaign);
        self.reset_election_timer();
    }

    pub(super) fn on_request_vote(
        &mut self,
        from: NodeId,
        last_log_index: Index,
        last_log_term: Term,
        is_transfer: bool,
    ) {
        let is_free = match self.voted_for {
            Some(voted_for) => voted_for == from,
            // A leader that asks for the campaign has no lease any more.
            None => self.leader().is_none() && (is_transfer || !self.has_promised_against(from)),
        };
        let granted = is_free && !self.is_repairing() && self.is_up_to_date(last_log_index, last_log_term);
        if granted {
            if self.voted_for.is_none() {
                self.voted_for = Some(from);
                self.persistence.on_voted();
            }
            self.reset_election_timer();
        }
        self.send(from, Body::RequestVoteResponse { granted });
    }

    pub(super) fn on_request_vote_response(&mut self, from: NodeId, granted: bool) {
        let RoleState::Candidate(campaign) = &mut self.role else { return };
        if campaign.is_requested {
            if self.config.has_bug(Bug::VoteCountedTwice) {
                campaign.votes.push((from, granted));
                let grants = campaign.votes.iter().filter(|(_, granted)| *granted).count();
                if 2 * grants > self.quorum.voters().count() {
                    return self.become_leader();
                }
            }
            campaign.record(from, granted);
            self.count_votes();
        }
    }

    pub(super) fn count_votes(&mut self) {
        let RoleState::Candidate(campaign) = &self.role else { return };
        match self.quorum.tally(|id| campaign.vote_of(id)) {
            Tally::Won => self.become_leader(),
            Tally::Lost => self.role = RoleState::Follower,
            Tally::Open => {}
        }
    }

    /// Moves to a later term, in which nobody has this node's vote yet.
    pub(super) fn enter_term(&mut self, term: Term) {
        assert!(term > self.term, "terms only grow");
        self.term = term;
        self.voted_for = None;
        self.persistence.on_term_changed();
        self.following.on_term_changed(self.commit_index);
    }

    /// Follows whoever leads in a later term.
    pub(super) fn become_follower(&mut self, term: Term) {
        self.step_down(crate::RejectReason::NotLeader { leader: None });
        self.enter_term(term);
    }
}
