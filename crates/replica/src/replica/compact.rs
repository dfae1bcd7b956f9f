//! When the log is cut, and when snapshots are taken.

use coracle_core::{Bug, Index, Input as RaftInput, RejectReason, SnapshotMeta, Time};
use coracle_storage::Applied;

use super::{Replica, change::Wanted};
use crate::{Effect, Start, StateEffect, log_size::LogSize};

/// While a snapshot is on its way to a peer, the log may grow to so many times its limits before another one replaces it.
const TRANSFER_FACTOR: u64 = 4;
/// After a compaction the log grows by this part of its limits before the next is tried, so that one that could do nothing is not repeated at once.
const PACE: u64 = 8;

/// What is retained, and what is being done about it.
#[derive(Debug)]
pub(super) struct Compaction {
    /// The size of the log.
    pub(super) log: LogSize,
    /// The last index that is compacted away.
    pub(super) base_index: Index,
    /// The newest stored snapshot.
    pub(super) newest: Option<SnapshotMeta>,
    /// Whether the state machine makes its state durable itself.
    is_durable: bool,
    /// Who asked for a snapshot.
    pub(super) wanted: Wanted,
    /// What is under way.
    doing: Doing,
    /// Something changed since the limits were last looked at.
    is_due: bool,
    /// Where the last compaction was tried: the applied index, and what the log had ever taken.
    tried: (Index, u64),
    /// There was no space for a snapshot: none is taken before.
    retry_at: Option<Time>,
}

/// One at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Nothing,
    Flushing,
    TakingSnapshot,
}

impl Compaction {
    pub(super) fn new(start: &Start) -> Compaction {
        Compaction {
            log: LogSize::new(&start.recovered),
            base_index: start.recovered.base.index,
            newest: start.snapshot.clone(),
            is_durable: start.is_durable,
            wanted: Wanted::default(),
            doing: Doing::Nothing,
            is_due: true,
            tried: (Index::ZERO, 0),
            retry_at: None,
        }
    }

    /// What a state in memory would have after a power cut.
    pub(super) fn snapshotted_index(&self) -> Index {
        match &self.newest {
            Some(meta) if !self.is_durable => meta.last_included_index,
            _ => Index::ZERO,
        }
    }

    pub(super) fn look_again(&mut self) {
        self.is_due = true;
    }

    /// When a snapshot may be taken that found no space before.
    pub(super) fn next_retry(&self) -> Option<Time> {
        self.retry_at
    }

    /// A snapshot is stored; it is of use when it is newer than the one known.
    pub(super) fn stored(&mut self, meta: SnapshotMeta) {
        if self.newest.as_ref().is_none_or(|newest| newest.last_included_index <= meta.last_included_index) {
            self.newest = Some(meta);
        }
    }

    /// A snapshot is not stored any more.
    pub(super) fn forget(&mut self, content: u64) {
        self.newest = self.newest.take().filter(|newest| newest.content != content);
    }

    /// Whether the state would be gone with the process: it is in memory only, the log does not hold all of it, and the snapshot that did was damaged.
    fn is_missing(&self) -> bool {
        !self.is_durable && self.newest.is_none() && self.base_index > Index::ZERO
    }

    /// A stored snapshot from which the log goes on.
    pub(super) fn usable_snapshot(&self) -> Option<&SnapshotMeta> {
        self.newest.as_ref().filter(|meta| meta.last_included_index >= self.base_index)
    }
}

impl Replica {
    /// Begins to make room when the log is over its limits.
    pub(super) fn consider_compaction(&mut self) {
        if !self.compaction.is_due || self.compaction.doing != Doing::Nothing || self.is_behind_log() {
            return;
        }
        if !self.compaction.wanted.is_empty() {
            return self.take_snapshot();
        }
        self.compaction.is_due = false;
        if self.compaction.is_missing() {
            return self.take_snapshot();
        }
        if !self.is_over_limits() || !self.has_grown() {
            return;
        }
        if self.options.raft.has_bug(Bug::CompactUnflushed) {
            self.compact();
        } else if self.compaction.is_durable {
            self.flush();
        } else {
            self.take_snapshot();
        }
        self.compaction.tried = (self.applying.applied.applied, self.compaction.log.appended());
    }

    fn is_over_limits(&self) -> bool {
        // A snapshot that replaces one on its way would make the transfer begin again, for ever if it takes long enough.
        let factor = if self.sending.is_idle(self.now) || self.compaction.is_durable { 1 } else { TRANSFER_FACTOR };
        let retained = self.applying.applied.applied.0.saturating_sub(self.compaction.base_index.0);
        retained > self.options.log_entries_max.saturating_mul(factor)
            || self.compaction.log.bytes() > self.options.log_bytes_max.saturating_mul(factor)
    }

