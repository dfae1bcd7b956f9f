//! Reads that all show the same state.

use std::{ops::RangeBounds, sync::Arc};

use bytes::Bytes;

use super::{
    Below,
    batch::copy,
    scan::{Scan, prefix_range, range_bounds},
};
use crate::{ReadAt, Result, Revision};

/// A revision that is held: all reads through it show the same state, whatever is written meanwhile.
///
/// It is let go of when the handle and the scans that were made from it are dropped, and when it is not read for [`HandleOptions::hold`](crate::HandleOptions::hold);
/// reads then end with [`Error::SnapshotGone`](crate::Error::SnapshotGone).
#[derive(Clone, Debug)]
pub struct Snapshot {
    hold: Arc<Hold>,
}

impl Snapshot {
    pub(super) async fn take(below: Arc<Below>) -> Result<Snapshot> {
        Ok(Snapshot { hold: Arc::new(Hold::take(below).await?) })
    }

    /// The revision that it shows.
    pub fn revision(&self) -> Revision {
        self.hold.revision
    }

    /// The value of a key.
    ///
    /// # Errors
    /// As [`Kv::get_many`](crate::Kv::get_many) does.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>> {
        Ok(self.get_many([key]).await?.pop().flatten())
    }

    /// The values of keys, in their order.
    ///
    /// # Errors
    /// As [`Kv::get_many`](crate::Kv::get_many) does.
    pub async fn get_many(&self, keys: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Vec<Option<Bytes>>> {
        let keys = keys.into_iter().map(copy).collect();
        let read = self.hold.below.get_many(self.at(), keys).await?;
        Ok(read.value.into_iter().map(|value| value.map(|value| value.value)).collect())
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// As [`Kv::contains_many`](crate::Kv::contains_many) does.
    pub async fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.hold.below.contains_key(self.at(), copy(key)).await
    }

    /// Visits the keys in `range`, in order.
    pub fn scan<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Scan {
        Scan::held(self.hold.clone(), range_bounds(&range))
    }

    /// Visits the keys that begin with `prefix`, in order.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        Scan::held(self.hold.clone(), prefix_range(prefix.as_ref()))
    }

    /// Lets go of the revision and waits until that is done; scans and clones that are left end with an error.
    ///
    /// # Errors
    /// As [`Kv::release`](crate::Kv::release) does.
    pub async fn release(self) -> Result<()> {
        self.hold.release().await
    }

    fn at(&self) -> ReadAt {
        ReadAt::Revision(self.hold.revision)
    }
}

/// A held revision, let go of when it is dropped.
pub(super) struct Hold {
    pub(super) below: Arc<Below>,
    pub(super) revision: Revision,
    released: std::sync::atomic::AtomicBool,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Hold {
    pub(super) async fn take(below: Arc<Below>) -> Result<Hold> {
        let hold = below.options.hold;
        let revision = super::retry::repeat(&below.options, || below.kv.snapshot(hold)).await?;
        Ok(Hold { below, revision, released: false.into() })
    }

    /// Whether it is up to the caller to let go: the first one only, since a hold is given back once.
    fn take_release(&self) -> bool {
        !self.released.swap(true, std::sync::atomic::Ordering::AcqRel)
    }

    async fn release(&self) -> Result<()> {
        if !self.take_release() {
            return Ok(());
        }
        // Not tried again: a second release could take another's hold, and a hold that is left ends by itself.
        self.below.kv.release(self.revision).await
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.take_release() {
            return;
        }
        // Outside of a runtime the hold ends when its time is over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (kv, revision) = (self.below.kv.clone(), self.revision);
            runtime.spawn(async move {
                // Nobody is left to be told of a failure, and the hold ends by itself.
                let _ = kv.release(revision).await;
            });
        }
    }
}
