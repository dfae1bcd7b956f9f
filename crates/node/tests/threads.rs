//! However many groups there are, there are a few threads. Alone in its process, since it counts them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    fs,
    io::Read,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Count, DEADLINE, stores};
use coracle_core::{GroupId, Index, Run};
use coracle_node::{GroupOptions, Groups, ProcessOptions};
use coracle_storage::{Applied, InMemory, Result, SnapshotSource, StateMachine};
use coracle_transport::Address;
use coracle_transport_memory::MemoryNetwork;

/// A state machine that does not run in line.
struct Slow(InMemory<Count>);

impl StateMachine for Slow {
    fn applied(&self) -> Applied {
        self.0.applied()
    }
    fn apply(&mut self, entries: &[Run], replies: &mut Vec<Bytes>) -> Result<()> {
        self.0.apply(entries, replies)
    }
    fn query(&mut self, query: &[u8]) -> Result<Bytes> {
        self.0.query(query)
    }
    fn flush(&mut self) -> Result<Index> {
        self.0.flush()
    }
    fn is_durable(&self) -> bool {
        self.0.is_durable()
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>> {
        self.0.snapshot()
    }
    fn install(&mut self, index: Index, snapshot: &mut (dyn Read + '_)) -> Result<()> {
        self.0.install(index, snapshot)
    }
}

/// How many threads of ours this process has.
fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("coracle-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_groups_on_a_disk_have_a_few_threads() {
    let options = ProcessOptions::new("test", vec![Address::memory(1)]);
    let transport = Arc::new(MemoryNetwork::new().transport());
    let process = Groups::open(options, stores(1).remove(0), transport).await.unwrap();
    let mut nodes = Vec::new();
    for group in 1..=100 {
        let machine = Box::new(Slow(InMemory::new(Count::default())));
        nodes.push(process.start(GroupOptions::new(GroupId(group)), machine).await.unwrap());
    }
    for node in &nodes {
        node.wait_for_leader(DEADLINE).await.expect("it leads");
        assert_eq!(node.propose("x").await.unwrap().data, "1");
    }
    let running = threads();
    // One writes the logs, one reads them, one has to do with snapshots, and up to four are for state machines.
    assert!((4..=7).contains(&running), "{running} threads");
    process.shutdown().await;
    // A thread that says that it has ended is there for another moment.
    let end = Instant::now() + DEADLINE;
    while threads() > 0 {
        assert!(Instant::now() < end, "{} threads are left", threads());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
