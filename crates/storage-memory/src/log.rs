//! Logs as sealed runs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{PoisonError, RwLock},
};

use coracle_core::{Base, EntryKind, GroupId, HardState, Index, LogRead, Membership, Run};
use coracle_storage::{Bounded, LogBatch, LogShape, LogStore, RecoveredLog, Result, StorageError};

/// The logs of all groups.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog {
    groups: RwLock<BTreeMap<GroupId, GroupLog>>,
}

/// One group's log.
#[derive(Clone, Debug, Default)]
struct GroupLog {
    hard_state: HardState,
    base: Base,
    shape: LogShape,
    /// In order, without gaps, from the base to the last index.
    runs: VecDeque<Run>,
}

impl LogStore for MemoryLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.get(&group).map_or_else(|| Ok(RecoveredLog::default()), |log| log.recover(tail_bytes_max))
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if let [batch] = batches
            && let Some(log) = groups.get_mut(&batch.group)
            && log.shape.append(batch)?
        {
            log.append(batch);
            return Ok(());
        }
        // Every batch is checked before the first is written; one group may occur more than once.
        let mut shapes: Vec<(GroupId, LogShape)> = Vec::with_capacity(batches.len());
        for batch in batches {
            let earlier = shapes.iter().rev().find(|(group, _)| *group == batch.group).map(|(_, shape)| shape);
            let shape = match (earlier, groups.get(&batch.group)) {
                (Some(shape), _) => shape.after(batch)?,
                (None, Some(log)) => log.shape.after(batch)?,
                (None, None) => LogShape::default().after(batch)?,
            };
            shapes.push((batch.group, shape));
        }
        for (batch, (_, shape)) in batches.iter().zip(shapes) {
            groups.entry(batch.group).or_default().write(batch, shape);
        }
        Ok(())
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        match groups.get(&group) {
            Some(log) => log.read(from, to, bytes_max),
            None => GroupLog::default().read(from, to, bytes_max),
        }
    }

    fn never_blocks(&self) -> bool {
        true
    }
}

impl GroupLog {
    /// Carries out a batch after which the log looks like `shape`.
    fn write(&mut self, batch: &LogBatch, shape: LogShape) {
        if let Some(from) = batch.truncate_from {
            self.truncate(from);
        }
        batch.repaired.iter().for_each(|run| self.repair(run));
        self.runs.extend(batch.entries.iter().cloned());
        if let Some(base) = &batch.base {
            self.compact(base.index);
            self.base = base.clone();
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        self.shape = shape;
        debug_assert_eq!(self.runs.back().map_or(self.base.index, Run::last), self.shape.last_index());
    }

    /// Carries out a batch of which the shape knows already, and that only appends.
    fn append(&mut self, batch: &LogBatch) {
        self.runs.extend(batch.entries.iter().cloned());
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
    }

    fn truncate(&mut self, from: Index) {
        while self.runs.back().is_some_and(|run| run.last() >= from) {
            if let Some(kept) = self.runs.pop_back().and_then(|run| run.slice(Index::ZERO, from.prev())) {
                self.runs.push_back(kept);
            }
        }
    }

    /// Puts a run in the place of the entries that lie there.
    fn repair(&mut self, repaired: &Run) {
        let (first, last) = (repaired.first(), repaired.last());
        let start = self.runs.partition_point(|run| run.last() < first);
        let end = self.runs.partition_point(|run| run.first() <= last);
        let before = self.runs.get(start).and_then(|run| run.slice(Index::ZERO, first.prev()));
        let after = end.checked_sub(1).and_then(|at| self.runs[at].slice(last.next(), Index::MAX));
        let pieces = before.into_iter().chain([repaired.clone()]).chain(after);
        let mut later = self.runs.split_off(end);
        self.runs.truncate(start);
        self.runs.extend(pieces);
        self.runs.append(&mut later);
    }

    fn compact(&mut self, base: Index) {
        while self.runs.front().is_some_and(|run| run.first() <= base) {
            if let Some(kept) = self.runs.pop_front().and_then(|run| run.slice(base.next(), Index::MAX)) {
                self.runs.push_front(kept);
            }
        }
    }

    fn recover(&self, tail_bytes_max: usize) -> Result<RecoveredLog> {
        Ok(RecoveredLog {
            hard_state: self.hard_state,
            base: self.base.clone(),
            terms: self.shape.terms().to_vec(),
            memberships: self.memberships()?,
            last_index: self.shape.last_index(),
            tail: self.tail(tail_bytes_max),
            damaged: Vec::new(),
            is_membership_damaged: false,
        })
    }

    fn memberships(&self) -> Result<Vec<(Index, Membership)>> {
        let entries = self.runs.iter().flat_map(Run::iter);
        let entries = entries.filter(|(_, entry)| entry.kind == EntryKind::Membership);
        let decode = |(index, entry): (Index, &coracle_core::Entry)| {
            let membership = Membership::decode(entry.data.clone())
                .map_err(|error| StorageError::damaged(format!("the entry at {index}"), error.to_string()))?;
            Ok((index, membership))
        };
        entries.map(decode).collect()
    }

    fn tail(&self, bytes_max: usize) -> Vec<Run> {
        let mut size = 0;
        let recent = self.runs.iter().rev().take_while(|run| {
            size += run.size();
            size <= bytes_max
        });
        let mut tail: Vec<Run> = recent.cloned().collect();
        tail.reverse();
        tail
    }

    fn read(&self, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        if from <= self.base.index {
            return Ok(LogRead::Compacted);
        }
        let last = self.shape.last_index();
        if from > last || from > to {
            return Err(StorageError::Invalid(format!("cannot read from {from} to {to}: the log ends at {last}")));
        }
        let start = self.runs.partition_point(|run| run.last() < from);
        let mut bounded = Bounded::new(bytes_max);
        for run in self.runs.range(start..) {
            let Some(part) = run.slice(from, to) else { break };
            if !bounded.take(&part) {
                break;
            }
        }
        Ok(LogRead::Entries(bounded.into_runs()))
    }
}
