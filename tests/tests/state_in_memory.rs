//! `file:DIR?state=memory`: the state is rebuilt at each start, from the newest snapshot and the log, which is not compacted beyond it (C7).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use coracle_tests::{cluster::Cluster, ledger::Ledger, wait::eventually};

fn in_memory(extra: &[&str]) -> Cluster {
    Cluster::arranged(3, extra, |nodes| {
        for node in nodes {
            node.keep_in_files(node.data.clone(), "?state=memory");
        }
    })
}

fn snapshots(data: &Path) -> usize {
    let folders = fs::read_dir(data.join("snapshots")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.filter(|file| file.path().extension().is_some_and(|it| it == "meta")).count()
}

/// Kills one node, then all of them, and finds everything each time.
async fn outlives_kills(mut cluster: Cluster, ledger: Ledger) {
    for node in 0..3 {
        cluster.nodes[node].kill();
        cluster.nodes[node].wait();
        ledger.goes_on();
        cluster.nodes[node].start();
        cluster.nodes[node].ready();
        ledger.acknowledged().reach(&cluster.client_at(node)).await;
    }
    cluster.kill_all();
    cluster.restart_all();
    ledger.goes_on();
    let written = ledger.stop().await;
    cluster.kill_all();
    cluster.restart_all();
    written.are_in(&cluster).await;
    for node in 0..3 {
        written.reach(&cluster.client_at(node)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c07_a_state_in_memory_is_rebuilt_from_the_log() {
    let cluster = in_memory(&[]);
    let ledger = Ledger::start(&cluster);
    ledger.goes_on();
    for node in 0..3 {
        assert_eq!(snapshots(&cluster.nodes[node].data), 0);
        assert!(!cluster.nodes[node].data.join("state").exists(), "there is no database");
    }
    outlives_kills(cluster, ledger).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c07_a_state_in_memory_is_rebuilt_from_a_snapshot_and_the_log_goes_on_from_it() {
    let cluster = in_memory(&["--log-entries-max", "100", "--log-entries-kept", "10"]);
    let ledger = Ledger::start(&cluster);
    for node in 0..3 {
        eventually("the log is compacted", || {
            let base = cluster.status(node)["base"].as_u64().unwrap();
            // What is compacted away is in a stored snapshot.
            assert!(base == 0 || snapshots(&cluster.nodes[node].data) > 0, "{base} entries are gone");
            if base > 100 { Ok(()) } else { Err(format!("its base is {base}")) }
        });
    }
    outlives_kills(cluster, ledger).await;
}
