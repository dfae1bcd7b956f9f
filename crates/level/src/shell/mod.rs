//! What makes the bottom pleasant: keys and values from anything with bytes, scans as streams, retries that are safe.

mod batch;
mod retry;
mod scan;
mod session;
mod snapshot;

use std::{fmt, ops::RangeBounds, sync::Arc};

use bytes::Bytes;

pub use self::{batch::WriteBatch, retry::HandleOptions, scan::Scan, snapshot::Snapshot};

use self::{
    batch::copy,
    retry::repeat,
    scan::{prefix_range, range_bounds},
    session::SessionWriter,
};
use crate::{Committed, Error, Kv, Op, Read, ReadAt, Result, Revision, ScanPage, ScanSpec, Txn, Value};

/// A level-style key-value store: a handle, cheap to clone.
///
/// Operations that fail for a while (no leader, a full queue, a lost connection) are tried again until [`HandleOptions::deadline`].
/// Writes go through a session, which the first one opens and all clones share, so that a write that is tried again takes effect once.
/// A write that ends with [`Error::Unknown`] or [`Error::SessionExpired`] may have taken effect; any other error means that it did not.
#[derive(Clone)]
pub struct Level {
    below: Arc<Below>,
    writer: Arc<SessionWriter>,
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("options", &self.below.options).finish_non_exhaustive()
    }
}

impl Level {
    /// A handle on `kv` with the default options.
    pub fn new(kv: Arc<dyn Kv>) -> Level {
        Level::with_options(kv, HandleOptions::default())
    }

    /// A handle on `kv`.
    pub fn with_options(kv: Arc<dyn Kv>, options: HandleOptions) -> Level {
        let writer = Arc::new(SessionWriter::new(kv.clone()));
        Level { below: Arc::new(Below { kv, options }), writer }
    }

    /// What is below.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.below.kv
    }

    /// The value of a key, seeing every write that was acknowledged before.
    ///
    /// # Errors
    /// As [`Kv::get_many`] does, once the deadline is over.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.get_with(ReadAt::Linearizable, key).await?.value.map(|value| value.value))
    }

    /// The value of a key with its revisions, as fresh as `at` says.
    ///
    /// # Errors
    /// As [`Kv::get_many`] does, once the deadline is over.
    pub async fn get_with(&self, at: ReadAt, key: impl AsRef<[u8]>) -> Result<Read<Option<Value>>> {
        let mut read = self.below.get_many(at, vec![copy(key)]).await?;
        Ok(Read { value: read.value.pop().flatten(), revision: read.revision })
    }

    /// The values of keys, in their order, all of one revision.
    ///
    /// # Errors
    /// As [`Kv::get_many`] does, once the deadline is over.
    pub async fn get_many(&self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Vec<Option<Bytes>>> {
        let keys = keys.into_iter().map(copy).collect();
        let read = self.below.get_many(ReadAt::Linearizable, keys).await?;
        Ok(read.value.into_iter().map(|value| value.map(|value| value.value)).collect())
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// As [`Kv::contains_many`] does, once the deadline is over.
    pub async fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.below.contains_key(ReadAt::Linearizable, copy(key)).await
    }

    /// Sets a key.
    ///
    /// # Errors
    /// As [`Level::write`] does.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Revision> {
        Ok(self.commit(Op::Put { key: copy(key), value: copy(value) }).await?.revision)
    }

    /// Removes a key; that it is absent is no error.
    ///
    /// # Errors
    /// As [`Level::write`] does.
    pub async fn del(&self, key: impl AsRef<[u8]>) -> Result<Revision> {
        Ok(self.commit(Op::Delete { key: copy(key) }).await?.revision)
    }

    /// Adds to a decimal integer and returns the sum; an absent key counts as 0.
    ///
    /// # Errors
    /// `NotAnInteger` when the value is none, or the sum would not be one; otherwise as [`Level::write`] does.
    pub async fn increment(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64> {
        let committed = self.commit(Op::Increment { key: copy(key), by }).await?;
        let sum = committed.integers.first().copied();
        sum.ok_or_else(|| Error::Protocol("an increment was answered without its sum".to_owned()))
    }

    /// An empty batch, for [`Level::write`].
    pub fn batch(&self) -> WriteBatch {
        WriteBatch::new()
    }

    /// Commits the changes of a batch together.
    ///
    /// # Errors
    /// `Unknown` and `SessionExpired` when the changes may have taken effect; after all other errors they surely did not.
    pub async fn write(&self, batch: WriteBatch) -> Result<Committed> {
        self.writer.commit(batch.into(), &self.below.options).await
    }

    /// Visits the keys in `range`, in order.
    ///
    /// The range of all keys is written `scan::<&[u8]>(..)`.
    pub fn scan<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Scan {
        Scan::newest(self.below.clone(), range_bounds(&range))
    }

    /// Visits the keys that begin with `prefix`, in order; all keys begin with the empty one.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::newest(self.below.clone(), prefix_range(prefix.as_ref()))
    }

    /// Holds the newest revision, so that any number of reads show the same state.
    ///
    /// # Errors
    /// As [`Kv::snapshot`] does, once the deadline is over.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self.below.clone()).await
    }

    /// Closes the session, if a write has opened one; a later write opens another.
    /// A session that is not closed is forgotten some day, when many others were used since.
    ///
    /// # Errors
    /// As [`Kv::close_session`] does, once the deadline is over.
    pub async fn close(&self) -> Result<()> {
        self.writer.close(&self.below.options).await
    }

    async fn commit(&self, op: Op) -> Result<Committed> {
        self.writer.commit(Txn { ops: vec![op] }, &self.below.options).await
    }
}

/// The bottom, and how to treat it; reads through it are tried again.
struct Below {
    kv: Arc<dyn Kv>,
    options: HandleOptions,
}

impl Below {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        let asked = keys.len();
        let read = repeat(&self.options, || self.kv.get_many(at, keys.clone())).await?;
        if read.value.len() != asked {
            let got = read.value.len();
            return Err(Error::Protocol(format!("{asked} keys were asked for, {got} values came")));
        }
        Ok(read)
    }

    async fn contains_key(&self, at: ReadAt, key: Bytes) -> Result<bool> {
        let read = repeat(&self.options, || self.kv.contains_many(at, vec![key.clone()])).await?;
        let found = read.value.first().copied();
        found.ok_or_else(|| Error::Protocol("a key was asked for, no answer came".to_owned()))
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<ScanPage> {
        Ok(repeat(&self.options, || self.kv.page(at, scan.clone())).await?.value)
    }
}

#[cfg(test)]
mod tests;
