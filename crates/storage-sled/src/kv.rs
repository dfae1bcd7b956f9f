//! Key-value data: one tree for each group.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod pending;
mod rows;

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use coracle_core::{GroupId, Index};
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange, StorageError};
use sled::{Batch, IVec};

use self::{
    pending::Pending,
    rows::{Row, State},
};
use crate::{codec, engine::Engine};

/// How many rows are deleted, or added to a replacement, at once.
const SLICE_ROWS: usize = 1000;

/// One group's data.
pub(crate) struct SledKv {
    tree: sled::Tree,
    place: String,
    /// Written only while the tree changes, so that a reader finds all the rows of a value.
    head: RwLock<Head>,
    /// Last, so that the tree is closed before the directory is unlocked.
    engine: Arc<Engine>,
}

/// What is known beside the tree.
#[derive(Debug)]
struct Head {
    /// How far the data is, changes that are not in the tree yet included.
    state: State,
    pending: Pending,
    /// Whether `state` and `pending` are ahead of the tree.
    is_ahead: bool,
    /// The id of the next value that is kept in rows of its own; 0 as long as there never was one.
    next_value: u64,
}

impl SledKv {
    pub(crate) fn open(engine: Arc<Engine>, group: GroupId) -> Result<SledKv> {
        let tree = engine.tree(&format!("kv/{group}"))?;
        let place = format!("the data of group {group} in {}", engine.place());
        let state = match engine.run("read the applied index", || tree.get(rows::STATE))? {
            Some(bytes) => codec::open(rows::STATE, &bytes).map_err(|what| StorageError::damaged(&*place, what))?,
            None => State::default(),
        };
        let last_value = engine.run("read the data", || tree.get_lt(rows::VALUES_END))?;
        let next_value = last_value.and_then(|(key, _)| rows::value_id(&key)).map_or(0, |id| id + 1);
        let head = Head { state, pending: Pending::default(), is_ahead: false, next_value };
        Ok(SledKv { engine, tree, place, head: RwLock::new(head) })
    }

    fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while the tree changes.
    fn head_mut(&self, is_replacing: bool) -> Result<RwLockWriteGuard<'_, Head>> {
        self.engine.check()?;
        let head = self.head.write().unwrap_or_else(PoisonError::into_inner);
        head.expect_replacing(is_replacing)?;
        Ok(head)
    }

    fn apply(&self, changes: Batch) -> Result<()> {
        self.engine.run("write the data", || self.tree.apply_batch(changes))
    }

    fn row(&self, key: &[u8]) -> Result<Option<IVec>> {
        self.engine.run("read the data", || self.tree.get(key))
    }

    fn damaged(&self, key: &[u8], what: String) -> StorageError {
        StorageError::damaged(&*self.place, format!("the value of the key {}: {what}", key.escape_ascii()))
    }

    /// Deletes the rows of the value that `key` has, if it has rows of its own.
    fn release(&self, head: &Head, key: &[u8], changes: &mut Batch) -> Result<()> {
        if head.next_value == 0 {
            return Ok(());
        }
        let Some(row) = self.row(&rows::key(key))? else { return Ok(()) };
        if let Row::Apart { id, len, .. } = Row::parse(&row).map_err(|what| self.damaged(key, what))? {
            for number in 0..rows::count(len) {
                changes.remove(&rows::value_key(id, number));
            }
        }
        Ok(())
    }

    /// The value in a row; those of its own rows are read now.
    fn value(&self, key: &[u8], row: &[u8]) -> Result<Bytes> {
        let parsed = Row::parse(row).map_err(|what| self.damaged(key, what))?;
        let value = match parsed {
            Row::Inline { value, .. } => Bytes::copy_from_slice(value),
            Row::Apart { id, len, .. } => self.apart(key, id, len)?,
        };
        parsed.check(key, &value).map_err(|what| self.damaged(key, what))?;
        Ok(value)
    }

    fn apart(&self, key: &[u8], id: u64, len: u64) -> Result<Bytes> {
        let mut value = Vec::new();
        for number in 0..rows::count(len) {
            let row = self.row(&rows::value_key(id, number))?;
            let row = row.ok_or_else(|| self.damaged(key, format!("row {number} is missing")))?;
            value.extend_from_slice(&row);
        }
        Ok(value.into())
    }

    fn put(next_value: &mut u64, key: &[u8], value: &[u8], changes: &mut Batch) {
        if rows::fits_inline(key, value) {
            changes.insert(rows::key(key), rows::inline(key, value));
            return;
        }
        let id = *next_value;
        *next_value += 1;
        changes.insert(rows::key(key), rows::apart(key, value, id));
        for (number, part) in (0..).zip(value.chunks(rows::PART_BYTES)) {
            changes.insert(&rows::value_key(id, number), part);
        }
    }

    /// Brings what is pending into the tree, together with the applied index.
    fn write_pending(&self, head: &mut Head) -> Result<()> {
        if !head.is_ahead {
            return Ok(());
        }
        let mut changes = Batch::default();
        let mut next_value = head.next_value;
        for (key, value) in head.pending.iter() {
            self.release(head, key, &mut changes)?;
            match value {
                Some(value) => SledKv::put(&mut next_value, key, value, &mut changes),
                None => changes.remove(rows::key(key)),
            }
        }
        rows::put_state(&mut changes, &head.state)?;
        self.apply(changes)?;
        head.pending.clear();
        (head.next_value, head.is_ahead) = (next_value, false);
        Ok(())
    }

    /// The rows of the tree in a range that is not empty, under the user's keys.
    fn rows(&self, range: &ScanRange) -> impl Iterator<Item = Result<(Bytes, IVec)>> + '_ {
        let from = match &range.from {
            Bound::Unbounded => Bound::Included(rows::KEYS_START.to_vec()),
            bound => bound.as_ref().map(|key| rows::key(key)),
        };
        let to = match &range.to {
            Bound::Unbounded => Bound::Excluded(rows::KEYS_END.to_vec()),
            bound => bound.as_ref().map(|key| rows::key(key)),
        };
        let mut found = self.tree.range::<Vec<u8>, _>((from, to));
        let is_reverse = range.reverse;
        std::iter::from_fn(move || {
            let next = || if is_reverse { found.next_back() } else { found.next() }.transpose();
            let row = self.engine.run("read the data", next).transpose()?;
            Some(row.map(|(key, row)| (Bytes::copy_from_slice(key.get(1..).unwrap_or_default()), row)))
        })
    }

    /// Sets the state and makes it durable.
    fn set_state(&self, head: &mut Head, state: State) -> Result<()> {
        let mut changes = Batch::default();
        rows::put_state(&mut changes, &state)?;
        self.apply(changes)?;
        head.state = state;
        self.engine.sync()
    }

    fn delete_all(&self) -> Result<()> {
        loop {
            let some = || self.tree.range(rows::DATA_START..).keys().take(SLICE_ROWS).collect::<sled::Result<Vec<_>>>();
            let keys = self.engine.run("read the data", some)?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut changes = Batch::default();
            keys.into_iter().for_each(|key| changes.remove(key));
            self.apply(changes)?;
        }
    }
}

