//! Disks that fail and disks that are full.

use std::sync::Arc;

use coracle_core::GroupId;
use coracle_storage::{
    Durability, Identity, KvStore, LogStore, Result, SnapshotStore, StorageError, Store,
    conformance::{self, Subject},
};
use coracle_storage_memory::MemoryStore;

use super::{Act, GROUPS, Oracle, SEGMENT_BYTES, SimDisk, expect_same, open, states};
use crate::log::{FileLog, LogOptions};

/// A store whose log is on a disk in memory.
#[derive(Clone)]
struct OnSim {
    log: Arc<FileLog>,
    rest: MemoryStore,
}

impl Store for OnSim {
    fn engine(&self) -> &'static str {
        self.rest.engine()
    }

    fn durability(&self) -> Durability {
        Durability::PowerLoss
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.rest.identity()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.rest.set_identity(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.log.clone()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        self.rest.snapshots(group)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        self.rest.kv(group)
    }
}

struct Sim {
    disk: SimDisk,
    store: OnSim,
}

impl Sim {
    fn open(disk: SimDisk) -> Sim {
        let log = Arc::new(open(&disk).unwrap());
        Sim { store: OnSim { log, rest: MemoryStore::new() }, disk }
    }
}

impl Subject for Sim {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Sim {
        let Sim { disk, store } = self;
        drop(store);
        disk.lock().fails_sync = false;
        Sim::open(disk)
    }

    fn fail_syncs(&mut self) -> bool {
        self.disk.lock().fails_sync = true;
        true
    }

    fn fill_up(&mut self) -> bool {
        self.disk.lock().space = SEGMENT_BYTES - 1;
        true
    }

    fn make_room(&mut self) {
        self.disk.lock().space = u64::MAX;
    }
}

/// With what `tests/conformance.rs` cannot bring about on a real disk.
#[test]
fn it_conforms_when_syncs_fail_and_without_space() {
    let missing = conformance::recovery(|| Sim::open(SimDisk::default()));
    assert_eq!(missing, ["damage_entry", "tear_last_write", "open_again"]);
}

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

/// A gap between two segments would be lost log.
#[test]
fn segments_that_cannot_be_deleted_keep_those_behind_them() {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    let write = |act| {
        let batch = oracle.batch(GROUPS[0], act);
        log.write(std::slice::from_ref(&batch)).unwrap();
        oracle.log.write(&[batch]).unwrap();
    };
    for round in 0..40 {
        write(Act::Append(3, 300));
        disk.lock().fails_remove = (10..20).contains(&round);
        write(Act::Compact(2));
        let now = disk.lock().cut(|_| false);
        expect_same(&open(&now).unwrap(), &oracle.state(), &format!("round {round}"));
    }
    assert!(disk.files().len() < 8, "what could not be deleted is deleted later");
}
