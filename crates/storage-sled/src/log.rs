//! The logs: one tree for each group.
//!
//! A tree holds blocks of consecutive entries of one term (`rows`), the base, and the state (`record`): term, vote, commit hint, last index and the number of writes.
//! Each batch is one atomic change of the tree, and a write of any number of batches is one flush and one sync.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod record;
mod recover;
mod rows;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use coracle_core::{EntryKind, GroupId, HardState, Index, LogRead, Run};
use coracle_storage::{Bounded, LogBatch, LogShape, LogStore, RecoveredLog, Result, StorageError};
use sled::Batch;

use self::record::{Outline, State};
use crate::{
    engine::Engine,
    mark::{Mark, Marks},
};

/// How many rows below the base a write deletes besides, at least. All at once would hold up the log for longer than a leader may be silent.
const PURGE_ROWS: usize = 8;

/// The logs of all groups.
pub(crate) struct SledLog {
    groups: Mutex<HashMap<GroupId, Arc<GroupLog>>>,
    marks: Mutex<Marks>,
    /// Writes go one after another.
    writing: Mutex<()>,
    /// Last, so that the marks are written before the directory is unlocked.
    engine: Arc<Engine>,
}

/// One group's log.
struct GroupLog {
    tree: sled::Tree,
    /// Written only while the tree changes, which the tree's readers wait for; not while it is synced.
    head: RwLock<Head>,
}

/// What a log looks like without its entries.
#[derive(Clone, Debug, Default)]
struct Head {
    hard_state: HardState,
    shape: LogShape,
    /// The indexes of its memberships, in order; `None` when they are not all known, since entries are damaged. Those below the base count for nothing.
    memberships: Option<Vec<Index>>,
    /// How many batches were written.
    generation: u64,
    /// Whether no rows below the base are left; they count for nothing, and each write deletes some.
    is_purged: bool,
}

impl SledLog {
    pub(crate) fn new(engine: Arc<Engine>, marks: PathBuf, mark_interval: Duration) -> Result<SledLog> {
        let marks = Mutex::new(Marks::open(marks, mark_interval)?);
        Ok(SledLog { engine, groups: Mutex::default(), marks, writing: Mutex::new(()) })
    }

    /// A group's log, recovered when it is met for the first time.
    fn group(&self, id: GroupId) -> Result<Arc<GroupLog>> {
        let mut groups = lock(&self.groups);
        if let Some(group) = groups.get(&id) {
            return Ok(group.clone());
        }
        let tree = self.tree(id)?;
        let (head, _) = self.scan(id, &tree, 0)?;
        let group = Arc::new(GroupLog { tree, head: RwLock::new(head) });
        groups.insert(id, group.clone());
        Ok(group)
    }

    fn tree(&self, id: GroupId) -> Result<sled::Tree> {
        self.engine.tree(&format!("raft/{id}"))
    }

    /// Reads a whole log and holds it against the mark.
    fn scan(&self, id: GroupId, tree: &sled::Tree, tail_bytes_max: usize) -> Result<(Head, RecoveredLog)> {
        let place = format!("the log of group {id} in {}", self.engine.place());
        let (head, recovered) = recover::scan(&self.engine, tree, &place, tail_bytes_max)?;
        if let Some(mark) = lock(&self.marks).mark(id) {
            mark.check(&place, head.generation, recovered.last_index)?;
        }
        Ok((head, recovered))
    }

    /// What the logs look like after each batch; one group may occur more than once.
    fn shapes(groups: &[Arc<GroupLog>], batches: &[LogBatch]) -> Result<Vec<LogShape>> {
        let mut shapes: Vec<LogShape> = Vec::with_capacity(batches.len());
        for (at, batch) in batches.iter().enumerate() {
            let earlier = batches[..at].iter().rposition(|earlier| earlier.group == batch.group);
            let shape = match earlier {
                Some(earlier) => shapes[earlier].after(batch)?,
                None => groups[at].head().shape.after(batch)?,
            };
            shapes.push(shape);
        }
        Ok(shapes)
    }
}

