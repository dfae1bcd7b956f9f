//! Real records of the stores, for the corpus.

use std::collections::BTreeMap;

use coracle_core::{Base, ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, Index, NodeId, Term};
use coracle_storage::Identity;
use coracle_storage_redis::fuzzing as redis;
use coracle_storage_sled::fuzzing as sled;

use crate::{consensus::some_membership, peers::some_snapshot};

pub(crate) fn some_identity(engine: &str) -> Identity {
    Identity {
        node: NodeId(1),
        incarnation: Incarnation(10),
        engine: engine.to_owned(),
        cluster_name: "c".to_owned(),
        clusters: BTreeMap::from([(GroupId(1), ClusterId(9)), (GroupId(2), ClusterId(8))]),
    }
}

fn some_base() -> Base {
    Base { index: Index(4), term: Term(2), membership_index: Index(1), membership: Some(some_membership()) }
}

fn voted() -> HardState {
    HardState { term: Term(3), voted_for: Some(NodeId(7)), commit_index: Index(4), is_repairing: false }
}

fn some_outline() -> (Vec<(Index, Term)>, Option<Vec<Index>>) {
    (vec![(Index(1), Term(1)), (Index(5), Term(3))], Some(vec![Index(1)]))
}

fn of(which: u8, bytes: &[u8]) -> Vec<u8> {
    [&[which], bytes].concat()
}

pub(crate) fn redis_records_seeds() -> Vec<Vec<u8>> {
    let catalog = (3_u64, vec![(some_snapshot(), 1_u64)], Some((7_u64, 2_u64)), vec![2_u64]);
    let base = Base { membership: None, ..some_base() };
    let fields: [&[u8]; 7] = [
        b"9",
        b"4",
        b"2",
        &redis::body(&base),
        &redis::body(&(Index(9), voted())),
        &redis::body(&(Index(9), voted())),
        &redis::body(&some_outline()),
    ];
    let fields: Vec<u8> = fields.iter().flat_map(|field| of(field.len() as u8, field)).collect();
    vec![
        of(0, &redis::body(&some_identity("redis"))),
        of(1, &redis::body(&some_base())),
        of(2, &fields),
        of(2, &[255; 7]),
        of(3, &redis::body(&catalog)),
        of(4, &redis::body(&some_outline())),
    ]
}

pub(crate) fn redis_rows_seeds() -> Vec<Vec<u8>> {
    let membership = Entry { kind: EntryKind::Membership, data: some_membership().encode() };
    let entries = [Entry::noop(), Entry::command("put"), membership];
    let rows = entries.map(|entry| redis::row_bytes(Index(3), Term(2), &entry));
    let mended = rows.iter().map(|row| of(3 << 1 | 1, row));
    mended.chain([of(3 << 1, &rows[1])]).collect()
}

pub(crate) fn sled_records_seeds() -> Vec<Vec<u8>> {
    let identity = "coracle identity 1\nengine = sled\nnode = 0000000000000001\nincarnation = 000000000000000a\n\
        cluster-name = c\ncluster = 0000000000000009\ncluster-of-group-2 = 0000000000000008\n";
    let marks = BTreeMap::from([(GroupId(1), (3_u64, Index(9), Term(2)))]);
    vec![
        of(0, identity.as_bytes()),
        of(1, &sled::body(&marks)),
        of(2, &sled::body(&some_snapshot())),
        of(3, &sled::body(&some_base())),
        of(4, b"\x01k\x01\x00\xf8\x53\x2e\xb5value"),
        of(4, b"\x01k\x01\x01\xf7\x07\x35\xb9\x05\0\0\0\0\0\0\0\x2c\x01\0\0\0\0\0\0"),
    ]
}

pub(crate) fn sled_log_seeds() -> Vec<Vec<u8>> {
    sled::log_seeds()
}
