//! Several groups in each process, on sockets and on disks.
#![cfg(all(feature = "memory", feature = "sled", feature = "tcp"))]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{path::Path, sync::Arc};

use common::{DEADLINE, get, wait_until};
use coracle::{BuildError, Groups, Node, level::Error, transport::Fault};
use coracle_transport_tcp::{TcpOptions, TcpTransport};
use tokio::{task::JoinSet, time::timeout};

/// Where process `at` listens: a Unix socket, since its name can be chosen.
fn address(dir: &Path, at: usize) -> String {
    let path = dir.join(format!("{at}.sock"));
    format!("/unix/{}", path.display().to_string().replace('/', "%2F"))
}

async fn open(dir: &Path, at: usize) -> Groups {
    let store = dir.join(format!("store-{at}"));
    let storage = format!("sled:{}", store.display());
    Groups::builder().address(address(dir, at)).storage(storage).open().await.unwrap()
}

async fn open_all(dir: &Path) -> Vec<Groups> {
    let mut processes = Vec::new();
    for at in 0..3 {
        processes.push(open(dir, at).await);
    }
    processes
}

/// Starts a group on the processes; the nodes are in their order.
async fn start(dir: &Path, processes: &[Groups], number: u64) -> Vec<Node> {
    let mut starting = JoinSet::new();
    for (at, process) in processes.iter().enumerate() {
        let group = process.group(number).peers((0..3).map(|at| address(dir, at)));
        starting.spawn(async move { (at, group.start().await.unwrap()) });
    }
    let mut nodes = timeout(DEADLINE, starting.join_all()).await.expect("the group is founded in time");
    nodes.sort_by_key(|(at, _)| *at);
    nodes.into_iter().map(|(_, node)| node).collect()
}

/// Writes until it is done: there may be no leader for a moment.
async fn put(node: &Node, key: &str, value: &str) {
    let db = node.db();
    let put = async {
        while let Err(error) = db.put(key, value).await {
            assert!(matches!(error, Error::Unavailable(_) | Error::NotLeader { .. } | Error::Unknown(_)), "{error}");
        }
    };
    timeout(DEADLINE, put).await.expect("it is written in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_on_sockets_and_disks_are_apart_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let processes = open_all(dir.path()).await;
    for number in 1..=4 {
        let nodes = start(dir.path(), &processes, number).await;
        put(&nodes[0], "group", &number.to_string()).await;
        if number == 2 {
            put(&nodes[1], "only", "in the second").await;
        }
        for node in &nodes {
            assert_eq!(get(&node.db(), "group").await, Some(number.to_string()));
        }
    }
    for process in &processes {
        process.shutdown().await;
    }
    drop(processes);
    let processes = open_all(dir.path()).await;
    let mut groups = Vec::new();
    for number in (1..=4).rev() {
        groups.push((number, start(dir.path(), &processes, number).await));
    }
    for (number, nodes) in &groups {
        put(&nodes[2], "again", "yes").await;
        let only = (*number == 2).then(|| "in the second".to_owned());
        assert_eq!(
            (get(&nodes[0].db(), "group").await, get(&nodes[1].db(), "only").await),
            (Some(number.to_string()), only)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_ends_on_one_process_does_not_disturb_the_connections_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut processes = open_all(dir.path()).await;
    let transport = Arc::new(TcpTransport::new(TcpOptions::default()));
    let faults = transport.faults();
    let third = Groups::builder().address(address(dir.path(), 3)).storage("memory:").transport(transport);
    processes[2] = third.open().await.unwrap();
    let peers: Vec<String> = processes.iter().map(|process| process.addresses()[0].to_string()).collect();
    let mut groups = Vec::new();
    for number in 1..=2 {
        let start = |process: &Groups| process.group(number).peers(&peers).start();
        let (first, second, third) =
            tokio::try_join!(start(&processes[0]), start(&processes[1]), start(&processes[2])).unwrap();
        put(&first, "group", &number.to_string()).await;
        groups.push([first, second, third]);
    }
    let received = |from: usize| {
        let id = processes[from].id();
        groups[0][2].status().members.iter().find(|member| member.id == id).map_or(0, |member| member.frames_received)
    };
    let before = (received(0), received(1));
    groups[1][2].shutdown().await;
    put(&groups[1][0], "group", "goes on").await;
    put(&groups[0][0], "group", "goes on").await;
    assert_eq!(get(&groups[0][2].db(), "group").await.as_deref(), Some("goes on"));
    wait_until("it hears of both in the first group", || received(0) + received(1) > before.0 + before.1).await;
    let closing = [Fault::Sender, Fault::Impossible, Fault::Malformed, Fault::RefusedThere];
    assert!(closing.iter().all(|fault| faults.of(*fault) == 0), "no connection was closed for a fault");
    let again = processes[2].group(2).peers(&peers).start().await.unwrap();
    assert_eq!(get(&again.db(), "group").await.as_deref(), Some("goes on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_in_another_network_are_refused_by_name() {
    let process = Groups::builder().address("/memory/9301").storage("memory:").open().await.unwrap();
    let error = process.group(1).peers(["/ip4/127.0.0.1/tcp/1"]).start().await.unwrap_err();
    assert!(matches!(error, BuildError::OutOfReach { .. }), "{error}");
    process.shutdown().await;
    assert!(process.group(1).start().await.unwrap_err().to_string().contains("shut down"));
}
