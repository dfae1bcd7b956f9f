//! Slow, hung and failing disks, and what a node lets go of at its end.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use common::{DEADLINE, Mode, cluster, options, start, stores, wait_until};
use coracle_core::Event;
use coracle_node::{Consistency, Node, NodeEvent, RequestError, StopReason};
use coracle_transport_memory::MemoryNetwork;

async fn one() -> (Node, Arc<common::DiskStore>) {
    let store = stores(1).remove(0);
    let node = start(&MemoryNetwork::new(), &store, options(1, 1)).await.unwrap();
    node.wait_for_leader(DEADLINE).await.expect("it leads");
    // A read is answered once the leader's first entry is durable: nothing of the start is under way any more.
    node.query("", Consistency::Linearizable).await.unwrap();
    (node, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_threads_serves_and_lets_go_of_everything_at_its_end() {
    let (node, store) = one().await;
    assert_eq!(node.propose("x").await.unwrap().data, "1");
    assert_eq!(node.query("", Consistency::Linearizable).await.unwrap().data, "1");
    let start = Instant::now();
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    assert!(start.elapsed() < Duration::from_secs(4), "no thread had to be left behind");
    assert_eq!((Arc::strong_count(&store), Arc::strong_count(&store.disk)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_while_the_disk_is_busy_is_one_write() {
    let (node, store) = one().await;
    store.disk.set(Mode::Hangs);
    let proposals: Vec<_> = (0..100)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.propose("x").await })
        })
        .collect();
    wait_until("all are appended", || node.status().last_index.0 > 100).await;
    let before = store.disk.writes.load(Ordering::SeqCst);
    store.disk.set(Mode::Works);
    for proposal in proposals {
        proposal.await.unwrap().unwrap();
    }
    let writes = store.disk.writes.load(Ordering::SeqCst) - before;
    assert!(writes <= 5, "{writes} writes for 100 proposals");
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_hung_disk_does_not_stop_heartbeats() {
    let stores = stores(3);
    let nodes = cluster(&MemoryNetwork::new(), &stores).await;
    nodes[0].propose("x").await.unwrap();
    wait_until("all follow", || nodes.iter().all(|node| node.status().leader.is_some())).await;
    let leader = nodes.iter().position(|node| node.status().role == "leader").expect("somebody leads");
    let follower = (leader + 1) % 3;
    let mut events = nodes[leader].events();
    stores[follower].disk.set(Mode::Hangs);
    // Longer than several election timeouts, in which the follower's disk does not answer.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        nodes[leader].propose("x").await.unwrap();
    }
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, NodeEvent::Replica(Event::Role { .. })), "{event:?}");
    }
    assert_eq!(nodes[follower].status().leader, Some(nodes[leader].id()), "it heard the leader all the time");
    stores[follower].disk.set(Mode::Works);
    let applied = nodes[leader].status().applied_index;
    wait_until("it caught up", || nodes[follower].status().applied_index >= applied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_failed_write_stops_the_node_and_ends_its_requests() {
    let (node, store) = one().await;
    store.disk.set(Mode::Fails);
    assert_eq!(node.propose("x").await.unwrap_err(), RequestError::Unknown);
    let StopReason::Storage(what) = node.stopped().await else { panic!("{:?}", node.stopped().await) };
    assert!(what.contains("the disk is gone"), "{what}");
    assert!(matches!(node.propose("x").await, Err(RequestError::Rejected(_))));
    assert!(node.status().stopped.is_some());
    assert_eq!((Arc::strong_count(&store), Arc::strong_count(&store.disk)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_that_panics_stops_its_node_and_hangs_nobody() {
    let (node, _store) = one().await;
    assert_eq!(node.propose("panic").await.unwrap_err(), RequestError::Unknown);
    assert_ne!(node.stopped().await, StopReason::Shutdown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_a_hung_disk_for_ever() {
    let (node, store) = one().await;
    store.disk.set(Mode::Hangs);
    let proposal = tokio::spawn({
        let node = node.clone();
        async move { node.propose("x").await }
    });
    wait_until("it is appended", || node.status().last_index.0 > 2).await;
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    assert_eq!(proposal.await.unwrap().unwrap_err(), RequestError::Unknown);
    store.disk.set(Mode::Works);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ends_its_waits_when_it_is_closed_is_let_go() {
    let (node, store) = one().await;
    store.disk.can_be_closed.store(true, Ordering::SeqCst);
    store.disk.set(Mode::Hangs);
    let proposal = tokio::spawn({
        let node = node.clone();
        async move { node.propose("x").await }
    });
    wait_until("it is appended", || node.status().last_index.0 > 2).await;
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    assert_eq!(proposal.await.unwrap().unwrap_err(), RequestError::Unknown);
    assert_eq!((Arc::strong_count(&store), Arc::strong_count(&store.disk)), (1, 1), "no thread was left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_given_up_leaves_nothing_waiting_for_the_store() {
    let store = stores(1).remove(0);
    store.disk.can_be_closed.store(true, Ordering::SeqCst);
    store.disk.set(Mode::HangsWhole);
    let starting = tokio::spawn({
        let store = store.clone();
        async move { start(&MemoryNetwork::new(), &store, options(1, 1)).await.map(drop) }
    });
    wait_until("it waits for the log", || store.disk.hanging.load(Ordering::SeqCst) > 0).await;
    starting.abort();
    wait_until("the store is let go", || Arc::strong_count(&store.disk) == 1).await;
}
