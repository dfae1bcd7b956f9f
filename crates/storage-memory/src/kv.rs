//! An ordered map in memory.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use coracle_core::Index;
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange, StorageError};
use smallvec::SmallVec;

/// A key. Up to 24 bytes lie in the map itself: to compare them the processor waits for no other memory, which is most of what a lookup costs.
type Key = SmallVec<[u8; 24]>;

/// One group's data.
#[derive(Debug, Default)]
pub(crate) struct MemoryKvStore {
    data: RwLock<Data>,
}

#[derive(Debug, Default)]
struct Data {
    map: BTreeMap<Key, Bytes>,
    applied: Index,
    is_replacing: bool,
}

impl MemoryKvStore {
    fn read(&self) -> RwLockReadGuard<'_, Data> {
        self.data.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> RwLockWriteGuard<'_, Data> {
        self.data.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KvStore for MemoryKvStore {
    fn applied(&self) -> Result<Option<Index>> {
        let data = self.read();
        Ok((!data.is_replacing).then_some(data.applied))
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        let mut data = self.locked();
        data.expect_replacing(false)?;
        for op in batch {
            match op {
                KvOp::Put(key, value) => data.map.insert(Key::from_slice(&key), value),
                KvOp::Delete(key) => data.map.remove(&key[..]),
            };
        }
        data.applied = applied;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.read().map.get(key).cloned())
    }

    fn inspect(&self, key: &[u8], see: &mut dyn FnMut(Option<&Bytes>)) -> Result<()> {
        see(self.read().map.get(key));
        Ok(())
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        if range.is_empty() {
            return Ok(Page::new());
        }
        let data = self.read();
        let bounds = (bound(&range.from), bound(&range.to));
        let rows = data.map.range::<[u8], _>(bounds);
        Ok(if range.reverse { page(rows.rev(), count_max, bytes_max) } else { page(rows, count_max, bytes_max) })
    }

    fn flush(&self) -> Result<Index> {
        let data = self.read();
        data.expect_replacing(false)?;
        Ok(data.applied)
    }

    fn replace_begin(&self) -> Result<()> {
        *self.locked() = Data { is_replacing: true, ..Data::default() };
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let mut data = self.locked();
        data.expect_replacing(true)?;
        data.map.extend(page.into_iter().map(|(key, value)| (Key::from_slice(&key), value)));
        Ok(())
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        let mut data = self.locked();
        data.expect_replacing(true)?;
        data.is_replacing = false;
        data.applied = applied;
        Ok(())
    }

    fn never_blocks(&self) -> bool {
        true
    }
}

impl Data {
    fn expect_replacing(&self, expected: bool) -> Result<()> {
        match (self.is_replacing, expected) {
            (true, false) => Err(StorageError::Invalid("the data is being replaced".into())),
            (false, true) => Err(StorageError::Invalid("no replacement of the data was begun".into())),
            _ => Ok(()),
        }
    }
}

fn bound(bound: &Bound<Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

fn page<'a>(rows: impl Iterator<Item = (&'a Key, &'a Bytes)>, count_max: usize, bytes_max: usize) -> Page {
    let (mut page, mut bytes) = (Page::new(), 0);
    for (key, value) in rows {
        bytes += key.len() + value.len();
        page.push((Bytes::copy_from_slice(key), value.clone()));
        if page.len() >= count_max || bytes >= bytes_max {
            break;
        }
    }
    page
}
