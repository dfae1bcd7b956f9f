use bytes::Bytes;
use coracle_core::{
    AppendResult, Base, Body, ClusterId, Entry, EntryKind, Forwarded, GroupId, Incarnation, Index, InstallSnapshot,
    MemberRole, Membership, Message as CoreMessage, NodeId, NodeRecord, Run, SnapshotMeta, Term,
};
use coracle_transport::{Frame, GroupHello, Hello, PROTOCOL_VERSION, Refusal};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::{
    pb::{self, envelope::Content},
    wire::{Greeting, Said},
};

fn frame(body: Body) -> Frame {
    Frame { group: GroupId(1), message: CoreMessage { from: NodeId(2), to: NodeId(3), term: Term(3), body } }
}

fn encoded(frame: Frame) -> Vec<u8> {
    encode_frame(frame).encode_to_vec()
}

fn decoded(bytes: &[u8]) -> Result<Frame, Malformed> {
    let frame = pb::Frame::decode(Bytes::copy_from_slice(bytes));
    decode_frame(frame.map_err(|error| Malformed::Protobuf(error.to_string()))?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

/// Some frames, with the bytes of their bodies: a change of these is a change of the protocol.
#[test]
fn frames_have_their_golden_bytes() {
    let index = Index(5);
    let run = Run::new(Index(6), Term(3), vec![Entry::command(&b"xy"[..])]);
    let rejected = AppendResult::Rejected { prev_log_index: index, hint_index: Index(4), hint_term: Term(2) };
    let commands = vec![Bytes::from_static(b"xy")];
    for (body, expected) in [
        (
            Body::AppendEntries {
                prev_log_index: index,
                prev_log_term: Term(3),
                leader_commit: index,
                entries: run.into(),
            },
            "2a2c080510031805222401010000000600000000000000030000000000000001000000 9eac97ab01020000007879",
        ),
        (
            Body::AppendEntriesResponse { result: AppendResult::Matched { index }, needs_snapshot: false },
            "32040a020805",
        ),
        (Body::AppendEntriesResponse { result: rejected, needs_snapshot: true }, "320a1206080510041802 1801"),
        (Body::Heartbeat { round: 8, leader_commit: index }, "3a0408081005"),
        (Body::HeartbeatResponse { round: 8, promise: 300 }, "42050808 10ac02"),
        (Body::Propose { nonce: 300, sequence: 4, commands }, "4a0f092c01000000000000 1004 1a027879"),
        (Body::ReadIndexResponse { nonce: 300, sequence: 4, index: None }, "620b092c01000000000000 1004"),
        (
            Body::ReadIndexResponse { nonce: 300, sequence: 4, index: Some(Index(0)) },
            "620d092c01000000000000 1004 1800",
        ),
        (Body::RequestVoteResponse { granted: true }, "9a01020801"),
        (Body::TimeoutNow, "a20100"),
    ] {
        let head = "080111020000000000000019030000000000000020 03";
        let whole = format!("{head}{expected}").replace(' ', "");
        assert_eq!(hex(&encoded(frame(body.clone()))), whole, "{body:?}");
    }
}

#[test]
fn greetings_have_their_golden_bytes() {
    for (greeting, expected) in [
        (
            Greeting::Hello(hello()),
            "0a2d080219040000000000000022 2008011201631907000000000000002102000000000000002903000000000000 00",
        ),
        (Greeting::Welcome, "1200"),
        (Greeting::Refused(Refusal::Stranger { node: NodeId(5) }), "1a0b22090905000000000000 00"),
        (Greeting::RefusedOtherwise("x".to_owned()), "1a037a0178"),
    ] {
        let envelope = encode_greeting(greeting.clone());
        assert_eq!(hex(&envelope.encode_to_vec()), expected.replace(' ', ""), "{greeting:?}");
        assert_eq!(decode_envelope(envelope).unwrap(), Said::Greeting(greeting));
    }
}

#[test]
fn every_refusal_comes_back() {
    let (ours, theirs) = ("a".to_owned(), "b".to_owned());
    let (expected, presented) = (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()]);
    for refusal in [
        Refusal::Version { ours: 1, theirs: 2 },
        Refusal::ClusterName { ours, theirs },
        Refusal::Cluster { ours: ClusterId(1), theirs: ClusterId(2) },
        Refusal::Stranger { node: NodeId(1) },
        Refusal::Incarnation { node: NodeId(1) },
        Refusal::NotHosted { group: GroupId(1), node: NodeId(2) },
        Refusal::NoGroup,
        Refusal::Certificate { node: NodeId(1), expected, presented },
    ] {
        let greeting = Greeting::Refused(refusal);
        assert_eq!(decode_envelope(encode_greeting(greeting.clone())).unwrap(), Said::Greeting(greeting));
    }
}

#[test]
fn what_is_missing_is_named() {
    let body = |body| pb::Frame { body: Some(body), ..pb::Frame::default() };
    let meta = pb::SnapshotMeta::default();
    let piece = |meta| pb::InstallSnapshot { meta, ..pb::InstallSnapshot::default() };
    let outcomes = vec![pb::Forwarded::default()];
    for (frame, expected) in [
        (pb::Frame::default(), missing("Frame", "body")),
        (
            body(pb::frame::Body::AppendEntriesResponse(pb::AppendEntriesResponse::default())),
            missing("AppendEntriesResponse", "result"),
        ),
        (body(pb::frame::Body::InstallSnapshot(piece(None))), missing("InstallSnapshot", "meta")),
        (body(pb::frame::Body::InstallSnapshot(piece(Some(meta)))), missing("SnapshotMeta", "membership")),
        (
            body(pb::frame::Body::ProposeResponse(pb::ProposeResponse { outcomes, ..Default::default() })),
            missing("Forwarded", "outcome"),
        ),
        (
            body(pb::frame::Body::AppendEntries(pb::AppendEntries::default())),
            Malformed::Entries(coracle_core::DecodeError::Truncated),
        ),
    ] {
        assert_eq!(decode_frame(frame), Err(expected));
    }
    assert_eq!(decode_envelope(pb::Envelope::default()), Err(missing("Envelope", "content")));
    let refusal = pb::Envelope { content: Some(Content::Refusal(pb::Refusal::default())) };
    assert_eq!(decode_envelope(refusal), Err(missing("Refusal", "reason")));
}

#[test]
fn an_unknown_role_is_named() {
    let node = pb::NodeRecord { id: 7, role: 99, ..pb::NodeRecord::default() };
    let membership = pb::Membership { nodes: vec![node], ..pb::Membership::default() };
    let meta = pb::SnapshotMeta { membership: Some(membership), ..pb::SnapshotMeta::default() };
    let piece = pb::InstallSnapshot { meta: Some(meta), ..pb::InstallSnapshot::default() };
    let frame = pb::Frame { body: Some(pb::frame::Body::InstallSnapshot(piece)), ..pb::Frame::default() };
    assert_eq!(decode_frame(frame), Err(Malformed::Role { node: 7, role: 99 }));
}

fn index() -> impl Strategy<Value = Index> {
    any::<u64>().prop_map(Index)
}

fn term() -> impl Strategy<Value = Term> {
    any::<u64>().prop_map(Term)
}

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let kind = prop_oneof![Just(EntryKind::Noop), Just(EntryKind::Command), Just(EntryKind::Membership)];
    let entry = (kind, data()).prop_map(|(kind, data)| Entry { kind, data });
    // How many terms later, and the entries.
    let run = (0..3_u64, vec(entry, 1..4));
    (1..1000_u64, 1..1000_u64, vec(run, 0..4)).prop_map(|(mut first, mut term, runs)| {
        let seal = |(later, entries): (u64, Vec<Entry>)| {
            term += later;
            let start = first;
            first += entries.len() as u64;
            Run::new(Index(start), Term(term), entries)
        };
        runs.into_iter().map(seal).collect()
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let role = prop_oneof![
        Just(MemberRole::Voter),
        Just(MemberRole::Learner),
        Just(MemberRole::Promotable),
        Just(MemberRole::Retiring),
        Just(MemberRole::Demoting),
    ];
    let text = || "[a-z/]{0,9}";
    let node = (any::<u64>(), any::<u64>(), vec(text(), 0..3), text(), role, data()).prop_map(
        |(id, incarnation, addresses, client_address, role, metadata)| NodeRecord {
            id: NodeId(id),
            incarnation: Incarnation(incarnation),
            addresses,
            client_address,
            role,
            metadata,
        },
    );
    let ids = || vec(any::<u64>().prop_map(NodeId), 0..3);
    let changes = vec(ids(), 0..3);
    (any::<u64>(), vec(node, 0..4), ids(), changes).prop_map(|(cluster, nodes, outgoing, changes)| Membership {
        cluster: ClusterId(cluster),
        nodes,
        outgoing,
        changes,
    })
}

fn install_snapshot() -> impl Strategy<Value = Body> {
    let meta = (any::<u64>(), index(), term(), index(), membership(), any::<u64>(), any::<u32>()).prop_map(
        |(content, last_included_index, last_included_term, membership_index, membership, size, checksum)| {
            SnapshotMeta {
                content,
                last_included_index,
                last_included_term,
                membership_index,
                membership,
                size,
                checksum,
            }
        },
    );
    (meta, any::<u64>(), data())
        .prop_map(|(meta, offset, data)| Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset, data })))
}

