//! The bytes of one entry.
//!
//! `version u8, CRC-32 u32, index u64, term u64, kind u8, data`, little-endian; the checksum is over the group and all that follows it, so that a row in another's place does not pass.

use bytes::Bytes;
use coracle_core::{Entry, EntryKind, GroupId, Index, Term};

use crate::codec::VERSION;

/// What comes before the data.
pub(super) const HEADER: usize = 1 + 4 + 8 + 8 + 1;
const BODY: usize = 1 + 4;

pub(super) fn encode(group: GroupId, index: Index, term: Term, entry: &Entry) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEADER + entry.data.len());
    row.extend_from_slice(&[VERSION; BODY]);
    row.extend_from_slice(&index.0.to_le_bytes());
    row.extend_from_slice(&term.0.to_le_bytes());
    row.push(entry.kind as u8);
    row.extend_from_slice(&entry.data);
    let checksum = checksum(group, &row[BODY..]);
    row[1..BODY].copy_from_slice(&checksum.to_le_bytes());
    row
}

/// Reads the row that lies at `index`; `None` when it is not what was written there.
pub(super) fn decode(group: GroupId, index: Index, row: &Bytes) -> Option<(Term, Entry)> {
    let (header, data) = row.split_at_checked(HEADER)?;
    let number = |at: usize| header[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let is_whole = header[0] == VERSION && header[1..BODY] == checksum(group, &row[BODY..]).to_le_bytes();
    if !is_whole || number(BODY)? != index.0 {
        return None;
    }
    let kind = match header[HEADER - 1] {
        0 => EntryKind::Noop,
        1 => EntryKind::Command,
        2 => EntryKind::Membership,
        _ => return None,
    };
    Some((Term(number(BODY + 8)?), Entry { kind, data: row.slice_ref(data) }))
}

pub(super) fn checksum(group: GroupId, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.0.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn a_row_has_exactly_these_bytes() {
        let entry = Entry { kind: EntryKind::Membership, data: "ab".into() };
        let row = encode(GROUP, Index(7), Term(2), &entry);
        assert_eq!(row[0], 2);
        assert_eq!(row[BODY..], [7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b']);
    }

    #[test]
    fn a_row_elsewhere_or_damaged_does_not_pass() {
        let row = Bytes::from(encode(GROUP, Index(7), Term(2), &Entry::command("abc")));
        assert_eq!(decode(GROUP, Index(8), &row), None);
        assert_eq!(decode(GroupId(4), Index(7), &row), None);
        for at in 0..row.len() {
            let mut damaged = row.to_vec();
            damaged[at] ^= 0x10;
            assert_eq!(decode(GROUP, Index(7), &damaged.into()), None, "byte {at} was flipped");
            assert_eq!(decode(GROUP, Index(7), &row.slice(..at)), None, "cut after {at} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(index: u64, term: u64, data: Vec<u8>) {
            let entry = Entry::command(data);
            let row = Bytes::from(encode(GROUP, Index(index), Term(term), &entry));
            prop_assert_eq!(decode(GROUP, Index(index), &row), Some((Term(term), entry)));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(row: Vec<u8>) {
            prop_assert_eq!(decode(GROUP, Index(1), &row.into()), None);
        }
    }
}
