//! The store that fails on purpose, round the store in memory: without faults it is as good as that, and with them it does what it was told.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_core::{Entry, GroupId, HardState, Index, LogRead, Membership, NodeId, Run, SnapshotMeta, Term};
use coracle_storage::{
    KvOp, LogBatch, LogStore, StorageError, Store,
    conformance::{self, Subject},
    faulty::{Fault, Faults, FaultyStore, Kept, Op},
};
use coracle_storage_memory::MemoryStore;

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

struct Faulty(FaultyStore);

impl Subject for Faulty {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn reopen(self) -> Faulty {
        self
    }

    fn fill_up(&mut self) -> bool {
        self.0.faults().fill();
        true
    }

    fn make_room(&mut self) {
        self.0.faults().free();
    }
}

fn store() -> FaultyStore {
    FaultyStore::new(Arc::new(MemoryStore::new()), Faults::new(7))
}

/// `count` entries of the group, and a hard state that tells which write it was.
fn batch(group: GroupId, first: u64, count: usize) -> LogBatch {
    let entries = vec![Run::new(Index(first), Term(1), vec![Entry::command("abc"); count])];
    let hard_state = Some(HardState { term: Term(1), commit_index: Index(first), ..HardState::default() });
    LogBatch { hard_state, ..LogBatch::append(group, entries) }
}

fn last_index(log: &dyn LogStore, group: GroupId) -> u64 {
    log.recover(group, 0).unwrap().last_index.0
}

fn is_io(result: &coracle_storage::Result<()>) -> bool {
    matches!(result, Err(StorageError::Io { .. }))
}

#[test]
fn without_faults_it_conforms() {
    let subject = || Faulty(store());
    conformance::store(subject);
    conformance::log_store(subject);
    conformance::kv_store(subject);
    conformance::snapshot_store(subject);
    let missing = conformance::recovery(subject);
    assert_eq!(missing, ["damage_entry", "tear_last_write", "fail_syncs", "open_again"]);
}

/// Writes a part of what there is no space for.
struct HalfFull(FaultyStore);

impl Subject for HalfFull {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    fn reopen(self) -> HalfFull {
        self
    }

    fn fill_up(&mut self) -> bool {
        self.0.faults().range(Op::LogWrite, 0, 1, Fault::TornWithin);
        true
    }
}

#[test]
#[should_panic(expected = "without space for entry 13 the error is Full")]
fn a_disk_that_writes_a_part_without_space_does_not_conform() {
    conformance::recovery(|| HalfFull(store()));
}

#[test]
fn a_disk_that_lies_conforms_until_its_power_fails() {
    conformance::log_store(|| {
        let store = store();
        store.faults().lose_log_writes(true);
        Faulty(store)
    });
}

#[test]
fn the_nth_write_fails_and_is_the_last() {
    let store = store();
    let log = store.log();
    store.faults().nth(Op::LogWrite, 3, Fault::Error);
    for first in 1..=2 {
        log.write(&[batch(GROUP, first, 1)]).unwrap();
    }
    assert!(is_io(&log.write(&[batch(GROUP, 3, 1)])));
    assert!(matches!(log.write(&[batch(GROUP, 3, 1)]), Err(StorageError::Stopped(_))));
    assert_eq!((store.faults().count(Op::LogWrite), store.faults().injected()), (4, 1));
    store.restart();
    log.write(&[batch(GROUP, 3, 1)]).unwrap();
    assert_eq!(last_index(&*log, GROUP), 3);
}

#[test]
fn a_failed_sync_leaves_what_was_written() {
    let store = store();
    store.faults().nth(Op::LogWrite, 1, Fault::ErrorAfter);
    assert!(is_io(&store.log().write(&[batch(GROUP, 1, 2)])));
    assert_eq!(last_index(&*store.log(), GROUP), 2);
}

