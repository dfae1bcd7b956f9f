//! Identity.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Incarnation, Index, LogRead, NodeId};

use super::{GROUP, OTHER, Subject, batch, log::entries, pattern, reopened, run};
use crate::{Durability, Identity, KvOp, Result, StorageError, Store};

pub(super) fn check<S: Subject>(factory: &impl Fn() -> S) {
    a_new_store_has_no_identity(factory());
    the_last_identity_is_kept(factory());
    another_engine_is_refused(factory());
    parts_outlive_the_store(factory());
    parts_of_what_is_gone_say_so(factory());
    what_is_used_after_it_was_closed_says_so(factory());
}

fn an_identity(store: &Arc<dyn Store>) -> Identity {
    Identity {
        node: NodeId(0x0123_4567_89ab_cdef),
        incarnation: Incarnation(u64::MAX),
        engine: store.engine().to_owned(),
        cluster_name: "a name with = and é".to_owned(),
        clusters: BTreeMap::new(),
    }
}

fn a_new_store_has_no_identity<S: Subject>(subject: S) {
    assert_eq!(subject.store().identity().expect("identity of a new store"), None);
    assert!(!subject.store().engine().is_empty(), "the engine has a name");
}

fn the_last_identity_is_kept<S: Subject>(subject: S) {
    let store = subject.store();
    let new = an_identity(&store);
    store.set_identity(&new).expect("set the identity");
    assert_eq!(store.identity().expect("identity"), Some(new.clone()));
    drop(store);
    let subject = reopened(subject);
    let store = subject.store();
    assert_eq!(store.identity().expect("identity after reopening"), Some(new.clone()));
    let clusters = BTreeMap::from([(GroupId(1), ClusterId(7)), (GroupId(300), ClusterId(u64::MAX))]);
    let founded = Identity { clusters, ..new };
    store.set_identity(&founded).expect("set the identity again");
    drop(store);
    assert_eq!(reopened(subject).store().identity().expect("identity once founded"), Some(founded));
}

/// What is kept cannot be read by another engine, and does not claim so. What is forgotten anyway may say anything.
fn another_engine_is_refused<S: Subject>(subject: S) {
    let store = subject.store();
    if store.durability() == Durability::Volatile {
        return;
    }
    let right = an_identity(&store);
    store.set_identity(&right).expect("set the identity");
    let wrong = Identity { engine: "another".to_owned(), ..right.clone() };
    let result = store.set_identity(&wrong);
    assert!(matches!(result, Err(StorageError::Engine { .. })), "another engine's identity gave {result:?}");
    assert_eq!(store.identity().expect("identity"), Some(right));
}

/// A part of the store keeps it open.
fn parts_outlive_the_store<S: Subject>(subject: S) {
    let store = subject.store();
    let log = store.log();
    let (kv, snapshots) = (store.kv(GROUP).expect("kv"), store.snapshots(GROUP).expect("snapshots"));
    drop(store);
    log.write(&[batch(vec![run(1, 1, 2)])]).expect("write to the log");
    assert_eq!(log.recover(GROUP, 0).expect("recover").last_index, Index(2));
    kv.write(vec![KvOp::Put("a".into(), "1".into())], Index(1)).expect("write data");
    assert_eq!(kv.get(b"a").expect("get").as_deref(), Some(b"1".as_slice()));
    assert_eq!(snapshots.latest().expect("latest"), None);
}

