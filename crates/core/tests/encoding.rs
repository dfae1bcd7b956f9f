//! The bytes of entries and memberships, on wire and disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use bytes::Bytes;
use coracle_core::{
    ClusterId, DecodeError, Entry, EntryKind, Incarnation, Index, MemberRole, Membership, NodeId, NodeRecord, Run,
    Term, decode_runs, encode_runs, encoded_len, salvage_run,
};
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encode(runs: &[Run]) -> Bytes {
    let mut out = Vec::new();
    encode_runs(runs, &mut out);
    assert_eq!(out.len(), encoded_len(runs));
    out.into()
}

fn two_runs() -> Vec<Run> {
    let first = Run::new(Index(7), Term(3), [Entry::noop(), Entry::command("ab")]);
    vec![first, Run::new(Index(9), Term(4), [Entry::command("")])]
}

fn membership() -> Membership {
    let node = |id: u64, role: MemberRole| NodeRecord {
        id: NodeId(id),
        incarnation: Incarnation(id + 100),
        addresses: vec![format!("/memory/{id}")],
        client_address: "c".to_owned(),
        role,
        metadata: Bytes::from_static(b"m"),
    };
    let nodes = vec![node(1, MemberRole::Voter), node(2, MemberRole::Learner), node(3, MemberRole::Promotable)];
    Membership { outgoing: vec![NodeId(1), NodeId(2)], ..Membership::new(ClusterId(9), nodes) }
}

/// The same, with a node that leaves by another change than that which promotes node 3.
fn two_changes() -> Membership {
    let mut membership = membership();
    let leaving = NodeRecord { id: NodeId(4), role: MemberRole::Retiring, ..membership.nodes[0].clone() };
    membership.nodes.push(leaving);
    Membership { changes: vec![vec![NodeId(3)], vec![NodeId(4)]], ..membership }
}

#[test]
fn golden_bytes_of_a_block_of_runs() {
    let expected = concat!(
        "01",
        "02000000",
        "0700000000000000",
        "0300000000000000",
        "02000000",
        "1d2f2995",
        "00",
        "00000000",
        "36fd8157",
        "01",
        "02000000",
        "6162",
        "0900000000000000",
        "0400000000000000",
        "01000000",
        "450cf506",
        "01",
        "00000000",
    );
    assert_eq!(hex(&encode(&two_runs())), expected);
}

#[test]
fn golden_bytes_of_a_membership() {
    let node = |id: u8, role: u8| {
        format!(
            "{id:02x}00000000000000{:02x}00000000000000{role:02x}01000000090000002f6d656d6f72792f{:02x}0100000063010000006d",
            id + 100,
            b'0' + id
        )
    };
    let expected = format!(
        "01090000000000000003000000{}{}{}0200000001000000000000000200000000000000",
        node(1, 0),
        node(2, 1),
        node(3, 2)
    );
    assert_eq!(hex(&membership().encode()), expected);
    assert_eq!(Membership::decode(membership().encode()), Ok(membership()));
    let changes = "02000000010000000300000000000000010000000400000000000000";
    assert!(hex(&two_changes().encode()).ends_with(&format!("0200000000000000{changes}")));
    assert_eq!(Membership::decode(two_changes().encode()), Ok(two_changes()));
}

#[test]
fn every_damaged_byte_of_a_block_is_noticed() {
    let whole = encode(&two_runs());
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1 << bit;
            let decoded = decode_runs(damaged.into());
            assert_ne!(decoded.as_deref(), Ok(&two_runs()[..]), "bit {bit} of byte {at}");
            assert!(decoded.is_err(), "bit {bit} of byte {at} gives {decoded:?}");
        }
    }
}

#[test]
fn a_block_cut_short_or_followed_by_more_is_an_error() {
    let whole = encode(&two_runs());
    for len in 0..whole.len() {
        assert!(decode_runs(whole.slice(..len)).is_err(), "{len} bytes");
    }
    let longer = [&whole[..], b"x"].concat();
    assert_eq!(decode_runs(longer.into()), Err(DecodeError::Trailing { bytes: 1 }));
}

#[test]
fn another_version_is_named() {
    let mut other = encode(&two_runs()).to_vec();
    other[0] = 2;
    let error = decode_runs(other.into()).unwrap_err();
    assert_eq!(error, DecodeError::Version { found: 2 });
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn forged_counts_reserve_nothing() {
    let mut forged = vec![1];
    forged.extend(u32::MAX.to_le_bytes());
    assert_eq!(decode_runs(forged.into()), Err(DecodeError::Truncated));
    let mut forged = encode(&two_runs()).to_vec();
    forged[21..25].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_runs(forged.into()), Err(DecodeError::Truncated));
}

