use coracle_core::{
    AppendResult, Base, Body, ClusterId, Entry, Forwarded, Incarnation, Index, InstallSnapshot, Membership, NodeId,
    Run, SnapshotMeta, Term,
};
use coracle_transport::{
    GroupHello,
    links::{HTTP2_PREFACE, HTTP2_SETTINGS},
};
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;

const MAX: usize = 1 << 20;

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        content: 9,
        last_included_index: Index(5),
        last_included_term: Term(2),
        membership_index: Index(1),
        membership: Membership::of_voters([NodeId(1)]),
        size: 3,
        checksum: 7,
    }
}

/// One of each kind, with the bytes of its body: a change of these is a change of the protocol.
fn golden() -> Vec<(Body, &'static str)> {
    let run = Run::new(Index(6), Term(3), vec![Entry::command(&b"xy"[..])]);
    let (index, nonce, sequence) = (Index(5), 300, 4);
    vec![
        (
            Body::PreVote { next_term: Term(4), last_log_index: index, last_log_term: Term(3) },
            "81a7507265566f746593040503",
        ),
        (Body::PreVoteResponse { next_term: Term(4), granted: true }, "81af507265566f7465526573706f6e73659204c3"),
        (
            Body::RequestVote { last_log_index: index, last_log_term: Term(3), is_transfer: false },
            "81ab52657175657374566f7465930503c2",
        ),
        (Body::TimeoutNow, "aa54696d656f75744e6f77"),
        (Body::RequestVoteResponse { granted: false }, "81b352657175657374566f7465526573706f6e736591c2"),
        (
            Body::AppendEntries {
                prev_log_index: index,
                prev_log_term: Term(3),
                leader_commit: index,
                entries: run.into(),
            },
            "81ad417070656e64456e747269657394050305c424010100000006000000000000000300000000000000010000009eac97ab01020000007879",
        ),
        (
            Body::AppendEntriesResponse { result: AppendResult::Matched { index }, needs_snapshot: false },
            "81b5417070656e64456e7472696573526573706f6e73659281a74d6174636865649105c2",
        ),
        (
            Body::AppendEntriesResponse {
                result: AppendResult::Rejected { prev_log_index: index, hint_index: Index(4), hint_term: Term(2) },
                needs_snapshot: true,
            },
            "81b5417070656e64456e7472696573526573706f6e73659281a852656a656374656493050402c3",
        ),
        (Body::Heartbeat { round: 8, leader_commit: index }, "81a9486561727462656174920805"),
        (Body::HeartbeatResponse { round: 8, promise: 300 }, "81b1486561727462656174526573706f6e73659208cd012c"),
        (Body::ReadIndex { nonce, sequence }, "81a952656164496e64657892cd012c04"),
        (
            Body::ReadIndexResponse { nonce, sequence, index: Some(index) },
            "81b152656164496e646578526573706f6e736593cd012c0405",
        ),
        (
            Body::ReadIndexResponse { nonce, sequence, index: None },
            "81b152656164496e646578526573706f6e736593cd012c04c0",
        ),
        (
            Body::InstallSnapshot(Box::new(InstallSnapshot {
                meta: meta(),
                offset: 2,
                data: Bytes::from_static(b"z"),
            })),
            "81af496e7374616c6c536e617073686f7493970905020194009196010090a0a5566f746572c4009090030702c4017a",
        ),
        (
            Body::InstallSnapshotResponse { content: 9, offset: 3, done: true },
            "81b7496e7374616c6c536e617073686f74526573706f6e7365930903c3",
        ),
        (
            Body::FetchEntries { first: Index(4), last: index, entry_term: Term(3) },
            "81ac4665746368456e747269657393040503",
        ),
        (
            Body::FetchEntriesResponse {
                first: index,
                entries: vec![Run::new(index, Term(3), vec![Entry::command(&b"xy"[..])])],
                base: Some(Box::new(Base {
                    index: Index(4),
                    term: Term(2),
                    membership_index: Index(1),
                    membership: None,
                })),
            },
            "81b44665746368456e7472696573526573706f6e73659305c42401010000000500000000000000030000000000000001000000a39572dd0102000000787994040201c0",
        ),
        (
            Body::Propose { nonce, sequence, commands: vec![Bytes::from_static(b"xy")] },
            "81a750726f706f736593cd012c0491c4027879",
        ),
        (
            Body::ProposeResponse {
                nonce,
                sequence,
                outcomes: vec![
                    Forwarded::Applied { index, reply: Bytes::from_static(b"r") },
                    Forwarded::NotLeader,
                    Forwarded::Busy,
                    Forwarded::Unknown,
                ],
            },
            "81af50726f706f7365526573706f6e736593cd012c049481a74170706c6965649205c40172a94e6f744c6561646572a442757379a7556e6b6e6f776e",
        ),
    ]
}

