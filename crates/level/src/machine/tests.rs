//! The machine as a whole.

mod model;
mod support;

use std::{ops::Bound, sync::Arc, thread};

use coracle_storage::KvOp;

use self::support::{Recording, install, key, put, read_all, scan_all, txn};
use super::*;
use crate::{
    Command, Op, SessionLimits, Txn, command::encode_command, decode_answer, decode_reply, encode_query,
    map_store::MapStore,
};
use coracle_core::{Entry, Term};

fn machine() -> LevelMachine {
    LevelMachine::open(Arc::new(MapStore::new()), LevelOptions::default()).unwrap()
}

fn apply(machine: &mut LevelMachine, entries: Vec<Entry>) -> Vec<crate::Result<CommandReply>> {
    let mut replies = Vec::new();
    machine.apply(&[Run::new(machine.applied.next(), Term(1), entries)], &mut replies).unwrap();
    replies.iter().map(|reply| decode_reply(reply)).collect()
}

fn commit(machine: &mut LevelMachine, ops: Vec<Op>) -> crate::Result<Committed> {
    match apply(machine, vec![Entry::command(encode_command(&txn(ops)))]).remove(0)? {
        CommandReply::Committed(committed) => Ok(committed),
        other => panic!("expected Committed, got {other:?}"),
    }
}

fn ask(machine: &mut LevelMachine, query: Query) -> crate::Result<QueryReply> {
    decode_answer(&machine.query(&encode_query(&query)).unwrap())
}

fn get(machine: &mut LevelMachine, at: Option<Revision>, key: &'static str) -> crate::Result<Option<Value>> {
    match ask(machine, Query::GetMany { at, keys: vec![support::key(key)] })? {
        QueryReply::Values(mut read) => Ok(read.value.remove(0)),
        other => panic!("expected Values, got {other:?}"),
    }
}

fn hold(machine: &mut LevelMachine) -> Revision {
    match ask(machine, Query::Hold) {
        Ok(QueryReply::Held(revision)) => revision,
        other => panic!("expected Held, got {other:?}"),
    }
}

#[test]
fn a_value_carries_its_revisions() {
    let mut machine = machine();
    commit(&mut machine, vec![put("a", "1")]).unwrap();
    commit(&mut machine, vec![put("b", "1")]).unwrap();
    commit(&mut machine, vec![put("a", "2"), put("a", "3")]).unwrap();
    let value = get(&mut machine, None, "a").unwrap().unwrap();
    assert_eq!((value.created, value.modified, value.version), (Revision(1), Revision(3), 3));
    commit(&mut machine, vec![Op::Delete { key: key("a") }]).unwrap();
    assert_eq!(get(&mut machine, None, "a"), Ok(None));
    commit(&mut machine, vec![put("a", "4")]).unwrap();
    let value = get(&mut machine, None, "a").unwrap().unwrap();
    assert_eq!((value.created, value.modified, value.version), (Revision(5), Revision(5), 1));
}

#[test]
fn h66_each_transaction_has_its_own_revision() {
    let mut machine = machine();
    let entries = ["a", "b", "a"].map(|key| Entry::command(encode_command(&txn(vec![put(key, "1")]))));
    let revisions: Vec<_> = apply(&mut machine, entries.into())
        .into_iter()
        .map(|reply| match reply {
            Ok(CommandReply::Committed(committed)) => committed.revision.0,
            other => panic!("expected Committed, got {other:?}"),
        })
        .collect();
    assert_eq!(revisions, [1, 2, 3]);
    assert_eq!(get(&mut machine, None, "a").unwrap().unwrap().modified, Revision(3));
    assert_eq!(get(&mut machine, None, "b").unwrap().unwrap().modified, Revision(2));
}

#[test]
fn a_failed_transaction_changes_nothing() {
    let mut machine = machine();
    commit(&mut machine, vec![put("text", "x"), put("max", "9223372036854775807")]).unwrap();
    let before = machine.state_hash();
    for bad in ["text", "max"] {
        let ops = vec![put("new", "1"), Op::Increment { key: key("n"), by: 1 }, Op::Increment { key: key(bad), by: 1 }];
        assert_eq!(commit(&mut machine, ops), Err(Error::NotAnInteger { key: bad.to_owned() }));
    }
    assert_eq!(machine.state_hash(), before);
    let ops = vec![Op::Increment { key: key("n"), by: 2 }, Op::Increment { key: key("n"), by: -5 }];
    assert_eq!(commit(&mut machine, ops).unwrap().integers, [2, -3]);
}

