//! What the log's worker does.

use std::sync::Arc;

use coracle_core::{GroupId, Index, LogRead, Persist, Run, Ticket};
use coracle_storage::{LogBatch, LogStore, StorageError};

use crate::Completion;

/// Writes and reads one group's log. Reads may run beside a write.
#[derive(Clone)]
pub struct LogWorker {
    log: Arc<dyn LogStore>,
    group: GroupId,
}

impl LogWorker {
    /// A worker for the log of `group`.
    pub fn new(log: Arc<dyn LogStore>, group: GroupId) -> LogWorker {
        LogWorker { log, group }
    }

    /// Writes everything that waits, in order, as few batches as that allows, and answers with the last ticket.
    /// For a log that never blocks: it is never full. Others are written by [`GroupWrites`](crate::GroupWrites).
    pub fn write(&self, writes: Vec<Persist>) -> Completion {
        let ticket = last_ticket(&writes);
        complete(ticket, self.log.write(&merge(self.group, writes)).as_ref())
    }

    /// Writes one batch, as [`write`](LogWorker::write) does.
    pub fn write_one(&self, write: Persist) -> Completion {
        let ticket = write.ticket;
        complete(ticket, self.log.write(&[LogBatch::new(self.group, write)]).as_ref())
    }

    /// Reads entries `from..=to`, at most `bytes_max` but at least one.
    pub fn read(&self, request: u64, from: Index, to: Index, bytes_max: usize) -> Completion {
        match self.log.read(self.group, from, to, bytes_max) {
            Ok(result) => Completion::LogRead { request, result },
            // The log was cut off since it was asked for. Whoever asked decides anew; only the core knows whether that can be (C9).
            Err(StorageError::Invalid(_)) => Completion::LogRead { request, result: LogRead::Compacted },
            Err(error) => failed(&error),
        }
    }
}

impl std::fmt::Debug for LogWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWorker").field("group", &self.group).finish_non_exhaustive()
    }
}

pub(crate) fn last_ticket(writes: &[Persist]) -> Ticket {
    writes.last().map_or(Ticket(0), |write| write.ticket)
}

pub(crate) fn complete(ticket: Ticket, result: Result<&(), &StorageError>) -> Completion {
    match result {
        Ok(()) => Completion::Written { ticket },
        Err(error) => failed(error),
    }
}

fn failed(error: &StorageError) -> Completion {
    Completion::Failed { what: format!("the log: {error}"), is_log: true, is_damage: error.is_damage() }
}

/// The batches that together do what `writes` do one after the other.
pub(crate) fn merge(group: GroupId, writes: Vec<Persist>) -> Vec<LogBatch> {
    let mut batches: Vec<LogBatch> = Vec::new();
    for write in writes {
        let write = LogBatch::new(group, write);
        match batches.last_mut() {
            Some(batch) if can_follow(batch, &write) => append(batch, write),
            _ => batches.push(write),
        }
    }
    batches
}

/// A batch sets the base last, so what is appended after a new base needs a batch of its own; and it repairs only what was there before it.
fn can_follow(batch: &LogBatch, next: &LogBatch) -> bool {
    if !batch.repaired.is_empty() || !next.repaired.is_empty() {
        return false;
    }
    batch.base.is_none() || (next.truncate_from.is_none() && next.entries.is_empty() && next.base.is_none())
}

fn append(batch: &mut LogBatch, next: LogBatch) {
    if let Some(from) = next.truncate_from {
        cut_off(batch, from);
    }
    batch.entries.extend(next.entries);
    batch.hard_state = next.hard_state.or(batch.hard_state);
    batch.base = next.base.or(batch.base.take());
}

/// Takes `from` and all after it out of the batch, and out of the log when that reaches below the batch's own entries.
fn cut_off(batch: &mut LogBatch, from: Index) {
    let is_below = batch.entries.first().is_none_or(|run| from < run.first());
    batch.entries = batch.entries.iter().filter_map(|run| below(run, from)).collect();
    if is_below {
        batch.truncate_from = Some(batch.truncate_from.map_or(from, |earlier| earlier.min(from)));
    }
}

