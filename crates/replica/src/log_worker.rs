//! What the log's worker does.

use std::sync::Arc;

use coracle_core::{GroupId, Index, Persist, Run, Ticket};
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
    pub fn write(&self, writes: Vec<Persist>) -> Completion {
        let ticket = writes.last().map_or(Ticket(0), |write| write.ticket);
        for batch in merge(self.group, writes) {
            if let Err(error) = self.log.write(std::slice::from_ref(&batch)) {
                return failed(&error);
            }
        }
        Completion::Written { ticket }
    }

    /// Reads entries `from..=to`, at most `bytes_max` but at least one.
    pub fn read(&self, request: u64, from: Index, to: Index, bytes_max: usize) -> Completion {
        match self.log.read(self.group, from, to, bytes_max) {
            Ok(result) => Completion::LogRead { request, result },
            Err(error) => failed(&error),
        }
    }
}

impl std::fmt::Debug for LogWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWorker").field("group", &self.group).finish_non_exhaustive()
    }
}

fn failed(error: &StorageError) -> Completion {
    Completion::Failed { what: format!("the log: {error}"), is_log: true }
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

/// A batch sets the base last, so what is appended after a new base needs a batch of its own.
fn can_follow(batch: &LogBatch, next: &LogBatch) -> bool {
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
