//! The order of outputs, and when to wake (C10).

use super::{Raft, RoleState, transfer::Transfer};
use crate::{Bug, Event, Output, Time, quorum::Quorum};

impl Raft {
    /// What is to be done next; [`Output::Wake`] when there is nothing until there is more input.
    pub fn poll(&mut self) -> Output {
        if self.outputs.ready.is_empty() && self.outputs.is_dirty {
            self.settle();
        }
        match self.outputs.ready.pop_front() {
            Some(output) => output,
            None => Output::Wake { at: self.wake_at() },
        }
    }

    /// Computes what follows from everything that was handed in: sends that need no disk, the write, acknowledgements, results and reads, what to apply, events.
    fn settle(&mut self) {
        self.outputs.is_dirty = false;
        if self.fatal.is_none() {
            self.settle_damage();
            self.request_votes_when_durable();
            if self.config.has_bug(Bug::ChangeAtCommit) {
                self.quorum = Quorum::new(self.log.membership_at(self.commit_index).1);
            }
            self.advance_commit();
            self.settle_membership();
            self.settle_leader_reads();
            self.settle_follower_reads();
            self.replicate();
            self.settle_stand_in();
            self.settle_transfer();
            self.settle_repair();
            if let Some(persist) = self.next_write() {
                self.outputs.ready.push_back(Output::Persist(persist));
            }
            self.release_withheld();
            self.acknowledge();
        }
        if !self.outputs.results.is_empty() {
            self.outputs.ready.extend(self.outputs.results.drain(..));
        }
        if self.fatal.is_none() {
            self.settle_apply();
            self.settle_install();
        }
        self.report_role();
        self.report_membership();
        if !self.outputs.events.is_empty() {
            self.outputs.ready.extend(self.outputs.events.drain(..).map(Output::Event));
        }
        self.check_invariants();
    }

    fn report_role(&mut self) {
        let current = (self.role(), self.term, self.leader());
        if self.outputs.reported != Some(current) {
            self.outputs.reported = Some(current);
            let (role, term, leader) = current;
            self.outputs.events.push(Event::Role { role, term, leader });
        }
    }

    fn report_membership(&mut self) {
        let index = self.log.membership_at(self.commit_index).0;
        if index > self.reported_membership {
            self.reported_membership = index;
            self.outputs.events.push(Event::MembershipCommitted { index });
        }
    }

    fn wake_at(&self) -> Option<Time> {
        if self.fatal.is_some() {
            return None;
        }
        let role = match &self.role {
            RoleState::Leader(leader) => {
                let transfer = leader.transfer.as_ref().map_or(leader.quorum_deadline, Transfer::deadline);
                leader.heartbeat_deadline.min(leader.quorum_deadline).min(transfer)
            }
            _ => self.election_deadline,
        };
        [Some(role), self.disk_deadline(), self.read_deadline(), self.repair.deadline()].into_iter().flatten().min()
    }

    /// What holds whenever outputs have been computed (I16).
    fn check_invariants(&self) {
        let base = self.log.base().index;
        assert!(self.commit_index <= self.log.last_index(), "what is committed is in the log");
        assert!(base <= self.commit_index, "what is compacted is committed");
        assert!(self.applying.flushed <= self.applying.applied, "what is flushed is applied");
        assert!(self.applying.applied <= self.commit_index, "what is applied is committed");
        assert!(!self.is_leader() || !self.is_repairing(), "nobody leads with a damaged log");
        #[cfg(not(feature = "bugs"))]
        debug_assert!(self.quorum.is_of(self.log.membership().1), "who decides is who the log says");
        if let RoleState::Leader(leader) = &self.role {
            debug_assert!(leader.peers.iter().all(|peer| peer.match_index < peer.next_index));
            debug_assert!(leader.peers.iter().all(|peer| peer.match_index <= self.log.last_index()));
        }
    }
}