/// Once even the place of the store is gone, its parts answer rightly or with an error: none panics, waits for good or makes something up.
fn parts_of_what_is_gone_say_so<S: Subject>(subject: S) {
    let store = subject.store();
    let log = store.log();
    let (kv, snapshots) = (store.kv(GROUP).expect("kv"), store.snapshots(GROUP).expect("snapshots"));
    log.write(&[batch(vec![run(1, 1, 2)])]).expect("write to the log");
    kv.write(vec![KvOp::Put("a".into(), pattern(9_000))], Index(1)).expect("write data");
    drop((store, subject));
    if let Ok(found) = log.read(GROUP, Index(1), Index(2), usize::MAX) {
        let LogRead::Entries(found) = found else { panic!("entries are gone: {found:?}") };
        assert_eq!(entries(&found), entries(&[run(1, 1, 2)]));
    }
    if let Ok(found) = kv.get(b"a") {
        assert_eq!(found, Some(pattern(9_000)));
    }
    if let Ok(()) = log.write(&[batch(vec![run(3, 1, 1)])])
        && let Ok(recovered) = log.recover(GROUP, 0)
    {
        assert_eq!(recovered.last_index, Index(3));
    }
    if let Ok(found) = snapshots.latest() {
        assert_eq!(found, None);
    }
    // Whether these go well is the store's affair.
    let _ = (kv.flush(), snapshots.begin().map(drop));
}

/// What came of a request to a store that was closed: it was carried out, or refused with [`StorageError::Stopped`].
fn unless_stopped<T>(what: &str, result: Result<T>) -> Option<T> {
    match result {
        Ok(done) => Some(done),
        Err(StorageError::Stopped(_)) => None,
        Err(other) => panic!("{what} after the store was closed is refused as stopped, not with {other}"),
    }
}

/// After a close, which may come twice, every request is carried out or refused; nothing that was acknowledged before or after is lost, and nothing that was refused is half done.
fn what_is_used_after_it_was_closed_says_so<S: Subject>(subject: S) {
    let store = subject.store();
    let (log, identity) = (store.log(), an_identity(&store));
    let (kv, snapshots) = (store.kv(GROUP).expect("kv"), store.snapshots(GROUP).expect("snapshots"));
    store.set_identity(&identity).expect("set the identity");
    log.write(&[batch(vec![run(1, 1, 2)])]).expect("write to the log");
    kv.write(vec![KvOp::Put("a".into(), "1".into())], Index(1)).expect("write data");
    kv.flush().expect("flush");
    store.close();
    store.close();
    let mut expected = vec![run(1, 1, 2)];
    if let Some(found) = unless_stopped("a read", log.read(GROUP, Index(1), Index(2), usize::MAX)) {
        let LogRead::Entries(found) = found else { panic!("entries are gone: {found:?}") };
        assert_eq!(entries(&found), entries(&expected));
    }
    let written = unless_stopped("a write", log.write(&[batch(vec![run(3, 1, 1)])]));
    expected.extend(written.map(|()| run(3, 1, 1)));
    if let Some(recovered) = unless_stopped("recovery", log.recover(GROUP, usize::MAX)) {
        assert_eq!(entries(&recovered.tail), entries(&expected));
    }
    let data = unless_stopped("writing data", kv.write(vec![KvOp::Put("b".into(), "2".into())], Index(2)));
    let value = data.map(|()| Bytes::from("2"));
    if let Some(found) = unless_stopped("getting data", kv.get(b"b")) {
        assert_eq!(found, value);
    }
    let is_flushed = unless_stopped("a flush", kv.flush()).is_some();
    unless_stopped("a snapshot", snapshots.begin().map(drop));
    unless_stopped("the latest snapshot", snapshots.latest());
    if let Some(found) = unless_stopped("the identity", store.identity()) {
        assert_eq!(found.as_ref(), Some(&identity));
    }
    unless_stopped("another group", store.kv(OTHER).map(drop));
    if store.durability() == Durability::Volatile {
        return;
    }
    drop((store, log, kv, snapshots));
    let subject = subject.reopen();
    let store = subject.store();
    assert_eq!(store.identity().expect("identity"), Some(identity));
    assert_eq!(entries(&store.log().recover(GROUP, usize::MAX).expect("recover").tail), entries(&expected));
    let kv = store.kv(GROUP).expect("kv");
    assert_eq!(kv.get(b"a").expect("get").as_deref(), Some(b"1".as_slice()));
    if is_flushed || value.is_none() {
        assert_eq!(kv.get(b"b").expect("get"), value);
    }
}