fn frame(body: Body) -> Frame {
    Frame { group: GroupId(1), message: Message { from: NodeId(2), to: NodeId(3), term: Term(3), body } }
}

fn hello() -> Hello {
    let group = GroupHello {
        group: GroupId(1),
        cluster_name: "c".to_owned(),
        cluster: Some(ClusterId(7)),
        node: NodeId(2),
        incarnation: Incarnation(3),
    };
    Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 4, groups: vec![group] }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, frame, MAX).unwrap();
    out
}

#[test]
fn frames_have_their_golden_bytes() {
    for (body, expected) in golden() {
        let frame = frame(body);
        let bytes = encoded(&frame);
        // Length and kind, then (group, (from, to, term, body)).
        let whole = format!("{:08x}00920194020303{expected}", bytes.len() - LENGTH_LEN);
        assert_eq!(hex(&bytes), whole, "{:?}", frame.message.body);
        assert_eq!(decode_frame(&bytes[LENGTH_LEN + 1..]).unwrap(), frame);
    }
}

#[test]
fn preamble_and_greetings_have_their_golden_bytes() {
    assert_eq!(hex(&preamble(Purpose::Frames)), "c05241434c450d0a0000000201");
    assert_eq!(hex(&preamble(Purpose::Question)), "c05241434c450d0a0000000202");
    for (greeting, expected) in [
        (
            Greeting::Hello(hello()),
            "000000630181a548656c6c6f84a776657273696f6e02a8666561747572657300aa626f6f745f6e6f6e636504a667726f7570739185a567726f757001ac636c75737465725f6e616d65a163a7636c757374657207a46e6f646502ab696e6361726e6174696f6e03",
        ),
        (
            Greeting::Refused(Refusal::Stranger { node: NodeId(5) }),
            "0000001b0181a75265667573656481a8537472616e67657281a46e6f646505",
        ),
        (Greeting::Welcome, "0000000901a757656c636f6d65"),
    ] {
        let mut out = Vec::new();
        put_greeting(&mut out, &greeting, MAX).unwrap();
        assert_eq!(hex(&out), expected);
        assert_eq!(decode_greeting(&out[LENGTH_LEN + 1..]).unwrap(), greeting);
    }
}

#[test]
fn a_later_builds_hello_is_understood() {
    #[derive(Serialize)]
    struct Later {
        colour: &'static str,
        version: u32,
        features: u64,
        boot_nonce: u64,
        groups: Vec<GroupHello>,
    }
    #[derive(Serialize)]
    enum LaterGreeting {
        Hello(Later),
    }
    let Hello { version, features, boot_nonce, groups } = hello();
    let later = LaterGreeting::Hello(Later { colour: "red", version, features, boot_nonce, groups });
    let bytes = rmp_serde::to_vec_named(&later).unwrap();
    assert_eq!(decode_greeting(&bytes).unwrap(), Greeting::Hello(hello()));
}

