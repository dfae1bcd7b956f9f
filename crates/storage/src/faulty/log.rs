//! Logs that fail on purpose.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex},
};

use coracle_core::{GroupId, Index, LogRead, Run};

use super::{
    Kept,
    faults::{Fault, Faults, Op, error},
    lock,
};
use crate::{Bounded, LogBatch, LogShape, LogStore, RecoveredLog, Result, StorageError};

/// See the module.
pub(super) struct FaultyLog {
    inner: Arc<dyn LogStore>,
    faults: Faults,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A write failed: none follows.
    has_failed: bool,
    /// What was acknowledged and is not in the inner store, in order: neither repairs nor bases.
    cache: Vec<LogBatch>,
    /// What the logs look like with that.
    shapes: BTreeMap<GroupId, LogShape>,
}

impl FaultyLog {
    pub(super) fn new(inner: Arc<dyn LogStore>, faults: Faults) -> FaultyLog {
        FaultyLog { inner, faults, state: Mutex::default() }
    }

    pub(super) fn restart(&self) {
        lock(&self.state).has_failed = false;
    }

    pub(super) fn power_cut(&self, kept: Kept) -> Result<()> {
        let state = &mut *lock(&self.state);
        state.has_failed = false;
        state.shapes.clear();
        let mut cache = mem::take(&mut state.cache);
        let whole = if kept == Kept::Nothing { 0 } else { self.faults.below(cache.len() + 1) };
        let torn = cache.get(whole).filter(|_| kept == Kept::Torn).map(torn);
        cache.truncate(whole);
        cache.extend(torn);
        self.inner.write(&cache)
    }

    /// Writes, or keeps in the cache of a lying disk.
    fn keep(&self, state: &mut State, batches: &[LogBatch]) -> Result<()> {
        let can_wait = batches.iter().all(|batch| batch.base.is_none() && batch.repaired.is_empty());
        if can_wait && self.faults.is_losing() {
            let shapes = self.shapes_after(state, batches)?;
            state.shapes.extend(shapes);
            state.cache.extend_from_slice(batches);
            return Ok(());
        }
        self.sync(state)?;
        self.inner.write(batches)
    }

    /// What the logs look like after these batches too.
    fn shapes_after(&self, state: &State, batches: &[LogBatch]) -> Result<BTreeMap<GroupId, LogShape>> {
        let mut shapes = BTreeMap::new();
        for batch in batches {
            let shape = match shapes.get(&batch.group).or_else(|| state.shapes.get(&batch.group)) {
                Some(shape) => LogShape::after(shape, batch)?,
                None => {
                    let log = self.inner.recover(batch.group, 0)?;
                    LogShape::recovered(&log.base, log.terms, log.last_index).after(batch)?
                }
            };
            shapes.insert(batch.group, shape);
        }
        Ok(shapes)
    }

    /// What is in the cache becomes durable.
    fn sync(&self, state: &mut State) -> Result<()> {
        if state.cache.is_empty() {
            return Ok(());
        }
        self.inner.write(&state.cache)?;
        state.cache.clear();
        state.shapes.clear();
        Ok(())
    }

    /// The part of `batches` that a failing write leaves.
    fn left_by(&self, fault: Fault, batches: &[LogBatch]) -> Vec<LogBatch> {
        let whole = match fault {
            Fault::ErrorAfter => batches.len(),
            Fault::Torn | Fault::TornWithin => self.faults.below(batches.len()),
            _ => 0,
        };
        let torn = batches.get(whole).filter(|_| fault == Fault::TornWithin).map(torn);
        batches[..whole].iter().cloned().chain(torn).collect()
    }
}

impl LogStore for FaultyLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        self.faults.operate(Op::LogRead, 0, || {
            self.sync(&mut lock(&self.state))?;
            self.inner.recover(group, tail_bytes_max)
        })
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        // Reads go on while a write is held up.
        let fault = self.faults.begin(Op::LogWrite);
        let state = &mut *lock(&self.state);
        if state.has_failed {
            return Err(StorageError::Stopped("an earlier write failed".to_owned()));
        }
        let Some(fault) = fault else { return self.keep(state, batches) };
        state.has_failed = fault != Fault::Full;
        let left = self.left_by(fault, batches);
        if !left.is_empty() {
            self.keep(state, &left)?;
        }
        Err(error(Op::LogWrite, fault, size(batches)))
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.faults.operate(Op::LogRead, 0, || {
            let cached = Cached::of(group, &lock(&self.state).cache);
            cached.read(&*self.inner, group, from, to, bytes_max)
        })
    }
}

/// Half of the batch's entries, and nothing else of it.
fn torn(batch: &LogBatch) -> LogBatch {
    let half = batch.entries.iter().map(Run::len).sum::<usize>() / 2;
    let last = batch.entries.first().map(|run| run.first().plus(half as u64).prev());
    let entries = batch.entries.iter().filter_map(|run| run.slice(run.first(), last?)).collect();
    LogBatch { truncate_from: batch.truncate_from, ..LogBatch::append(batch.group, entries) }
}

fn size(batches: &[LogBatch]) -> u64 {
    let runs = batches.iter().flat_map(|batch| batch.entries.iter().chain(&batch.repaired));
    runs.map(|run| run.size() as u64).sum()
}

/// What the cache puts over one group's log.
struct Cached {
    /// Of the inner log this counts still, and what lies below.
    kept: Index,
    /// What follows it.
    entries: Vec<Run>,
}

impl Cached {
    fn of(group: GroupId, cache: &[LogBatch]) -> Cached {
        let mut cached = Cached { kept: Index::MAX, entries: Vec::new() };
        for batch in cache.iter().filter(|batch| batch.group == group) {
            if let Some(from) = batch.truncate_from {
                cached.kept = cached.kept.min(from.prev());
                cached.entries = cached.entries.iter().filter_map(|run| run.slice(run.first(), from.prev())).collect();
            }
            if let Some(first) = batch.entries.first() {
                cached.kept = cached.kept.min(first.first().prev());
                cached.entries.extend(batch.entries.iter().cloned());
            }
        }
        cached
    }

    fn read(&self, log: &dyn LogStore, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        let mut bounded = Bounded::new(bytes_max);
        if from <= self.kept {
            let runs = match log.read(group, from, to.min(self.kept), bytes_max)? {
                LogRead::Entries(runs) => runs,
                other => return Ok(other),
            };
            let is_all = runs.last().is_some_and(|run| run.last() >= self.kept);
            if !is_all {
                return Ok(LogRead::Entries(runs));
            }
            for run in &runs {
                bounded.take(run);
            }
        }
        for run in &self.entries {
            if let Some(part) = run.slice(from, to)
                && !bounded.take(&part)
            {
                break;
            }
        }
        if bounded.is_empty() {
            return Err(StorageError::Invalid(format!("cannot read from {from} to {to}: the log ends before")));
        }
        Ok(LogRead::Entries(bounded.into_runs()))
    }
}
