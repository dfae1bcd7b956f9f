use super::*;
use crate::engine::tests::Faulty;
use std::sync::atomic::Ordering;

fn open() -> (Faulty, SledKv) {
    let faulty = Faulty::new();
    let kv = SledKv::open(faulty.engine.clone(), GroupId(1)).unwrap();
    (faulty, kv)
}

fn put(key: &'static str, value: Vec<u8>) -> KvOp {
    KvOp::Put(key.into(), value.into())
}

#[test]
fn a_write_syncs_nothing_and_a_flush_once() {
    let (faulty, kv) = open();
    kv.write(vec![put("a", vec![1; 30_000])], Index(1)).unwrap();
    assert_eq!(faulty.syncs.load(Ordering::Relaxed), 0);
    kv.flush().unwrap();
    assert_eq!(faulty.syncs.load(Ordering::Relaxed), 1);
}

#[test]
fn c18_a_failed_flush_stops_everything() {
    let (faulty, kv) = open();
    faulty.fails.store(true, Ordering::Relaxed);
    assert!(matches!(kv.flush(), Err(StorageError::Io { .. })));
    faulty.fails.store(false, Ordering::Relaxed);
    assert!(matches!(kv.flush(), Err(StorageError::Stopped(_))));
    assert!(matches!(kv.write(vec![], Index(1)), Err(StorageError::Stopped(_))));
    assert!(matches!(kv.get(b"a"), Err(StorageError::Stopped(_))));
    assert!(matches!(kv.applied(), Err(StorageError::Stopped(_))));
}

#[test]
fn what_is_overwritten_or_deleted_leaves_no_rows() {
    let (_faulty, kv) = open();
    kv.write(vec![put("a", vec![1; 30_000]), put("b", vec![2; 30_000])], Index(1)).unwrap();
    kv.flush().unwrap();
    kv.write(vec![put("a", vec![1; 20_000]), KvOp::Delete("b".into())], Index(2)).unwrap();
    kv.flush().unwrap();
    // The state, the key, and as many parts as 20,000 bytes take.
    assert_eq!(kv.tree.len(), 2 + 20_000_usize.div_ceil(rows::PART_BYTES));
    kv.write(vec![KvOp::Delete("a".into())], Index(3)).unwrap();
    kv.flush().unwrap();
    assert_eq!(kv.tree.len(), 1);
}

#[test]
fn damaged_rows_are_errors() {
    let (_faulty, kv) = open();
    kv.write(vec![put("a", vec![1; 30_000]), put("b", vec![2; 30])], Index(1)).unwrap();
    kv.flush().unwrap();
    let part = rows::value_key(0, 1);
    let whole = kv.tree.get(part).unwrap().unwrap();
    kv.tree.insert(part, whole[1..].to_vec()).unwrap();
    assert!(matches!(kv.get(b"a"), Err(StorageError::Damaged { .. })));
    kv.tree.remove(part).unwrap();
    assert!(matches!(kv.get(b"a"), Err(StorageError::Damaged { .. })));
    kv.tree.insert(rows::key(b"b"), vec![1, 0, 0]).unwrap();
    let error = kv.get(b"b").unwrap_err().to_string();
    assert!(error.contains("key b"), "{error}");
    // Reading what is damaged does not stop what is whole.
    kv.write(vec![put("c", vec![3])], Index(2)).unwrap();
}

#[test]
fn what_is_over_a_limit_changes_nothing() {
    let (_faulty, kv) = open();
    let long = KvOp::Put(vec![1; 7000].into(), "x".into());
    assert!(matches!(kv.write(vec![put("a", vec![1]), long], Index(1)), Err(StorageError::Invalid(_))));
    assert_eq!((kv.get(b"a").unwrap(), kv.applied().unwrap()), (None, Some(Index::ZERO)));
}

#[test]
fn batches_gather_and_reach_the_tree_with_their_index() {
    let (faulty, kv) = open();
    let mut index = Index::ZERO;
    while kv.tree.is_empty() {
        index = index.next();
        assert!(index < Index(10_000), "changes gather without a limit");
        kv.write(vec![put("same", vec![1]), KvOp::Put(index.0.to_be_bytes().to_vec().into(), "x".into())], index)
            .unwrap();
    }
    kv.write(vec![put("same", vec![2])], index.next()).unwrap();
    // As after a kill: another one on the same tree sees what is in it, a prefix of the batches.
    let found = SledKv::open(faulty.engine.clone(), GroupId(1)).unwrap();
    assert_eq!(found.applied().unwrap(), Some(index));
    assert_eq!(found.get(b"same").unwrap().as_deref(), Some([1].as_slice()));
    assert_eq!(found.scan(&ScanRange::all(), usize::MAX, usize::MAX).unwrap().len() as u64, index.0 + 1);
    assert_eq!(kv.get(b"same").unwrap().as_deref(), Some([2].as_slice()));
    drop(kv);
    let found = SledKv::open(faulty.engine.clone(), GroupId(1)).unwrap();
    assert_eq!(found.applied().unwrap(), Some(index.next()), "what is dropped leaves nothing to the log");
}

#[test]
fn c18_changes_that_gathered_are_not_told_by_a_store_that_has_stopped() {
    let (faulty, kv) = open();
    kv.write(vec![put("a", vec![1])], Index(1)).unwrap();
    faulty.fails.store(true, Ordering::Relaxed);
    kv.flush().unwrap_err();
    assert!(matches!(kv.get(b"a"), Err(StorageError::Stopped(_))));
    assert!(matches!(kv.scan(&ScanRange::all(), 9, 9), Err(StorageError::Stopped(_))));
}
