//! Snapshots, as files or whatever an adapter has for large bytes.

use bytes::Bytes;
use coracle_core::SnapshotMeta;

use crate::{Result, StorageError};

/// The snapshots of a group. At most a few are kept: a new one, once whole, replaces older ones, except the newest of them, which may be on its way to a peer (C8).
pub trait SnapshotStore: Send + Sync {
    /// The newest whole snapshot. One that is seen to be damaged is passed over; that the bytes of the others match is seen when they are read.
    ///
    /// # Errors
    /// When they cannot be read.
    fn latest(&self) -> Result<Option<SnapshotMeta>>;

    /// Begins a snapshot of this node's own state. The meta data is known when it is finished.
    ///
    /// # Errors
    /// When it cannot be written.
    fn begin(&self) -> Result<Box<dyn SnapshotWriter>>;

    /// Goes on with the receipt of the snapshot `meta`, or begins it, and drops any other half-received one: the writer's `offset` says what is already there (C8).
    ///
    /// # Errors
    /// When it cannot be written.
    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>>;

    /// Reads up to `len` bytes at `offset` of the whole snapshot named `content`; `None` when it is not there any more.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>>;

    /// Deletes whole snapshots other than the one named `content`, and what is damaged.
    ///
    /// # Errors
    /// When they cannot be deleted.
    fn keep_only(&self, content: u64) -> Result<()>;

    /// Puts a snapshot aside whose bytes turned out to be damaged: it is neither the latest nor read any more.
    /// What is kept of it, for people to look at, goes with the next whole one.
    ///
    /// # Errors
    /// When that cannot be done.
    fn discard(&self, content: u64) -> Result<()>;

    /// What is known to be damaged and is still there; each names its place.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn damaged(&self) -> Result<Vec<StorageError>> {
        Ok(Vec::new())
    }

    /// Where the snapshot named `content` lies, for people.
    fn place(&self, content: u64) -> String {
        format!("the snapshot {content:016x}")
    }
}

/// A snapshot that is being written.
/// When there is no space ([`StorageError::Full`](crate::StorageError::Full), or an I/O error that says so), it is given up and tried again later: a file whose write or sync failed is neither gone on with nor synced again, and what was received before may stay.
/// Dropped before `commit`, what was received stays and can be resumed; what was begun anew is forgotten.
pub trait SnapshotWriter: Send {
    /// How many bytes are there.
    fn offset(&self) -> u64;

    /// Appends bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    fn write(&mut self, data: &[u8]) -> Result<()>;

    /// Makes the snapshot whole and durable under `meta`, after checking size and checksum against the bytes.
    ///
    /// # Errors
    /// When they do not match (`Damaged`; the bytes are forgotten), or cannot be synced.
    fn commit(self: Box<Self>, meta: &SnapshotMeta) -> Result<()>;
}