impl LogStore for SledLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        let _one = lock(&self.writing);
        let mut groups = lock(&self.groups);
        let known = groups.get(&group).cloned();
        let tree = known.as_ref().map_or_else(|| self.tree(group), |log| Ok(log.tree.clone()))?;
        let (head, recovered) = self.scan(group, &tree, tail_bytes_max)?;
        match known {
            Some(log) => *log.head_mut() = head,
            None => drop(groups.insert(group, Arc::new(GroupLog { tree, head: RwLock::new(head) }))),
        }
        drop(groups);
        self.engine.sync()?;
        Ok(recovered)
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let _one = lock(&self.writing);
        self.engine.check()?;
        let groups: Vec<Arc<GroupLog>> = batches.iter().map(|batch| self.group(batch.group)).collect::<Result<_>>()?;
        let shapes = SledLog::shapes(&groups, batches)?;
        for ((batch, group), shape) in batches.iter().zip(&groups).zip(shapes) {
            // Some batches may be written by now, and none is synced.
            group.write(&self.engine, batch, shape).inspect_err(|error| self.engine.stop(error))?;
        }
        self.engine.sync()?;
        let durable = batches.iter().zip(&groups).map(|(batch, group)| (batch.group, group.head().mark()));
        lock(&self.marks).note(durable);
        Ok(())
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.group(group)?.read(&self.engine, from, to, bytes_max)
    }
}

impl Head {
    fn mark(&self) -> Mark {
        Mark { generation: self.generation, last_index: self.shape.last_index(), last_term: self.shape.last_term() }
    }

    /// The head after a batch that leaves the log in `shape`.
    fn after(&self, batch: &LogBatch, shape: LogShape) -> Head {
        let hard_state = batch.hard_state.unwrap_or(self.hard_state);
        let is_purged = self.is_purged && batch.base.is_none();
        Head {
            hard_state,
            shape,
            memberships: self.memberships_after(batch),
            generation: self.generation + 1,
            is_purged,
        }
    }

    fn memberships_after(&self, batch: &LogBatch) -> Option<Vec<Index>> {
        let mut memberships = self.memberships.clone()?;
        if let Some(from) = batch.truncate_from {
            memberships.retain(|index| *index < from);
        }
        let added = batch.entries.iter().flat_map(Run::iter).filter(|(_, entry)| entry.kind == EntryKind::Membership);
        memberships.extend(added.map(|(index, _)| index));
        if let Some(base) = &batch.base {
            memberships.retain(|index| *index > base.index);
        }
        Some(memberships)
    }

    /// Whether a batch that leads to `next` says something new of what the entries are.
    fn is_outline_due(&self, batch: &LogBatch, next: &Head) -> bool {
        batch.truncate_from.is_some()
            || !batch.repaired.is_empty()
            || self.shape.terms().last() != next.shape.terms().last()
            || self.memberships != next.memberships
    }

    fn outline(&self) -> Outline {
        Outline { terms: self.shape.terms().to_vec(), memberships: self.memberships.clone() }
    }

    fn state(&self) -> State {
        State { generation: self.generation, last_index: self.shape.last_index(), hard_state: self.hard_state }
    }
}

impl GroupLog {
    fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn head_mut(&self) -> RwLockWriteGuard<'_, Head> {
        self.head.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out a batch, without syncing.
    fn write(&self, engine: &Engine, batch: &LogBatch, shape: LogShape) -> Result<()> {
        let mut head = self.head_mut();
        let mut next = head.after(batch, shape);
        let mut changes = Batch::default();
        let cut = batch.truncate_from.filter(|from| *from <= head.shape.last_index());
        if let Some(from) = cut {
            self.cut(engine, from, &mut changes)?;
        }
        self.rewrite(engine, cut, &batch.repaired, &mut changes)?;
        if head.is_outline_due(batch, &next) {
            record::put_outline(&mut changes, &next.outline())?;
        }
        let added = rows::append(&mut changes, &batch.entries);
        if let Some(base) = &batch.base {
            record::put_base(&mut changes, base)?;
        }
        record::put_state(&mut changes, &next.state())?;
        if !next.is_purged {
            // More than what is added: the rest does not grow. What this batch itself brings below a new base is found by the next.
            let is_all = self.purge(engine, &next.shape, PURGE_ROWS.max(2 * added), &mut changes)?;
            next.is_purged = is_all && batch.base.is_none();
        }
        engine.run("write to the log", || self.tree.apply_batch(changes))?;
        *head = next;
        Ok(())
    }

    /// Deletes the blocks that begin at an index or after it.
    fn cut(&self, engine: &Engine, from: Index, changes: &mut Batch) -> Result<()> {
        let keys = || self.tree.range(rows::from(from)..).keys().collect::<sled::Result<Vec<_>>>();
        let keys = engine.run("read the log", keys)?;
        keys.iter().filter(|key| rows::is_row(key)).for_each(|key| changes.remove(key));
        Ok(())
    }

