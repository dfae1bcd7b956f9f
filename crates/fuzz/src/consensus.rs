//! What the core encodes and decodes.

use bytes::Bytes;
use coracle_core::{
    ClusterId, Entry, EntryKind, Incarnation, Index, MemberRole, Membership, NodeId, NodeRecord, Run, Term,
    decode_runs, encode_runs, encoded_len, salvage_run,
};

/// Version, number of runs.
const BLOCK_HEADER: usize = 5;
/// First index, term, number of entries.
const RUN_HEADER: usize = 20;
/// Checksum, kind, length.
const ENTRY_HEADER: usize = 9;

/// Blocks of runs, as they are and with checksums that match.
pub(crate) fn entries(data: &[u8]) {
    block(Bytes::copy_from_slice(data));
    block(with_checksums(data).into());
}

fn block(bytes: Bytes) {
    let salvaged = salvage_run(bytes.clone());
    for pair in salvaged.windows(2) {
        assert!(pair[0].last() < pair[1].first() && pair[0].term() == pair[1].term(), "{salvaged:?}");
    }
    let Ok(runs) = decode_runs(bytes.clone()) else { return };
    assert!(runs.windows(2).all(|pair| pair[1].follows(&pair[0])), "{runs:?}");
    let mut again = Vec::new();
    encode_runs(&runs, &mut again);
    assert_eq!(again, bytes, "entries have one encoding");
    assert_eq!(encoded_len(&runs), bytes.len());
    if runs.len() == 1 {
        assert_eq!(salvaged, runs, "what is whole is salvaged as a whole");
    }
}

/// The same block with each entry's checksum made to match: fuzzers do not guess them.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let Some(count) = number(data, 1, 4) else { return out };
    let mut at = BLOCK_HEADER;
    for _ in 0..count {
        let header = (number(data, at, 8), number(data, at + 8, 8), number(data, at + 16, 4));
        let (Some(first), Some(term), Some(entries)) = header else { return out };
        at += RUN_HEADER;
        for i in 0..entries {
            let Some(len) = number(data, at + 5, 4) else { return out };
            let end = at + ENTRY_HEADER + len as usize;
            let Some(body) = data.get(at + ENTRY_HEADER..end) else { return out };
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&first.wrapping_add(i).to_le_bytes());
            hasher.update(&term.to_le_bytes());
            hasher.update(&data[at + 4..at + ENTRY_HEADER]);
            hasher.update(body);
            out[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
            at = end;
        }
    }
    out
}

/// The little-endian number of `len` bytes at `at`.
fn number(data: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = data.get(at..at.checked_add(len)?)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

pub(crate) fn entries_seeds() -> Vec<Vec<u8>> {
    let membership = Entry { kind: EntryKind::Membership, data: some_membership().encode() };
    let commands = ["", "a", "put"].map(Entry::command);
    let runs = [
        Run::new(Index(1), Term(1), [membership]),
        Run::new(Index(2), Term(3), [Entry::noop()]),
        Run::new(Index(3), Term(3), commands),
    ];
    [&runs[..], &runs[..1], &runs[2..], &[]].map(encoded).into()
}

fn encoded(runs: &[Run]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_runs(runs, &mut out);
    out
}

/// Memberships have one encoding each.
pub(crate) fn membership(data: &[u8]) {
    let Ok(membership) = Membership::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(membership.encode(), data, "a membership has one encoding");
    assert!(membership.voters().next().is_some(), "somebody votes");
    for id in membership.voters().chain(membership.outgoing.iter().copied()) {
        assert!(membership.node(id).is_some() && membership.is_voter(id));
    }
}

pub(crate) fn membership_seeds() -> Vec<Vec<u8>> {
    let joint = Membership { outgoing: vec![NodeId(1), NodeId(4)], ..some_membership() };
    [some_membership(), joint, Membership::of_voters([NodeId(7)])].map(|it| it.encode().to_vec()).into()
}

/// One of everything.
pub(crate) fn some_membership() -> Membership {
    let roles = [
        MemberRole::Voter,
        MemberRole::Learner,
        MemberRole::Promotable,
        MemberRole::Retiring,
        MemberRole::Demoting,
        MemberRole::Voter,
    ];
    let nodes = (1..).zip(roles).map(|(id, role)| some_record(id, role)).collect();
    Membership { nodes, ..Membership::new(ClusterId(9), Vec::new()) }
}

/// A node with everything that a node can have.
pub(crate) fn some_record(id: u64, role: MemberRole) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        incarnation: Incarnation(id * 10),
        addresses: vec![format!("/memory/{id}"), "/ip4/127.0.0.1/tcp/9490".to_owned()],
        client_address: format!("127.0.0.1:{}", 9000 + id),
        role,
        metadata: Bytes::from_static(b"zone"),
    }
}