#[test]
fn no_space_is_found_before_anything_is_written_and_the_same_write_goes_through_later() {
    let store = store();
    let log = store.log();
    store.faults().fill();
    for _ in 0..3 {
        let full = log.write(&[batch(GROUP, 1, 2)]);
        assert!(matches!(&full, Err(StorageError::Full { needed, .. }) if *needed > 0), "{full:?}");
        assert_eq!(last_index(&*log, GROUP), 0);
    }
    let mut writer = store.snapshots(GROUP).unwrap().begin().unwrap();
    assert!(matches!(writer.write(b"x"), Err(StorageError::Full { .. })));
    store.faults().free();
    log.write(&[batch(GROUP, 1, 2)]).unwrap();
    assert_eq!(last_index(&*log, GROUP), 2);
    store.faults().nth(Op::LogWrite, 1, Fault::NoSpace);
    let enospc = log.write(&[batch(GROUP, 3, 1)]);
    assert!(
        matches!(&enospc, Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull)
    );
}

#[test]
fn a_torn_write_leaves_whole_batches_or_goes_beyond_that() {
    let mut seen = std::collections::BTreeSet::new();
    for (seed, fault) in (0..40).flat_map(|seed| [(seed, Fault::Torn), (seed, Fault::TornWithin)]) {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), Faults::new(seed));
        let log = store.log();
        store.faults().nth(Op::LogWrite, 1, fault);
        assert!(is_io(&log.write(&[batch(GROUP, 1, 4), batch(OTHER, 1, 4)])));
        let left = (last_index(&*log, GROUP), last_index(&*log, OTHER));
        let hard_state = log.recover(GROUP, 0).unwrap().hard_state;
        let is_whole = (left.0 == 0) == (hard_state == HardState::default());
        assert_eq!(is_whole, fault == Fault::Torn || left.0 == 4, "{left:?}");
        seen.insert((fault == Fault::Torn, left));
    }
    let expected = [(true, (0, 0)), (true, (4, 0)), (false, (2, 0)), (false, (4, 2))];
    assert_eq!(seen, expected.into());
}

#[test]
fn a_power_cut_loses_what_a_lying_disk_acknowledged() {
    let mut left = std::collections::BTreeSet::new();
    for (seed, kept) in (0..40).flat_map(|seed| [Kept::Nothing, Kept::Prefix, Kept::Torn].map(|kept| (seed, kept))) {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), Faults::new(seed));
        let log = store.log();
        log.write(&[batch(GROUP, 1, 1)]).unwrap();
        store.faults().lose_log_writes(true);
        for first in [2, 6] {
            log.write(&[batch(GROUP, first, 4)]).unwrap();
        }
        // It is there as long as there is power.
        let LogRead::Entries(runs) = log.read(GROUP, Index(1), Index(9), 1000).unwrap() else { panic!("no entries") };
        assert_eq!(runs.iter().map(Run::len).sum::<usize>(), 9);
        store.power_cut(kept).unwrap();
        left.insert((kept == Kept::Nothing, kept == Kept::Torn, last_index(&*log, GROUP)));
    }
    let torn = [3, 7, 9].map(|last| (false, true, last));
    let prefix = [1, 5, 9].map(|last| (false, false, last));
    assert_eq!(left, [(true, false, 1)].into_iter().chain(prefix).chain(torn).collect());
}

#[test]
fn what_is_in_the_cache_is_durable_once_the_disk_does_not_lie_any_more() {
    let store = store();
    let log = store.log();
    store.faults().lose_log_writes(true);
    log.write(&[batch(GROUP, 1, 3)]).unwrap();
    let cut = LogBatch { truncate_from: Some(Index(2)), ..batch(GROUP, 2, 1) };
    log.write(&[cut]).unwrap();
    assert!(log.read(GROUP, Index(3), Index(3), 10).is_err());
    store.faults().lose_log_writes(false);
    log.write(&[batch(GROUP, 3, 1)]).unwrap();
    store.power_cut(Kept::Nothing).unwrap();
    assert_eq!(last_index(&*log, GROUP), 3);
}

