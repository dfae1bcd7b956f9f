//! An ordered map of bytes.

use std::ops::Bound;

use bytes::Bytes;
use coracle_core::Index;

use crate::Result;

/// A change to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvOp {
    /// Sets it.
    Put(Bytes, Bytes),
    /// Removes it; that it is absent is no error.
    Delete(Bytes),
}

/// Changes, in order; the last one to a key wins.
pub type KvBatch = Vec<KvOp>;

/// Which keys a scan visits, in ascending order of bytes or backwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRange {
    /// The lower bound.
    pub from: Bound<Bytes>,
    /// The upper bound.
    pub to: Bound<Bytes>,
    /// From the upper bound down.
    pub reverse: bool,
}

impl ScanRange {
    /// Every key, ascending.
    pub fn all() -> ScanRange {
        ScanRange { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false }
    }

    /// Whether the bounds leave room for no key at all.
    pub fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        }
    }
}

/// Keys and values, in the order of the scan.
pub type Page = Vec<(Bytes, Bytes)>;

/// An ordered map of bytes. It need not offer consistent views: what is scanned may be of different moments, but each batch is seen as a whole by a read that starts after it returned.
pub trait KvStore: Send + Sync {
    /// The index that came with the last batch; 0 in a new store, `None` between `replace_begin` and `replace_end`, also after a crash.
    ///
    /// # Errors
    /// When it cannot be read.
    fn applied(&self) -> Result<Option<Index>>;

    /// Writes a batch together with the index, all or nothing. It may survive a crash only later: a store recovers to a prefix of its batches (C7).
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(&self, batch: KvBatch, applied: Index) -> Result<()>;

    /// The value of a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Shows `see` what [`KvStore::get`] would return, once. A store that has the value in memory neither copies nor shares it; `see` must not call the store.
    ///
    /// # Errors
    /// When it cannot be read.
    fn inspect(&self, key: &[u8], see: &mut dyn FnMut(Option<&[u8]>)) -> Result<()> {
        see(self.get(key)?.as_deref());
        Ok(())
    }

    /// The first keys of the range with their values: at most `count_max`, and no more once `bytes_max` is reached, but at least one if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page>;

    /// Makes every batch so far durable and returns the index that came with the last.
    ///
    /// # Errors
    /// When it cannot be synced. The sync is not tried again (C18).
    fn flush(&self) -> Result<Index>;

    /// Begins to replace all data: durably marks that this is under way, and deletes everything.
    ///
    /// # Errors
    /// When it cannot be written.
    fn replace_begin(&self) -> Result<()>;

    /// Adds to the new data; only between `replace_begin` and `replace_end`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn replace_add(&self, page: Page) -> Result<()>;

    /// Ends it: the new data belongs to `applied`, durably when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    fn replace_end(&self, applied: Index) -> Result<()>;

    /// Whether reads and writes never wait for a device: such a store may be called in line.
    fn never_blocks(&self) -> bool {
        false
    }

    /// Whether the data survive what the log of the same store survives, once they are flushed. If not, the state machine on them is not durable either: the log must not be compacted beyond a snapshot (C7).
    fn is_durable(&self) -> bool {
        true
    }
}