fn votes() -> impl Strategy<Value = Body> {
    prop_oneof![
        (term(), index(), term()).prop_map(|(next_term, last_log_index, last_log_term)| Body::PreVote {
            next_term,
            last_log_index,
            last_log_term
        }),
        (term(), any::<bool>()).prop_map(|(next_term, granted)| Body::PreVoteResponse { next_term, granted }),
        (index(), term(), any::<bool>()).prop_map(|(last_log_index, last_log_term, is_transfer)| Body::RequestVote {
            last_log_index,
            last_log_term,
            is_transfer
        }),
        any::<bool>().prop_map(|granted| Body::RequestVoteResponse { granted }),
        Just(Body::TimeoutNow),
    ]
}

fn log_bodies() -> impl Strategy<Value = Body> {
    let base =
        (index(), term(), index(), option::of(membership())).prop_map(|(index, term, membership_index, membership)| {
            Box::new(Base { index, term, membership_index, membership })
        });
    let result = prop_oneof![
        index().prop_map(|index| AppendResult::Matched { index }),
        (index(), index(), term()).prop_map(|(prev_log_index, hint_index, hint_term)| AppendResult::Rejected {
            prev_log_index,
            hint_index,
            hint_term
        }),
    ];
    prop_oneof![
        (index(), term(), index(), runs()).prop_map(|(prev_log_index, prev_log_term, leader_commit, entries)| {
            let entries = entries.into();
            Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries }
        }),
        (result, any::<bool>())
            .prop_map(|(result, needs_snapshot)| Body::AppendEntriesResponse { result, needs_snapshot }),
        (index(), index(), term()).prop_map(|(first, last, entry_term)| Body::FetchEntries { first, last, entry_term }),
        (index(), runs(), option::of(base)).prop_map(|(first, entries, base)| Body::FetchEntriesResponse {
            first,
            entries,
            base
        }),
    ]
}

