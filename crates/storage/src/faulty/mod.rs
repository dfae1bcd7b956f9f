//! A store that fails on purpose, for tests: it works round any other [`Store`].
//!
//! [`Faults`] says what goes wrong: in the Nth operation of a kind, by chance (from a seed), or from now until it is mended.
//! [`FaultyStore::power_cut`] loses what a lying disk only pretended to have written.
//!
//! What a store may do under C18 is the default; [`Fault::TornWithin`] and [`Kept::Torn`] go beyond it, for tests that want the damage to be noticed.

mod faults;
mod kv;
mod log;
mod snapshot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_core::GroupId;

pub use self::faults::{Fault, Faults, Op};
use self::{kv::FaultyKv, log::FaultyLog, snapshot::FaultySnapshots};
use crate::{Durability, Identity, KvStore, LogStore, Result, SnapshotStore, Store};

/// A store whose operations fail as [`Faults`] says. Clones are the same store.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    log: Arc<FaultyLog>,
    faults: Faults,
}

/// What a power cut leaves of the writes that a lying disk acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing of them.
    Nothing,
    /// The first of them, drawn from the seed: whole batches.
    Prefix,
    /// The first of them, and of the next batch some entries but not the rest: more than any store may lose (C18).
    Torn,
}

impl FaultyStore {
    /// Works round `inner`.
    pub fn new(inner: Arc<dyn Store>, faults: Faults) -> FaultyStore {
        let log = Arc::new(FaultyLog::new(inner.log(), faults.clone()));
        FaultyStore { inner, log, faults }
    }

    /// What goes wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The process is gone and another one opens the store: an earlier failure is forgotten, and what a lying disk acknowledged is still there.
    pub fn restart(&self) {
        self.log.restart();
    }

    /// The power fails: an earlier failure is forgotten, and so are writes that a lying disk acknowledged, but for what is `kept`.
    /// Nobody uses the store meanwhile.
    ///
    /// # Errors
    /// When the inner store refuses what is kept.
    pub fn power_cut(&self, kept: Kept) -> Result<()> {
        self.log.power_cut(kept)
    }
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner.engine()).finish_non_exhaustive()
    }
}

impl Store for FaultyStore {
    fn engine(&self) -> &'static str {
        self.inner.engine()
    }

    fn durability(&self) -> Durability {
        self.inner.durability()
    }

    fn durability_doubt(&self) -> Option<&'static str> {
        self.inner.durability_doubt()
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.inner.identity()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.inner.set_identity(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.log.clone()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        Ok(Arc::new(FaultySnapshots::new(self.inner.snapshots(group)?, self.faults.clone())))
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        Ok(Arc::new(FaultyKv::new(self.inner.kv(group)?, self.faults.clone())))
    }
}

/// A test that panicked elsewhere leaves values that are as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
