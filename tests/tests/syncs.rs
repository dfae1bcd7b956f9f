//! Each acknowledgement of a durable store comes after a sync of what it acknowledges: shown by the calls of the system.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coracle_tests::{history, trace::Trace};

const WRITES: &str = "100";

/// The same for every store that keeps its data in a directory.
fn syncs_before_each_acknowledgement(engine: &str) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("{engine}:{}", folder.path().join("store").display());
    let writer = env!("CARGO_BIN_EXE_store-writer");
    let (said, trace) = Trace::of(writer, &[&url, WRITES], &folder.path().join("trace")).unwrap();
    for line in said.lines() {
        let (what, index) = line.split_once(' ').unwrap();
        let token = history::token(what, index.parse().unwrap());
        if let Err(missing) = trace.synced_before(&token, line) {
            panic!("{engine}: {missing}");
        }
    }
    let acknowledged = |what: &str| said.lines().filter(|line| line.starts_with(what)).count();
    let counts = ["log ", "data ", "snapshot ", "identity "].map(acknowledged);
    assert_eq!(counts, [100, 10, 4, 1], "all kinds of writes were acknowledged:\n{said}");
    assert!(trace.syncs() >= 115);
}

#[test]
fn c18_sled_syncs_before_each_acknowledgement() {
    syncs_before_each_acknowledgement("sled");
}

#[test]
fn c18_files_are_synced_before_each_acknowledgement() {
    syncs_before_each_acknowledgement("file");
}
