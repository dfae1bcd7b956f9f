//! For how long writes stand still when the leader dies, and when it leaves in order.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    env,
    time::{Duration, Instant},
};

use coracle_tests::{
    cluster::Cluster,
    load::{Load, median},
    node::{ELECTION_TIMEOUT_MAX, HEARTBEAT},
};

/// How often the leader is lost; `CORACLE_KILLS` says otherwise.
const LOSSES: usize = 5;

fn losses() -> usize {
    env::var("CORACLE_KILLS").map_or(LOSSES, |text| text.parse().expect("CORACLE_KILLS is a number"))
}

/// Of each loss of the leader, the longest time without an acknowledged write; and how long a write takes otherwise.
struct Measured {
    gaps: Vec<Duration>,
    write: Duration,
}

/// Loses the leader again and again under a client that writes all the time, and brings it back.
async fn lose_leaders(signal: &str) -> Measured {
    let mut cluster = Cluster::start(&[]);
    let load = Load::start(cluster.level(), "sum");
    let (mut gaps, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..losses() {
        let leader = cluster.leader();
        let calm = Instant::now();
        load.goes_on();
        writes.push(load.median_gap(calm));
        let lost = Instant::now();
        cluster.nodes[leader].signal(signal);
        cluster.nodes[leader].wait();
        load.goes_on();
        gaps.push(load.longest_gap(lost));
        cluster.nodes[leader].start();
        cluster.nodes[leader].ready();
    }
    let count = load.stop().await;
    assert_eq!(cluster.cli(&["get", "sum"]).expect(0).stdout, format!("{count}\n"));
    Measured { gaps, write: median(writes) }
}

/// What was measured, in words, and the median.
fn table(what: &str, measured: &Measured, limit: Duration) -> (String, Duration) {
    let mut gaps = measured.gaps.clone();
    gaps.sort_unstable();
    let (least, middle, most) = (gaps[0], median(gaps.clone()), gaps[gaps.len() - 1]);
    let head = "| The leader | Losses | Least | Median | Most | Limit of the median | A write otherwise |";
    let (losses, write) = (gaps.len(), measured.write);
    let row = format!("| {what} | {losses} | {least:.1?} | {middle:.1?} | {most:.1?} | {limit:.1?} | {write:.1?} |");
    (format!("{head}\n|---|---|---|---|---|---|---|\n{row}"), middle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_within_two_election_timeouts_when_the_leader_is_killed() {
    let measured = lose_leaders("KILL").await;
    let limit = 2 * ELECTION_TIMEOUT_MAX;
    let (table, middle) = table("is killed", &measured, limit);
    println!("{table}");
    assert!(middle < limit, "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_within_a_heartbeat_and_a_round_trip_when_the_leader_leaves() {
    let measured = lose_leaders("TERM").await;
    let limit = HEARTBEAT + measured.write;
    let (table, middle) = table("leaves", &measured, limit);
    println!("{table}");
    assert!(middle < limit, "{table}");
}
