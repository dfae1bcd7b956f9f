//! A node that missed everything catches up by a snapshot, whatever happens to its connections.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "what was measured is of use beside the verdict")]

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use coracle_tests::{cluster::Cluster, cutter::Cutter, ports, wait::eventually};

const VALUES: usize = 128;
const VALUE_BYTES: usize = 512 << 10;
const CUTS: usize = 10;
/// The node that stays away and comes back.
const AWAY: usize = 2;

/// The size of the newest snapshot of a node, in bytes.
fn snapshot_bytes(folder: &Path) -> u64 {
    fn largest(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let size = |entry: fs::DirEntry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => largest(&entry.path()),
            Ok(metadata) if entry.path().to_string_lossy().contains("snapshot") => metadata.len(),
            _ => 0,
        };
        entries.map(size).max().unwrap_or(0)
    }
    largest(folder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_the_log_catches_up_under_load_through_ten_cuts() {
    let mut cutter = None;
    let arguments = ["--log-entries-max", "50", "--log-entries-kept", "10"];
    let mut cluster = Cluster::arranged(3, &arguments, |nodes| {
        let real = ports::free();
        nodes[AWAY].extra.extend(["--bind".to_owned(), format!("127.0.0.1:{real}")]);
        let port = nodes[AWAY].peer_port;
        // Peers go through the proxy from the first question on.
        let ready = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(Cutter::at(port, real)));
        cutter = Some(ready);
    });
    let cutter = cutter.unwrap();
    cluster.leader();
    cluster.nodes[AWAY].kill();
    cluster.nodes[AWAY].wait();

    let level = cluster.level();
    for number in 0..VALUES {
        let mut value = vec![0u8; VALUE_BYTES];
        // Not the same bytes everywhere, so that a piece in the wrong place would be noticed.
        value.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 31 + number * 7) as u8);
        level.put(format!("value{number:03}"), value).await.unwrap();
    }
    let (is_over, counted) = (Arc::new(AtomicBool::new(false)), cluster.level());
    let stop = is_over.clone();
    let load = tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::SeqCst) {
            count = counted.increment("count", 1).await.unwrap();
        }
        count
    });

    let data = (VALUES * VALUE_BYTES) as u64;
    cutter.arm(CUTS, data / (CUTS as u64 + 1));
    cluster.nodes[AWAY].start();
    cluster.nodes[AWAY].ready();
    eventually("the node catches up", || {
        let statuses = cluster.statuses();
        let goal = statuses.iter().filter_map(|status| status["commit"].as_u64()).max().unwrap_or(u64::MAX);
        let applied = statuses[AWAY]["applied"].as_u64().unwrap_or(0);
        // Under load it is always a little behind.
        if applied > VALUES as u64 && applied + 500 > goal { Ok(()) } else { Err(format!("{applied} of {goal}")) }
    });
    is_over.store(true, Ordering::SeqCst);
    let count = load.await.unwrap();

    let leader = cluster.leader();
    let snapshot = snapshot_bytes(&cluster.nodes[leader].data).max(data);
    let (sent, cuts) = (cutter.bytes(), cutter.cuts());
    eprintln!("{sent} bytes sent for a snapshot of {snapshot}, {cuts} cuts, {count} increments meanwhile");
    assert_eq!(cuts, CUTS);
    assert!(sent < 2 * snapshot, "{sent} bytes were sent for a snapshot of {snapshot}");
    eventually("the node that came back has it all", || {
        let read = cluster.cli_at(AWAY, &["get", "count", "--stale"]);
        if read.stdout == format!("{count}\n") { Ok(()) } else { Err(format!("{read:?}")) }
    });
}
