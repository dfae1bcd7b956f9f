//! A disk that is full under nodes on `file:`: writes are refused, reads go on, and when there is space again so do writes.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{self, Write};

use coracle_tests::{cluster::Cluster, small_disk::SmallDisk, wait::eventually};

/// Room for two segments, a third one, and what lies beside them.
const DISK_BYTES: u64 = 80 << 20;
/// So large that segments are soon full, and small enough for a command line.
const VALUE_BYTES: usize = 100 << 10;

/// Three nodes, each on a disk of its own; `None` when this machine cannot.
fn on_small_disks() -> Option<(Cluster, Vec<SmallDisk>)> {
    let disks: Result<Vec<SmallDisk>, String> = (0..3).map(|_| SmallDisk::new(DISK_BYTES)).collect();
    let disks = match disks {
        Ok(disks) => disks,
        Err(missing) => {
            // Past the test harness, which keeps to itself what a passing test prints.
            let _ = writeln!(io::stderr(), "not shown: a full disk under file ({missing})");
            return None;
        }
    };
    let cluster = Cluster::arranged(3, &[], |nodes| {
        for (node, disk) in nodes.iter_mut().zip(&disks) {
            // sled needs space of its own, and stops where there is none.
            node.keep_in_files(disk.folder().join("data"), "?state=memory");
        }
    });
    Some((cluster, disks))
}

/// Writes until a node says that its disk is full, and returns what it says.
fn write_until_full(cluster: &Cluster, node: usize) -> String {
    let value = "v".repeat(VALUE_BYTES);
    eventually("the disk is full", || {
        // It may be refused: then the node says why.
        let ended = cluster.cli(&["--timeout", "2s", "put", "large", &value]);
        assert!(matches!(ended.code, Some(0 | 69 | 75)), "{ended:?}");
        let status = cluster.status(node);
        status["no_space"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_the_others_go_on_without_a_leader_whose_disk_is_full() {
    let Some((cluster, disks)) = on_small_disks() else { return };
    let full = cluster.leader();
    disks[full].fill();
    let told = write_until_full(&cluster, full);
    assert!(told.contains("no space in") && told.contains("needed"), "{told}");
    let others = cluster.others(full);
    cluster.leader_among(&others);
    cluster.cli(&["put", "written", "meanwhile"]).expect(0);
    let read = cluster.cli_at(full, &["get", "--stale", "large"]).expect(0);
    assert_eq!(read.stdout.len(), VALUE_BYTES + 1, "reads go on");
    disks[full].free();
    eventually("the node goes on by itself", || {
        let read = cluster.cli_at(full, &["get", "--stale", "written"]);
        if read.stdout == "meanwhile\n" { Ok(()) } else { Err(format!("{read:?}")) }
    });
    assert!(cluster.status(full)["no_space"].is_null());
}

/// Then nobody leads for long, and the command line says why rather than that there is no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_with_all_disks_full_the_command_line_says_so() {
    let Some((cluster, disks)) = on_small_disks() else { return };
    let leader = cluster.leader();
    disks.iter().for_each(SmallDisk::fill);
    write_until_full(&cluster, leader);
    let value = "v".repeat(VALUE_BYTES);
    let said = eventually("all lack space, and that is what is said", || {
        let ended = cluster.cli(&["--timeout", "5s", "put", "large", &value]);
        let lacks = |node: usize| cluster.status(node)["no_space"].as_str().is_some();
        let is_told = ended.code == Some(69) && ended.stderr.contains("no space in");
        if is_told && (0..3).all(lacks) { Ok(ended.stderr) } else { Err(format!("{ended:?}")) }
    });
    assert!(said.contains("bytes are needed"), "{said}");
    disks.iter().for_each(SmallDisk::free);
    eventually("all go on by themselves", || {
        let ended = cluster.cli(&["--timeout", "5s", "put", "small", "value"]);
        if ended.code == Some(0) { Ok(()) } else { Err(format!("{ended:?}")) }
    });
}
