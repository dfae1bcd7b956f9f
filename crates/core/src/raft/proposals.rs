//! Proposals and their outcomes (C21).

use alloc::{sync::Arc, vec::Vec};

use bytes::Bytes;

use super::{Raft, RoleState, canonical::Form};
use crate::{Entry, Index, Outcome, Output, ProposalId, RejectReason, Run};

/// Consecutive proposals at consecutive indexes.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) first: ProposalId,
    pub(super) count: u32,
    first_index: Index,
    bytes: usize,
}

impl Waiting {
    pub(super) fn one(first: ProposalId, first_index: Index, bytes: usize) -> Waiting {
        Waiting { first, count: 1, first_index, bytes }
    }

    pub(super) fn canonical(&self) -> impl Form + use<> {
        let Waiting { first, count, first_index, bytes } = self;
        (*first, *count, *first_index, *bytes)
    }
}

impl Raft {
    pub(super) fn on_propose(&mut self, first: ProposalId, commands: Vec<Bytes>) {
        let count = commands.len() as u32;
        if count == 0 {
            return;
        }
        let is_transferring = self.is_transferring() || self.is_standing_in();
        let RoleState::Leader(leader) = &mut self.role else {
            let leader = self.leader();
            return self.reject_proposals(first, count, RejectReason::NotLeader { leader });
        };
        if is_transferring {
            return self.reject_proposals(first, count, RejectReason::NotLeader { leader: None });
        }
        if self.persistence.is_full() {
            return self.reject_proposals(first, count, RejectReason::NoSpace);
        }
        let entries: Arc<[Entry]> = commands.into_iter().map(Entry::command).collect();
        let bytes: usize = entries.iter().map(Entry::size).sum();
        if leader.unapplied_bytes >= self.config.unapplied_bytes_max {
            // The state machine is behind: what is proposed now would only make it later.
            return self.reject_proposals(first, count, RejectReason::Busy);
        }
        if leader.uncommitted_bytes > 0 && leader.uncommitted_bytes + bytes > self.config.uncommitted_bytes_max {
            return self.reject_proposals(first, count, RejectReason::Busy);
        }
        let first_index = self.log.last_index().next();
        leader.uncommitted_bytes += bytes;
        leader.waiting.push_back(Waiting { first, count, first_index, bytes });
        if self.log.append(Run::new(first_index, self.term, entries)).is_err() {
            unreachable!("a command holds no membership");
        }
    }

    /// Ends the proposals that are committed.
    pub(super) fn finish_proposals(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        while let Some(waiting) = leader.waiting.front_mut()
            && waiting.first_index <= self.commit_index
        {
            let committed = self.commit_index.0 - waiting.first_index.0 + 1;
            let count = committed.min(u64::from(waiting.count)) as u32;
            let outcome = Outcome::Committed { first_index: waiting.first_index };
            self.outputs.results.push(Output::Done { first: waiting.first, count, outcome });
            // A part counts its share of the bytes; the last part takes what is left.
            let bytes = waiting.bytes / waiting.count as usize * count as usize;
            let bytes = if count == waiting.count { waiting.bytes } else { bytes };
            leader.uncommitted_bytes -= bytes;
            leader.unapplied_bytes += bytes;
            leader.unapplied.push_back((waiting.first_index.plus(u64::from(count) - 1), bytes));
            waiting.bytes -= bytes;
            waiting.first.0 += u64::from(count);
            waiting.first_index = waiting.first_index.plus(u64::from(count));
            waiting.count -= count;
            if waiting.count == 0 {
                leader.waiting.pop_front();
            }
        }
    }
}
