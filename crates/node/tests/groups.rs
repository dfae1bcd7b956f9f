//! Several groups in one process: what they share, and what they do not.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{Count, DEADLINE, DiskStore, Mode, stores, wait_until};
use coracle_core::{GroupId, Index};
use coracle_node::{
    Configuration, Consistency, FoundingMode, GroupOptions, Groups, Node, ProcessOptions, StartError, StopReason,
};
use coracle_storage::{InMemory, Store};
use coracle_transport::Address;
use coracle_transport_memory::MemoryNetwork;
use tokio::task::JoinSet;

async fn open(network: &MemoryNetwork, store: &Arc<DiskStore>, at: u64) -> Groups {
    let options = ProcessOptions::new("test", vec![Address::memory(at)]);
    Groups::open(options, store.clone(), Arc::new(network.transport())).await.unwrap()
}

async fn open_all(network: &MemoryNetwork, stores: &[Arc<DiskStore>]) -> Vec<Groups> {
    let mut processes = Vec::new();
    for (store, at) in stores.iter().zip(1..) {
        processes.push(open(network, store, at).await);
    }
    processes
}

/// A group on the processes at `/memory/1` and so on.
fn options(group: u64, of: u64) -> GroupOptions {
    let mut options = GroupOptions::new(GroupId(group));
    options.founding = FoundingMode::Peers((1..=of).map(Address::memory).collect());
    options.replica.raft.heartbeat_interval = Duration::from_millis(50);
    options.replica.raft.election_timeout_min = Duration::from_millis(300);
    options.replica.raft.election_timeout_max = Duration::from_millis(600);
    options
}

async fn start(groups: &Groups, options: GroupOptions) -> Result<Node, StartError> {
    let starting = groups.start(options, Box::new(InMemory::new(Count::default())));
    tokio::time::timeout(DEADLINE, starting).await.expect("the group starts, or does not, in time")
}

/// Starts groups on all processes at once; the answer is by group, then by process.
async fn start_all(processes: &[Groups], numbers: impl IntoIterator<Item = u64>) -> Vec<Vec<Node>> {
    let mut starting = JoinSet::new();
    for number in numbers {
        for (at, process) in processes.iter().cloned().enumerate() {
            let of = processes.len() as u64;
            starting.spawn(async move { (number, at, start(&process, options(number, of)).await.unwrap()) });
        }
    }
    let mut started = starting.join_all().await;
    started.sort_by_key(|(number, at, _)| (*number, *at));
    started.chunk_by(|a, b| a.0 == b.0).map(|nodes| nodes.iter().map(|(_, _, node)| node.clone()).collect()).collect()
}

/// Proposes until it is applied: there may be no leader yet, or another one.
async fn propose(node: &Node) -> String {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        match node.propose("x").await {
            Ok(reply) => return String::from_utf8(reply.data.to_vec()).unwrap(),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    }
}

