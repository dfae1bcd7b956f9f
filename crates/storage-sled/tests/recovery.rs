//! What a store finds after a crash, after damage, and in directories that are not its own.

use std::{fs, io, path::Path, time::Duration};

use bytes::Bytes;
use coracle_core::{Entry, GroupId, HardState, Incarnation, Index, NodeId, Run, Term};
use coracle_storage::{Identity, KvOp, LogBatch, Result, ScanRange, StorageError, Store};
use coracle_storage_sled::{SledOptions, SledStore};

const GROUP: GroupId = GroupId(1);

fn open(path: &Path) -> Result<SledStore> {
    SledStore::open(path, SledOptions { mark_interval: Duration::ZERO, ..SledOptions::default() })
}

fn identity() -> Identity {
    let (node, incarnation) = (NodeId(1), Incarnation(2));
    Identity { node, incarnation, engine: "sled".into(), cluster_name: "c".into(), clusters: Default::default() }
}

fn entry(index: u64) -> LogBatch {
    let run = Run::new(Index(index), Term(1), [Entry::command(format!("entry {index}"))]);
    let hard_state = HardState {
        term: Term(index),
        voted_for: Some(NodeId(index)),
        commit_index: Index(index - 1),
        is_repairing: false,
    };
    LogBatch { hard_state: Some(hard_state), ..LogBatch::append(GROUP, vec![run]) }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        let target = to.join(file.file_name());
        if file.file_type()?.is_dir() {
            copy(&file.path(), &target)?;
        } else if let Err(error) = fs::copy(file.path(), target)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

#[test]
fn a_copy_of_an_open_store_holds_every_acknowledged_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = dir.path().join("live");
    let store = open(&live).expect("open");
    store.set_identity(&identity()).expect("set the identity");
    let kv = store.kv(GROUP).expect("kv");
    for index in 1..=24 {
        store.log().write(&[entry(index)]).expect("write");
        let value = Bytes::from(vec![index as u8; 9_000]);
        kv.write(vec![KvOp::Put(format!("{index}").into(), value)], Index(index)).expect("write");
        if index % 6 != 0 {
            continue;
        }
        let flushed = kv.flush().expect("flush");
        // As after a kill: nothing was closed.
        let crashed = dir.path().join(format!("crashed-{index}"));
        copy(&live, &crashed).expect("copy");
        check_crashed(&crashed, index, flushed);
    }
}

fn check_crashed(path: &Path, last: u64, flushed: Index) {
    let store = open(path).expect("open the copy");
    assert_eq!(store.identity().expect("identity"), Some(identity()));
    let recovered = store.log().recover(GROUP, usize::MAX).expect("recover");
    assert_eq!((recovered.last_index, recovered.damaged.len()), (Index(last), 0));
    assert_eq!(Some(recovered.hard_state), entry(last).hard_state);
    let entries: Vec<Run> = (1..=last).flat_map(|index| entry(index).entries).collect();
    assert_eq!(recovered.tail, entries);
    let kv = store.kv(GROUP).expect("kv");
    assert_eq!(kv.applied().expect("applied"), Some(flushed));
    assert_eq!(kv.scan(&ScanRange::all(), usize::MAX, usize::MAX).expect("scan").len() as u64, flushed.0);
}

#[test]
fn c18_an_older_database_under_newer_marks_is_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let (live, older) = (dir.path().join("live"), dir.path().join("older"));
    let store = open(&live).expect("open");
    store.log().write(&[entry(1)]).expect("write");
    copy(&live, &older).expect("copy");
    store.log().write(&[entry(2)]).expect("write");
    fs::copy(live.join("marks"), older.join("marks")).expect("copy the marks");
    let error = open(&older).expect("open").log().recover(GROUP, 0).expect_err("the log is too short");
    assert!(error.to_string().contains("ends at 1 (write 1), but 2 of term 1 (write 2) was durable"), "{error}");
}

