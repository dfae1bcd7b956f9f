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
fn it_conforms() {
    // What is in memory has no disk to fail, and no place that another could open.
    assert_eq!(conformance::all(subject), ["damage_entry", "tear_last_write", "fail_syncs", "open_again"]);
}