#[test]
fn what_is_held_goes_on_when_it_is_released_and_reads_go_on_meanwhile() {
    let store = store();
    store.log().write(&[batch(GROUP, 1, 1)]).unwrap();
    store.faults().hold(Op::LogWrite);
    store.faults().nth(Op::LogWrite, 2, Fault::Delay(Duration::from_secs(3600)));
    let (done, ended) = mpsc::channel();
    let log = store.log();
    let writer = thread::spawn(move || {
        for first in [2, 3] {
            log.write(&[batch(GROUP, first, 1)]).unwrap();
            done.send(first).unwrap();
        }
    });
    let read = store.log().read(GROUP, Index(1), Index(1), 10).unwrap();
    assert!(matches!(read, LogRead::Entries(_)) && ended.try_recv().is_err());
    store.faults().release(Op::LogWrite);
    assert_eq!(ended.recv().unwrap(), 2);
    // The second one is to take an hour.
    let begun = Instant::now();
    while store.faults().injected() == 0 && begun.elapsed() < Duration::from_secs(60) {
        thread::yield_now();
    }
    assert!(ended.try_recv().is_err());
    store.faults().mend();
    assert_eq!(ended.recv().unwrap(), 3);
    writer.join().unwrap();
}

#[test]
fn chance_is_drawn_from_the_seed() {
    let failures = |seed| {
        let store = FaultyStore::new(Arc::new(MemoryStore::new()), Faults::new(seed));
        store.faults().chance(Op::LogRead, 0.3, Fault::Error);
        let log = store.log();
        (0..100).map(|_| log.recover(GROUP, 0).is_err()).collect::<Vec<bool>>()
    };
    assert_eq!(failures(1), failures(1));
    assert_ne!(failures(1), failures(2));
    let count = failures(1).iter().filter(|failed| **failed).count();
    assert!((10..60).contains(&count), "{count}");
}

#[test]
fn key_value_batches_and_snapshots_tear_too() {
    let store = store();
    let kv = store.kv(GROUP).unwrap();
    let put = |key: &'static str| KvOp::Put(Bytes::from(key), Bytes::new());
    store.faults().nth(Op::KvWrite, 1, Fault::Torn);
    store.faults().nth(Op::KvWrite, 2, Fault::TornWithin);
    assert!(is_io(&kv.write(vec![put("a"), put("b")], Index(1))) && kv.get(b"a").unwrap().is_none());
    assert!(is_io(&kv.write(vec![put("a"), put("b")], Index(1))));
    assert!(kv.get(b"a").unwrap().is_some() && kv.get(b"b").unwrap().is_none());
    store.faults().nth(Op::KvFlush, 1, Fault::Error);
    store.faults().nth(Op::KvRead, 1, Fault::Error);
    assert!(kv.flush().is_err() && kv.get(b"a").is_err() && kv.get(b"a").is_ok());

    let data = b"0123456789";
    let meta = SnapshotMeta {
        content: 1,
        last_included_index: Index(1),
        last_included_term: Term(1),
        membership_index: Index(1),
        membership: Membership::of_voters([NodeId(1)]),
        size: data.len() as u64,
        checksum: crc32fast::hash(data),
    };
    let snapshots = store.snapshots(GROUP).unwrap();
    store.faults().nth(Op::SnapshotWrite, 1, Fault::Torn);
    let mut writer = snapshots.resume(&meta).unwrap();
    assert!(is_io(&writer.write(data)) && writer.offset() < meta.size);
    let rest = writer.offset() as usize;
    writer.write(&data[rest..]).unwrap();
    store.faults().nth(Op::SnapshotCommit, 1, Fault::Error);
    assert!(is_io(&writer.commit(&meta)) && snapshots.latest().unwrap().is_none());
}