#[test]
fn c20_a_bad_command_is_answered_and_changes_nothing() {
    let mut machine = machine();
    commit(&mut machine, vec![put("a", "1")]).unwrap();
    let before = machine.state_hash();
    let huge = txn(vec![Op::Put { key: vec![0; Limits::CEILING.key_bytes_max + 1].into(), value: Bytes::new() }]);
    let entries = vec![
        Entry::command(Bytes::new()),
        Entry::command(vec![9; 40]),
        Entry::command(encode_command(&huge)),
        Entry::noop(),
    ];
    let replies = apply(&mut machine, entries);
    assert!(matches!(&replies[..2], [Err(Error::Protocol(_)), Err(Error::Protocol(_))]));
    assert!(matches!(&replies[2], Err(Error::LimitExceeded { limit, .. }) if limit == "key_bytes_max"));
    assert_eq!(replies.len(), 3, "a no-op has no reply");
    assert_eq!((machine.state_hash(), machine.applied().applied), (before, Index(5)));
    assert!(matches!(decode_answer(&machine.query(b"?").unwrap()), Err(Error::Protocol(_))));
}

#[test]
fn entries_that_do_not_follow_are_refused() {
    let mut machine = machine();
    let gap = machine.apply(&[Run::new(Index(2), Term(1), vec![Entry::noop()])], &mut Vec::new());
    assert!(matches!(gap, Err(StorageError::Invalid(_))));
}

#[test]
fn c07_a_big_run_is_split_and_each_part_has_its_index() {
    let store = Arc::new(Recording::new(MapStore::new()));
    let options = LevelOptions { write_bytes_max: 150, ..LevelOptions::default() };
    let mut machine = LevelMachine::open(store.clone(), options).unwrap();
    let entries = (0..5).map(|_| Entry::command(encode_command(&txn(vec![put("n", "0123456789")])))).collect();
    apply(&mut machine, entries);
    let boundaries = store.boundaries();
    assert!(boundaries.len() >= 3, "{} batches", boundaries.len());
    for map in boundaries.into_iter().skip(1) {
        let applied = map.applied.unwrap();
        let mut recovered = LevelMachine::open(Arc::new(MapStore::from(map)), LevelOptions::default()).unwrap();
        assert_eq!(get(&mut recovered, None, "n").unwrap().unwrap().modified.0, applied.0);
        assert_eq!(recovered.applied(), Applied { applied, flushed: applied });
    }
}

#[test]
fn a_held_revision_stays_until_it_is_released() {
    let mut machine = machine();
    commit(&mut machine, vec![put("a", "old")]).unwrap();
    let held = hold(&mut machine);
    commit(&mut machine, vec![put("a", "new"), put("b", "new")]).unwrap();
    assert_eq!(get(&mut machine, Some(held), "a").unwrap().unwrap().value, "old");
    assert_eq!(get(&mut machine, Some(held), "b"), Ok(None));
    assert_eq!(get(&mut machine, Some(Revision(2)), "b"), Err(Error::SnapshotGone(Revision(2))));
    ask(&mut machine, Query::Release(held)).unwrap();
    assert_eq!(get(&mut machine, Some(held), "a"), Err(Error::SnapshotGone(held)));
}

#[test]
fn history_that_nobody_holds_is_deleted() {
    let store = Arc::new(MapStore::new());
    let mut machine = LevelMachine::open(store.clone(), LevelOptions::default()).unwrap();
    for _ in 0..300 {
        let held = hold(&mut machine);
        commit(&mut machine, vec![put("a", "1"), put("b", "2")]).unwrap();
        ask(&mut machine, Query::Release(held)).unwrap();
    }
    for _ in 0..10 {
        commit(&mut machine, vec![]).unwrap();
    }
    assert_eq!(machine.sweep.rows(), 0);
    let rows = store.read().rows.keys().filter(|row| row.starts_with(b"h")).count();
    assert_eq!(rows, 0);
}

#[test]
fn history_of_an_earlier_life_is_deleted() {
    let store = Arc::new(MapStore::new());
    let mut machine = LevelMachine::open(store.clone(), LevelOptions::default()).unwrap();
    commit(&mut machine, vec![put("a", "1")]).unwrap();
    hold(&mut machine);
    commit(&mut machine, vec![put("a", "2")]).unwrap();
    assert!(store.read().rows.keys().any(|row| row.starts_with(b"h")));
    LevelMachine::open(store.clone(), LevelOptions::default()).unwrap();
    assert!(!store.read().rows.keys().any(|row| row.starts_with(b"h")));
    assert_eq!(store.read().applied, Some(Index(2)));
}