fn other_bodies() -> impl Strategy<Value = Body> {
    let outcome = prop_oneof![
        (index(), data()).prop_map(|(index, reply)| Forwarded::Applied { index, reply }),
        Just(Forwarded::NotLeader),
        Just(Forwarded::Busy),
        Just(Forwarded::Unknown),
    ];
    let number = any::<u64>;
    prop_oneof![
        (number(), index()).prop_map(|(round, leader_commit)| Body::Heartbeat { round, leader_commit }),
        (number(), number()).prop_map(|(round, promise)| Body::HeartbeatResponse { round, promise }),
        (number(), number()).prop_map(|(nonce, sequence)| Body::ReadIndex { nonce, sequence }),
        (number(), number(), option::of(index())).prop_map(|(nonce, sequence, index)| Body::ReadIndexResponse {
            nonce,
            sequence,
            index
        }),
        (number(), number(), any::<bool>()).prop_map(|(content, offset, done)| Body::InstallSnapshotResponse {
            content,
            offset,
            done
        }),
        (number(), number(), vec(data(), 0..4)).prop_map(|(nonce, sequence, commands)| Body::Propose {
            nonce,
            sequence,
            commands
        }),
        (number(), number(), vec(outcome, 0..4)).prop_map(|(nonce, sequence, outcomes)| Body::ProposeResponse {
            nonce,
            sequence,
            outcomes
        }),
    ]
}

fn frames() -> impl Strategy<Value = Frame> {
    let body = prop_oneof![votes(), log_bodies(), install_snapshot(), other_bodies()];
    (any::<[u64; 4]>(), body).prop_map(|([group, from, to, term], body)| Frame {
        group: GroupId(group),
        message: CoreMessage { from: NodeId(from), to: NodeId(to), term: Term(term), body },
    })
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were(frame in frames()) {
        prop_assert_eq!(decoded(&encoded(frame.clone())), Ok(frame));
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(frame) = decoded(&bytes) {
            prop_assert_eq!(decoded(&encoded(frame.clone())), Ok(frame));
        }
    }

    #[test]
    fn damaged_frames_decode_or_are_refused(frame in frames(), at in any::<usize>(), byte in any::<u8>()) {
        let mut bytes = encoded(frame);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decoded(&bytes);
    }

    #[test]
    fn hellos_come_back_as_they_were(
        numbers in any::<(u32, u64, u64)>(),
        groups in vec((any::<[u64; 3]>(), ".{0,9}", option::of(any::<u64>())), 0..4),
    ) {
        let group = |([group, node, incarnation], cluster_name, cluster): ([u64; 3], String, Option<u64>)| GroupHello {
            group: GroupId(group),
            cluster_name,
            cluster: cluster.map(ClusterId),
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
        };
        let (version, features, boot_nonce) = numbers;
        let hello = Hello { version, features, boot_nonce, groups: groups.into_iter().map(group).collect() };
        let greeting = Greeting::Hello(hello);
        prop_assert_eq!(decode_envelope(encode_greeting(greeting.clone())), Ok(Said::Greeting(greeting)));
    }
}
