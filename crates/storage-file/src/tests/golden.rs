//! The bytes that `docs/file-format.md` describes.

use std::sync::Arc;

use coracle_core::{GroupId, HardState, Index, NodeId, Run, Term};
use coracle_storage::{LogBatch, LogStore};

use super::{SEGMENT_BYTES, SimDisk};
use crate::log::{FileLog, LogOptions};

fn hex(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes[..end].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_segment_has_exactly_these_bytes() {
    let disk = SimDisk::default();
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, has_thread: false, salt: Some(0x5a17) };
    let log = FileLog::open(Arc::new(disk.clone()), options, false).unwrap();
    let voted_for = Some(NodeId(7));
    let hard_state = HardState { term: Term(3), voted_for, commit_index: Index(1), is_repairing: false };
    let entries = vec![Run::new(Index(1), Term(3), [coracle_core::Entry::noop(), coracle_core::Entry::command("abc")])];
    log.write(&[LogBatch { hard_state: Some(hard_state), ..LogBatch::append(GroupId(1), entries) }]).unwrap();
    let files = disk.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["0000000000000001.segment", "mark"]);
    let segment = &files["0000000000000001.segment"];
    let sector = |number: usize| hex(&segment[number * 512..(number + 1) * 512]);
    let header = "b8110ced436f4c530101000000000000000100000000000000175a0000000000000020";
    assert_eq!((sector(0), sector(7)), (header.into(), header.into()));
    // What the segment begins with: no group yet, no data.
    assert_eq!(sector(8), "468662ac436201000100000000000000000000000100000002");
    assert_eq!(sector(9), "6ada68cf436201010100000000000000000000000100000002");
    // The write: header, data, header.
    assert_eq!(
        sector(10),
        "ac11ca6e4362010002000000000000000000000001000000030000000100000001000000000000000203000000000000000107000000000000000100000000000000010000000001000000000000000300000000000000020000000000000003000040c633a0a5"
    );
    assert_eq!(sector(11), "52f3434a000000000029aa042f0103000000616263");
    assert_eq!(
        sector(12),
        "804dc00d4362010102000000000000000000000001000000030000000100000001000000000000000203000000000000000107000000000000000100000000000000010000000001000000000000000300000000000000020000000000000003000040c633a0a5"
    );
    assert_eq!(hex(&segment[13 * 512..]), "");
    // Block 2 is durable; before it, block 1 was.
    assert_eq!(hex(&files["mark"][..512]), "0f5686a1436f4c4d02");
    assert_eq!(hex(&files["mark"][512..]), "2849d7b5436f4c4d01");
}