async fn count(node: &Node) -> String {
    let reply = node.query("", Consistency::Linearizable).await.unwrap();
    String::from_utf8(reply.data.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_many_groups_are_founded_each_for_itself_and_have_leaders_of_their_own() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let processes = open_all(&network, &stores).await;
    let groups = start_all(&processes, 1..=20).await;
    for nodes in &groups {
        assert_eq!(propose(&nodes[0]).await, "1");
        assert!(nodes.iter().zip(&processes).all(|(node, process)| node.id() == process.id()));
        let clusters: BTreeSet<_> = nodes.iter().map(|node| node.status().cluster).collect();
        assert_eq!(clusters.len(), 1, "the nodes of a group agree on its cluster");
    }
    let clusters: BTreeSet<_> = groups.iter().map(|nodes| nodes[0].status().cluster.unwrap()).collect();
    assert_eq!(clusters.len(), 20, "each group has a founding of its own");
    let kept = stores[0].identity().unwrap().unwrap().clusters;
    assert_eq!(kept.len(), 20);
    assert_eq!(kept.values().copied().collect::<BTreeSet<_>>(), clusters);
    let leaders: BTreeSet<_> = groups.iter().map(|nodes| nodes[0].status().leader).collect();
    assert!(leaders.len() > 1, "one process leads all groups");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_recovers_every_group() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let processes = open_all(&network, &stores).await;
    for (nodes, number) in start_all(&processes, 1..=5).await.iter().zip(1..) {
        for _ in 0..number {
            propose(&nodes[1]).await;
        }
    }
    for process in &processes {
        process.shutdown().await;
    }
    drop(processes);
    assert!(stores.iter().all(|store| Arc::strong_count(store) == 1), "the stores were let go");
    let processes = open_all(&network, &stores).await;
    for (nodes, number) in start_all(&processes, 1..=5).await.iter().zip(1..) {
        assert_eq!(propose(&nodes[2]).await, (number + 1).to_string());
        assert_eq!(count(&nodes[0]).await, (number + 1).to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_machine_that_fails_stops_its_own_group_only() {
    let (network, stores) = (MemoryNetwork::new(), stores(1));
    let processes = open_all(&network, &stores).await;
    let groups = start_all(&processes, 1..=3).await;
    for nodes in &groups {
        propose(&nodes[0]).await;
    }
    let bad = &groups[1][0];
    bad.propose("panic").await.unwrap_err();
    assert_ne!(bad.stopped().await, StopReason::Shutdown);
    assert_eq!(propose(&groups[0][0]).await, "2");
    assert_eq!(propose(&groups[2][0]).await, "2");
    processes[0].shutdown().await;
    assert_eq!(groups[2][0].stopped().await, StopReason::Shutdown);
    assert_eq!(Arc::strong_count(&stores[0]), 1, "the store was let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_ends_and_begins_again_while_the_others_go_on() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let processes = open_all(&network, &stores).await;
    let mut groups = start_all(&processes, 1..=2).await;
    propose(&groups[0][0]).await;
    propose(&groups[1][0]).await;
    let before = processes[2].frames_misdirected();
    assert_eq!(groups[1][2].shutdown().await, StopReason::Shutdown);
    // The other two go on, and frames for the one that has ended are counted.
    assert_eq!(propose(&groups[1][0]).await, "2");
    wait_until("a frame for the group that has ended", || processes[2].frames_misdirected() > before).await;
    assert_eq!(propose(&groups[0][2]).await, "2");
    groups[1][2] = start(&processes[2], options(2, 3)).await.unwrap();
    assert_eq!(propose(&groups[1][2]).await, "3");
    assert_eq!(count(&groups[1][2]).await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_later_is_founded_too() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let processes = open_all(&network, &stores).await;
    let first = start_all(&processes, [7]).await;
    propose(&first[0][0]).await;
    let second = start_all(&processes, [3]).await;
    assert_eq!(propose(&second[0][1]).await, "1");
    assert_eq!(propose(&first[0][1]).await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_taken_once_and_within_limits() {
    let (network, stores) = (MemoryNetwork::new(), stores(1));
    let process = open(&network, &stores[0], 1).await;
    let _first = start(&process, options(1, 1)).await.unwrap();
    let refused = |error: StartError| match error {
        StartError::Configuration(what) => what,
        other => panic!("{other}"),
    };
    let taken = refused(start(&process, options(1, 1)).await.unwrap_err());
    assert_eq!(taken, Configuration::GroupTaken { group: GroupId(1) });
    let group = GroupId(1 << 63);
    let beyond = refused(start(&process, options(group.0, 1)).await.unwrap_err());
    assert_eq!(beyond, Configuration::GroupOutOfRange { group });
    process.shutdown().await;
    assert!(matches!(start(&process, options(2, 1)).await, Err(StartError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_gives_up_a_group_that_still_waits_for_its_peers() {
    let (network, stores) = (MemoryNetwork::new(), stores(1));
    let process = open(&network, &stores[0], 1).await;
    let starting = tokio::spawn({
        let process = process.clone();
        async move { start(&process, options(1, 3)).await }
    });
    wait_until("it is hosted", || process.groups() == [GroupId(1)]).await;
    process.shutdown().await;
    assert!(matches!(starting.await.unwrap(), Err(StartError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_groups_write_while_the_disk_is_busy_is_one_write() {
    const GROUPS: usize = 100;
    let (network, stores) = (MemoryNetwork::new(), stores(1));
    let processes = open_all(&network, &stores).await;
    let groups = start_all(&processes, 1..=GROUPS as u64).await;
    for nodes in &groups {
        // It is answered once the leader's first entry is durable: nothing of the start is under way any more.
        nodes[0].wait_for_leader(DEADLINE).await.expect("it leads");
        count(&nodes[0]).await;
    }
    let disk = &stores[0].disk;
    wait_until("the disk is at rest", || disk.hanging.load(Ordering::SeqCst) == 0).await;
    disk.set(Mode::Hangs);
    let before = disk.writes.load(Ordering::SeqCst);
    disk.groups_written_max.store(0, Ordering::SeqCst);
    let propose = |node: &Node| {
        let node = node.clone();
        tokio::spawn(async move { node.propose("x").await })
    };
    let mut proposals = vec![propose(&groups[0][0])];
    wait_until("the first group's write hangs", || disk.hanging.load(Ordering::SeqCst) == 1).await;
    let last: Vec<_> = groups[1..].iter().map(|nodes| nodes[0].status().last_index).collect();
    proposals.extend(groups[1..].iter().map(|nodes| propose(&nodes[0])));
    let has_grown = |(nodes, last): (&Vec<Node>, &Index)| nodes[0].status().last_index > *last;
    wait_until("all are appended", || groups[1..].iter().zip(&last).all(has_grown)).await;
    disk.set(Mode::Works);
    for proposal in proposals {
        assert_eq!(proposal.await.unwrap().unwrap().data, "1");
    }
    let (writes, groups_max) = (disk.writes.load(Ordering::SeqCst), disk.groups_written_max.load(Ordering::SeqCst));
    assert_eq!((writes - before, groups_max), (2, GROUPS - 1), "one write for all that had queued up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_groups_on_three_processes_cost_a_few_syncs() {
    const GROUPS: u64 = 100;
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let processes = open_all(&network, &stores).await;
    let groups = start_all(&processes, 1..=GROUPS).await;
    for nodes in &groups {
        propose(&nodes[0]).await;
    }
    let are_even = || {
        let index = |node: &Node| (node.status().last_index, node.status().durable_index);
        groups
            .iter()
            .all(|nodes| nodes.iter().all(|node| index(node) == index(&nodes[0]) && index(node).0 == index(node).1))
    };
    wait_until("all logs are equal and durable", are_even).await;
    let writes = || stores.iter().map(|store| store.disk.writes.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let (before, last) = (writes(), groups.iter().map(|nodes| nodes[0].status().last_index).collect::<Vec<_>>());
    stores.iter().for_each(|store| store.disk.set(Mode::Hangs));
    let proposals: Vec<_> = groups
        .iter()
        .map(|nodes| {
            let node = nodes[0].clone();
            tokio::spawn(async move { node.propose("x").await })
        })
        .collect();
    let has_all = |(nodes, last): (&Vec<Node>, &Index)| nodes.iter().all(|node| node.status().last_index > *last);
    wait_until("all have it in memory", || groups.iter().zip(&last).all(has_all)).await;
    stores.iter().for_each(|store| store.disk.set(Mode::Works));
    for proposal in proposals {
        proposal.await.unwrap().unwrap();
    }
    let writes: Vec<usize> = writes().iter().zip(&before).map(|(after, before)| after - before).collect();
    // What hung, what had queued up behind it, and what the answers to it may bring.
    assert!(writes.iter().all(|writes| *writes <= 4), "{writes:?} writes for one entry in each of {GROUPS} groups");
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_a_failed_disk_stops_every_group_that_writes() {
    let (network, stores) = (MemoryNetwork::new(), stores(1));
    let processes = open_all(&network, &stores).await;
    let groups = start_all(&processes, 1..=3).await;
    for nodes in &groups {
        propose(&nodes[0]).await;
    }
    stores[0].disk.set(Mode::Fails);
    groups[0][0].propose("x").await.unwrap_err();
    assert!(matches!(groups[0][0].stopped().await, StopReason::Storage(_)));
    // The disk would work again: what failed once is not trusted any more.
    stores[0].disk.set(Mode::Works);
    groups[1][0].propose("x").await.unwrap_err();
    assert!(matches!(groups[1][0].stopped().await, StopReason::Storage(_)));
    processes[0].shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_disk_hung_at_its_end_does_not_begin_again() {
    let (network, stores) = (MemoryNetwork::new(), stores(1));
    let process = open(&network, &stores[0], 1).await;
    let node = start(&process, options(1, 1)).await.unwrap();
    propose(&node).await;
    stores[0].disk.set(Mode::Hangs);
    let last = node.status().last_index;
    let proposal = tokio::spawn({
        let node = node.clone();
        async move { node.propose("x").await }
    });
    wait_until("it is appended", || node.status().last_index > last).await;
    assert_eq!(node.shutdown().await, StopReason::Shutdown);
    proposal.await.unwrap().unwrap_err();
    let again = start(&process, options(1, 1)).await.unwrap_err();
    assert!(matches!(again, StartError::Configuration(Configuration::GroupLeftBehind { .. })), "{again}");
    stores[0].disk.set(Mode::Works);
    process.shutdown().await;
}
