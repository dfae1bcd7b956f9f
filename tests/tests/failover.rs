//! Nodes that leave, freeze, or stay away: the others go on, and they come back.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use coracle::level::Level;
use coracle_tests::{cluster::Cluster, load::Load, state, wait::eventually};

/// How long a node may take to leave.
const LEAVE_MAX: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_leaves_on_sigterm_and_the_others_go_on() {
    let mut cluster = Cluster::start(&[]);
    let load = Load::start(cluster.level(), "sum");
    load.goes_on();
    let leader = cluster.leader();
    let follower = cluster.others(leader)[0];
    for node in [follower, leader] {
        let asked = Instant::now();
        cluster.nodes[node].signal("TERM");
        let status = cluster.nodes[node].wait();
        assert!(status.success(), "node {node} ended with {status}");
        assert!(asked.elapsed() < LEAVE_MAX, "it took {:?}", asked.elapsed());
        cluster.nodes[node].logs("shut down");
        let log = cluster.nodes[node].log_since_start();
        assert!(!log.contains("left behind"), "its storage was closed in order: {log}");
        load.goes_on();
        cluster.nodes[node].start();
        cluster.nodes[node].ready();
        cluster.leader();
    }
    let count = load.stop().await;
    assert_eq!(cluster.cli(&["get", "sum"]).expect(0).stdout, format!("{count}\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_is_replaced_and_follows_when_it_thaws() {
    let cluster = Cluster::start(&[]);
    let load = Load::start(cluster.level(), "sum");
    load.goes_on();
    let old = cluster.leader();
    let term = cluster.status(old)["term"].as_u64().unwrap();
    cluster.nodes[old].signal("STOP");
    let new = cluster.leader_among(&cluster.others(old));
    assert!(cluster.status(new)["term"].as_u64().unwrap() > term);
    load.goes_on();
    cluster.nodes[old].signal("CONT");
    assert_ne!(cluster.leader(), old, "it does not lead again at once");
    load.goes_on();
    let count = load.stop().await;
    eventually("the node that was frozen has caught up", || {
        let found = cluster.cli_at(old, &["get", "--stale", "sum"]);
        if found.stdout == format!("{count}\n") { Ok(()) } else { Err(format!("{count}: {found:?}")) }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_more_than_the_log_keeps_catches_up_by_snapshot() {
    const WRITERS: usize = 16;
    const WRITES: usize = 40;
    let mut cluster = Cluster::start(&["--log-entries-max", "200", "--log-entries-kept", "20"]);
    let level = cluster.level();
    level.put("before", "1").await.unwrap();
    let away = cluster.others(cluster.leader())[0];
    let last = cluster.status(away)["last"].as_u64().unwrap();
    cluster.nodes[away].kill();
    cluster.nodes[away].wait();
    let write = |writer: usize, level: Level| async move {
        for number in 0..WRITES {
            level.put(format!("key/{writer:02}/{number:03}"), vec![b'v'; 1000]).await.unwrap();
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(writer, level.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let base = eventually("the others have compacted what it misses", || {
        let bases = cluster.others(away).into_iter().map(|node| cluster.status(node)["base"].as_u64().unwrap());
        bases.min().filter(|base| *base > last + 100).ok_or_else(|| format!("{:?}", cluster.statuses()))
    });
    cluster.nodes[away].start();
    cluster.nodes[away].ready();
    cluster.nodes[away].logs("SnapshotInstalled");
    level.put("after", "2").await.unwrap();
    let expected: state::State = level.prefix("").collect_all().await.unwrap().into_iter().collect();
    assert_eq!(expected.len(), WRITERS * WRITES + 2);
    let clients: Vec<_> = (0..3).map(|node| cluster.client_at(node)).collect();
    state::agree(&clients, &expected).await;
    let reached = cluster.status(away)["base"].as_u64().unwrap();
    assert!(reached >= base, "its log begins at {reached}, the others' at {base} or later");
    // And it is durably there.
    cluster.kill_all();
    cluster.restart_all();
    cluster.leader();
    state::agree(&clients, &expected).await;
}
