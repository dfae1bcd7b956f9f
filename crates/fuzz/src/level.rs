//! The key-value store: what goes through the log, what is asked of it, and its snapshots.

use std::ops::Bound;

use bytes::Bytes;
use coracle_core::{Entry, Index, Run, Term};
use coracle_level::{
    Command, CommandReply, Committed, Error, LevelMachine, LevelOptions, Once, Op, Query, QueryReply, Read, Revision,
    ScanPage, ScanSpec, SessionId, SessionLimits, Txn, Value, decode_answer, decode_command, decode_query,
    decode_reply, encode_answer, encode_command, encode_query, encode_reply,
};
use coracle_storage::{StateMachine, Store};
use coracle_storage_memory::MemoryStore;

use crate::source::Source;

/// Commands, queries and what is answered; the first byte says which. What comes from the log or from clients has one encoding.
pub(crate) fn messages(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => command(source.rest()),
        1 => query(source.rest()),
        2 => {
            let reply = decode_reply(source.rest());
            assert_eq!(decode_reply(&encode_reply(&reply)), reply);
        }
        _ => {
            let answer = decode_answer(source.rest());
            assert_eq!(decode_answer(&encode_answer(&answer)), answer);
        }
    }
}

fn command(data: &[u8]) {
    if let Ok(command) = decode_command(data) {
        assert_eq!(encode_command(&command), data);
    }
}

fn query(data: &[u8]) {
    if let Ok(query) = decode_query(data) {
        assert_eq!(encode_query(&query), data);
        let mut machine = machine(usize::MAX);
        assert!(machine.query(data).is_ok(), "a bad query is answered, not a failure");
    }
}

pub(crate) fn messages_seeds() -> Vec<Vec<u8>> {
    let commands = some_commands().into_iter().map(|command| of(0, &encode_command(&command)));
    let queries = some_queries().into_iter().map(|query| of(1, &encode_query(&query)));
    let refused = Error::LimitExceeded { limit: "key_bytes_max".to_owned(), max: 4, got: 5 };
    let replies = [
        Ok(CommandReply::Committed(Committed { revision: Revision(6), integers: vec![-1, 0] })),
        Ok(CommandReply::SessionOpened(SessionId(3))),
        Err(refused.clone()),
        Err(Error::SessionExpired(SessionId(3))),
    ];
    let value = Value { value: key(), created: Revision(1), modified: Revision(2), version: 3 };
    let page = ScanPage { entries: vec![(key(), Bytes::new())], more: true };
    let answers = [
        Ok(QueryReply::Values(Read { value: vec![None, Some(value)], revision: Revision(4) })),
        Ok(QueryReply::Contained(Read { value: vec![true, false], revision: Revision(4) })),
        Ok(QueryReply::Page(Read { value: page, revision: Revision(4) })),
        Ok(QueryReply::Held(Revision(4))),
        Err(refused),
    ];
    let replies = replies.iter().map(|reply| of(2, &encode_reply(reply)));
    let answers = answers.iter().map(|answer| of(3, &encode_answer(answer)));
    commands.chain(queries).chain(replies).chain(answers).collect()
}

fn of(which: u8, message: &[u8]) -> Vec<u8> {
    [&[which], message].concat()
}

fn key() -> Bytes {
    Bytes::from_static(b"k\0\xff")
}

fn some_commands() -> Vec<Command> {
    let ops = vec![
        Op::Put { key: key(), value: Bytes::from_static(b"7") },
        Op::Increment { key: key(), by: -3 },
        Op::Increment { key: Bytes::new(), by: i64::MAX },
        Op::Delete { key: Bytes::from_static(b"gone") },
    ];
    let once = Once { session: SessionId(1), sequence: 2, floor: 1 };
    vec![
        Command::OpenSession { limits: SessionLimits::default() },
        Command::Txn { txn: Txn { ops: ops.clone() }, once: None },
        Command::Txn { txn: Txn { ops }, once: Some(once) },
        Command::CloseSession { session: SessionId(1) },
    ]
}

fn some_queries() -> Vec<Query> {
    let scan = ScanSpec {
        from: Bound::Included(key()),
        to: Bound::Excluded(Bytes::from_static(b"z")),
        reverse: true,
        limit: 7,
        values: true,
    };
    vec![
        Query::GetMany { at: None, keys: vec![key(), Bytes::new()] },
        Query::ContainsMany { at: Some(Revision(2)), keys: vec![key()] },
        Query::Page { at: None, scan },
        Query::Hold,
        Query::Release(Revision(2)),
    ]
}

pub(crate) fn rows_seeds() -> Vec<Vec<u8>> {
    let rows: [&[u8]; 8] = [
        b"\x00ha\0\xffb\0\0\0\0\0\0\0\0\x01\x02",
        b"\x01s\0\0\0\0\0\0\0\x01",
        b"\x02r\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02",
        b"\x03\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03v",
        b"\x04\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x03",
        b"\x05\x01\0\0\0\0\0\0\0\x01reply",
        b"\x03\x02\0\0\0",
        b"\x00h\0\0",
    ];
    rows.map(Into::into).into()
}

fn machine(write_bytes_max: usize) -> LevelMachine {
    let Ok(kv) = MemoryStore::new().kv(coracle_core::GroupId(1)) else { panic!("memory opens") };
    let options = LevelOptions { write_bytes_max, ..LevelOptions::default() };
    let Ok(machine) = LevelMachine::open(kv, options) else { panic!("an empty state opens") };
    machine
}

/// A snapshot from a peer: refused, or a state that goes on like any other.
pub(crate) fn snapshot(data: &[u8]) {
    install(data);
    install(&coracle_level::fuzzing::with_checksums(data));
}

fn install(data: &[u8]) {
    let index = data.get(5..13).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    let index = Index(index);
    if index > Index::MAX {
        // The core lets no such snapshot pass.
        return;
    }
    let mut first = machine(usize::MAX);
    if first.install(index, &mut &data[..]).is_err() {
        return;
    }
    let bytes = taken(&mut first);
    let mut second = machine(1);
    assert!(second.install(index, &mut &bytes[..]).is_ok(), "what is sent on can be installed");
    assert_eq!(taken(&mut second), bytes);
    for command in some_commands() {
        let (one, other) = (apply(&mut first, &command), apply(&mut second, &command));
        assert_eq!(one, other, "replicas differ after {command:?}");
    }
    assert_eq!(first.state_hash(), second.state_hash());
}

fn apply(machine: &mut LevelMachine, command: &Command) -> Vec<Bytes> {
    let index = machine.applied().applied.next();
    let run = Run::new(index, Term(1), [Entry::command(encode_command(command))]);
    let mut replies = Vec::new();
    let Ok(()) = machine.apply(&[run], &mut replies) else { panic!("{command:?} stops the replica") };
    replies
}

/// All bytes of a snapshot.
fn taken(machine: &mut LevelMachine) -> Vec<u8> {
    let Ok(mut source) = machine.snapshot() else { panic!("the state can be read") };
    let mut bytes = Vec::new();
    loop {
        match source.read(64) {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return bytes,
            Err(error) => panic!("the state cannot be read: {error}"),
        }
    }
}

pub(crate) fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut machine = machine(usize::MAX);
    let mut seeds = vec![taken(&mut machine)];
    let commands = some_commands();
    commands[..3].iter().for_each(|command| drop(apply(&mut machine, command)));
    seeds.push(taken(&mut machine));
    seeds
}
