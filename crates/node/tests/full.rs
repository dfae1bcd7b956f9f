//! Disks without space, and stores that do not answer: slow, not dead (C18).
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{DEADLINE, cluster_with, options, start, wait_until};
use coracle_core::{Event, RejectReason};
use coracle_node::{Consistency, Node, NodeEvent, NodeOptions, RequestError, StopReason};
use coracle_storage::{
    Store,
    faulty::{Fault, Faults, FaultyStore, Op},
};
use coracle_storage_memory::MemoryStore;
use coracle_transport_memory::MemoryNetwork;

const NO_SPACE: RequestError = RequestError::Rejected(RejectReason::NoSpace);

fn stores(count: u64) -> Vec<Arc<FaultyStore>> {
    (1..=count).map(|seed| Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), Faults::new(seed)))).collect()
}

/// Disks are slow soon, and snapshots are tried again soon.
fn quick(options: &mut NodeOptions) {
    options.replica.raft.disk_write_max = Duration::from_millis(300);
    options.replica.snapshot_timeout = Duration::from_millis(500);
}

async fn one() -> (Node, Arc<FaultyStore>) {
    let store = stores(1).remove(0);
    let mut options = options(1, 1);
    quick(&mut options);
    let node = start(&MemoryNetwork::new(), &store, options).await.unwrap();
    node.wait_for_leader(DEADLINE).await.expect("it leads");
    // A read is answered once the leader's first entry is durable: nothing of the start is under way any more.
    node.query("", Consistency::Linearizable).await.unwrap();
    (node, store)
}

/// Who leads, once its first entry is applied everywhere.
async fn leader(nodes: &[Node]) -> usize {
    let leads = |node: &Node| node.status().role == "leader";
    wait_until("somebody leads", || nodes.iter().any(leads)).await;
    let leader = nodes.iter().position(leads).unwrap();
    nodes[leader].query("", Consistency::Linearizable).await.unwrap();
    let applied = nodes[leader].status().applied_index;
    wait_until("all follow", || nodes.iter().all(|node| node.status().applied_index >= applied)).await;
    leader
}

