//! What a store says of itself, and what a crash in the middle of founding leaves behind.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{DEADLINE, options, start, stores, wait_until};
use coracle_core::{
    ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, Index, Membership, NodeId, Run, Term,
};
use coracle_node::{Configuration, StartError, StopReason};
use coracle_replica::{Answer, AnswerState, Inquiry, Question, Wire};
use coracle_storage::{Identity, LogBatch, StorageError, Store};
use coracle_transport::{Address, Transport};
use coracle_transport_memory::MemoryNetwork;

async fn founded() -> (MemoryNetwork, Arc<common::DiskStore>, Identity) {
    let (network, store) = (MemoryNetwork::new(), stores(1).remove(0));
    let node = start(&network, &store, options(1, 1)).await.unwrap();
    node.shutdown().await;
    let identity = store.identity().unwrap().expect("it has an identity");
    (network, store, identity)
}

async fn refused(network: &MemoryNetwork, store: &Arc<common::DiskStore>) -> StartError {
    start(network, store, options(1, 1)).await.expect_err("it is refused")
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_an_identity_is_made_once() {
    let (network, store, before) = founded().await;
    let node = start(&network, &store, options(1, 1)).await.unwrap();
    assert_eq!(store.identity().unwrap().unwrap(), before);
    assert_eq!((node.id(), node.status().incarnation), (before.node, before.incarnation));
    assert!(!before.clusters.is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_crash_between_entry_and_identity_is_repaired_from_the_log() {
    let (network, store, before) = founded().await;
    store.set_identity(&Identity { clusters: BTreeMap::new(), ..before.clone() }).unwrap();
    let node = start(&network, &store, options(1, 1)).await.unwrap();
    assert_eq!(store.identity().unwrap().unwrap(), before);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_crash_before_the_log_has_its_entry_does_not_stand_in_the_way_of_founding() {
    let (network, store) = (MemoryNetwork::new(), stores(1).remove(0));
    // The record of the founding, which is written first, of a cluster that nobody has heard of.
    let entry = Entry { kind: EntryKind::Membership, data: Membership::of_voters([NodeId(9)]).encode() };
    let kept = LogBatch {
        hard_state: Some(HardState { term: Term(1), commit_index: Index(1), ..HardState::default() }),
        ..LogBatch::append(GroupId(1 | 1 << 63), vec![Run::new(Index(1), Term(1), [entry])])
    };
    store.log().write(&[kept]).unwrap();
    let node = start(&network, &store, options(1, 1)).await.unwrap();
    let question = Question {
        group: GroupId(1),
        at: "/memory/1".to_owned(),
        id: NodeId(1),
        incarnation: Incarnation(2),
        cluster_name: "test".to_owned(),
        addresses: vec!["/memory/9".to_owned()],
    };
    let answer = network.transport().ask(&Address::memory(1), Inquiry::Founding(question).encode()).await.unwrap();
    let AnswerState::Founded { first } = Answer::decode(&answer).unwrap().state else { panic!("it is founded") };
    let told = Membership::decode(first).unwrap();
    assert_eq!((Some(told.cluster), told.node(node.id()).is_some()), (node.status().cluster, true));
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    start(&network, &store, options(1, 1)).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_a_log_of_somebody_else_is_refused() {
    let (network, store, before) = founded().await;
    store
        .set_identity(&Identity { clusters: BTreeMap::new(), node: NodeId(before.node.0 ^ 1), ..before.clone() })
        .unwrap();
    let error = refused(&network, &store).await;
    assert!(matches!(error, StartError::Configuration(Configuration::NotInLog { .. })), "{error}");
    store.set_identity(&Identity { clusters: BTreeMap::from([(GroupId(1), ClusterId(1))]), ..before }).unwrap();
    let error = refused(&network, &store).await;
    assert!(matches!(error, StartError::Configuration(Configuration::ClusterId { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_founded_store_whose_log_is_gone_does_not_found_again() {
    let (network, _, before) = founded().await;
    let empty = stores(1).remove(0);
    empty.set_identity(&before).unwrap();
    let error = refused(&network, &empty).await;
    assert!(matches!(error, StartError::Storage(StorageError::Damaged { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_another_engine_is_refused() {
    let (network, store, before) = founded().await;
    store.set_identity(&Identity { engine: "sled".to_owned(), ..before }).unwrap();
    let error = refused(&network, &store).await;
    assert!(matches!(error, StartError::Configuration(Configuration::Engine { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_contradict_each_other_are_refused_before_anything_is_written() {
    let store = stores(1).remove(0);
    let mut wrong = options(1, 1);
    wrong.replica.raft.election_timeout_max = wrong.replica.raft.heartbeat_interval;
    let error = start(&MemoryNetwork::new(), &store, wrong).await.expect_err("it is refused");
    assert!(matches!(error, StartError::Configuration(Configuration::Replica(_))), "{error}");
    assert!(store.identity().unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_the_first_entry_is_told_after_it_is_compacted_away() {
    let (network, store) = (MemoryNetwork::new(), stores(1).remove(0));
    let mut small = options(1, 1);
    small.replica.log_entries_max = 10;
    small.replica.log_entries_kept = 0;
    let node = start(&network, &store, small.clone()).await.unwrap();
    node.wait_for_leader(DEADLINE).await.expect("it leads");
    for _ in 0..50 {
        node.propose("x").await.unwrap();
    }
    wait_until("the log is compacted", || node.status().base_index.0 > 1).await;
    let id = node.id();
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    let node = start(&network, &store, small).await.unwrap();
    let question = Question {
        group: GroupId(1),
        at: "/memory/1".to_owned(),
        id: NodeId(1),
        incarnation: Incarnation(2),
        cluster_name: "test".to_owned(),
        addresses: vec!["/memory/9".to_owned()],
    };
    let answer = network.transport().ask(&Address::memory(1), Inquiry::Founding(question).encode()).await.unwrap();
    let answer = Answer::decode(&answer).unwrap();
    let AnswerState::Founded { first } = answer.state else { panic!("{answer:?}") };
    assert_eq!(answer.echo, Incarnation(2));
    assert!(Membership::decode(first).unwrap().node(id).is_some());
    node.shutdown().await;
}