#[test]
fn an_entry_moved_to_another_index_does_not_pass() {
    let mut moved = encode(&two_runs()[..1]).to_vec();
    moved[5] += 1;
    assert_eq!(decode_runs(moved.into()), Err(DecodeError::Checksum { index: Index(8) }));
}

#[test]
fn memberships_that_no_group_can_have_do_not_decode() {
    let unsorted = Membership { outgoing: vec![NodeId(2), NodeId(1)], ..membership() };
    let stranger = Membership { outgoing: vec![NodeId(8)], ..membership() };
    let mut nobody = membership();
    nobody.nodes.retain(|node| node.role != MemberRole::Voter);
    nobody.outgoing.clear();
    let mut twice = membership();
    twice.nodes.insert(0, twice.nodes[0].clone());
    let pending = |changes: &[&[u64]]| {
        let changes = changes.iter().map(|ids| ids.iter().map(|id| NodeId(*id)).collect()).collect();
        Membership { changes, ..two_changes() }
    };
    let alone = pending(&[&[3]]);
    let shared = pending(&[&[3, 4], &[4]]);
    let settled = pending(&[&[1], &[3]]);
    let empty = pending(&[&[], &[3]]);
    for bad in [unsorted, stranger, nobody, twice, alone, shared, settled, empty] {
        assert_eq!(Membership::decode(bad.encode()), Err(DecodeError::Membership), "{bad:?}");
    }
    let (whole, several) = (membership().encode(), two_changes().encode());
    for len in 0..whole.len() {
        assert_eq!(Membership::decode(whole.slice(..len)), Err(DecodeError::Membership));
    }
    let none = [whole.to_vec(), vec![0; 4]].concat();
    assert_eq!(Membership::decode(none.into()), Err(DecodeError::Membership), "there is one encoding");
    let one = Membership { changes: vec![], ..two_changes() }.encode();
    for len in one.len() + 1..several.len() {
        assert_eq!(Membership::decode(several.slice(..len)), Err(DecodeError::Membership));
    }
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let entry = (0u8..3, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(kind, data)| Entry {
        kind: [EntryKind::Noop, EntryKind::Command, EntryKind::Membership][kind as usize],
        data: data.into(),
    });
    let run = (1u64..4, proptest::collection::vec(entry, 1..6));
    (1u64..1000, proptest::collection::vec(run, 0..5)).prop_map(|(first, runs)| {
        let (mut index, mut term, mut out) = (Index(first), Term(1), Vec::new());
        for (rise, entries) in runs {
            term = Term(term.0 + rise);
            let run = Run::new(index, term, entries);
            index = run.last().next();
            out.push(run);
        }
        out
    })
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(runs in runs()) {
        prop_assert_eq!(decode_runs(encode(&runs)), Ok(runs));
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_runs(bytes.clone().into());
        let _ = Membership::decode(bytes.into());
    }

    #[test]
    fn a_slice_is_what_it_says(runs in runs(), from in 0u64..30, len in 0u64..30) {
        for run in runs {
            let (from, to) = (run.first().plus(from), run.first().plus(from + len));
            let expected: Vec<_> = run.iter().filter(|(index, _)| *index >= from && *index <= to).collect();
            let slice = run.slice(from, to);
            prop_assert_eq!(slice.iter().flat_map(Run::iter).collect::<Vec<_>>(), expected);
        }
    }
}

/// First index, term and entries: how a run is cut out of another one makes no difference.
fn content(runs: &[Run]) -> Vec<(Index, Term, Vec<Entry>)> {
    runs.iter().map(|run| (run.first(), run.term(), run.entries().to_vec())).collect()
}

#[test]
fn what_is_whole_of_a_damaged_block_is_salvaged() {
    let entries: Vec<Entry> = (0..4).map(|i| Entry::command(format!("data {i}"))).collect();
    let run = Run::new(Index(7), Term(3), entries);
    let whole = encode(std::slice::from_ref(&run)).to_vec();
    let part = |first: Index, last: Index| run.slice(first, last).unwrap();
    assert_eq!(content(&salvage_run(whole.clone().into())), content(std::slice::from_ref(&run)));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        for found in salvage_run(damaged.into()).into_iter().chain(salvage_run(whole[..at].to_vec().into())) {
            let written = part(found.first(), found.last());
            assert_eq!(content(&[found]), content(&[written]), "byte {at}");
        }
    }
    let mut damaged = whole.clone();
    // The data of the second entry.
    damaged[25 + 15 + 9] ^= 1;
    let expected = [part(Index(7), Index(7)), part(Index(9), Index(10))];
    assert_eq!(content(&salvage_run(damaged.into())), content(&expected));
}
