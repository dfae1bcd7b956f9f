//! Clusters that grow and shrink while they are written to.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{DEADLINE, get, leader, wait_until};
use coracle::{
    BuildError, Builder, JoinError, JoinRefusal, JoinRole, MemoryNetwork, Node, RequestError, StartError, StopReason,
    core::{NodeId, RejectReason},
    transport::Address,
};
use coracle_storage_memory::MemoryStore;
use tokio::task::JoinHandle;

/// Does something on the leader until there is one that does it: while leadership moves, or a change is under way, it is worth asking again.
async fn on_leader<T, F: Future<Output = Option<T>>>(nodes: &[Node], what: &str, act: impl Fn(Node) -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = act(nodes[leader(nodes).await].clone()).await {
            return done;
        }
        assert!(start.elapsed() < DEADLINE, "{what} takes too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends also when nobody is there for too long.
async fn invite(nodes: &[Node], address: &str) -> Result<NodeId, JoinError> {
    let (address, start): (Address, Instant) = (address.parse().unwrap(), Instant::now());
    on_leader(nodes, "joining", |leader| {
        let address = address.clone();
        async move {
            match leader.join(&address, JoinRole::Voter).await {
                Err(JoinError::NotLeader { .. } | JoinError::ChangeInProgress | JoinError::Unknown) => None,
                Err(JoinError::Unreachable { .. }) if start.elapsed() < DEADLINE / 2 => None,
                result => Some(result),
            }
        }
    })
    .await
}

async fn leave(nodes: &[Node], id: NodeId) {
    on_leader(nodes, "leaving", |leader| async move {
        if leader.members().iter().all(|member| member.id != id) {
            return Some(());
        }
        match leader.leave(id).await {
            Ok(_) => Some(()),
            Err(
                RequestError::Rejected(RejectReason::NotLeader { .. } | RejectReason::ChangeInProgress)
                | RequestError::Unknown,
            ) => None,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
}

/// Waits until all of them agree that there are so many voters and nobody else.
async fn wait_for_voters(nodes: &[Node], count: usize) {
    wait_until(&format!("all know {count} voters"), || {
        let is_settled = |node: &Node| {
            let status = node.status();
            let voters = status.members.iter().filter(|member| member.role == "voter").count();
            (voters, status.members.len(), status.leader.is_some()) == (count, count, true)
        };
        nodes.iter().all(is_settled)
    })
    .await;
}

/// Increments a counter through some nodes, again and again.
#[derive(Default)]
struct Load {
    acknowledged: Arc<AtomicU64>,
    unknown: Arc<AtomicU64>,
    clients: BTreeMap<NodeId, (Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Load {
    fn begin(&mut self, node: &Node) {
        let ends = Arc::new(AtomicBool::new(false));
        let (db, ended) = (node.db(), ends.clone());
        let (acknowledged, unknown) = (self.acknowledged.clone(), self.unknown.clone());
        let client = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let counter = if db.increment("count", 1).await.is_ok() { &acknowledged } else { &unknown };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        self.clients.insert(node.id(), (ends, client));
    }

    /// Ends what goes through one node.
    async fn end(&mut self, id: NodeId) {
        let Some((ends, client)) = self.clients.remove(&id) else { return };
        ends.store(true, Ordering::Relaxed);
        client.await.unwrap();
    }

    /// Waits until more has been acknowledged: the cluster goes on.
    async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        wait_until("writes go on", || self.acknowledged.load(Ordering::Relaxed) > before + 20).await;
    }

    /// What was acknowledged took effect once, and what was not, at most once.
    async fn check(mut self, nodes: &[Node]) {
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            self.end(id).await;
        }
        let (acknowledged, unknown) = (self.acknowledged.load(Ordering::Relaxed), self.unknown.load(Ordering::Relaxed));
        for node in nodes {
            let count: u64 = get(&node.db(), "count").await.unwrap().parse().unwrap();
            let possible = acknowledged..=acknowledged + unknown;
            assert!(possible.contains(&count), "{acknowledged} and {unknown} make {count}");
        }
    }
}

/// Grows a cluster of one to five by two at a time, one of them invited and one by asking, and shrinks it to three without its leader; all under load.
async fn grow_and_shrink(builder: impl Fn(usize) -> Builder, addresses: &[String]) -> Result<(), BuildError> {
    let mut nodes = vec![builder(0).build().await?];
    let mut load = Load::default();
    load.begin(&nodes[0]);
    for pair in [[1, 2], [3, 4]] {
        let invited = tokio::spawn(builder(pair[0]).standby().build());
        let joins = tokio::spawn(builder(pair[1]).join(&addresses[..pair[0]]).build());
        let id = invite(&nodes, &addresses[pair[0]]).await;
        for waiting in [invited, joins] {
            nodes.push(waiting.await.unwrap()?);
        }
        assert_eq!(id, Ok(nodes[pair[0]].id()));
        wait_for_voters(&nodes, pair[1] + 1).await;
        load.begin(&nodes[pair[1]]);
        load.goes_on().await;
    }
    // One that leads, and one that does not.
    for left in [4, 3] {
        let at = if left == 4 { leader(&nodes).await } else { (leader(&nodes).await + 1) % nodes.len() };
        let gone = nodes.remove(at);
        load.end(gone.id()).await;
        let everyone: Vec<Node> = nodes.iter().chain([&gone]).cloned().collect();
        leave(&everyone, gone.id()).await;
        wait_until("it knows that it is removed", || gone.status().role == "removed").await;
        wait_for_voters(&nodes, left).await;
        load.goes_on().await;
        assert_eq!(gone.shutdown().await, StopReason::Shutdown);
    }
    load.goes_on().await;
    load.check(&nodes).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_a_cluster_in_memory_grows_and_shrinks_under_load() {
    let network = MemoryNetwork::new();
    let addresses: Vec<String> = (1..=5).map(|at| format!("/memory/{at}")).collect();
    let builder = |at: usize| {
        let store = Arc::new(MemoryStore::new());
        Node::builder().address(&addresses[at]).network(&network).store(store)
    };
    grow_and_shrink(builder, &addresses).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_a_node_in_memory_comes_back_by_leave_and_join() {
    let network = MemoryNetwork::new();
    let addresses: Vec<String> = (1..=3).map(|at| format!("/memory/{at}")).collect();
    let builder = |at: usize| Node::builder().address(&addresses[at]).network(&network).storage("memory:");
    let mut nodes = common::build_all((0..3).map(|at| builder(at).peers(&addresses)).collect()).await;
    nodes[0].db().put("boat", "coracle").await.unwrap();
    let gone = nodes.remove(2);
    let member = gone.id();
    gone.shutdown().await;
    drop(gone);
    let refused = builder(2).join(&addresses[..2]).build().await.unwrap_err();
    assert!(
        matches!(&refused, BuildError::Start(StartError::NotTakenIn(JoinRefusal::Wiped { member: at })) if *at == member),
        "{refused}"
    );
    leave(&nodes, member).await;
    wait_for_voters(&nodes, 2).await;
    nodes.push(builder(2).join(&addresses[..2]).build().await.unwrap());
    wait_for_voters(&nodes, 3).await;
    assert_eq!(get(&nodes[2].db(), "boat").await.as_deref(), Some("coracle"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_to_join_that_nobody_can_hear_is_refused() {
    let network = MemoryNetwork::new();
    let builder = || Node::builder().address("/memory/1").network(&network).storage("memory:");
    let nobody = builder().join(Vec::<String>::new()).build().await.unwrap_err();
    assert!(matches!(nobody, BuildError::Start(StartError::Configuration(_))), "{nobody}");
    let wrong = builder().join(["nonsense"]).build().await.unwrap_err();
    assert!(matches!(wrong, BuildError::Address(_)), "{wrong}");
}

#[cfg(all(feature = "sled", feature = "tcp"))]
mod sled {
    use coracle::storage::StorageError;

    use super::*;
    use crate::common::reserve;

    /// Builds what may find its port taken by somebody else, or its directory not let go yet.
    async fn build(builder: impl Fn() -> Builder) -> Result<Node, BuildError> {
        let start = Instant::now();
        loop {
            let built = builder().build().await;
            let is_passing = matches!(built, Err(BuildError::Storage(StorageError::Locked { .. })));
            if !is_passing || start.elapsed() > DEADLINE {
                return built;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn c16_a_cluster_on_sockets_and_disks_grows_and_shrinks_under_load() {
        for _ in 0..10 {
            let directory = tempfile::tempdir().unwrap();
            let addresses = reserve(5);
            let builder = |at: usize| {
                let storage = format!("sled:{}", directory.path().join(format!("n{at}")).display());
                Node::builder().address(&addresses[at]).storage(storage)
            };
            match grow_and_shrink(builder, &addresses).await {
                Ok(()) => return,
                // Somebody else took a port.
                Err(BuildError::Start(StartError::Transport(_))) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no free ports");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn c02_a_join_that_is_cut_off_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let addresses = reserve(2);
        let storage = |at: usize| format!("sled:{}", directory.path().join(format!("n{at}")).display());
        let first = Node::builder().address(&addresses[0]).storage(storage(0)).build().await.unwrap();
        for n in 0..50 {
            first.db().put(format!("key-{n}"), "value").await.unwrap();
        }
        let joiner = || Node::builder().address(&addresses[1]).storage(storage(1)).join(&addresses[..1]);
        // Given up in the middle of being taken in, at many places.
        for milliseconds in 0..10 {
            drop(tokio::time::timeout(Duration::from_millis(milliseconds * 10), build(joiner)).await);
        }
        let second = build(joiner).await.unwrap();
        wait_for_voters(&[first.clone(), second.clone()], 2).await;
        assert_eq!(get(&second.db(), "key-49").await.as_deref(), Some("value"));
        // It is a member by now, and remembers that without being told whom to ask.
        let id = second.id();
        second.shutdown().await;
        drop(second);
        let second = build(|| Node::builder().address(&addresses[1]).storage(storage(1))).await.unwrap();
        assert_eq!(second.id(), id);
        second.db().put("boat", "coracle").await.unwrap();
    }
}
