//! Segments that come and go quickly, on a real file system, while the next is being made ready.

use std::{fs, sync::Arc};

use coracle_core::{Base, Entry, GroupId, HardState, Index, Membership, NodeId, Run, Term};
use coracle_storage::{Durability, LogBatch, StorageError, Store};
use coracle_storage_file::{FileOptions, FileStore};
use coracle_storage_memory::MemoryStore;

const GROUP: GroupId = GroupId(1);

fn open(path: &std::path::Path) -> FileStore {
    let options = FileOptions { segment_bytes: 64 * 1024 };
    FileStore::open(path, options, Arc::new(MemoryStore::new())).expect("open")
}

fn run(index: u64) -> Run {
    Run::new(Index(index), Term(1), [Entry::command(vec![index as u8; 20_000])])
}

#[test]
fn nothing_is_lost_when_segments_fill_faster_than_they_are_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for index in 1..=400 {
        let hard_state = HardState { term: Term(index), commit_index: Index(index - 1), ..HardState::default() };
        let base = (index % 50 == 0).then(|| Base {
            index: Index(index - 40),
            term: Term(1),
            membership_index: Index::ZERO,
            membership: Some(Membership::of_voters([NodeId(1)])),
        });
        let batch = LogBatch { hard_state: Some(hard_state), base, ..LogBatch::append(GROUP, vec![run(index)]) };
        store.log().write(&[batch]).expect("write");
    }
    drop(store);
    let recovered = open(dir.path()).log().recover(GROUP, usize::MAX).expect("recover");
    assert_eq!((recovered.base.index, recovered.last_index), (Index(360), Index(400)));
    assert_eq!((recovered.hard_state.term, recovered.damaged), (Term(400), vec![]));
    let found: Vec<_> =
        recovered.tail.iter().flat_map(|run| run.iter()).map(|(index, entry)| (index, entry.clone())).collect();
    let expected: Vec<_> = (361..=400).map(|index| (Index(index), run(index).entries()[0].clone())).collect();
    assert!(found == expected, "the entries are those that were written");
    let segments = fs::read_dir(dir.path().join("log")).expect("list").count();
    assert!(segments < 60, "{segments} files, though most of the log is compacted");
}

#[test]
fn an_identity_without_its_log_is_damage_and_other_engines_are_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    assert_eq!((store.durability(), store.engine()), (Durability::PowerLoss, "file"));
    let identity = coracle_storage::Identity {
        node: NodeId(1),
        incarnation: coracle_core::Incarnation(2),
        engine: "file".into(),
        cluster_name: "c".into(),
        clusters: Default::default(),
    };
    let other = coracle_storage::Identity { engine: "sled".into(), ..identity.clone() };
    assert!(matches!(store.set_identity(&other), Err(StorageError::Engine { .. })));
    store.set_identity(&identity).expect("set the identity");
    drop(store);
    fs::remove_dir_all(dir.path().join("log")).expect("delete the log");
    let refused = FileStore::open(dir.path(), FileOptions::default(), Arc::new(MemoryStore::new()));
    assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
    let tiny = FileStore::open(dir.path(), FileOptions { segment_bytes: 1 }, Arc::new(MemoryStore::new()));
    assert!(matches!(tiny, Err(StorageError::Invalid(_))), "{tiny:?}");
}