#[test]
fn a_page_without_room_says_whether_there_is_anything() {
    let mut machine = machine();
    let scan = ScanSpec { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false, limit: 0, values: true };
    for (ops, more) in [(vec![], false), (vec![put("a", "1")], true)] {
        commit(&mut machine, ops).unwrap();
        match ask(&mut machine, Query::Page { at: None, scan: scan.clone() }) {
            Ok(QueryReply::Page(read)) => assert_eq!(read.value, ScanPage { entries: vec![], more }),
            other => panic!("expected Page, got {other:?}"),
        }
    }
}

#[test]
fn a_page_without_values_counts_keys_only() {
    let limits = Limits { page_bytes_max: 3, ..Limits::default() };
    let options = LevelOptions { limits, ..LevelOptions::default() };
    let mut machine = LevelMachine::open(Arc::new(MapStore::new()), options).unwrap();
    commit(&mut machine, vec![put("a", "1234"), put("b", "1234"), put("c", "1234")]).unwrap();
    for (values, len) in [(false, 3), (true, 1)] {
        let scan = ScanSpec { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false, limit: 9, values };
        match ask(&mut machine, Query::Page { at: None, scan }) {
            Ok(QueryReply::Page(read)) => {
                assert_eq!((read.value.entries.len(), read.value.more), (len, len < 3));
                assert_eq!(read.value.entries[0].1.is_empty(), !values);
            }
            other => panic!("expected Page, got {other:?}"),
        }
    }
}

#[test]
fn holds_are_limited() {
    let options = LevelOptions { holds_max: 1, ..LevelOptions::default() };
    let mut machine = LevelMachine::open(Arc::new(MapStore::new()), options).unwrap();
    hold(&mut machine);
    hold(&mut machine);
    commit(&mut machine, vec![]).unwrap();
    let refused = ask(&mut machine, Query::Hold);
    assert_eq!(refused, Err(Error::LimitExceeded { limit: "holds_max".to_owned(), max: 1, got: 2 }));
}

#[test]
fn the_answer_to_a_read_is_limited() {
    let limits = Limits { answer_bytes_max: 5, batch_ops_max: 3, ..Limits::default() };
    let options = LevelOptions { limits, ..LevelOptions::default() };
    let mut machine = LevelMachine::open(Arc::new(MapStore::new()), options).unwrap();
    commit(&mut machine, vec![put("a", "123456"), put("b", "1")]).unwrap();
    assert_eq!(get(&mut machine, None, "a").unwrap().unwrap().value, "123456", "one value always comes");
    let both = Query::GetMany { at: None, keys: vec![key("a"), key("b")] };
    let refused = ask(&mut machine, both);
    assert_eq!(refused, Err(Error::LimitExceeded { limit: "answer_bytes_max".to_owned(), max: 5, got: 7 }));
    let many = Query::ContainsMany { at: None, keys: vec![key("a"); 4] };
    assert!(matches!(ask(&mut machine, many), Err(Error::LimitExceeded { limit, .. }) if limit == "batch_ops_max"));
}

#[test]
fn c22_a_session_survives_a_snapshot_and_a_restart() {
    let store = Arc::new(MapStore::new());
    let mut first = LevelMachine::open(store.clone(), LevelOptions::default()).unwrap();
    let open = Command::OpenSession { limits: SessionLimits::default() };
    assert_eq!(
        apply(&mut first, vec![Entry::command(encode_command(&open))]),
        [Ok(CommandReply::SessionOpened(SessionId(1)))]
    );
    let once = Some(Once { session: SessionId(1), sequence: 1, floor: 0 });
    let write = Command::Txn { txn: Txn { ops: vec![Op::Increment { key: key("n"), by: 1 }] }, once };
    let reply = apply(&mut first, vec![Entry::command(encode_command(&write))]);
    let bytes = read_all(&mut *first.snapshot().unwrap(), 1);
    drop(first);

    let mut restarted = LevelMachine::open(store, LevelOptions::default()).unwrap();
    let mut installed = machine();
    install(&mut installed, Index(2), &bytes).unwrap();
    assert_eq!(installed.state_hash(), restarted.state_hash());
    for machine in [&mut restarted, &mut installed] {
        assert_eq!(apply(machine, vec![Entry::command(encode_command(&write))]), reply);
        assert_eq!(get(machine, None, "n").unwrap().unwrap().value, "1");
    }
    assert_eq!(installed.state_hash(), restarted.state_hash());
}

