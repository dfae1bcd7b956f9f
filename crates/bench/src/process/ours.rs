//! Three of Coracle's nodes, with network, store and state machine in memory.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_node::{FoundingMode, Node, NodeOptions};
use coracle_storage::{InMemory, Machine};
use coracle_storage_memory::MemoryStore;
use coracle_transport::Address;
use coracle_transport_memory::MemoryNetwork;
use tokio::task::JoinSet;

use super::{Failure, Settings, Subject};

/// What the first election may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Adds up the bytes that it is given.
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

/// See the module.
pub(super) struct Ours {
    nodes: Vec<Node>,
    /// Whom clients ask.
    leader: Node,
}

impl Subject for Ours {
    type Client = Node;

    async fn start(settings: &Settings) -> Result<Ours, Failure> {
        let network = MemoryNetwork::new();
        let mut starting = JoinSet::new();
        for at in 1..=3 {
            let options = options(settings, at);
            let (store, transport) = (Arc::new(MemoryStore::new()), Arc::new(network.transport()));
            starting.spawn(async move {
                Node::start(options, store, transport, Box::new(InMemory::new(Sum::default()))).await
            });
        }
        let nodes: Result<Vec<Node>, _> = starting.join_all().await.into_iter().collect();
        let nodes = nodes?;
        let elected = nodes[0].wait_for_leader(DEADLINE).await.ok_or("no leader was elected in time")?;
        let leader = nodes.iter().find(|node| node.id() == elected).cloned().ok_or("a stranger leads")?;
        Ok(Ours { nodes, leader })
    }

    fn client(&self) -> Node {
        self.leader.clone()
    }

    async fn write(client: &Node, command: Bytes) -> Result<(), Failure> {
        client.propose(command).await?;
        Ok(())
    }

    async fn stop(self) {
        let mut stopping = JoinSet::new();
        for node in self.nodes {
            stopping.spawn(async move { node.shutdown().await });
        }
        stopping.join_all().await;
    }
}

fn options(settings: &Settings, at: u64) -> NodeOptions {
    let mut options = NodeOptions::new("bench", vec![Address::memory(at)]);
    options.founding = FoundingMode::Peers((1..=3).map(Address::memory).collect());
    let raft = &mut options.replica.raft;
    raft.heartbeat_interval = settings.heartbeat;
    (raft.election_timeout_min, raft.election_timeout_max) = settings.election_timeout;
    options.replica.log_entries_max = settings.snapshot_every;
    options.replica.log_entries_kept = settings.entries_kept;
    options
}