    fn has_grown(&self) -> bool {
        let (index, appended) = self.compaction.tried;
        self.applying.applied.applied.0.saturating_sub(index.0) > self.options.log_entries_max / PACE
            || self.compaction.log.appended() - appended > self.options.log_bytes_max / PACE
    }

    /// Asks for a snapshot, unless something else is under way or there is no state yet to take it of.
    /// It comes after everything that was given to the state machine's worker, so it covers exactly that.
    pub(super) fn take_snapshot(&mut self) {
        let index = self.handed_index();
        if self.compaction.doing != Doing::Nothing || self.is_behind_log() || index == Index::ZERO {
            return;
        }
        if self.compaction.retry_at.is_some() {
            return self.refuse_wanted(RejectReason::NoSpace);
        }
        let Some(last_included_term) = self.raft.term_at(index) else { return };
        let (membership_index, membership) = self.raft.membership_at(index);
        let mut membership = membership.clone();
        if self.options.raft.has_bug(Bug::SnapshotWithoutMembership) {
            membership.nodes.clear();
        }
        let meta = SnapshotMeta {
            content: 0,
            last_included_index: index,
            last_included_term,
            membership_index,
            membership,
            size: 0,
            checksum: 0,
        };
        self.compaction.doing = Doing::TakingSnapshot;
        self.compaction.wanted.begin();
        self.effects.late.push_back(Effect::State(StateEffect::TakeSnapshot { meta: meta.into() }));
    }

    pub(super) fn on_snapshot_taken(&mut self, meta: SnapshotMeta) {
        self.compaction.doing = Doing::Nothing;
        self.compaction.stored(meta);
        self.note_applied(self.applying.applied);
        // Transfers first: what they need of the log is then kept.
        self.start_transfers();
        match (self.compaction.wanted.is_served(), self.compaction.is_durable) {
            // The log can be cut below what of the state is durable.
            (true, true) => self.flush(),
            (true, false) => self.serve_wanted(),
            (false, _) => self.compact(),
        }
    }

    /// There was no space for it. Nothing depends on it yet: whoever asked is told, and otherwise it is tried again after a while.
    pub(super) fn on_snapshot_not_taken(&mut self) {
        self.compaction.doing = Doing::Nothing;
        self.compaction.retry_at = Some(self.now.plus(self.options.snapshot_timeout));
        self.refuse_wanted(RejectReason::NoSpace);
    }

    /// Space may have been found: what was given up is looked at again, also if the log has not grown since.
    pub(super) fn retry_snapshot(&mut self) {
        if self.compaction.retry_at.is_some_and(|at| at <= self.now) {
            self.compaction.retry_at = None;
            self.compaction.tried = (Index::ZERO, 0);
            self.compaction.look_again();
        }
    }

    fn flush(&mut self) {
        self.compaction.doing = Doing::Flushing;
        self.effects.late.push_back(Effect::State(StateEffect::Flush));
    }

    fn serve_wanted(&mut self) {
        let covered = self.compaction.newest.as_ref().map(|meta| meta.last_included_index);
        self.answer_wanted(covered.unwrap_or_default());
        self.cut_log();
    }

    pub(super) fn on_flushed(&mut self, applied: Applied) {
        self.compaction.doing = Doing::Nothing;
        self.note_applied(applied);
        if self.compaction.wanted.is_served() {
            self.serve_wanted();
        } else {
            self.compact();
        }
    }

    /// Cuts the log when it is over its limits: below what the state machine has durably (C7), with some left for slow peers.
    fn compact(&mut self) {
        if self.is_over_limits() {
            self.end_transfers_over_budget();
            self.cut_log();
        }
    }

    /// Snapshots on their way hold the log; what they may hold is bounded (C7). Whoever is too slow for that begins again with a newer one.
    fn end_transfers_over_budget(&mut self) {
        let limit = self.options.log_bytes_max.saturating_mul(TRANSFER_FACTOR);
        let bytes = self.compaction.log.bytes();
        for peer in self.sending.over_budget(|size| bytes > limit.saturating_add(size)) {
            self.fail_transfer(peer);
        }
        if bytes > limit {
            self.sending.forget_continued();
        }
    }

    fn cut_log(&mut self) {
        let Applied { applied, flushed } = self.applying.applied;
        let flushed = if self.options.raft.has_bug(Bug::CompactUnflushed) { applied } else { flushed };
        let by_count = Index(flushed.0.saturating_sub(self.options.log_entries_kept));
        let by_bytes = self.compaction.log.index_before_last(self.options.log_bytes_max / 2);
        let floor = self.sending.floor(self.now).unwrap_or(flushed);
        let up_to = by_count.max(by_bytes).min(flushed).min(floor);
        if up_to > self.compaction.base_index {
            self.tell_core(RaftInput::Compact { up_to });
        }
    }
}
