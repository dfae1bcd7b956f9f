//! The store in memory passes the suite that every store passes.

use std::sync::Arc;

use coracle_storage::{
    Store,
    conformance::{self, Subject},
};
use coracle_storage_memory::MemoryStore;

struct Memory(MemoryStore);

impl Subject for Memory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn reopen(self) -> Self {
        self
    }
}

fn subject() -> Memory {
    Memory(MemoryStore::new())
}

#[test]
fn identity_conforms() {
    conformance::store(subject);
}

#[test]
fn log_conforms() {
    conformance::log_store(subject);
}

#[test]
fn kv_conforms() {
    conformance::kv_store(subject);
}

#[test]
fn snapshots_conform() {
    conformance::snapshot_store(subject);
}
