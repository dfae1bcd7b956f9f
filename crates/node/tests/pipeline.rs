//! Many requests of one task under way at once.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{collections::BTreeSet, future::poll_fn, sync::atomic::Ordering};

use bytes::Bytes;
use common::{DEADLINE, Mode, cluster, cluster_with, stores, wait_until};
use coracle_core::RejectReason;
use coracle_node::{Consistency, Node, Pipeline, Reply, RequestError};
use coracle_transport_memory::MemoryNetwork;

type Ended = (u64, Result<Reply, RequestError>);

/// What ends next: all that the pipeline tells at once.
async fn ended(pipeline: &mut Pipeline<u64>) -> Vec<Ended> {
    let mut all = Vec::new();
    let told = poll_fn(|cx| pipeline.poll_ended(cx, |context, end| all.push((context, end))));
    tokio::time::timeout(DEADLINE, told).await.unwrap();
    all
}

async fn ended_all(pipeline: &mut Pipeline<u64>) -> Vec<Ended> {
    let mut all = Vec::new();
    while !pipeline.is_empty() {
        all.extend(ended(pipeline).await);
    }
    all
}

async fn leading(nodes: &[Node]) -> &Node {
    wait_until("somebody leads", || nodes.iter().any(|node| node.status().role == "leader")).await;
    nodes.iter().find(|node| node.status().role == "leader").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_handed_in_together_are_written_and_end_together() {
    let stores = stores(1);
    let nodes = cluster(&MemoryNetwork::new(), &stores).await;
    let node = leading(&nodes).await;
    let mut pipeline = node.pipeline(usize::MAX);
    node.propose("first").await.unwrap();
    let before = stores[0].disk.writes.load(Ordering::SeqCst);
    for context in 0..100 {
        pipeline.propose(context, Bytes::from_static(b"more"));
    }
    assert_eq!(pipeline.len(), 100);
    pipeline.submit();
    let all = ended(&mut pipeline).await;
    assert_eq!(all.len(), 100, "one wake tells of all");
    assert!(stores[0].disk.writes.load(Ordering::SeqCst) <= before + 2);
    let contexts: BTreeSet<u64> = all.iter().map(|(context, _)| *context).collect();
    let counts: BTreeSet<u64> = all.iter().map(|(_, end)| number(end.as_ref().unwrap())).collect();
    assert!(contexts.into_iter().eq(0..100) && counts.into_iter().eq(2..102));
    // A read of each kind, with places that are used again.
    pipeline.query(7, Bytes::new(), Consistency::Linearizable);
    pipeline.query(8, Bytes::new(), Consistency::Stale);
    pipeline.submit();
    let reads = ended_all(&mut pipeline).await;
    assert!(reads.len() == 2 && reads.iter().all(|(_, end)| number(end.as_ref().unwrap()) == 101));
}

fn number(reply: &Reply) -> u64 {
    std::str::from_utf8(&reply.data).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_find_no_room_are_busy_and_the_others_are_not() {
    let nodes = cluster_with(&MemoryNetwork::new(), &stores(1), |options| options.replica.requests_max = 10).await;
    let mut pipeline = leading(&nodes).await.pipeline(usize::MAX);
    for context in 0..30 {
        pipeline.propose(context, Bytes::from_static(b"more"));
    }
    pipeline.submit();
    let all = ended_all(&mut pipeline).await;
    let busy = |end: &Result<Reply, RequestError>| matches!(end, Err(RequestError::Rejected(RejectReason::Busy)));
    assert!(all.iter().all(|(context, end)| if *context < 10 { end.is_ok() } else { busy(end) }), "{all:?}");
    assert_eq!(all.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_whose_answers_find_no_room_are_busy_and_commands_are_not() {
    let nodes = cluster(&MemoryNetwork::new(), &stores(1)).await;
    let node = leading(&nodes).await;
    node.propose("more").await.unwrap();
    // Each answer has one byte.
    let mut pipeline = node.pipeline(3);
    for context in 0..8 {
        pipeline.query(context, Bytes::new(), Consistency::Stale);
    }
    pipeline.submit();
    // What is asked later is answered later, so that all answers wait.
    node.query(Bytes::new(), Consistency::Stale).await.unwrap();
    let all = ended(&mut pipeline).await;
    let busy = |end: &Result<Reply, RequestError>| matches!(end, Err(RequestError::Rejected(RejectReason::Busy)));
    assert_eq!(all.len(), 8);
    assert!(all.iter().all(|(context, end)| if *context < 3 { end.is_ok() } else { busy(end) }), "{all:?}");
    // There is room again, and one answer comes whatever its size.
    let mut narrow = node.pipeline(0);
    for pipeline in [&mut pipeline, &mut narrow] {
        pipeline.query(9, Bytes::new(), Consistency::Stale);
        pipeline.submit();
        assert!(ended_all(pipeline).await[0].1.is_ok());
    }
    for context in 0..5 {
        narrow.propose(context, Bytes::from_static(b"more"));
    }
    narrow.submit();
    assert!(ended_all(&mut narrow).await.iter().all(|(_, end)| end.is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn c21_requests_under_way_end_when_the_node_does() {
    let stores = stores(1);
    let nodes = cluster(&MemoryNetwork::new(), &stores).await;
    let node = leading(&nodes).await;
    let mut pipeline = node.pipeline(usize::MAX);
    stores[0].disk.set(Mode::Hangs);
    for context in 0..10 {
        pipeline.propose(context, Bytes::from_static(b"more"));
    }
    pipeline.submit();
    wait_until("the write hangs", || stores[0].disk.hanging.load(Ordering::SeqCst) == 1).await;
    stores[0].disk.set(Mode::Fails);
    let all = ended_all(&mut pipeline).await;
    assert!(all.iter().all(|(_, end)| *end == Err(RequestError::Unknown)), "{all:?}");
    node.stopped().await;
    pipeline.propose(10, Bytes::from_static(b"too late"));
    pipeline.submit();
    let late = ended_all(&mut pipeline).await;
    assert_eq!(late, [(10, Err(RequestError::Rejected(RejectReason::Stopped)))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_dropped_leaves_room_for_others() {
    let stores = stores(1);
    let nodes = cluster_with(&MemoryNetwork::new(), &stores, |options| options.replica.requests_max = 10).await;
    let node = leading(&nodes).await;
    stores[0].disk.set(Mode::Hangs);
    let mut pipeline = node.pipeline(usize::MAX);
    for context in 0..10 {
        pipeline.propose(context, Bytes::from_static(b"more"));
    }
    pipeline.submit();
    wait_until("the write hangs", || stores[0].disk.hanging.load(Ordering::SeqCst) == 1).await;
    drop(pipeline);
    stores[0].disk.set(Mode::Works);
    let one = async { while node.propose("one more").await.is_err() {} };
    tokio::time::timeout(DEADLINE, one).await.unwrap();
}
