//! A guard that needs no clock: what the store in files allocates per write.
//!
//! A bound is a little above what is measured; raise one only with the reason in the commit, lower it when the store gets better.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::Path, sync::Arc};

use coracle_bench::counting::{self, Counting};
use coracle_core::{Entry, GroupId, HardState, Index, Run, Term};
use coracle_storage::{LogBatch, LogStore, Store};
use coracle_storage_file::{FileOptions, FileStore};
use coracle_storage_memory::MemoryStore;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn open(dir: &Path) -> Arc<dyn LogStore> {
    // Nothing here fills half of a segment: the next one is not made ready meanwhile, which allocates as well.
    let options = FileOptions { segment_bytes: 64 * 1024 * 1024 };
    FileStore::open(dir, options, Arc::new(MemoryStore::new())).unwrap().log()
}

/// As the core asks for them: entries, and what is known to be committed.
fn batch(group: u64, first: u64, count: usize) -> LogBatch {
    let run = Run::new(Index(first), Term(1), vec![Entry::command("some data"); count]);
    let hard_state = Some(HardState { term: Term(1), commit_index: Index(first - 1), ..HardState::default() });
    LogBatch { hard_state, ..LogBatch::append(GroupId(group), vec![run]) }
}

/// Allocations per write of so many groups with so many entries each, over `writes` of them.
fn allocations(groups: u64, entries: usize, writes: u64) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let write = |at: u64| (1..=groups).map(|group| batch(group, 1 + at * entries as u64, entries)).collect::<Vec<_>>();
    // Until the buffers have their size.
    (0..8).for_each(|at| log.write(&write(at)).unwrap());
    let all: Vec<_> = (8..8 + writes).map(write).collect();
    let counted = counting::count(|| all.iter().for_each(|batches| log.write(batches).unwrap()));
    assert!(counted.allocations > 0, "something is counted");
    counted.allocations as f64 / writes as f64
}

// One test: counting is the whole process's, and tests run at the same time.
#[test]
fn a_write_allocates_what_the_index_keeps_and_no_more() {
    let (one, many, groups) = (allocations(1, 1, 300), allocations(1, 64, 100), allocations(100, 1, 60));
    // A node of the index for every six writes or so.
    assert!(one <= 0.25, "one entry: {one} allocations");
    // And a list with the sizes of the entries.
    assert!(many <= 1.25, "64 entries: {many} allocations");
    assert!(groups <= 25.0, "an entry in each of 100 groups: {groups} allocations");
}
