use std::{ops::Bound, time::Duration};

use proptest::prelude::*;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn golden_commands() -> Vec<(Command, &'static str)> {
    let ops = vec![
        Op::Put { key: key("a"), value: key("xy") },
        Op::Delete { key: key("b") },
        Op::Increment { key: key(""), by: -2 },
    ];
    let once = Some(Once { session: SessionId(7), sequence: 3, floor: 1 });
    vec![
        (
            Command::Txn { txn: Txn { ops }, once },
            "01 00000000 0300000000000000 \
             00000000 0100000000000000 61 0200000000000000 7879 \
             01000000 0100000000000000 62 \
             02000000 0000000000000000 feffffffffffffff \
             01 0700000000000000 0300000000000000 0100000000000000",
        ),
        (Command::Txn { txn: Txn::default(), once: None }, "01 00000000 0000000000000000 00"),
        (Command::OpenSession { limits: SessionLimits::default() }, "01 01000000 10270000 00040000"),
        (Command::CloseSession { session: SessionId(9) }, "01 02000000 0900000000000000"),
    ]
}

fn owned(command: CommandRef<'_>) -> Command {
    let copy = Bytes::copy_from_slice;
    let owned_op = |op| match op {
        OpRef::Put { key, value } => Op::Put { key: copy(key), value: copy(value) },
        OpRef::Delete { key } => Op::Delete { key: copy(key) },
        OpRef::Increment { key, by } => Op::Increment { key: copy(key), by },
    };
    match command {
        CommandRef::Txn { ops, once } => {
            Command::Txn { txn: Txn { ops: ops.into_iter().map(owned_op).collect() }, once }
        }
        CommandRef::OpenSession { limits } => Command::OpenSession { limits },
        CommandRef::CloseSession { session } => Command::CloseSession { session },
    }
}

fn golden_replies() -> Vec<(Result<CommandReply>, &'static str)> {
    let committed = Committed { revision: Revision(5), integers: vec![1, -1] };
    vec![
        (
            Ok(CommandReply::Committed(committed)),
            "01 00000000 00000000 0500000000000000 0200000000000000 0100000000000000 ffffffffffffffff",
        ),
        (Ok(CommandReply::SessionOpened(SessionId(4))), "01 00000000 01000000 0400000000000000"),
        (Ok(CommandReply::SessionClosed), "01 00000000 02000000"),
        (
            Err(Error::LimitExceeded { limit: "l".to_owned(), max: 1, got: 2 }),
            "01 01000000 00000000 0100000000000000 6c 0100000000000000 0200000000000000",
        ),
        (Err(Error::NotAnInteger { key: "k".to_owned() }), "01 01000000 01000000 0100000000000000 6b"),
        (Err(Error::SessionExpired(SessionId(1))), "01 01000000 02000000 0100000000000000"),
        (Err(Error::SnapshotGone(Revision(2))), "01 01000000 03000000 0200000000000000"),
        (Err(Error::NotLeader { leader: Some("x".to_owned()) }), "01 01000000 04000000 01 0100000000000000 78"),
        (Err(Error::Unavailable("u".to_owned())), "01 01000000 05000000 0100000000000000 75"),
        (
            Err(Error::Busy { retry_after: Duration::from_millis(1500) }),
            "01 01000000 06000000 0100000000000000 0065cd1d",
        ),
        (Err(Error::Unknown("w".to_owned())), "01 01000000 07000000 0100000000000000 77"),
        (Err(Error::Closed), "01 01000000 08000000"),
        (Err(Error::Protocol("p".to_owned())), "01 01000000 09000000 0100000000000000 70"),
        (Err(Error::NoSpace("n".to_owned())), "01 01000000 0a000000 0100000000000000 6e"),
    ]
}

fn golden_queries() -> Vec<(Query, &'static str)> {
    let scan =
        ScanSpec { from: Bound::Included(key("a")), to: Bound::Unbounded, reverse: true, limit: 5, values: false };
    vec![
        (
            Query::GetMany { at: Some(Revision(3)), keys: vec![key("a")] },
            "01 00000000 01 0300000000000000 0100000000000000 0100000000000000 61",
        ),
        (Query::ContainsMany { at: None, keys: vec![] }, "01 01000000 00 0000000000000000"),
        (Query::Page { at: None, scan }, "01 02000000 00 01000000 0100000000000000 61 00000000 01 05000000 00"),
        (Query::Hold, "01 03000000"),
        (Query::Release(Revision(8)), "01 04000000 0800000000000000"),
    ]
}

