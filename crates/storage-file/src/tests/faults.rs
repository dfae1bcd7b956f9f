//! Disks that fail and disks that are full.

use std::sync::Arc;

use coracle_storage::{LogStore, StorageError};

use super::{Act, GROUPS, Oracle, SEGMENT_BYTES, SimDisk, expect_same, open, states};
use crate::log::{FileLog, LogOptions};

#[test]
fn c18_a_failed_sync_is_never_tried_again() {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    let batch = oracle.batch(GROUPS[0], Act::Append(2, 50));
    log.write(std::slice::from_ref(&batch)).unwrap();
    oracle.log.write(&[batch]).unwrap();
    let batch = oracle.batch(GROUPS[0], Act::Append(2, 50));
    disk.lock().fails_sync = true;
    assert!(matches!(log.write(std::slice::from_ref(&batch)), Err(StorageError::Io { .. })));
    disk.lock().fails_sync = false;
    let (syncs, writes) = disk.counts();
    assert!(matches!(log.write(&[batch]), Err(StorageError::Stopped(_))));
    assert!(matches!(log.recover(GROUPS[0], 0), Err(StorageError::Stopped(_))));
    drop(log);
    assert_eq!(disk.counts(), (syncs, writes));
    // The kernel may have dropped what it could not write.
    let log = open(&disk.lock().cut(|_| false)).unwrap();
    expect_same(&log, &oracle.state(), "after a failed sync");
}

/// After a failed sync the system shows what is not on the disk, and a sync of another process has nothing left to write (H35).
#[test]
fn h35_what_a_failed_sync_left_in_caches_is_written_before_it_is_told() {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    // The segment begins with a block of its own.
    log.write(&[oracle.batch(GROUPS[1], Act::Vote)]).unwrap();
    let batch = oracle.batch(GROUPS[0], Act::Append(2, 50));
    disk.lock().fails_sync = true;
    assert!(matches!(log.write(&[batch]), Err(StorageError::Io { .. })));
    disk.lock().fails_sync = false;
    drop(log);
    let disk = disk.lock().kill();
    let log = open(&disk).unwrap();
    let told = states(&log).unwrap();
    drop(log);
    expect_same(&open(&disk.lock().cut(|_| false)).unwrap(), &told, "after a power cut");
}

#[test]
fn c18_a_failed_write_stops_the_log() {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    let batch = oracle.batch(GROUPS[0], Act::Append(2, 50));
    disk.lock().fails_write = true;
    assert!(matches!(log.write(std::slice::from_ref(&batch)), Err(StorageError::Io { .. })));
    disk.lock().fails_write = false;
    assert!(matches!(log.write(&[batch]), Err(StorageError::Stopped(_))));
    drop(log);
    expect_same(&open(&disk).unwrap(), &oracle.state(), "after a failed write");
}

#[test]
fn c18_without_space_nothing_is_written_and_the_same_write_is_taken_later() {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    disk.lock().space = SEGMENT_BYTES - 1;
    let refused = loop {
        let batch = oracle.batch(GROUPS[0], Act::Append(2, 700));
        match log.write(std::slice::from_ref(&batch)) {
            Ok(()) => oracle.log.write(&[batch]).unwrap(),
            Err(StorageError::Full { place, needed }) => {
                assert_eq!((&*place, needed), ("sim/", SEGMENT_BYTES));
                break batch;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let writes = disk.lock().writes;
    assert!(matches!(log.write(std::slice::from_ref(&refused)), Err(StorageError::Full { .. })));
    assert_eq!(disk.lock().writes, writes, "nothing is written");
    expect_same(&log, &oracle.state(), "while it is full");
    // What is smaller has room, and what was refused has room once there is space.
    let vote = oracle.batch(GROUPS[1], Act::Vote);
    log.write(std::slice::from_ref(&vote)).unwrap();
    oracle.log.write(&[vote]).unwrap();
    disk.lock().space = u64::MAX;
    log.write(std::slice::from_ref(&refused)).unwrap();
    oracle.log.write(&[refused]).unwrap();
    expect_same(&log, &oracle.state(), "with space again");
    drop(log);
    expect_same(&open(&disk).unwrap(), &oracle.state(), "opened again");
}

#[test]
fn one_write_of_a_hundred_groups_is_one_sync() {
    let disk = SimDisk::default();
    let options = LogOptions { segment_bytes: 1 << 20, has_thread: false, salt: None };
    let log = FileLog::open(Arc::new(disk.clone()), options, false).unwrap();
    let batches = |first: u64| -> Vec<_> {
        let batch =
            |group| coracle_storage::LogBatch::append(coracle_core::GroupId(group), vec![super::run(first, 1, 1, 99)]);
        (0..100).map(batch).collect()
    };
    log.write(&batches(1)).unwrap();
    let (syncs, writes) = disk.counts();
    log.write(&batches(2)).unwrap();
    // One write of the block, one of the mark.
    assert_eq!(disk.counts(), (syncs + 1, writes + 2));
}