#[test]
fn c22_an_error_is_kept_like_any_other_reply() {
    let mut machine = machine();
    let open = Command::OpenSession { limits: SessionLimits::default() };
    apply(&mut machine, vec![Entry::command(encode_command(&open))]);
    commit(&mut machine, vec![put("n", "x")]).unwrap();
    let once = Some(Once { session: SessionId(1), sequence: 1, floor: 0 });
    let write = Command::Txn { txn: Txn { ops: vec![Op::Increment { key: key("n"), by: 1 }] }, once };
    let first = apply(&mut machine, vec![Entry::command(encode_command(&write))]);
    commit(&mut machine, vec![put("n", "1")]).unwrap();
    assert_eq!(apply(&mut machine, vec![Entry::command(encode_command(&write))]), first);
    assert!(matches!(&first[0], Err(Error::NotAnInteger { .. })));
}

#[test]
fn c08_an_installation_that_was_cut_short_leaves_nothing() {
    let store = Arc::new(MapStore::new());
    store.write(vec![KvOp::Put(layout::data_key(b"a"), Bytes::new())], Index(3)).unwrap();
    store.replace_begin().unwrap();
    store.replace_add(vec![(layout::data_key(b"b"), Bytes::new())]).unwrap();
    let mut machine = LevelMachine::open(store, LevelOptions::default()).unwrap();
    assert_eq!(machine.applied(), Applied::default());
    assert_eq!(scan_all(&mut machine, None), []);
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut source = machine();
    commit(&mut source, vec![put("a", "1"), put("b", "2")]).unwrap();
    let open = Command::OpenSession { limits: SessionLimits::default() };
    apply(&mut source, vec![Entry::command(encode_command(&open))]);
    let bytes = read_all(&mut *source.snapshot().unwrap(), 1 << 20);
    install(&mut machine(), Index(2), &bytes).unwrap();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert!(install(&mut machine(), Index(2), &flipped).is_err(), "byte {at} was flipped");
        assert!(install(&mut machine(), Index(2), &bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(install(&mut machine(), Index(2), &[&bytes[..], b"x"].concat()).is_err());
    assert!(install(&mut machine(), Index(3), &bytes).is_err(), "another revision");
}

#[test]
fn an_installed_snapshot_ends_holds_and_readers() {
    let mut other = machine();
    commit(&mut other, vec![put("a", "other")]).unwrap();
    commit(&mut other, vec![]).unwrap();
    let bytes = read_all(&mut *other.snapshot().unwrap(), 100);

    let mut machine = machine();
    commit(&mut machine, vec![put("a", "1")]).unwrap();
    let held = hold(&mut machine);
    let mut reader = machine.snapshot().unwrap();
    install(&mut machine, Index(2), &bytes).unwrap();
    assert_eq!(get(&mut machine, Some(held), "a"), Err(Error::SnapshotGone(held)));
    assert!(matches!(reader.read(100), Err(StorageError::Stopped(_))));
    assert_eq!(get(&mut machine, None, "a").unwrap().unwrap().value, "other");
    assert_eq!(machine.state_hash(), other.state_hash());
}

#[test]
fn a_snapshot_read_on_another_thread_shows_its_revision() {
    let mut machine = LevelMachine::open(Arc::new(Recording::slow(MapStore::new())), LevelOptions::default()).unwrap();
    let number = |at: usize, value: usize| Op::Put { key: format!("{at:03}").into(), value: value.to_string().into() };
    commit(&mut machine, (0..200).map(|at| number(at, 0)).collect()).unwrap();
    for round in 1..6 {
        let expected = (scan_all(&mut machine, None), machine.state_hash());
        let index = machine.applied;
        let mut source = machine.snapshot().unwrap();
        let reader = thread::spawn(move || read_all(&mut *source, 64));
        let mut step = 0;
        while !reader.is_finished() {
            step += 1;
            let at = step * 37 % 200;
            commit(&mut machine, vec![number(at, step), Op::Delete { key: format!("{:03}", (at + 1) % 200).into() }])
                .unwrap();
        }
        let mut copy = LevelMachine::open(Arc::new(MapStore::new()), LevelOptions::default()).unwrap();
        install(&mut copy, index, &reader.join().unwrap()).unwrap();
        assert_eq!((scan_all(&mut copy, None), copy.state_hash()), expected, "round {round}");
    }
}
