//! Syncs that fail under a running node on `file:`: nothing acknowledged is lost, the node stops with exit code 74 and names the file, and never syncs it again.
//!
//! `CORACLE_SYNC_FAULTS=30` lets each of the first 30 syncs fail in turn, instead of a few of them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "what was shown is of use beside the verdict")]

use std::{collections::BTreeMap, env, path::Path};

use coracle_tests::{cluster::Cluster, inject::FailingSyncs, ledger::Ledger};

const SOME: [usize; 3] = [1, 8, 30];
const SOME_OF_STATE: [usize; 1] = [1];
/// Compactions come often, and with them syncs of the state.
const COMPACTING: [&str; 4] = ["--log-entries-max", "60", "--log-entries-kept", "20"];

/// Which syncs are to fail, each in a run of its own.
fn chosen(some: &[usize]) -> Vec<usize> {
    match env::var("CORACLE_SYNC_FAULTS") {
        Ok(last) => (1..=last.parse().expect("CORACLE_SYNC_FAULTS is a number")).collect(),
        Err(_) => some.to_vec(),
    }
}

fn on_files(extra: &[&str]) -> Cluster {
    Cluster::arranged(3, extra, |nodes| {
        for node in nodes {
            node.keep_in_files(node.data.clone(), "");
        }
    })
}

/// Lets the nth sync of a node under load fail, and returns the files that were hit, relative to its directory.
async fn fail(cluster: &mut Cluster, ledger: &Ledger, node: usize, nth: usize, only: Option<&Path>) -> Vec<String> {
    let output = cluster.folder().join("trace");
    let (pid, data) = (cluster.nodes[node].pid(), cluster.nodes[node].data.clone());
    let syncs = FailingSyncs::of(pid, nth, only, &output).unwrap();
    let status = cluster.nodes[node].wait();
    let trace = syncs.trace().unwrap();
    let failed = trace.failed_syncs();
    assert!(!failed.is_empty(), "it ended with {status} before a sync failed");
    assert_eq!(status.code(), Some(74), "{failed:?}");
    let log = cluster.nodes[node].log_since_start();
    let is_named = |path: &str| log.contains(&format!("sync {path}: "));
    assert!(failed.iter().any(|(path, _)| is_named(path)), "none of {failed:?} is named: {log}");
    let mut hit = Vec::new();
    for (path, again) in failed {
        let file = Path::new(path).strip_prefix(&data).expect("it is a file of the node").display().to_string();
        // sled syncs its database by a thread of its own, on which nothing depends.
        assert!(again.iter().all(|call| *call == "fsync" && file == "state/db"), "{path} was synced again: {again:?}");
        hit.push(file);
    }

    let before = ledger.acknowledged();
    ledger.goes_on();
    before.are_in(cluster).await;
    cluster.nodes[node].start();
    cluster.nodes[node].ready();
    ledger.acknowledged().reach(&cluster.client_at(node)).await;
    hit
}

async fn syncs_fail(is_leader: bool) {
    let mut cluster = on_files(&COMPACTING);
    let ledger = Ledger::start(&cluster);
    let mut hit: BTreeMap<String, usize> = BTreeMap::new();
    for nth in chosen(&SOME) {
        ledger.goes_on();
        let leader = cluster.leader();
        let node = if is_leader { leader } else { cluster.others(leader)[nth % 2] };
        for file in fail(&mut cluster, &ledger, node, nth, None).await {
            *hit.entry(file).or_default() += 1;
        }
    }
    eprintln!("failed syncs by file: {hit:?}");
    assert!(hit.keys().any(|file| file.ends_with(".segment")), "{hit:?}");
    let written = ledger.stop().await;
    written.are_in(&cluster).await;
    for node in 0..3 {
        written.reach(&cluster.client_at(node)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_leader_whose_sync_fails_stops_and_nothing_is_lost() {
    syncs_fail(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_follower_whose_sync_fails_stops_and_nothing_is_lost() {
    syncs_fail(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p06_a_node_whose_state_cannot_be_synced_stops_and_nothing_is_lost() {
    let mut cluster = on_files(&COMPACTING);
    let ledger = Ledger::start(&cluster);
    for nth in chosen(&SOME_OF_STATE) {
        ledger.goes_on();
        let leader = cluster.leader();
        let node = if nth % 2 == 0 { leader } else { cluster.others(leader)[0] };
        let database = cluster.nodes[node].data.join("state/db");
        let hit = fail(&mut cluster, &ledger, node, nth, Some(&database)).await;
        assert_eq!(hit, ["state/db"]);
    }
    let written = ledger.stop().await;
    for node in 0..3 {
        written.reach(&cluster.client_at(node)).await;
    }
}