fn below(run: &Run, from: Index) -> Option<Run> {
    if from <= run.first() { None } else { run.slice(run.first(), from.prev()) }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Base, Entry, HardState, Membership, NodeId, Term};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::MemoryLog;

    const GROUP: GroupId = GroupId(1);

    /// What the core may ask for: cuts above the base, appends, and bases, each a number to be fitted to the log.
    fn writes() -> impl Strategy<Value = Vec<(Option<u64>, u64, Option<u64>, bool)>> {
        let write =
            (prop::option::weighted(0.4, 0..20u64), 0..5u64, prop::option::weighted(0.2, 0..20u64), any::<bool>());
        prop::collection::vec(write, 1..12)
    }

    fn persists(writes: Vec<(Option<u64>, u64, Option<u64>, bool)>) -> Vec<Persist> {
        let (mut base, mut last, mut persists) = (0, 1, Vec::new());
        for (ticket, (cut, count, new_base, resets)) in (1..).zip(writes) {
            let truncate_from = cut.map(|cut| base + 1 + cut % (last - base + 1));
            last = truncate_from.map_or(last, |from| from - 1);
            let term = Term(ticket);
            let entries = (0..count).map(|i| Run::new(Index(last + 1 + i), term, [Entry::noop()])).collect();
            last += count;
            base = match new_base {
                // A snapshot's: the log made way for it.
                Some(new) if resets && truncate_from == Some(base + 1) && count == 0 => last + new,
                Some(new) => base + new % (last - base + 1),
                None => base,
            };
            last = last.max(base);
            persists.push(Persist {
                ticket: Ticket(ticket),
                truncate_from: truncate_from.map(Index),
                repaired: Vec::new(),
                entries,
                hard_state: Some(HardState { term, ..HardState::default() }),
                base: new_base.map(|_| Box::new(Base { index: Index(base), term, ..Base::default() })),
            });
        }
        persists
    }

    proptest! {
        #[test]
        fn merged_writes_do_what_the_single_ones_do(writes in writes()) {
            let writes = persists(writes);
            let membership = Membership::of_voters([NodeId(1)]);
            let (single, merged) = (MemoryLog::founded(&membership), Arc::new(MemoryLog::founded(&membership)));
            for write in writes.clone() {
                single.write(&[LogBatch::new(GROUP, write)]).unwrap();
            }
            let last = writes.last().unwrap().ticket;
            let done = LogWorker::new(merged.clone(), GROUP).write(writes);
            let is_last = matches!(done, Completion::Written { ticket } if ticket == last);
            prop_assert!(is_last);
            prop_assert_eq!(single.content(), merged.content());
        }
    }

    #[test]
    fn writes_without_a_new_base_are_one_batch() {
        let writes = persists(vec![(None, 3, None, false), (Some(2), 2, None, false), (None, 1, Some(2), false)]);
        assert_eq!(merge(GROUP, writes).len(), 1);
    }

    #[test]
    fn c09_a_range_that_was_cut_off_meanwhile_is_no_failure() {
        let worker = LogWorker::new(Arc::new(MemoryLog::founded(&Membership::of_voters([NodeId(1)]))), GROUP);
        worker.write(persists(vec![(None, 3, None, false)]));
        let read = |from| worker.read(7, Index(from), Index(9), 100);
        assert!(matches!(read(4), Completion::LogRead { request: 7, result: LogRead::Entries(_) }));
        worker.write(persists(vec![(None, 3, None, false), (Some(2), 0, None, false)]).split_off(1));
        assert!(matches!(read(4), Completion::LogRead { request: 7, result: LogRead::Compacted }));
    }

    #[test]
    fn a_failed_write_is_the_logs_failure() {
        let log = Arc::new(MemoryLog::founded(&Membership::of_voters([NodeId(1)])));
        log.fail();
        let done = LogWorker::new(log, GROUP).write(persists(vec![(None, 1, None, false)]));
        assert!(matches!(done, Completion::Failed { is_log: true, .. }), "{done:?}");
    }
}