    /// Writes the blocks anew in which the log is cut off, or entries lie that are repaired. What is whole in them stays, and what is damaged has no row any more.
    fn rewrite(&self, engine: &Engine, cut: Option<Index>, repaired: &[Run], changes: &mut Batch) -> Result<()> {
        let mut blocks: BTreeMap<Index, Vec<Run>> = BTreeMap::new();
        for run in repaired {
            blocks.extend(self.blocks(engine, run.first(), run.last())?);
        }
        if let Some(from) = cut {
            // How far one reaches that is damaged is not known: were it read again after all, it would bring back what is cut off.
            blocks.extend(self.blocks(engine, from.prev(), from.prev())?);
        }
        for first in blocks.keys() {
            let of_block = || self.tree.range(rows::from(*first)..rows::from(first.next())).keys();
            let keys = engine.run("read the log", || of_block().collect::<sled::Result<Vec<_>>>())?;
            keys.into_iter().for_each(|key| changes.remove(key));
        }
        let last = cut.map_or(Index::MAX, Index::prev);
        let whole = blocks.into_values().flatten().filter_map(|run| run.slice(Index::ZERO, last));
        let kept: Vec<Run> = whole.flat_map(|run| without(run, repaired)).collect();
        rows::append(changes, &kept);
        rows::append(changes, repaired);
        Ok(())
    }

    /// What is whole of the blocks in which the entries from `first` to `last` lie.
    fn blocks(&self, engine: &Engine, first: Index, last: Index) -> Result<Vec<(Index, Vec<Run>)>> {
        let begin = rows::block_of(engine, &self.tree, first)?.unwrap_or(first);
        let mut stored = rows::Blocks::new(engine, &self.tree, begin);
        let mut blocks = Vec::new();
        while let Some((first, block)) = stored.next()?.filter(|(first, _)| *first <= last) {
            blocks.push((first, rows::whole(first, block)));
        }
        Ok(blocks)
    }

    /// Deletes at most `rows_max` rows of blocks that lie below the base as a whole, and says whether there are no more.
    fn purge(&self, engine: &Engine, shape: &LogShape, rows_max: usize, changes: &mut Batch) -> Result<bool> {
        let next = shape.base().next();
        let holds_next = if next <= shape.last_index() { rows::block_of(engine, &self.tree, next)? } else { None };
        let end = rows::from(holds_next.unwrap_or(next));
        let below = || self.tree.range(rows::start()..end).keys().take(rows_max).collect::<sled::Result<Vec<_>>>();
        let keys = engine.run("read the log", below)?;
        let is_all = keys.len() < rows_max;
        keys.into_iter().for_each(|key| changes.remove(key));
        Ok(is_all)
    }

    fn read(&self, engine: &Engine, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        engine.check()?;
        let head = self.head();
        if from <= head.shape.base() {
            return Ok(LogRead::Compacted);
        }
        let last = head.shape.last_index();
        if from > last || from > to {
            return Err(StorageError::Invalid(format!("cannot read from {from} to {to}: the log ends at {last}")));
        }
        let (to, mut next) = (to.min(last), from);
        let mut bounded = Bounded::new(bytes_max);
        let first = rows::block_of(engine, &self.tree, from)?.unwrap_or(from);
        let mut blocks = rows::Blocks::new(engine, &self.tree, first);
        while next <= to {
            let Some((first, block)) = blocks.next()? else { break };
            // What lies before damage is whole.
            let holds_next = |run: &Run| run.slice(next, to).filter(|part| part.first() == next);
            let Some(run) = rows::whole(first, block).iter().find_map(holds_next) else { break };
            next = run.last().next();
            if !bounded.take(&run) {
                break;
            }
        }
        if bounded.is_empty() {
            return Ok(LogRead::Damaged { at: from });
        }
        Ok(LogRead::Entries(bounded.into_runs()))
    }
}

/// What is left of a run where none of `others` lies.
fn without(run: Run, others: &[Run]) -> Vec<Run> {
    let mut left = Vec::new();
    let mut rest = Some(run);
    for other in others {
        let Some(run) = rest else { break };
        left.extend(run.slice(Index::ZERO, other.first().prev()));
        rest = run.slice(other.last().next().max(run.first()), Index::MAX);
    }
    left.extend(rest);
    left
}

/// What a panic leaves behind under these locks is whole: what they protect is replaced at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
