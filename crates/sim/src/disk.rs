//! A simulated disk: what is written is durable later, and a crash loses a legal part of what was not.

mod kv;
mod log;
mod snapshots;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_core::{ClusterId, GroupId, Incarnation, NodeId, Rng};
use coracle_storage::{Durability, Identity, KvStore, LogStore, Result, SnapshotStore, Store};

pub(crate) use log::{LogState, SimLog};

use self::{kv::SimKv, snapshots::SimSnapshots};

/// The one group that is simulated.
pub(crate) const GROUP: GroupId = GroupId(1);

/// A node's disk, which outlives the node's crashes.
pub(crate) struct Disk {
    pub(crate) log: Arc<SimLog>,
    kv: Arc<SimKv>,
    snapshots: Arc<SimSnapshots>,
    identity: Mutex<Option<Identity>>,
}

impl Disk {
    /// The disk of a node that has just been founded.
    pub(crate) fn founded(node: NodeId, founded: &coracle_core::Recovered) -> Disk {
        let identity = Identity {
            node,
            incarnation: Incarnation(0),
            engine: "sim".into(),
            cluster_name: "sim".into(),
            cluster: Some(ClusterId(0)),
        };
        Disk {
            log: Arc::new(SimLog::founded(founded)),
            kv: Arc::new(SimKv::default()),
            snapshots: Arc::new(SimSnapshots::default()),
            identity: Mutex::new(Some(identity)),
        }
    }

    /// Loses a legal part of what is not durable: writes of the log and of the map from some one on, and what there is of snapshots that are not whole.
    pub(crate) fn crash(&self, rng: &mut Rng) {
        self.log.crash(rng);
        self.kv.crash(rng);
        self.snapshots.crash(rng);
    }

    pub(crate) fn kv_store(&self) -> Arc<dyn KvStore> {
        self.kv.clone()
    }

    pub(crate) fn snapshot_store(&self) -> Arc<dyn SnapshotStore> {
        self.snapshots.clone()
    }
}

impl Store for Disk {
    fn engine(&self) -> &'static str {
        "sim"
    }

    fn durability(&self) -> Durability {
        Durability::PowerLoss
    }

    fn identity(&self) -> Result<Option<Identity>> {
        Ok(lock(&self.identity).clone())
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        *lock(&self.identity) = Some(identity.clone());
        Ok(())
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.log.clone()
    }

    fn snapshots(&self, _group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        Ok(self.snapshot_store())
    }

    fn kv(&self, _group: GroupId) -> Result<Arc<dyn KvStore>> {
        Ok(self.kv_store())
    }
}

/// Everything runs on one thread, and a panic ends the run: a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
