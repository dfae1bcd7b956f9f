//! Key-value data: one tree for each group.

mod rows;

use std::{
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use coracle_core::{GroupId, Index};
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange, StorageError};
use sled::{Batch, IVec};

use self::rows::{Row, State};
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

/// What is known of the tree.
#[derive(Clone, Copy, Debug)]
struct Head {
    state: State,
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
        Ok(SledKv { engine, tree, place, head: RwLock::new(Head { state, next_value }) })
    }

    fn head(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while the tree changes; replaced by the new head once it has.
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

    fn put(&self, head: &mut Head, key: &[u8], value: &[u8], changes: &mut Batch) -> Result<()> {
        rows::check_limits(key, value)?;
        if rows::fits_inline(key, value) {
            changes.insert(rows::key(key), rows::inline(key, value));
            return Ok(());
        }
        let id = head.next_value;
        head.next_value += 1;
        changes.insert(rows::key(key), rows::apart(key, value, id));
        for (number, part) in (0..).zip(value.chunks(rows::PART_BYTES)) {
            changes.insert(&rows::value_key(id, number), part);
        }
        Ok(())
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
        let mut next = Head { state: State { applied: Some(applied) }, ..*head };
        let mut changes = Batch::default();
        for op in last_of_each(&batch) {
            match op {
                KvOp::Put(key, value) => {
                    self.release(&head, key, &mut changes)?;
                    self.put(&mut next, key, value, &mut changes)?;
                }
                KvOp::Delete(key) => {
                    self.release(&head, key, &mut changes)?;
                    changes.remove(rows::key(key));
                }
            }
        }
        rows::put_state(&mut changes, &next.state)?;
        self.apply(changes)?;
        *head = next;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let _unchanged = self.head();
        self.row(&rows::key(key))?.map(|row| self.value(key, &row)).transpose()
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page::new());
        }
        let _unchanged = self.head();
        let from = match &range.from {
            Bound::Unbounded => Bound::Included(rows::KEYS_START.to_vec()),
            bound => bound.as_ref().map(|key| rows::key(key)),
        };
        let to = match &range.to {
            Bound::Unbounded => Bound::Excluded(rows::KEYS_END.to_vec()),
            bound => bound.as_ref().map(|key| rows::key(key)),
        };
        let mut found = self.tree.range::<Vec<u8>, _>((from, to));
        let (mut page, mut bytes) = (Page::new(), 0);
        loop {
            let next = || if range.reverse { found.next_back() } else { found.next() }.transpose();
            let Some((key, row)) = self.engine.run("read the data", next)? else { return Ok(page) };
            let key = Bytes::copy_from_slice(key.get(1..).unwrap_or_default());
            let value = self.value(&key, &row)?;
            bytes += key.len() + value.len();
            page.push((key, value));
            if page.len() >= count_max || bytes >= bytes_max {
                return Ok(page);
            }
        }
    }

    fn flush(&self) -> Result<Index> {
        let applied = self.head().expect_replacing(false)?;
        self.engine.sync()?;
        Ok(applied)
    }

    fn replace_begin(&self) -> Result<()> {
        self.engine.check()?;
        let mut head = self.head.write().unwrap_or_else(PoisonError::into_inner);
        self.set_state(&mut head, State { applied: None })?;
        self.delete_all()?;
        head.next_value = 0;
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let mut head = self.head_mut(true)?;
        for rows in page.chunks(SLICE_ROWS) {
            let mut changes = Batch::default();
            let mut next = *head;
            let batch: KvBatch = rows.iter().map(|(key, value)| KvOp::Put(key.clone(), value.clone())).collect();
            for op in last_of_each(&batch) {
                if let KvOp::Put(key, value) = op {
                    self.release(&head, key, &mut changes)?;
                    self.put(&mut next, key, value, &mut changes)?;
                }
            }
            self.apply(changes)?;
            *head = next;
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

/// The changes without those that a later one to the same key undoes.
fn last_of_each(batch: &KvBatch) -> impl Iterator<Item = &KvOp> {
    let key = |op: &KvOp| match op {
        KvOp::Put(key, _) | KvOp::Delete(key) => key.clone(),
    };
    let mut seen = std::collections::HashSet::with_capacity(batch.len());
    batch.iter().rev().filter(move |op| seen.insert(key(op)))
}

#[cfg(test)]
mod tests;