#[test]
fn an_earlier_builds_hello_lacks_only_what_has_a_default() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Later {
        version: u32,
        #[serde(default)]
        colour: Option<String>,
        boot_nonce: u64,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    enum LaterGreeting {
        Hello(Later),
    }
    let mut bytes = Vec::new();
    put_greeting(&mut bytes, &Greeting::Hello(hello()), MAX).unwrap();
    let read: LaterGreeting = rmp_serde::from_slice(&bytes[LENGTH_LEN + 1..]).unwrap();
    let expected = Later { version: PROTOCOL_VERSION, colour: None, boot_nonce: 4 };
    assert_eq!(read, LaterGreeting::Hello(expected));
}

/// A frame as builds with one field more, and one field less, would write it: neither is taken for anything else.
#[test]
fn frames_of_builds_that_know_other_fields_are_refused() {
    #[derive(Serialize)]
    enum Other {
        HeartbeatResponse { round: u64, promise: u64, colour: u8 },
        ReadIndex { nonce: u64 },
        Colour { colour: u8 },
    }
    for body in [
        Other::HeartbeatResponse { round: 1, promise: 2, colour: 3 },
        Other::ReadIndex { nonce: 1 },
        Other::Colour { colour: 3 },
    ] {
        let frame = (GroupId(1), (NodeId(2), NodeId(3), Term(3), &body));
        let bytes = rmp_serde::to_vec(&frame).unwrap();
        assert!(matches!(decode_frame(&bytes), Err(WireError::Malformed(_))));
    }
}

#[tokio::test]
async fn packets_split_at_every_byte_arrive_whole() {
    let frames: Vec<Frame> = golden().into_iter().map(|(body, _)| frame(body)).collect();
    let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
    let (mut near, mut far) = duplex(1);
    let writer = tokio::spawn(async move { near.write_all(&bytes).await });
    let mut packets = PacketBuffer::default();
    for frame in &frames {
        let (kind, body) = packets.read(&mut far, MAX).await.unwrap();
        assert_eq!((kind, &decode_frame(&body).unwrap()), (Kind::Frame, frame));
    }
    writer.await.unwrap().unwrap();
    assert!(matches!(packets.read(&mut far, MAX).await, Err(WireError::Closed)));
}

#[tokio::test]
async fn an_oversized_length_is_refused_upon_the_header_alone() {
    let (mut near, mut far) = duplex(64);
    near.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    let mut packets = PacketBuffer::default();
    let refused = packets.read(&mut far, MAX).await;
    assert!(matches!(refused, Err(WireError::Oversized { max: MAX, .. })), "{refused:?}");
    assert!(packets.bytes.capacity() <= READ_BYTES_MIN);
}

#[tokio::test]
async fn memory_grows_as_bytes_arrive_and_is_given_back() {
    let (mut near, mut far) = duplex(4096);
    let len: u32 = 8 << 20;
    near.write_all(&(len + 1).to_be_bytes()).await.unwrap();
    near.write_all(&[Kind::Raw as u8]).await.unwrap();
    let mut packets = PacketBuffer::default();
    for _ in 0..50 {
        near.write_all(&[0; 1000]).await.unwrap();
        packets.fill(&mut far).await.unwrap();
        assert!(packets.next(len as usize).unwrap().is_none());
    }
    assert!(packets.bytes.capacity() <= 2 * READ_BYTES_MAX, "{}", packets.bytes.capacity());
    let rest = vec![0; len as usize - 50_000];
    let writer = tokio::spawn(async move { near.write_all(&rest).await.map(|()| near) });
    let (_, body) = packets.read(&mut far, len as usize).await.unwrap();
    assert_eq!(body.len(), len as usize);
    drop(body);
    let mut near = writer.await.unwrap().unwrap();
    near.write_all(&[0; 4]).await.unwrap();
    packets.fill(&mut far).await.unwrap();
    assert!(packets.bytes.capacity() <= KEEP_BYTES_MAX);
}