impl KvStore for SledKv {
    fn applied(&self) -> Result<Option<Index>> {
        self.engine.check()?;
        Ok(self.head().state.applied)
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        let mut head = self.head_mut(false)?;
        for op in &batch {
            if let KvOp::Put(key, value) = op {
                rows::check_limits(key, value)?;
            }
        }
        batch.iter().for_each(|op| head.pending.take(op));
        head.state = State { applied: Some(applied) };
        head.is_ahead = true;
        if head.pending.is_full() { self.write_pending(&mut head) } else { Ok(()) }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let head = self.head();
        if let Some(changed) = head.pending.get(key) {
            self.engine.check()?;
            return Ok(changed.clone());
        }
        self.row(&rows::key(key))?.map(|row| self.value(key, &row)).transpose()
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page::new());
        }
        let head = self.head();
        let mut stored = self.rows(range).peekable();
        let mut changed = head.pending.range(range).peekable();
        let (mut page, mut bytes) = (Page::new(), 0);
        loop {
            // Which comes first; a change hides the row of the same key.
            let order = match (stored.peek(), changed.peek()) {
                (None, None) => return Ok(page),
                (Some(Ok((stored, _))), Some((changed, _))) if range.reverse => stored.cmp(changed).reverse(),
                (Some(Ok((stored, _))), Some((changed, _))) => stored.cmp(changed),
                (Some(_), _) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            let row = if order.is_le() { stored.next().transpose()? } else { None };
            let change = if order.is_ge() { changed.next() } else { None };
            let found = match (change, row) {
                (Some((key, value)), _) => value.clone().map(|value| (key.clone(), value)),
                (None, Some((key, row))) => Some((key.clone(), self.value(&key, &row)?)),
                (None, None) => None,
            };
            let Some((key, value)) = found else { continue };
            bytes += key.len() + value.len();
            page.push((key, value));
            if page.len() >= count_max || bytes >= bytes_max {
                return Ok(page);
            }
        }
    }

    fn flush(&self) -> Result<Index> {
        let mut head = self.head_mut(false)?;
        let applied = head.expect_replacing(false)?;
        self.write_pending(&mut head)?;
        drop(head);
        self.engine.sync()?;
        Ok(applied)
    }

    fn replace_begin(&self) -> Result<()> {
        self.engine.check()?;
        let mut head = self.head.write().unwrap_or_else(PoisonError::into_inner);
        head.pending.clear();
        head.is_ahead = false;
        self.set_state(&mut head, State { applied: None })?;
        self.delete_all()?;
        head.next_value = 0;
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let mut head = self.head_mut(true)?;
        for rows in page.chunks(SLICE_ROWS) {
            let mut changes = Batch::default();
            let mut next_value = head.next_value;
            let last_of_each: BTreeMap<&Bytes, &Bytes> = rows.iter().map(|(key, value)| (key, value)).collect();
            for (key, value) in last_of_each {
                rows::check_limits(key, value)?;
                self.release(&head, key, &mut changes)?;
                SledKv::put(&mut next_value, key, value, &mut changes);
            }
            self.apply(changes)?;
            head.next_value = next_value;
        }
        Ok(())
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        let mut head = self.head_mut(true)?;
        self.set_state(&mut head, State { applied: Some(applied) })
    }
}

impl Head {
    /// The applied index; an error when a replacement is under way and should not be, or the other way round.
    fn expect_replacing(&self, expected: bool) -> Result<Index> {
        match (self.state.applied, expected) {
            (None, false) => Err(StorageError::Invalid("the data is being replaced".into())),
            (Some(_), true) => Err(StorageError::Invalid("no replacement of the data was begun".into())),
            (applied, _) => Ok(applied.unwrap_or_default()),
        }
    }
}

impl Drop for SledKv {
    fn drop(&mut self) {
        if !self.head().is_ahead {
            return;
        }
        // Nothing was promised, but the next start has less to apply.
        let written = self.head_mut(false).and_then(|mut head| self.write_pending(&mut head));
        if let Err(error) = written {
            tracing::debug!(%error, "changes were left to the log");
        }
    }
}

#[cfg(test)]
mod tests;
