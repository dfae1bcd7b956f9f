//! What tests stand on: stores in memory, a state machine, and replicas wired to each other.

mod cluster;
mod stores;

pub(crate) use cluster::{Cluster, Faults};
pub(crate) use stores::{Disk, List, MemoryLog, MemorySnapshots, list_of};