#[test]
fn a_directory_of_another_engine_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).expect("open");
    let other = Identity { engine: "file".into(), ..identity() };
    assert!(matches!(store.set_identity(&other), Err(StorageError::Engine { .. })));
    drop(store);
    let lines = "coracle identity 1\nengine = file\nnode = 01\nincarnation = 02\ncluster-name = c\ncluster = \n";
    let text = format!("{lines}checksum = {:08x}\n", crc32fast::hash(lines.as_bytes()));
    let made = tempfile::tempdir().expect("a directory");
    fs::write(made.path().join("identity"), text).expect("write");
    match open(made.path()) {
        Err(StorageError::Engine { found, expected, .. }) => assert_eq!((&*found, &*expected), ("file", "sled")),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(made.path()).expect("list").count(), 1);
}

#[test]
fn a_store_is_open_only_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).expect("open");
    assert!(matches!(open(dir.path()), Err(StorageError::Locked { .. })));
    let log = store.log();
    drop(store);
    assert!(matches!(open(dir.path()), Err(StorageError::Locked { .. })), "a part of the store keeps it open");
    drop(log);
    open(dir.path()).expect("open what was closed");
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "no directory").expect("write");
    let error = open(&file.join("store")).expect_err("a file is no directory");
    assert!(matches!(error, StorageError::Io { .. }));
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
}

#[test]
fn c01_an_identity_without_its_database_is_no_new_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).expect("open");
    store.set_identity(&identity()).expect("set the identity");
    drop(store);
    drop(open(dir.path()).expect("open what is whole"));
    fs::write(dir.path().join("db"), "").expect("empty the database");
    for _ in 0..2 {
        assert!(matches!(open(dir.path()), Err(StorageError::Damaged { .. })));
    }
    fs::remove_file(dir.path().join("db")).expect("delete the database");
    assert!(matches!(open(dir.path()), Err(StorageError::Damaged { .. })));
    assert!(!dir.path().join("db").exists(), "nothing is made in its place");
}

#[test]
fn a_damaged_identity_is_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).expect("open");
    store.set_identity(&identity()).expect("set the identity");
    drop(store);
    fs::write(dir.path().join("identity"), "coracle identity 1\n").expect("write");
    assert!(matches!(open(dir.path()), Err(StorageError::Damaged { .. })));
}

/// The longest that a key may be.
const KEY_BYTES_MAX: usize = 6 * 1024;

/// In index pages sled shortens keys to what tells them apart: these stay as long as they are.
#[test]
fn no_page_is_so_large_that_sled_would_not_sync_it() {
    fill_pages(|i| format!("{}{i:06}", "k".repeat(KEY_BYTES_MAX - 6)).into());
}

/// Nothing that the keys of a page have in common could be left out of it.
#[test]
fn no_page_of_keys_that_differ_at_once_is_so_large_either() {
    fill_pages(|i| format!("{i:06}{}", "k".repeat(KEY_BYTES_MAX - 6)).into());
}

/// sled puts what is over a quarter of a segment into files that it never syncs: no page may grow so large.
/// Leaves get full of the longest rows, and index pages of the longest keys.
fn fill_pages(key: impl Fn(u32) -> Bytes) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path()).expect("open");
    let kv = store.kv(GROUP).expect("kv");
    for slice in 0..60_u32 {
        let ops = (0..50).map(|i| KvOp::Put(key(slice * 50 + i), vec![7; 1_000].into()));
        kv.write(ops.collect(), Index(u64::from(slice) + 1)).expect("write");
    }
    kv.write(vec![KvOp::Put("large".into(), vec![7; 4 << 20].into())], Index(100)).expect("write");
    let large = Run::new(Index(1), Term(1), vec![Entry::command(vec![7; 1 << 20]); 8]);
    let batch = LogBatch { hard_state: None, entries: large.into(), ..entry(1) };
    store.log().write(&[batch]).expect("write");
    kv.flush().expect("flush");
    drop(kv);
    let blobs = fs::read_dir(dir.path().join("blobs")).expect("list");
    assert_eq!(blobs.count(), 0, "pages lie in files of their own");
    drop(store);
    let store = open(dir.path()).expect("open again");
    assert_eq!(store.log().recover(GROUP, 0).expect("recover").last_index, Index(8));
    let kv = store.kv(GROUP).expect("kv");
    let count = |range| kv.scan(&range, usize::MAX, usize::MAX).expect("scan").len();
    assert_eq!(count(ScanRange::all()), 3001);
}
