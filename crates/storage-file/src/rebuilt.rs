//! Key-value data that are rebuilt at each start, beside a log that is durable.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use coracle_core::Index;
use coracle_storage::{KvBatch, KvStore, Page, Result, ScanRange};

/// Key-value data of a store that does not survive what the log does.
///
/// It says so: the replica then takes a snapshot before it compacts the log, never compacts beyond one, and begins with it after a start (C7).
pub(crate) struct Rebuilt {
    kv: Arc<dyn KvStore>,
    /// What the last snapshot that was installed covers.
    installed: AtomicU64,
}

impl Rebuilt {
    pub(crate) fn new(kv: Arc<dyn KvStore>) -> Rebuilt {
        Rebuilt { kv, installed: AtomicU64::new(0) }
    }
}

impl KvStore for Rebuilt {
    fn applied(&self) -> Result<Option<Index>> {
        self.kv.applied()
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        self.kv.write(batch, applied)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.kv.get(key)
    }

    fn inspect(&self, key: &[u8], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        self.kv.inspect(key, see)
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        self.kv.scan(range, count_max, bytes_max)
    }

    fn flush(&self) -> Result<Index> {
        self.kv.flush()?;
        Ok(Index(self.installed.load(Ordering::Relaxed)))
    }

    fn replace_begin(&self) -> Result<()> {
        self.kv.replace_begin()
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        self.kv.replace_add(page)
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        self.kv.replace_end(applied)?;
        self.installed.store(applied.0, Ordering::Relaxed);
        Ok(())
    }

    fn never_blocks(&self) -> bool {
        self.kv.never_blocks()
    }

    fn is_durable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::GroupId;
    use coracle_storage::Store;
    use coracle_storage_memory::MemoryStore;

    use super::*;

    #[test]
    fn c07_only_what_a_snapshot_covers_counts_as_flushed() {
        let kv = Rebuilt::new(MemoryStore::new().kv(GroupId(1)).unwrap());
        assert!(!kv.is_durable());
        kv.write(Vec::new(), Index(5)).unwrap();
        assert_eq!((kv.applied().unwrap(), kv.flush().unwrap()), (Some(Index(5)), Index::ZERO));
        kv.replace_begin().unwrap();
        kv.replace_end(Index(9)).unwrap();
        kv.write(Vec::new(), Index(12)).unwrap();
        assert_eq!((kv.applied().unwrap(), kv.flush().unwrap()), (Some(Index(12)), Index(9)));
    }
}
