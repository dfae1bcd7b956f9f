//! Clusters in one process, on the network and the store in memory.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    future::poll_fn,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{DEADLINE, build_all, get, leader, wait_until};
use coracle::{
    BuildError, Builder, FoundingRefusal, MemoryNetwork, Node, NodeEvent, RequestError, StartError, StopReason,
    core::{Event, RejectReason, Role},
    level::{Answer, Call, Error, Op, Pipeline, ReadAt, ScanSpec, Txn},
    prelude::*,
    storage::Store,
};
use coracle_storage_memory::MemoryStore;

/// A node of a cluster on `network`, which keeps its data in `store`.
fn builder(network: &MemoryNetwork, store: &MemoryStore, at: u64, of: u64) -> Builder {
    Node::builder()
        .address(format!("/memory/{at}"))
        .peers((1..=of).map(|peer| format!("/memory/{peer}")))
        .client_address(format!("client-{at}"))
        .network(network)
        .store(Arc::new(store.clone()))
}

async fn cluster(network: &MemoryNetwork, stores: &[MemoryStore]) -> Vec<Node> {
    let of = stores.len() as u64;
    build_all(stores.iter().zip(1..).map(|(store, at)| builder(network, store, at, of)).collect()).await
}

fn stores(count: usize) -> Vec<MemoryStore> {
    (0..count).map(|_| MemoryStore::new()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_serves() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(1)).await;
    let db = nodes[0].db();
    db.put("boat", "coracle").await.unwrap();
    assert_eq!(get(&db, "boat").await.as_deref(), Some("coracle"));
    assert_eq!(nodes[0].shutdown().await, StopReason::Shutdown);
    assert!(matches!(nodes[0].kv().snapshot(Duration::from_secs(1)).await, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_of_one_task_are_under_way_at_once_on_any_node() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    for node in &nodes {
        let kv = node.kv();
        let mut pipeline = kv.pipeline().unwrap();
        let key = |number: u64| bytes::Bytes::from(format!("key-{number}"));
        for number in 0..100 {
            let txn = Txn { ops: vec![Op::Put { key: key(number), value: key(number) }] };
            pipeline.push(number, Call::Commit { txn, once: None });
        }
        let long = vec![bytes::Bytes::from(vec![b'k'; 5000])];
        pipeline.push(100, Call::GetMany { at: ReadAt::Linearizable, keys: long });
        pipeline.submit();
        let written = answers(&mut *pipeline, 101).await;
        for (number, answer) in &written {
            match answer {
                Ok(Answer::Committed(_)) => assert!(*number < 100),
                Err(Error::LimitExceeded { got: 5000, .. }) => assert_eq!(*number, 100),
                other => panic!("{number}: {other:?}"),
            }
        }
        let keys: Vec<_> = (0..100).map(key).collect();
        pipeline.push(1, Call::GetMany { at: ReadAt::Linearizable, keys: keys.clone() });
        pipeline.push(2, Call::ContainsMany { at: ReadAt::Linearizable, keys: vec![key(1), key(1000)] });
        pipeline.push(3, Call::Page { at: ReadAt::Linearizable, scan: scan(7) });
        pipeline.submit();
        for (number, answer) in answers(&mut *pipeline, 3).await {
            match answer.unwrap() {
                Answer::Values(read) => assert!(read.value.iter().all(Option::is_some) && number == 1),
                Answer::Contained(read) => assert_eq!((read.value, number), (vec![true, false], 2)),
                Answer::Page(page) => assert_eq!((page.value.entries.len(), number), (7, 3)),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn scan(limit: u32) -> ScanSpec {
    ScanSpec { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false, limit, values: true }
}

/// So many answers, in the order in which they come.
async fn answers(pipeline: &mut dyn Pipeline, count: usize) -> Vec<(u64, Result<Answer, Error>)> {
    let mut all = Vec::new();
    while all.len() < count {
        let told = poll_fn(|cx| pipeline.poll_answers(cx, &mut all));
        tokio::time::timeout(DEADLINE, told).await.unwrap();
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_on_one_node_is_read_on_each() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    for (at, node) in nodes.iter().enumerate() {
        let key = format!("key-{at}");
        node.db().put(&key, "value").await.unwrap();
        for other in &nodes {
            assert_eq!(get(&other.db(), &key).await.as_deref(), Some("value"), "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_through_all_nodes_at_once_add_up() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    let clients: Vec<_> = (0..12)
        .map(|client| {
            let db = nodes[client % 3].db();
            tokio::spawn(async move {
                for _ in 0..50 {
                    db.increment("count", 1).await.unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(get(&nodes[0].db(), "count").await.as_deref(), Some("600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_goes_on_without_its_leader() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    let first = leader(&nodes).await;
    let others: Vec<Node> = nodes.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, n)| n.clone()).collect();
    others[0].db().put("before", "1").await.unwrap();
    let reason = nodes[first].shutdown().await;
    assert_eq!(reason, StopReason::Shutdown);
    assert!(nodes[first].status().stopped.is_some());
    for node in &others {
        node.db().put("after", "2").await.unwrap();
        assert_eq!(get(&node.db(), "before").await.as_deref(), Some("1"));
        assert_eq!(get(&node.db(), "after").await.as_deref(), Some("2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_a_leader_that_shuts_down_hands_over() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    let first = leader(&nodes).await;
    let others: Vec<Node> = nodes.iter().enumerate().filter(|(at, _)| *at != first).map(|(_, n)| n.clone()).collect();
    others[0].db().put("before", "1").await.unwrap();
    let mut events: Vec<_> = others.iter().map(|node| node.events()).collect();
    let term = nodes[first].status().term;
    nodes[first].shutdown().await;
    wait_until("another leads", || others.iter().any(|node| node.status().role == "leader")).await;
    let next = others.iter().position(|node| node.status().role == "leader").unwrap();
    let mut roles = Vec::new();
    while let Ok(event) = events[next].try_recv() {
        if let NodeEvent::Replica(Event::Role { role, term: at, .. }) = event {
            roles.push((role, at));
        }
    }
    // It was told to campaign: no timeout, no pre-vote, the very next term.
    assert_eq!(roles, [(Role::Candidate, term.next()), (Role::Leader, term.next())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_the_leader_is_cut_off_and_it_catches_up() {
    let network = MemoryNetwork::new();
    let nodes = cluster(&network, &stores(3)).await;
    let first = leader(&nodes).await;
    network.isolate(first as u64 + 1);
    let other = nodes[(first + 1) % 3].db();
    for n in 0..20 {
        other.put(format!("key-{n}"), "value").await.unwrap();
    }
    network.heal();
    assert_eq!(get(&nodes[first].db(), "key-19").await.as_deref(), Some("value"));
    wait_until("all have applied the same", || {
        let applied: Vec<_> = nodes.iter().map(|node| node.status().applied_index).collect();
        applied.iter().all(|index| *index == applied[0])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nothing_is_acknowledged() {
    let network = MemoryNetwork::new();
    let nodes = cluster(&network, &stores(3)).await;
    leader(&nodes).await;
    nodes[0].shutdown().await;
    nodes[1].shutdown().await;
    let written = nodes[2].propose("anything").await;
    let read = nodes[2].query("anything", Consistency::Linearizable).await;
    assert!(written.is_err() && read.is_err(), "{written:?} {read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_restarted_on_its_stores_has_its_data() {
    let network = MemoryNetwork::new();
    let stores = stores(3);
    let nodes = cluster(&network, &stores).await;
    let before = nodes[0].status();
    nodes[0].db().put("boat", "coracle").await.unwrap();
    for node in &nodes {
        node.shutdown().await;
    }
    drop(nodes);
    let nodes = cluster(&network, &stores).await;
    assert_eq!(get(&nodes[2].db(), "boat").await.as_deref(), Some("coracle"));
    let after = nodes[0].status();
    assert_eq!((before.id, before.cluster), (after.id, after.cluster));
}

#[tokio::test(flavor = "multi_thread")]
async fn h54_a_wiped_node_is_refused_and_the_others_go_on() {
    let network = MemoryNetwork::new();
    let stores = stores(3);
    let nodes = cluster(&network, &stores).await;
    let member = nodes[0].id();
    nodes[0].shutdown().await;
    let refused = builder(&network, &MemoryStore::new(), 1, 3).build();
    let refused = tokio::time::timeout(DEADLINE, refused).await.expect("refused in time").unwrap_err();
    let BuildError::Start(StartError::Refused(refusal)) = &refused else { panic!("refused: {refused:?}") };
    assert_eq!(*refusal, FoundingRefusal::Wiped { member });
    assert!(refused.to_string().contains("this directory is new"), "{refused}");
    nodes[1].db().put("still", "here").await.unwrap();
    let back = builder(&network, &stores[0], 1, 3).build().await.unwrap();
    assert_eq!(get(&back.db(), "still").await.as_deref(), Some("here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h54_two_nodes_of_three_found_nothing() {
    let network = MemoryNetwork::new();
    let stores = stores(3);
    let mut two: Vec<_> =
        (0..2).map(|at| tokio::spawn(builder(&network, &stores[at], at as u64 + 1, 3).build())).collect();
    wait_until("both have an identity", || stores[..2].iter().all(|store| store.identity().unwrap().is_some())).await;
    let founded = tokio::time::timeout(Duration::from_secs(2), &mut two[0]).await;
    assert!(founded.is_err() && !two[1].is_finished(), "they wait for the third");
    assert!(stores[..2].iter().all(|store| store.identity().unwrap().unwrap().clusters.is_empty()));
    let third = builder(&network, &stores[2], 3, 3).build().await.unwrap();
    third.db().put("all", "here").await.unwrap();
    for node in two {
        node.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_cluster_is_refused() {
    let network = MemoryNetwork::new();
    let stores = stores(1);
    cluster(&network, &stores).await[0].shutdown().await;
    let error = builder(&network, &stores[0], 1, 1).cluster("other").build().await.unwrap_err();
    assert!(matches!(error, BuildError::Start(StartError::Configuration(_))), "{error:?}");
    assert!(error.to_string().contains("\"coracle\"") && error.to_string().contains("\"other\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_who_is_there() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    let first = leader(&nodes).await;
    nodes[0].db().put("a", "b").await.unwrap();
    let id = nodes[first].id();
    wait_until("all know the leader", || nodes.iter().all(|node| node.status().leader == Some(id))).await;
    for (at, node) in nodes.iter().enumerate() {
        let status = node.status();
        assert!(status.is_founded && status.cluster.is_some() && status.stopped.is_none());
        assert_eq!(status.leader_client_address, Some(format!("client-{}", first + 1)));
        assert_eq!(status.members.len(), 3);
        assert_eq!(status.members.iter().filter(|member| member.progress.is_some()).count() > 0, at == first);
        assert_eq!((status.engine.as_str(), status.durability.to_string().as_str()), ("memory", "volatile"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_listen_are_told() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(1)).await;
    let mut events = nodes[0].events();
    nodes[0].shutdown().await;
    let mut last = None;
    while let Ok(event) = events.recv().await {
        let is_last = matches!(event, NodeEvent::Stopped(_));
        last = Some(event);
        if is_last {
            break;
        }
    }
    assert_eq!(last, Some(NodeEvent::Stopped(StopReason::Shutdown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_node_rejects() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(1)).await;
    nodes[0].shutdown().await;
    let rejected = nodes[0].propose("x").await.unwrap_err();
    assert_eq!(rejected, RequestError::Rejected(RejectReason::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_sees_one_revision_while_others_write() {
    use futures_util::TryStreamExt;
    let nodes = cluster(&MemoryNetwork::new(), &stores(3)).await;
    let db = nodes[1].db();
    for n in 0..50 {
        db.put(format!("key-{n:02}"), "old").await.unwrap();
    }
    let snapshot = db.snapshot().await.unwrap();
    for n in 0..50 {
        db.put(format!("key-{n:02}"), "new").await.unwrap();
    }
    let seen: Vec<_> = snapshot.scan::<&[u8]>(..).try_collect().await.unwrap();
    assert_eq!(seen.len(), 50);
    assert!(seen.iter().all(|(_, value)| value == "old"));
}

/// A state machine that counts commands, and waits in one until it is told to go on.
struct Counts(Arc<AtomicU64>);

impl Machine for Counts {
    fn apply(&mut self, _: &[u8]) -> bytes::Bytes {
        self.0.fetch_add(1, Ordering::SeqCst).to_string().into()
    }

    fn query(&self, _: &[u8]) -> bytes::Bytes {
        self.0.load(Ordering::SeqCst).to_string().into()
    }

    fn save(&self) -> bytes::Bytes {
        self.query(&[])
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        let count = std::str::from_utf8(state).ok().and_then(|text| text.parse().ok());
        self.0.store(count.ok_or("no number")?, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_proposal_may_or_may_not_take_effect_and_nothing_hangs() {
    let network = MemoryNetwork::new();
    let count = Arc::new(AtomicU64::new(0));
    let machine = InMemory::new(Counts(count.clone()));
    let store = Arc::new(MemoryStore::new());
    let node = Node::builder().address("/memory/1").network(&network).store(store).state_machine(machine);
    let node = node.build().await.unwrap();
    node.wait_for_leader(DEADLINE).await.expect("it leads");
    for _ in 0..100 {
        let dropped = tokio::time::timeout(Duration::ZERO, node.propose("x"));
        drop(dropped.await);
    }
    let reply = node.propose("last").await.unwrap();
    assert!(count.load(Ordering::SeqCst) <= 101 && !reply.data.is_empty());
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_handles_are_gone_shuts_down() {
    let network = MemoryNetwork::new();
    let stores = stores(1);
    let nodes = cluster(&network, &stores).await;
    let mut events = nodes[0].events();
    drop(nodes);
    let stopped = async { while !matches!(events.recv().await, Ok(NodeEvent::Stopped(_)) | Err(_)) {} };
    tokio::time::timeout(DEADLINE, stopped).await.expect("it stops by itself");
}