#[test]
fn a_frame_beyond_the_limit_leaves_the_others_alone() {
    let frame = frame(Body::Propose { nonce: 0, sequence: 0, commands: vec![Bytes::from(vec![0; 200])] });
    let mut out = b"before".to_vec();
    assert!(matches!(put_frame(&mut out, &frame, 200), Err(WireError::Oversized { max: 200, .. })));
    assert_eq!(out, b"before");
    let size = encoded(&frame).len() - LENGTH_LEN - 1;
    assert!(put_frame(&mut out, &frame, size).is_ok());
    let mut packets = PacketBuffer { bytes: out[6..].into(), missing: 0 };
    assert!(packets.next(size).unwrap().is_some(), "what may be sent may be received");
}

#[test]
fn what_follows_a_value_is_refused() {
    let bytes = encoded(&frame(Body::HeartbeatResponse { round: 1, promise: 0 }));
    for trailing in [0x00, 0x91, 0xc0, 0xc4, 0xff] {
        let longer = [&bytes[LENGTH_LEN + 1..], &[trailing]].concat();
        assert!(matches!(decode_frame(&longer), Err(WireError::Malformed(_))), "{trailing:02x}");
    }
}

#[tokio::test]
async fn preambles_tell_garbage_from_other_versions() {
    async fn read(bytes: &[u8]) -> Result<Purpose, WireError> {
        read_preamble(&mut &bytes[..]).await
    }
    assert_eq!(read(&preamble(Purpose::Question)).await.unwrap(), Purpose::Question);
    assert!(matches!(read(b"GET / HTTP/1.1\r\n\r\n").await, Err(WireError::Garbage(_))));
    assert!(matches!(read(b"GE").await, Err(WireError::Garbage(_))), "it does not wait for more");
    assert!(matches!(read(b"").await, Err(WireError::Closed)));
    let other = read(&preamble_of(9, 1)).await;
    assert!(matches!(other, Err(WireError::Refused(Refusal::Version { theirs: 9, .. }))));
    assert!(matches!(read(&preamble_of(PROTOCOL_VERSION, 7)).await, Err(WireError::Malformed(_))));
    assert!(matches!(read(&MAGIC).await, Err(WireError::Closed)));
}

/// Gives the bytes one by one, and then says nothing more, without closing.
async fn error_of_slow(bytes: &[u8]) -> String {
    let (mut near, mut far) = duplex(1);
    let reading = async { read_preamble(&mut far).await.unwrap_err().to_string() };
    tokio::select! {
        error = reading => error,
        _ = async { near.write_all(bytes).await.unwrap(); std::future::pending::<()>().await } => unreachable!(),
    }
}

#[tokio::test]
async fn other_protocols_are_named() {
    let settings = b"\0\0\x18\x04\0\0\0\0\0\0\x03\0\0\0d";
    for (bytes, name) in [
        (&HTTP2_PREFACE[..], "gRPC (HTTP/2)"),
        (&HTTP2_SETTINGS, "gRPC (HTTP/2)"),
        (settings, "gRPC (HTTP/2)"),
        (b"HTTP/1.1 400 Bad Request\r\n", "it is HTTP"),
        (b"\x16\x03\x01\x02\0\x01\0\x01", "it is TLS"),
        (b"\x15\x03\x03\0\x02\x02\x0a", "it is TLS"),
    ] {
        assert!(error_of_slow(bytes).await.contains(name), "{name}: {}", error_of_slow(bytes).await);
    }
    for unknown in [&b"PUT / HTTP/1.1"[..], b"HTTQ", b"\0\0\x18\x05\0\0\0\0", b"\x16\x04"] {
        let error = error_of_slow(unknown).await;
        assert!(error.ends_with(']'), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = decode_frame(&bytes) {
            prop_assert_eq!(decode_frame(&encoded(&frame)[LENGTH_LEN + 1..]).unwrap(), frame);
        }
        let mut packets = PacketBuffer { bytes: bytes[..].into(), missing: 0 };
        while let Ok(Some(_)) = packets.next(100) {}
    }

    #[test]
    fn damaged_frames_decode_or_are_refused(which in 0..16_usize, at in any::<usize>(), byte in any::<u8>()) {
        let (body, _) = golden().swap_remove(which);
        let mut bytes = encoded(&frame(body)).split_off(LENGTH_LEN + 1);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode_frame(&bytes);
    }
}
