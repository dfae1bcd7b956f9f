//! Deadlines. They pass only when time is handed in (C11).

use coracle_core::{Input as RaftInput, Time};

use super::Replica;

impl Replica {
    pub(super) fn on_time(&mut self) {
        self.tell_core(RaftInput::Time);
        self.expire_forwards();
        self.expire_waiting();
        self.expire_reads();
        self.check_transfers();
        self.retry_snapshot();
    }

    /// When there is something to do at the latest: for the core, or for a deadline of the replica's own.
    pub(super) fn wake(&self) -> Option<Time> {
        if self.is_stopped {
            return None;
        }
        [
            self.idle.and_then(|idle| idle.wake),
            self.forwarding.next_expiry(),
            self.waiting_deadline(),
            self.reads.waiting.front().map(|query| query.deadline),
            self.ready_deadline(),
            self.reads.retry_at.filter(|_| !self.reads.waiting.is_empty()),
            self.sending.next_deadline(),
            self.compaction.next_retry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