fn golden_answers() -> Vec<(Result<QueryReply>, &'static str)> {
    let value = Value { value: key("v"), created: Revision(1), modified: Revision(2), version: 2 };
    let page = ScanPage { entries: vec![(key("k"), key("v"))], more: true };
    vec![
        (
            Ok(QueryReply::Values(Read { value: vec![Some(value), None], revision: Revision(6) })),
            "01 00000000 00000000 0200000000000000 \
             01 0100000000000000 76 0100000000000000 0200000000000000 0200000000000000 \
             00 0600000000000000",
        ),
        (
            Ok(QueryReply::Contained(Read { value: vec![true, false], revision: Revision(6) })),
            "01 00000000 01000000 0200000000000000 01 00 0600000000000000",
        ),
        (
            Ok(QueryReply::Page(Read { value: page, revision: Revision(6) })),
            "01 00000000 02000000 0100000000000000 0100000000000000 6b 0100000000000000 76 01 0600000000000000",
        ),
        (Ok(QueryReply::Held(Revision(6))), "01 00000000 03000000 0600000000000000"),
        (Ok(QueryReply::Released), "01 00000000 04000000"),
        (Err(Error::SnapshotGone(Revision(6))), "01 01000000 03000000 0600000000000000"),
    ]
}

#[test]
fn the_length_of_a_command_is_known_beforehand() {
    for (command, _) in golden_commands() {
        assert_eq!(command_bytes(&command), encode_command(&command).len(), "{command:?}");
    }
}

#[test]
fn the_bytes_of_commands_and_replies_stay_the_same() {
    for (command, bytes) in golden_commands() {
        assert_eq!(hex(&encode_command(&command)), hex(&unhex(bytes)), "{command:?}");
        assert_eq!(read_command(&unhex(bytes)).map(owned), Ok(command.clone()));
        assert_eq!(decode_command(&unhex(bytes)), Ok(command));
    }
    for (reply, bytes) in golden_replies() {
        assert_eq!(hex(&encode_reply(&reply)), hex(&unhex(bytes)), "{reply:?}");
        assert_eq!(decode_reply(&unhex(bytes)), reply);
    }
}

#[test]
fn the_bytes_of_queries_and_answers_stay_the_same() {
    for (query, bytes) in golden_queries() {
        assert_eq!(hex(&encode_query(&query)), hex(&unhex(bytes)), "{query:?}");
        assert_eq!(decode_query(&unhex(bytes)), Ok(query));
    }
    for (answer, bytes) in golden_answers() {
        assert_eq!(hex(&encode_answer(&answer)), hex(&unhex(bytes)), "{answer:?}");
        assert_eq!(decode_answer(&unhex(bytes)), answer);
    }
}

#[test]
fn bytes_after_or_missing_from_a_command_are_an_error() {
    for (command, _) in golden_commands() {
        let bytes = encode_command(&command);
        for len in 0..bytes.len() {
            assert!(matches!(decode_command(&bytes[..len]), Err(Error::Protocol(_))), "{command:?} cut at {len}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(matches!(decode_command(&longer), Err(Error::Protocol(why)) if why.contains("1 bytes follow")));
    }
}

#[test]
fn another_version_is_named() {
    let refused = decode_command(&[2, 0, 0, 0, 0]);
    assert!(matches!(refused, Err(Error::Protocol(why)) if why.contains("version 2, 1 was expected")));
}

#[test]
fn a_forged_length_reserves_nothing() {
    let mut forged = unhex("01 00000000 0100000000000000 00000000");
    forged.extend(u64::MAX.to_le_bytes());
    assert!(matches!(decode_command(&forged), Err(Error::Protocol(_))));
    let mut many = unhex("01 00000000");
    many.extend((1u64 << 60).to_le_bytes());
    assert!(matches!(decode_command(&many), Err(Error::Protocol(_))));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let versioned = [&[VERSION][..], &bytes].concat();
        for input in [&bytes, &versioned] {
            prop_assert_eq!(read_command(input).map(owned), decode_command(input));
            if let Ok(command) = decode_command(input) {
                prop_assert_eq!(decode_command(&encode_command(&command)), Ok(command));
            }
            let _ = (decode_query(input), decode_reply(input), decode_answer(input));
        }
    }
}
