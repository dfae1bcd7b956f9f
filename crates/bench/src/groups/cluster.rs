//! Three processes with some groups, and their clients.

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle::{
    GroupOptions, MemoryNetwork, RequestError, StorageUrl,
    core::{GroupId, NodeId},
    open_store,
    storage::{InMemory, Machine},
    transport::Address,
};
use coracle_node::{FoundingMode, Groups, Node, ProcessOptions};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    Engine,
    store::{CountingStore, Writes},
};

/// What starting, and the first answer of a group, may take.
const DEADLINE: Duration = Duration::from_secs(60);

type Failure = Box<dyn Error + Send + Sync>;

/// Adds up what it is given.
#[derive(Default)]
struct Sum(u64);

impl Machine for Sum {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0 += command.len() as u64;
        Bytes::new()
    }

    fn query(&self, _: &[u8]) -> Bytes {
        self.save()
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = u64::from_be_bytes(state.try_into().map_err(|_| "a sum has 8 bytes")?);
        Ok(())
    }
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) operations: u64,
    pub(super) writes: u64,
    pub(super) groups_written: u64,
}

/// See the module.
pub(super) struct Cluster {
    processes: Vec<Groups>,
    /// Each group's nodes.
    groups: Vec<Vec<Node>>,
    writes: Vec<Arc<Writes>>,
    operations: Arc<AtomicU64>,
    /// Deleted last.
    _dirs: Vec<TempDir>,
}

impl Cluster {
    /// Starts three processes with `groups` groups each, and waits until every group has answered.
    pub(super) async fn start(engine: Engine, dir: &Path, groups: usize) -> Result<Cluster, Failure> {
        let network = MemoryNetwork::new();
        let (mut processes, mut writes, mut dirs) = (Vec::new(), Vec::new(), Vec::new());
        for at in 1..=3 {
            let url = match engine {
                Engine::Memory => StorageUrl::Memory,
                Engine::Sled => {
                    let own = tempfile::tempdir_in(dir)?;
                    let path = own.path().to_owned();
                    dirs.push(own);
                    StorageUrl::Sled { path }
                }
            };
            let counted = Arc::new(Writes::default());
            let store = CountingStore { store: open_store(&url)?, writes: counted.clone() };
            let options = ProcessOptions::new("bench", vec![Address::memory(at)]);
            processes.push(Groups::open(options, Arc::new(store), Arc::new(network.transport())).await?);
            writes.push(counted);
        }
        let groups = start_groups(&processes, groups).await?;
        Ok(Cluster { processes, groups, writes, operations: Arc::default(), _dirs: dirs })
    }

    /// Sets clients going in each group.
    pub(super) fn clients(&self, in_each: usize) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for nodes in self.groups.iter().flat_map(|nodes| std::iter::repeat_n(nodes, in_each)) {
            let (nodes, stop, operations) = (nodes.clone(), stop.clone(), self.operations.clone());
            tasks.spawn(async move { propose(&nodes, &stop, &operations).await });
        }
        Clients { stop, tasks }
    }

    pub(super) fn counted(&self) -> Counted {
        let sum = |of: fn(&Writes) -> &AtomicU64| self.writes.iter().map(|writes| of(writes).load(Relaxed)).sum();
        Counted {
            operations: self.operations.load(Relaxed),
            writes: sum(|writes| &writes.calls),
            groups_written: sum(|writes| &writes.batches),
        }
    }

    pub(super) async fn stop(self) {
        let mut stopping = JoinSet::new();
        for process in self.processes.clone() {
            stopping.spawn(async move { process.shutdown().await });
        }
        stopping.join_all().await;
    }
}

async fn start_groups(processes: &[Groups], groups: usize) -> Result<Vec<Vec<Node>>, Failure> {
    let mut starting = JoinSet::new();
    for number in 0..groups {
        let processes = processes.to_vec();
        starting.spawn(async move { start_group(&processes, number as u64 + 1).await });
    }
    let started: Result<Vec<_>, Failure> = starting.join_all().await.into_iter().collect();
    started
}

async fn start_group(processes: &[Groups], number: u64) -> Result<Vec<Node>, Failure> {
    let mut starting = JoinSet::new();
    for process in processes {
        let process = process.clone();
        let mut options = GroupOptions::new(GroupId(number));
        options.founding = FoundingMode::Peers((1..=3).map(Address::memory).collect());
        starting.spawn(async move { process.start(options, Box::new(InMemory::new(Sum::default()))).await });
    }
    let started: Result<Vec<Node>, _> = starting.join_all().await.into_iter().collect();
    let nodes = started?;
    for node in &nodes {
        node.wait_for_leader(DEADLINE).await.ok_or("no leader was elected in time")?;
    }
    Ok(nodes)
}

/// A client of a group: one proposal after the other, on whoever leads.
async fn propose(nodes: &[Node], stop: &AtomicBool, operations: &AtomicU64) -> Result<(), RequestError> {
    let command = Bytes::from(vec![b'x'; 100]);
    let mut node = leader(nodes);
    while !stop.load(Relaxed) {
        match node.propose(command.clone()).await {
            Ok(_) => drop(operations.fetch_add(1, Relaxed)),
            // The leader has changed.
            Err(RequestError::Rejected(_) | RequestError::Unknown) => {
                node = leader(nodes);
                tokio::task::yield_now().await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn leader(nodes: &[Node]) -> &Node {
    let id = nodes[0].status().leader.unwrap_or(NodeId(0));
    nodes.iter().find(|node| node.id() == id).unwrap_or(&nodes[0])
}

/// Clients that run.
pub(super) struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<(), RequestError>>,
}

impl Clients {
    /// Ends them, each after its answer.
    pub(super) async fn stop(self) -> Result<(), RequestError> {
        self.stop.store(true, Relaxed);
        self.tasks.join_all().await.into_iter().collect()
    }
}
