//! The store in memory passes the suite that every store passes.

use std::sync::Arc;

use coracle_core::{GroupId, Index};
use coracle_storage::{
    LogBatch, Store,
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
    assert_eq!(conformance::all(subject), ["damage_entry", "tear_last_write", "fail_syncs", "fill_up", "open_again"]);
}

/// Loses so many of the last entries of a write and keeps the rest of it.
struct Torn(MemoryStore, u64);

impl Subject for Torn {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn reopen(self) -> Self {
        self
    }

    fn tear_last_write(&mut self) -> bool {
        let (log, group) = (self.0.log(), GroupId(1));
        let last = log.recover(group, 0).expect("recover").last_index;
        let lost = LogBatch { truncate_from: Some(Index(last.0 + 1 - self.1)), ..LogBatch::append(group, vec![]) };
        log.write(&[lost]).is_ok()
    }
}

#[test]
fn a_torn_write_that_is_whole_passes() {
    let missing = conformance::recovery(|| Torn(MemoryStore::new(), 0));
    assert_eq!(missing, ["damage_entry", "fail_syncs", "fill_up", "open_again"]);
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn a_torn_write_of_which_a_part_is_there_does_not_pass() {
    conformance::recovery(|| Torn(MemoryStore::new(), 3));
}
