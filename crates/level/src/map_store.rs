//! An ordered map in memory as a store, for [`MemoryKv`](crate::MemoryKv) and tests.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;
use coracle_core::Index;
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange};

/// A map and the index that came with the last batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) rows: BTreeMap<Bytes, Bytes>,
    pub(crate) applied: Option<Index>,
}

/// An ordered map in memory.
#[derive(Debug)]
pub(crate) struct MapStore(RwLock<Map>);

impl MapStore {
    /// An empty one.
    pub(crate) fn new() -> MapStore {
        MapStore::from(Map { rows: BTreeMap::new(), applied: Some(Index::ZERO) })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Map> {
        // Whoever panicked did so between whole changes.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Map> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Map> for MapStore {
    fn from(map: Map) -> MapStore {
        MapStore(RwLock::new(map))
    }
}

impl KvStore for MapStore {
    fn applied(&self) -> Result<Option<Index>> {
        Ok(self.read().applied)
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        let mut map = self.change();
        for op in batch {
            match op {
                KvOp::Put(key, value) => map.rows.insert(key, value),
                KvOp::Delete(key) => map.rows.remove(&key),
            };
        }
        map.applied = Some(applied);
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.read().rows.get(key).cloned())
    }

    fn inspect(&self, key: &[u8], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        see(self.read().rows.get(key).map(|value| &value[..]));
        Ok(())
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        let map = self.read();
        let mut bytes = 0;
        let fits = |(key, value): &(&Bytes, &Bytes)| {
            let before = bytes;
            bytes += key.len() + value.len();
            before < bytes_max.max(1)
        };
        let rows = map.rows.range((range.from.clone(), range.to.clone()));
        let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        Ok(if range.reverse {
            rows.rev().take(count_max).take_while(fits).map(copy).collect()
        } else {
            rows.take(count_max).take_while(fits).map(copy).collect()
        })
    }

    fn flush(&self) -> Result<Index> {
        Ok(self.read().applied.unwrap_or_default())
    }

    fn replace_begin(&self) -> Result<()> {
        *self.change() = Map { rows: BTreeMap::new(), applied: None };
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        self.change().rows.extend(page);
        Ok(())
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        self.change().applied = Some(applied);
        Ok(())
    }

    fn never_blocks(&self) -> bool {
        true
    }
}
