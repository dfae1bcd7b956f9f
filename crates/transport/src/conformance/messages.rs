//! One of each message, and their extremes.

use bytes::Bytes;
use coracle_core::{
    AppendResult, Base, Body, ClusterId, Entry, EntryKind, Forwarded, Incarnation, Index, InstallSnapshot,
    MemberRole as Role, Membership, NodeId, NodeRecord, Run, Runs, SnapshotMeta, Term,
};

/// Messages of every kind, each field of them with a value that no other field has, and each list empty, with one item, and with several.
pub(super) fn every_kind() -> Vec<Body> {
    let mut all = elections();
    all.extend(replication());
    all.extend(reads_and_proposals());
    all.extend(repairs());
    all
}

fn elections() -> Vec<Body> {
    let (last_log_index, last_log_term) = (Index(5), Term(3));
    let mut all = vec![
        Body::PreVote { next_term: Term(10), last_log_index, last_log_term },
        Body::PreVote { next_term: Term::MAX, last_log_index: Index::MAX, last_log_term: Term::MAX },
        Body::PreVote { next_term: Term(0), last_log_index: Index(0), last_log_term: Term(0) },
        Body::TimeoutNow,
    ];
    for yes in [false, true] {
        all.push(Body::PreVoteResponse { next_term: Term(11), granted: yes });
        all.push(Body::RequestVote { last_log_index, last_log_term, is_transfer: yes });
        all.push(Body::RequestVoteResponse { granted: yes });
    }
    all
}

fn replication() -> Vec<Body> {
    let append = |entries| Body::AppendEntries {
        prev_log_index: Index(5),
        prev_log_term: Term(2),
        leader_commit: Index(4),
        entries: Runs::from(entries),
    };
    let matched = AppendResult::Matched { index: Index(Index::MAX.0) };
    let rejected = AppendResult::Rejected { prev_log_index: Index(5), hint_index: Index(4), hint_term: Term(2) };
    vec![
        append(vec![]),
        append(runs()),
        Body::AppendEntriesResponse { result: matched, needs_snapshot: false },
        Body::AppendEntriesResponse { result: rejected, needs_snapshot: true },
        Body::Heartbeat { round: u64::MAX, leader_commit: Index(5) },
        Body::HeartbeatResponse { round: 8, promise: u64::MAX },
        Body::InstallSnapshot(Box::new(InstallSnapshot { meta: meta(), offset: 0, data: Bytes::new() })),
        Body::InstallSnapshot(Box::new(InstallSnapshot { meta: meta(), offset: 77, data: pattern(1000) })),
        Body::InstallSnapshotResponse { content: 9, offset: 3, done: false },
        Body::InstallSnapshotResponse { content: u64::MAX, offset: u64::MAX, done: true },
    ]
}

fn reads_and_proposals() -> Vec<Body> {
    let (nonce, sequence) = (u64::MAX - 1, 4);
    let applied = Forwarded::Applied { index: Index(6), reply: Bytes::from_static(b"reply") };
    let silent = Forwarded::Applied { index: Index(7), reply: Bytes::new() };
    let outcomes = vec![applied, Forwarded::NotLeader, Forwarded::Busy, Forwarded::Unknown, silent];
    vec![
        Body::ReadIndex { nonce, sequence },
        Body::ReadIndexResponse { nonce, sequence, index: Some(Index(0)) },
        Body::ReadIndexResponse { nonce, sequence, index: Some(Index(5)) },
        Body::ReadIndexResponse { nonce, sequence, index: None },
        Body::Propose { nonce, sequence, commands: vec![] },
        Body::Propose { nonce, sequence, commands: vec![pattern(300), Bytes::new(), Bytes::from_static(b"x")] },
        Body::ProposeResponse { nonce, sequence, outcomes: vec![] },
        Body::ProposeResponse { nonce, sequence, outcomes },
    ]
}

fn repairs() -> Vec<Body> {
    let first = Index(6);
    let base = |membership| Base { index: Index(5), term: Term(2), membership_index: Index(1), membership };
    let response =
        |entries, base: Option<Base>| Body::FetchEntriesResponse { first, entries, base: base.map(Box::new) };
    vec![
        Body::FetchEntries { first, last: Index(7), entry_term: Term(3) },
        response(vec![], None),
        response(runs(), None),
        response(vec![], Some(base(None))),
        response(runs(), Some(base(Some(membership())))),
    ]
}

/// Three terms, all kinds of entries.
fn runs() -> Vec<Run> {
    let change = Entry { kind: EntryKind::Membership, data: membership().encode() };
    vec![
        Run::new(Index(6), Term(3), vec![Entry::noop(), Entry::command(pattern(100)), Entry::command(Bytes::new())]),
        Run::new(Index(9), Term(4), vec![change]),
        Run::new(Index(10), Term(9), vec![Entry::command(&b"xy"[..])]),
    ]
}

fn meta() -> SnapshotMeta {
    SnapshotMeta {
        content: u64::MAX,
        last_included_index: Index(5),
        last_included_term: Term(2),
        membership_index: Index(1),
        membership: membership(),
        size: 1 << 40,
        checksum: 7,
    }
}

/// All roles, both halves of a joint configuration, all that a record holds.
fn membership() -> Membership {
    let record = |id, role, addresses: &[&str], metadata: &'static [u8]| NodeRecord {
        id: NodeId(id),
        incarnation: Incarnation(u64::MAX - id),
        addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        client_address: format!("http://10.0.0.{id}:9480"),
        role,
        metadata: Bytes::from_static(metadata),
    };
    let nodes = vec![
        record(1, Role::Voter, &["/ip4/10.0.0.1/tcp/9490", "/dns4/a.example/tcp/9490"], b"rack 1"),
        record(2, Role::Learner, &[], b""),
        record(3, Role::Promotable, &["/memory/3"], b"\x00\xff"),
        record(4, Role::Retiring, &["/unix/%2Frun%2Fc.sock"], b""),
        record(5, Role::Demoting, &["/ip6/::1/tcp/1/http"], b""),
    ];
    Membership { outgoing: vec![NodeId(4), NodeId(5)], ..Membership::new(ClusterId(u64::MAX), nodes) }
}

/// Bytes that do not repeat at any power of two.
pub(super) fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}
