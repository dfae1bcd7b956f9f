//! Random writes, held against logs in memory.

use coracle_storage::LogStore;
use proptest::prelude::*;

use super::{Act, GROUPS, Oracle, SimDisk, expect_same, open};

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1..40_u64, 0..700_usize).prop_map(|(count, bytes)| Act::Append(count, bytes)),
        2 => Just(Act::Vote),
        2 => (0..20_u64).prop_map(Act::Cut),
        3 => (0..30_u64).prop_map(Act::Compact),
        1 => (0..20_u64).prop_map(Act::Repair),
    ]
}

/// Mostly of the first group, so that what the others have lies in old segments.
fn group() -> impl Strategy<Value = usize> {
    prop_oneof![8 => Just(0_usize), 1 => Just(1), 1 => Just(2)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_a_log_in_memory_is(writes in prop::collection::vec((prop::collection::vec((group(), act()), 1..4), prop::bool::weighted(0.1)), 1..60)) {
        let (disk, oracle) = (SimDisk::default(), Oracle::new());
        let mut log = open(&disk).unwrap();
        for (acts, reopen) in writes {
            let mut batches = Vec::new();
            for (group, act) in acts {
                // One batch for each group: each is made for the log as it is.
                if batches.iter().all(|batch: &coracle_storage::LogBatch| batch.group != GROUPS[group]) {
                    batches.push(oracle.batch(GROUPS[group], act));
                }
            }
            log.write(&batches).unwrap();
            oracle.log.write(&batches).unwrap();
            if reopen {
                drop(log);
                log = open(&disk.lock().cut(|_| false)).unwrap();
                expect_same(&log, &oracle.state(), "after a power cut");
                drop(log);
                log = open(&disk).unwrap();
            }
        }
        expect_same(&log, &oracle.state(), "open");
        drop(log);
        expect_same(&open(&disk).unwrap(), &oracle.state(), "opened again");
    }
}

/// A busy log that is compacted, beside one that is written once: its few entries are moved, and old files go.
#[test]
fn a_slow_group_does_not_keep_old_segments() {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    let write = |group: usize, act| {
        let batch = oracle.batch(GROUPS[group], act);
        log.write(std::slice::from_ref(&batch)).unwrap();
        oracle.log.write(&[batch]).unwrap();
    };
    write(1, Act::Append(5, 40));
    let mut most = 0;
    for _ in 0..200 {
        write(0, Act::Append(3, 300));
        write(0, Act::Compact(2));
        most = most.max(disk.files().len());
    }
    assert!(most <= 8, "{most} files");
    expect_same(&log, &oracle.state(), "moved");
    drop(log);
    expect_same(&open(&disk).unwrap(), &oracle.state(), "moved and opened again");
}
