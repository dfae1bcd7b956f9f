//! What travels between nodes.

use bytes::Bytes;
use coracle_core::{
    AppendResult, Base, Body, ClusterId, Entry, Forwarded, GroupId, Incarnation, Index, InstallSnapshot, Message,
    NodeId, Run, SnapshotMeta, Term,
};
use coracle_transport::{Frame, GroupHello, Hello, PROTOCOL_VERSION, Refusal};
use coracle_transport_grpc::fuzzing as grpc;
use coracle_transport_tcp::fuzzing;

use crate::consensus::some_membership;

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    some_bodies().into_iter().map(|body| fuzzing::frame_bytes(&some_frame(body))).collect()
}

pub(crate) fn greeting_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![fuzzing::hello_bytes(&some_hello()), fuzzing::welcome_bytes()];
    seeds.extend(some_refusals().iter().map(fuzzing::refusal_bytes));
    seeds
}

fn some_refusals() -> [Refusal; 4] {
    [
        Refusal::Version { ours: 1, theirs: 2 },
        Refusal::Stranger { node: NodeId(3) },
        Refusal::Certificate {
            node: NodeId(3),
            expected: vec!["a.example".to_owned()],
            presented: vec!["b.example".to_owned()],
        },
        Refusal::NoGroup,
    ]
}

/// Greetings, each message alone, and some together.
pub(crate) fn envelope_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![grpc::hello_bytes(&some_hello())];
    seeds.extend(some_refusals().iter().map(grpc::refusal_bytes));
    seeds.extend(some_bodies().into_iter().map(|body| grpc::frames_bytes(vec![some_frame(body)])));
    seeds.push(grpc::frames_bytes(some_bodies().into_iter().take(3).map(some_frame).collect()));
    seeds
}

pub(crate) fn stream_seeds() -> Vec<Vec<u8>> {
    let frames: Vec<Frame> = some_bodies().into_iter().take(3).map(some_frame).collect();
    let whole = fuzzing::stream_bytes(&some_hello(), &frames);
    [1, 7, 255].map(|piece| [&[piece], &whole[..]].concat()).into()
}

pub(crate) fn some_hello() -> Hello {
    let group = GroupHello {
        group: GroupId(1),
        cluster_name: "c".to_owned(),
        cluster: Some(ClusterId(9)),
        node: NodeId(2),
        incarnation: Incarnation(20),
    };
    Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 7, groups: vec![group] }
}

pub(crate) fn some_frame(body: Body) -> Frame {
    Frame { group: GroupId(1), message: Message { from: NodeId(2), to: NodeId(1), term: Term(3), body } }
}

/// One of each.
pub(crate) fn some_bodies() -> Vec<Body> {
    let entries = || vec![Run::new(Index(4), Term(2), ["a", "b"].map(Entry::command))];
    let (nonce, sequence) = (7, 8);
    let mut bodies = vec![
        Body::AppendEntries {
            prev_log_index: Index(3),
            prev_log_term: Term(2),
            leader_commit: Index(2),
            entries: entries().into(),
        },
        Body::AppendEntriesResponse { result: AppendResult::Matched { index: Index(5) }, needs_snapshot: false },
        Body::Heartbeat { round: 4, leader_commit: Index(5) },
        Body::HeartbeatResponse { round: 4, promise: 0 },
        Body::PreVote { next_term: Term(4), last_log_index: Index(5), last_log_term: Term(2) },
        Body::PreVoteResponse { next_term: Term(4), granted: true },
        Body::RequestVote { last_log_index: Index(5), last_log_term: Term(2), is_transfer: true },
        Body::RequestVoteResponse { granted: true },
        Body::ReadIndex { nonce, sequence },
        Body::ReadIndexResponse { nonce, sequence, index: Some(Index(5)) },
        Body::TimeoutNow,
        Body::InstallSnapshotResponse { content: 1, offset: 2, done: true },
        Body::FetchEntries { first: Index(4), last: Index(5), entry_term: Term(2) },
        Body::FetchEntriesResponse { first: Index(4), entries: entries(), base: Some(Box::new(Base::default())) },
        Body::Propose { nonce, sequence, commands: vec![Bytes::from_static(b"a"), Bytes::new()] },
    ];
    let outcomes = vec![
        Forwarded::Applied { index: Index(5), reply: Bytes::from_static(b"r") },
        Forwarded::NotLeader,
        Forwarded::Busy,
        Forwarded::Unknown,
    ];
    bodies.push(Body::ProposeResponse { nonce, sequence, outcomes });
    let result = AppendResult::Rejected { prev_log_index: Index(3), hint_index: Index(2), hint_term: Term(1) };
    bodies.push(Body::AppendEntriesResponse { result, needs_snapshot: true });
    bodies.push(Body::InstallSnapshot(Box::new(InstallSnapshot {
        meta: some_snapshot(),
        offset: 0,
        data: Bytes::from_static(b"state"),
    })));
    bodies
}

pub(crate) fn some_snapshot() -> SnapshotMeta {
    SnapshotMeta {
        content: 11,
        last_included_index: Index(4),
        last_included_term: Term(2),
        membership_index: Index(1),
        membership: some_membership(),
        size: 5,
        checksum: crc32fast::hash(b"state"),
    }
}
