//! A simulated disk: what is written is durable later, and a crash loses a legal part of what was not.

mod kv;
mod log;
mod snapshots;
mod switch;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use coracle_core::{ClusterId, GroupId, Incarnation, NodeId, Rng};
use coracle_storage::{Durability, Identity, KvStore, LogStore, Result, SnapshotStore, Store};

pub(crate) use log::{LogState, SimLog};
pub(crate) use switch::{DiskOp, Switch};

use self::{kv::SimKv, snapshots::SimSnapshots};

/// The one group that is simulated.
pub(crate) const GROUP: GroupId = GroupId(1);

/// What a group keeps apart from its log.
struct Group {
    kv: Arc<SimKv>,
    snapshots: Arc<SimSnapshots>,
}

impl Group {
    fn new(switch: &Arc<Switch>) -> Group {
        Group { kv: Arc::new(SimKv::new(switch.clone())), snapshots: Arc::new(SimSnapshots::new(switch.clone())) }
    }
}

/// A node's disk, which outlives the node's crashes.
pub(crate) struct Disk {
    pub(crate) log: Arc<SimLog>,
    /// Lets operations fail.
    pub(crate) switch: Arc<Switch>,
    groups: Mutex<BTreeMap<GroupId, Group>>,
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
            clusters: BTreeMap::from([(GROUP, ClusterId(0))]),
        };
        let switch = Arc::new(Switch::default());
        Disk {
            log: Arc::new(SimLog::founded(founded, switch.clone())),
            switch,
            groups: Mutex::default(),
            identity: Mutex::new(Some(identity)),
        }
    }

    /// Loses a legal part of what is not durable: writes of the log and of the map from some one on, and what there is of snapshots that are not whole.
    pub(crate) fn crash(&self, rng: &mut Rng, torn: f64) {
        self.switch.crash();
        self.log.crash(rng, torn);
        for group in lock(&self.groups).values() {
            group.kv.crash(rng);
            group.snapshots.crash(rng);
        }
    }

    fn with_group<T>(&self, group: GroupId, look: impl FnOnce(&Group) -> T) -> T {
        look(lock(&self.groups).entry(group).or_insert_with(|| Group::new(&self.switch)))
    }

    pub(crate) fn kv_store(&self, group: GroupId) -> Arc<dyn KvStore> {
        self.with_group(group, |group| group.kv.clone())
    }

    pub(crate) fn snapshot_store(&self, group: GroupId) -> Arc<dyn SnapshotStore> {
        self.with_group(group, |group| group.snapshots.clone())
    }

    /// What the state machine has replaced all data by is durable.
    pub(crate) fn settle(&self) {
        for group in lock(&self.groups).values() {
            group.kv.settle();
        }
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

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        Ok(self.snapshot_store(group))
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        Ok(self.kv_store(group))
    }
}

/// Everything runs on one thread, and a panic ends the run: a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use coracle_core::{Membership, Recovered};
    use coracle_storage::conformance::{self, Subject};

    use super::*;

    struct Power(Arc<Disk>);

    impl Subject for Power {
        fn store(&self) -> Arc<dyn Store> {
            self.0.clone()
        }

        /// What is reopened has lost its power, after everything that was done.
        fn reopen(self) -> Power {
            self.0.settle();
            self.0.crash(&mut Rng::new(7), 0.5);
            self
        }
    }

    fn disk() -> Power {
        let id = NodeId(1);
        Power(Arc::new(Disk::founded(id, &Recovered::founded(Membership::of_voters([id])))))
    }

    #[test]
    fn the_map_conforms() {
        conformance::kv_store(disk);
    }

    #[test]
    fn snapshots_conform() {
        conformance::snapshot_store(disk);
    }
}
