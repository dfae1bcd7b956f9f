//! Coracle's embedded store on sled, durable against a power loss.
//!
//! [`SledStore::open`] opens a directory:
//!
//! | File | What it holds |
//! |---|---|
//! | `identity` | Who the store speaks for, and the engine, as lines of text |
//! | `lock` | Locked while a process has the store open |
//! | `db`, `conf`, `snap.*`, `blobs/` | sled's: the logs and the key-value data, one tree each for each group; `blobs/` stays empty, because sled does not sync it |
//! | `marks` | How far each log is known to be durable |
//! | `snapshots/<group>/` | Snapshots, as ordinary files |
//!
//! A write to the log is one atomic batch for each group, one flush of sled, and one `fdatasync` of our own, which sled leaves out.
//! Key-value data gathers in memory and goes into sled some hundred changes at a time, or when it is flushed: until then, what a crash takes away is in the log.
//! A compaction deletes a few rows with each later write.
//! After a failed write or sync the store accepts nothing more, ever.
//!
//! What it cannot promise: sled notices most damage to its file by failing, but may open at an earlier state instead.
//! For logs that is noticed by `marks`, which lags by about a second; key-value data comes with its applied index, from which the log goes on.
//! The two copies of term and vote lie in the same file.
//! Running out of space is an I/O error and stops the store: sled cannot reserve.
//!
//! ```
//! use coracle_storage::{Durability, Store};
//! use coracle_storage_sled::{SledOptions, SledStore};
//!
//! let directory = tempfile::tempdir()?;
//! let store = SledStore::open(directory.path(), SledOptions::default())?;
//! assert_eq!(store.durability(), Durability::PowerLoss);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codec;
mod engine;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod kv;
mod log;
mod mark;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coracle_core::GroupId;
use coracle_storage::{
    Durability, Identity, KvStore, LogStore, Result, SnapshotStore, StorageError, Store,
    files::{self, FileSnapshots, identity},
};

use crate::{engine::Engine, kv::SledKv, log::SledLog};

const ENGINE: &str = "sled";

/// How long a row may be, key and value together: a leaf of 16 such rows and some changes stays far below what sled puts into files that it does not sync.
const ROW_BYTES_MAX: usize = 7 * 1024;

/// How a store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SledOptions {
    /// How much of the database sled keeps in memory, in bytes.
    pub cache_bytes: u64,
    /// The durable marks are written at most this often: what was written since is what a silent loss can hide in.
    pub mark_interval: Duration,
}

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions { cache_bytes: 128 * 1024 * 1024, mark_interval: Duration::from_secs(1) }
    }
}

/// A store in a directory. Clones are the same store; it is closed when the last of them and of its parts is dropped.
#[derive(Clone)]
pub struct SledStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// Before the engine, so that it is dropped before the lock is released.
    log: Arc<SledLog>,
    kv: Mutex<HashMap<GroupId, Arc<SledKv>>>,
    snapshots: Mutex<HashMap<GroupId, Arc<FileSnapshots>>>,
    engine: Arc<Engine>,
}

impl SledStore {
    /// Opens the store in the directory `path`, or makes it.
    ///
    /// # Errors
    /// [`StorageError::Engine`] when another engine made it, [`StorageError::Locked`] when a process has it open, [`StorageError::Damaged`] when it cannot be trusted, [`StorageError::Io`] with the path otherwise.
    pub fn open(path: &Path, options: SledOptions) -> Result<SledStore> {
        // Before anything is written into what may be another engine's.
        let found = identity::read(path)?;
        if let Some(found) = &found {
            identity::check_engine(path, found, ENGINE)?;
            // The identity is written after the database: one without the other has lost its log.
            if !path.join("db").metadata().is_ok_and(|db| db.len() > 0) {
                let what = "there is an identity, but its database is gone";
                return Err(StorageError::damaged(path.display().to_string(), what));
            }
        }
        files::ensure_dir(path)?;
        SledStore::on(path, Engine::open(path, &options)?, &options)
    }

    fn on(path: &Path, engine: Engine, options: &SledOptions) -> Result<SledStore> {
        let engine = Arc::new(engine);
        let log = Arc::new(SledLog::new(engine.clone(), path.join("marks"), options.mark_interval)?);
        let path = path.to_owned();
        let shared = Shared { path, log, kv: Mutex::default(), snapshots: Mutex::default(), engine };
        Ok(SledStore { shared: Arc::new(shared) })
    }
}

impl fmt::Debug for SledStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledStore").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Store for SledStore {
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
        self.shared.engine.check()?;
        identity::check_engine(&self.shared.path, identity, ENGINE)?;
        identity::write(&self.shared.path, identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.shared.log.clone()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        let mut snapshots = lock(&self.shared.snapshots);
        if let Some(found) = snapshots.get(&group) {
            return Ok(found.clone());
        }
        let dir = self.shared.path.join("snapshots").join(group.to_string());
        let opened = Arc::new(FileSnapshots::open(dir)?);
        snapshots.insert(group, opened.clone());
        Ok(opened)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        let mut kv = lock(&self.shared.kv);
        if let Some(found) = kv.get(&group) {
            return Ok(found.clone());
        }
        let opened = Arc::new(SledKv::open(self.shared.engine.clone(), group)?);
        kv.insert(group, opened.clone());
        Ok(opened)
    }
}

/// What a panic leaves behind under these locks is whole: a part is in the map or it is not.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