/// Proposes until it is taken.
async fn propose(node: &Node) {
    let begun = Instant::now();
    while let Err(error) = node.propose("x").await {
        assert!(begun.elapsed() < DEADLINE, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A proposal that waits for the disk.
fn pending(node: &Node) -> tokio::task::JoinHandle<Result<coracle_node::Reply, RequestError>> {
    let node = node.clone();
    tokio::spawn(async move { node.propose("x").await })
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_node_without_space_refuses_writes_answers_reads_and_goes_on_by_itself() {
    let (node, store) = one().await;
    let mut events = node.events();
    store.faults().fill();
    let first = pending(&node);
    wait_until("it lacks space", || node.status().no_space.is_some()).await;
    let lacks = node.status().no_space.unwrap();
    assert!(lacks.starts_with("no space in the faulty store: "), "{lacks}");
    // Longer than a slow disk may take: nobody else could lead.
    wait_until("its disk is slow", || node.status().is_disk_slow).await;
    let last_index = node.status().last_index;
    assert_eq!(node.propose("x").await.unwrap_err(), NO_SPACE);
    assert_eq!(node.query("", Consistency::Linearizable).await.unwrap().data, "0");
    assert_eq!((node.status().last_index, node.status().role.as_str()), (last_index, "leader"));
    store.faults().free();
    assert_eq!(first.await.unwrap().unwrap().data, "1");
    assert_eq!(node.propose("x").await.unwrap().data, "2");
    wait_until("it has space", || node.status().no_space.is_none() && !node.status().is_disk_slow).await;
    let told: Vec<Event> = std::iter::from_fn(|| events.try_recv().ok())
        .filter_map(|event| match event {
            NodeEvent::Replica(event @ (Event::DiskFull | Event::SpaceFound)) => Some(event),
            _ => None,
        })
        .collect();
    assert_eq!(told, [Event::DiskFull, Event::SpaceFound], "begin and end, not each attempt");
    assert!(store.faults().injected() > 1, "it was tried more than once");
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_leader_without_space_hands_over_and_follows() {
    let stores = stores(3);
    let nodes = cluster_with(&MemoryNetwork::new(), &stores, quick).await;
    let old = leader(&nodes).await;
    stores[old].faults().fill();
    let _first = pending(&nodes[old]);
    wait_until("another one leads", || {
        nodes.iter().enumerate().any(|(at, node)| at != old && node.status().role == "leader")
    })
    .await;
    for at in [old + 1, old + 2] {
        propose(&nodes[at % 3]).await;
    }
    // A term that is not durable cannot be spoken of (C5): the client is told where to go.
    let refused = nodes[old].propose("x").await.unwrap_err();
    let hint = matches!(refused, RequestError::Rejected(RejectReason::NotLeader { leader: Some(_) }));
    assert!(hint, "{refused}");
    assert!(nodes[old].status().no_space.is_some() && nodes[old].status().role == "follower");
    stores[old].faults().free();
    let applied = nodes.iter().map(|node| node.status().applied_index).max().unwrap();
    wait_until("it caught up", || nodes[old].status().applied_index >= applied).await;
    assert!(nodes.iter().all(Node::is_running));
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_the_end_of_the_space_in_the_middle_of_a_write_stops_the_node() {
    let (node, store) = one().await;
    store.faults().nth(Op::LogWrite, 1, Fault::NoSpace);
    assert_eq!(node.propose("x").await.unwrap_err(), RequestError::Unknown);
    assert!(matches!(node.stopped().await, StopReason::Storage(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_shutdown_does_not_wait_for_space() {
    let (node, store) = one().await;
    store.faults().fill();
    let first = pending(&node);
    wait_until("it lacks space", || node.status().no_space.is_some()).await;
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    assert_eq!(first.await.unwrap().unwrap_err(), RequestError::Unknown);
    // Its thread is gone, and nothing of it is left in the store.
    assert_eq!(Arc::strong_count(&store), 1);
    assert_eq!(store.log().recover(coracle_core::GroupId(1), 0).unwrap().last_index, node.status().durable_index);
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_store_that_does_not_answer_harms_nothing_else() {
    let stores = stores(3);
    let nodes = cluster_with(&MemoryNetwork::new(), &stores, quick).await;
    let old = leader(&nodes).await;
    let faults = stores[old].faults();
    faults.hold(Op::LogWrite);
    let (first, held) = (pending(&nodes[old]), nodes[old].status().last_index);
    wait_until("another one leads", || {
        nodes.iter().enumerate().any(|(at, node)| at != old && node.status().role == "leader")
    })
    .await;
    let begun = Instant::now();
    let mut taken = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        propose(&nodes[(old + 1) % 3]).await;
        taken += 1;
        assert!(nodes[old].status().durable_index <= held, "its disk does not answer");
    }
    assert!(taken > 10, "{taken} writes by the others");
    let status = nodes[old].status();
    assert!(status.is_disk_slow && status.role == "follower" && status.leader.is_some(), "{status:?}");
    assert_eq!(nodes[old].query("", Consistency::Stale).await.unwrap().index, status.applied_index);
    faults.release(Op::LogWrite);
    // The others may have committed what the old leader had taken: then it was answered once it could be applied.
    let outcome = tokio::time::timeout(DEADLINE, first).await.expect("it ends").unwrap();
    assert!(matches!(outcome, Ok(_) | Err(RequestError::Unknown)), "{outcome:?}");
    let applied = nodes.iter().map(|node| node.status().applied_index).max().unwrap();
    wait_until("it caught up", || nodes[old].status().applied_index >= applied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_space_is_given_up_said_once_and_taken_later() {
    let (node, store) = one().await;
    let mut events = node.events();
    node.propose("x").await.unwrap();
    // Found beforehand, or met while it is written: either way the node goes on.
    for (nth, fault) in [(1, Fault::Full), (2, Fault::NoSpace)] {
        store.faults().nth(Op::SnapshotWrite, nth, fault);
    }
    let begun = Instant::now();
    let mut refused = 0;
    let covered = loop {
        match node.snapshot().await {
            Ok(index) => break index,
            Err(error) => {
                assert!(begun.elapsed() < DEADLINE && error == NO_SPACE, "{error}");
                refused += 1;
                node.propose("x").await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    assert!(refused >= 2 && covered.0 > 2, "{refused} refused, {covered}");
    assert_eq!(store.faults().count(Op::SnapshotWrite), 3, "each failure is followed by a pause");
    let told = std::iter::from_fn(|| events.try_recv().ok())
        .filter(|event| matches!(event, NodeEvent::SnapshotGivenUp { what } if what.contains("no space")))
        .count();
    assert_eq!(told, 1);
    assert!(node.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_finds_no_space_where_it_arrives_is_sent_again() {
    fn compacting(options: &mut NodeOptions) {
        quick(options);
        options.replica.log_entries_max = 20;
        options.replica.log_entries_kept = 0;
    }
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster_with(&network, &stores, compacting).await;
    let away = (leader(&nodes).await + 1) % 3;
    nodes[away].shutdown().await;
    let others: Vec<&Node> = nodes.iter().enumerate().filter(|(at, _)| *at != away).map(|(_, node)| node).collect();
    while others.iter().any(|node| node.status().base_index <= nodes[away].status().last_index) {
        propose(others[0]).await;
    }
    let faults = stores[away].faults();
    faults.range(Op::SnapshotWrite, 0, 2, Fault::Full);
    faults.range(Op::SnapshotCommit, 0, 1, Fault::Full);
    let injected = faults.injected();
    let mut options = options(away as u64 + 1, 3);
    compacting(&mut options);
    let node = start(&network, &stores[away], options).await.unwrap();
    let applied = others.iter().map(|node| node.status().applied_index).max().unwrap();
    wait_until("it caught up", || node.status().applied_index >= applied).await;
    assert_eq!(faults.injected() - injected, 3, "each attempt found no space");
    assert!(node.is_running());
}
