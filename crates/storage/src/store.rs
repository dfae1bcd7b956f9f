//! A node's store as a whole.

use std::{collections::BTreeMap, fmt, sync::Arc};

use coracle_core::{ClusterId, GroupId, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

use crate::{KvStore, LogStore, Result, SnapshotStore};

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Nothing: it is gone with the process.
    Volatile,
    /// The crash of the process, not that of the machine.
    ProcessCrash,
    /// A power loss.
    PowerLoss,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Volatile => "volatile",
            Durability::ProcessCrash => "process-crash",
            Durability::PowerLoss => "power-loss",
        })
    }
}

/// Who a store speaks for (C1): made once, before the node answers anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The engine that the store was made with.
    pub engine: String,
    /// The cluster's name.
    pub cluster_name: String,
    /// The id of each group's cluster, once the group is founded: each is founded for itself (C2).
    pub clusters: BTreeMap<GroupId, ClusterId>,
}

/// What a node keeps: opened from one URL, its parts belong together.
pub trait Store: Send + Sync {
    /// The engine's name, as in the URL: `memory`, `sled`.
    fn engine(&self) -> &'static str;

    /// What an acknowledged write survives. It may change while the store is open, with the settings of a server; it is told without waiting.
    fn durability(&self) -> Durability;

    /// What may be worse than that for all that is known, in a few words; told without waiting.
    fn durability_doubt(&self) -> Option<&'static str> {
        None
    }

    /// The identity; `None` in a new store.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    fn identity(&self) -> Result<Option<Identity>>;

    /// Keeps the identity, durably when it returns.
    ///
    /// # Errors
    /// When it cannot be written.
    fn set_identity(&self, identity: &Identity) -> Result<()>;

    /// The logs of all groups.
    fn log(&self) -> Arc<dyn LogStore>;

    /// The snapshots of a group.
    ///
    /// # Errors
    /// When they cannot be opened.
    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>>;

    /// The key-value data of a group.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>>;

    /// Ends what still waits for a server or a device that does not answer: its call returns with [`StorageError::Stopped`](crate::StorageError::Stopped), and so does every later one.
    /// Called once by a node that has shut down; a store that never waits for long has nothing to do.
    fn close(&self) {}
}
