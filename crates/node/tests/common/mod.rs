//! A store whose log can be slow, hang and fail; and nodes on it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_core::{GroupId, Index, LogRead};
use coracle_node::{FoundingMode, Node, NodeOptions, StartError};
use coracle_storage::{
    Durability, Identity, InMemory, KvStore, LogBatch, LogStore, Machine, RecoveredLog, Result, SnapshotStore,
    StorageError, Store,
};
use coracle_storage_memory::MemoryStore;
use coracle_transport::Address;
use coracle_transport_memory::MemoryNetwork;

/// More than any of the tests needs on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Works,
    Hangs,
    /// What is read hangs, too.
    HangsWhole,
    Fails,
}

/// What a disk does, and how often it was written to.
pub(crate) struct Disk {
    mode: Mutex<Mode>,
    changed: Condvar,
    pub(crate) writes: AtomicUsize,
    /// How many groups the write had that was for most of them.
    pub(crate) groups_written_max: AtomicUsize,
    /// How many writes hang.
    pub(crate) hanging: AtomicUsize,
    /// Whether closing the store ends what hangs, as with a server that is away.
    pub(crate) can_be_closed: AtomicBool,
}

impl Disk {
    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
        self.changed.notify_all();
    }

    /// Waits while the disk is in one of these modes.
    fn wait(&self, modes: &[Mode]) -> Result<()> {
        self.hanging.fetch_add(1, Ordering::SeqCst);
        let mode = self.mode.lock().unwrap();
        let mode = self.changed.wait_while(mode, |mode| modes.contains(mode)).unwrap();
        self.hanging.fetch_sub(1, Ordering::SeqCst);
        match *mode {
            Mode::Fails => Err(StorageError::io("sync the log", std::io::Error::other("the disk is gone"))),
            _ => Ok(()),
        }
    }
}

/// A store in memory, on a disk that may wait: everything has a thread of its own.
#[derive(Clone)]
pub(crate) struct DiskStore {
    pub(crate) memory: MemoryStore,
    pub(crate) disk: Arc<Disk>,
}

impl DiskStore {
    pub(crate) fn new() -> DiskStore {
        let disk = Disk {
            mode: Mutex::new(Mode::Works),
            changed: Condvar::new(),
            writes: AtomicUsize::new(0),
            groups_written_max: AtomicUsize::new(0),
            hanging: AtomicUsize::new(0),
            can_be_closed: AtomicBool::new(false),
        };
        DiskStore { memory: MemoryStore::new(), disk: Arc::new(disk) }
    }
}

impl Store for DiskStore {
    fn engine(&self) -> &'static str {
        "memory"
    }

    fn durability(&self) -> Durability {
        Durability::Volatile
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.memory.identity()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.memory.set_identity(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        Arc::new(DiskLog { log: self.memory.log(), disk: self.disk.clone() })
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        self.memory.snapshots(group)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        self.memory.kv(group)
    }

    fn close(&self) {
        if self.disk.can_be_closed.load(Ordering::SeqCst) {
            self.disk.set(Mode::Fails);
        }
    }
}

struct DiskLog {
    log: Arc<dyn LogStore>,
    disk: Arc<Disk>,
}

impl LogStore for DiskLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        self.disk.wait(&[Mode::HangsWhole])?;
        self.log.recover(group, tail_bytes_max)
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        self.disk.wait(&[Mode::Hangs, Mode::HangsWhole])?;
        self.disk.writes.fetch_add(1, Ordering::SeqCst);
        let groups: BTreeSet<GroupId> = batches.iter().map(|batch| batch.group).collect();
        self.disk.groups_written_max.fetch_max(groups.len(), Ordering::SeqCst);
        self.log.write(batches)
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.log.read(group, from, to, bytes_max)
    }
}

/// Remembers how many commands it has executed; `panic` is one that it does not survive.
#[derive(Default)]
pub(crate) struct Count(u64);

impl Machine for Count {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        assert!(command != b"panic", "a command that the machine does not survive");
        self.0 += 1;
        self.save()
    }

    fn query(&self, _: &[u8]) -> Bytes {
        self.save()
    }

    fn save(&self) -> Bytes {
        self.0.to_string().into()
    }

    fn load(&mut self, state: &[u8]) -> std::result::Result<(), String> {
        self.0 = std::str::from_utf8(state).ok().and_then(|text| text.parse().ok()).ok_or("no number")?;
        Ok(())
    }
}

pub(crate) fn options(at: u64, of: u64) -> NodeOptions {
    let mut options = NodeOptions::new("test", vec![Address::memory(at)]);
    options.founding = FoundingMode::Peers((1..=of).map(Address::memory).collect());
    options.replica.raft.heartbeat_interval = Duration::from_millis(50);
    options.replica.raft.election_timeout_min = Duration::from_millis(300);
    options.replica.raft.election_timeout_max = Duration::from_millis(600);
    options
}

pub(crate) async fn start<S: Store + 'static>(
    network: &MemoryNetwork,
    store: &Arc<S>,
    options: NodeOptions,
) -> std::result::Result<Node, StartError> {
    let machine = Box::new(InMemory::new(Count::default()));
    let starting = Node::start(options, store.clone(), Arc::new(network.transport()), machine);
    tokio::time::timeout(DEADLINE, starting).await.expect("the node starts, or does not, in time")
}

/// Nodes at `/memory/1` and so on, which found a cluster.
pub(crate) async fn cluster<S: Store + 'static>(network: &MemoryNetwork, stores: &[Arc<S>]) -> Vec<Node> {
    cluster_with(network, stores, |_| {}).await
}

/// The same, with other options.
pub(crate) async fn cluster_with<S: Store + 'static>(
    network: &MemoryNetwork,
    stores: &[Arc<S>],
    configure: fn(&mut NodeOptions),
) -> Vec<Node> {
    let of = stores.len() as u64;
    let starting: Vec<_> = stores
        .iter()
        .zip(1..)
        .map(|(store, at)| {
            let (network, store) = (network.clone(), store.clone());
            let mut options = options(at, of);
            configure(&mut options);
            tokio::spawn(async move { start(&network, &store, options).await })
        })
        .collect();
    let mut nodes = Vec::new();
    for node in starting {
        nodes.push(node.await.unwrap().unwrap());
    }
    nodes
}

pub(crate) fn stores(count: usize) -> Vec<Arc<DiskStore>> {
    (0..count).map(|_| Arc::new(DiskStore::new())).collect()
}

/// Waits until `is_true`, and fails when that takes too long.
pub(crate) async fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
