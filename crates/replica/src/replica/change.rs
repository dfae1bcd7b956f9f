//! What operators ask for: other members, and a snapshot at once.

use coracle_core::{Index, Input as RaftInput, MembershipChange, ProposalId, RejectReason};

use super::{Replica, proposals::Origin};
use crate::{Reply, RequestError, RequestId};

/// Who waits for a snapshot.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// For the next one that is taken.
    next: Vec<RequestId>,
    /// For the one that is being taken.
    current: Vec<RequestId>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    /// Whether somebody waits for the one that is being taken.
    pub(super) fn is_served(&self) -> bool {
        !self.current.is_empty()
    }

    /// A snapshot is being taken that covers everything handed to the state machine so far.
    pub(super) fn begin(&mut self) {
        self.current.append(&mut self.next);
    }

    fn take_all(&mut self) -> Vec<RequestId> {
        self.begin();
        std::mem::take(&mut self.current)
    }
}

impl Replica {
    /// Only the leader changes the membership: elsewhere the request is rejected with a hint who that is.
    pub(super) fn on_change_membership(&mut self, request: RequestId, change: MembershipChange) {
        if !self.admit(request, 0) {
            return;
        }
        let id = ProposalId(self.proposals.push_change(Origin::Change(request)));
        self.tell_core(RaftInput::ChangeMembership { id, change });
    }

    /// The intent is committed: every leader carries it out by itself.
    pub(super) fn change_committed(&mut self, request: RequestId, index: Index) {
        self.finish(request, Ok(Reply { data: bytes::Bytes::new(), index }));
    }

    /// A snapshot of the state as it is, and the log cut below what of it is durable.
    pub(super) fn on_want_snapshot(&mut self, request: RequestId) {
        if !self.admit(request, 0) {
            return;
        }
        if self.is_behind_log() || self.handed_index() == Index::ZERO {
            return self.finish(request, Err(RequestError::Rejected(RejectReason::Busy)));
        }
        self.compaction.wanted.next.push(request);
        self.compaction.look_again();
    }

    /// The snapshot that was being taken is stored, and covers `index`.
    pub(super) fn answer_wanted(&mut self, index: Index) {
        for request in std::mem::take(&mut self.compaction.wanted.current) {
            self.finish(request, Ok(Reply { data: bytes::Bytes::new(), index }));
        }
    }

    pub(super) fn stop_wanted(&mut self) {
        self.refuse_wanted(RejectReason::Stopped);
    }

    /// Whoever asked for a snapshot gets none.
    pub(super) fn refuse_wanted(&mut self, reason: RejectReason) {
        for request in self.compaction.wanted.take_all() {
            self.finish(request, Err(RequestError::Rejected(reason)));
        }
    }
}
