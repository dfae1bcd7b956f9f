//! A store in plain files, made for a Raft log.
//!
//! [`FileStore::open`] opens a directory:
//!
//! | File | What it holds |
//! |---|---|
//! | `identity` | Who the store speaks for, and the engine, as lines of text |
//! | `lock` | Locked while a process has the store open |
//! | `log/<number>.segment` | The logs of all groups, as blocks; byte by byte in `docs/file-format.md` |
//! | `log/mark` | How far the log is known to be durable |
//! | `snapshots/<group>/` | Snapshots, as ordinary files |
//!
//! A write of any number of batches of any number of groups is one block: one write and one `fdatasync` into a file that has its size and its zeros already.
//! Each header of a block, with term and vote and what the entries are, lies in it twice; each sector and each entry has a checksum.
//! So what a power cut left half written is told from damage, and damaged entries are known by index and term, to be repaired from peers.
//! The key-value data are another store's; if they do not survive what the log does, they are rebuilt from the snapshot and the log.
//! After a failed write or sync the store accepts nothing more, ever; without space it refuses, having written nothing, and goes on when there is space.
//!
//! ```
//! use std::sync::Arc;
//!
//! use coracle_storage::{Durability, Store};
//! use coracle_storage_file::{FileOptions, FileStore};
//! use coracle_storage_memory::MemoryStore;
//!
//! let directory = tempfile::tempdir()?;
//! let options = FileOptions { segment_bytes: 1024 * 1024 };
//! let store = FileStore::open(directory.path(), options, Arc::new(MemoryStore::new()))?;
//! assert_eq!(store.durability(), Durability::PowerLoss);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod disk;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod log;
mod mark;
mod rebuilt;
mod scan;
mod segment;
#[cfg(any(test, feature = "fuzzing"))]
mod sim_disk;
mod spare;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use coracle_core::GroupId;
use coracle_storage::{
    Durability, Identity, KvStore, LogStore, Result, SnapshotStore, StorageError, Store,
    files::{self, FileSnapshots, identity},
};

use crate::{
    disk::OsDisk,
    log::{FileLog, LogOptions},
    rebuilt::Rebuilt,
};

const ENGINE: &str = "file";
/// A segment has room for its header and some blocks.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// Segments are read as a whole when the log is opened.
const SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How a store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOptions {
    /// The size of the log's files, in bytes: each is filled with zeros before it is used, and one is kept ready. A single write that needs more gets a file of its own.
    pub segment_bytes: u64,
}

impl Default for FileOptions {
    fn default() -> FileOptions {
        FileOptions { segment_bytes: 16 * 1024 * 1024 }
    }
}

/// A store in a directory. Clones are the same store; it is closed when the last of them and of its parts is dropped.
#[derive(Clone)]
pub struct FileStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    log: Arc<LockedLog>,
    snapshots: Mutex<HashMap<GroupId, Arc<FileSnapshots>>>,
    kv: Arc<dyn Store>,
}

/// The log, which may outlive the store, and what keeps others out until it is closed.
struct LockedLog {
    log: FileLog,
    /// Unlocked last.
    _lock: File,
}

impl FileStore {
    /// Opens the store in the directory `path`, or makes it. The key-value data are those of the store `kv`.
    ///
    /// # Errors
    /// [`StorageError::Engine`] when another engine made it, [`StorageError::Locked`] when a process has it open, [`StorageError::Damaged`] when it cannot be trusted, [`StorageError::Full`] when there is no space for a log, [`StorageError::Invalid`] when the options are out of bounds, [`StorageError::Io`] with the path otherwise.
    pub fn open(path: &Path, options: FileOptions, kv: Arc<dyn Store>) -> Result<FileStore> {
        let bytes = options.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
            let bounds = format!("{SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}");
            return Err(StorageError::Invalid(format!("segments of {bytes} bytes, expected {bounds}")));
        }
        // Before anything is written into what may be another engine's.
        let found = identity::read(path)?;
        if let Some(found) = &found {
            identity::check_engine(path, found, ENGINE)?;
        }
        let dir = path.join("log");
        files::ensure_dir(path)?;
        let lock = files::lock(path)?;
        files::ensure_dir(&dir)?;
        // The identity is written after the log: one without the other has lost its log.
        let segment_bytes = bytes.next_multiple_of(format::SECTOR as u64);
        let options = LogOptions { segment_bytes, has_thread: true, salt: None };
        let log = FileLog::open(Arc::new(OsDisk::new(dir)), options, found.is_some())?;
        let log = Arc::new(LockedLog { log, _lock: lock });
        let shared = Shared { path: path.to_owned(), log, snapshots: Mutex::default(), kv };
        Ok(FileStore { shared: Arc::new(shared) })
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Store for FileStore {
    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn durability(&self) -> Durability {
        Durability::PowerLoss
    }

    fn identity(&self) -> Result<Option<Identity>> {
        identity::read(&self.shared.path)
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.shared.log.log.check()?;
        identity::check_engine(&self.shared.path, identity, ENGINE)?;
        identity::write(&self.shared.path, identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.shared.log.clone()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        // What a panic leaves behind is whole: a part is in the map or it is not.
        let mut snapshots = self.shared.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = snapshots.get(&group) {
            return Ok(found.clone());
        }
        let dir = self.shared.path.join("snapshots").join(group.to_string());
        let opened = Arc::new(FileSnapshots::open(dir)?);
        snapshots.insert(group, opened.clone());
        Ok(opened)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        let kv = self.shared.kv.kv(group)?;
        if self.shared.kv.durability() < self.durability() { Ok(Arc::new(Rebuilt::new(kv))) } else { Ok(kv) }
    }
}

impl LogStore for LockedLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<coracle_storage::RecoveredLog> {
        self.log.recover(group, tail_bytes_max)
    }

    fn write(&self, batches: &[coracle_storage::LogBatch]) -> Result<()> {
        self.log.write(batches)
    }

    fn read(
        &self,
        group: GroupId,
        from: coracle_core::Index,
        to: coracle_core::Index,
        bytes_max: usize,
    ) -> Result<coracle_core::LogRead> {
        self.log.read(group, from, to, bytes_max)
    }
}
