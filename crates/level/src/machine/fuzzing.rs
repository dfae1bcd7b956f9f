//! What is fuzzed of rows and snapshots; not part of the interface.

use bytes::Bytes;

use super::layout::{self, ReplyRow, SessionRow};

/// Magic, version, revision.
const HEAD: usize = 4 + 1 + 8;
/// Kind and length.
const FRAME_HEAD: usize = 1 + 4;
const CHECKSUM: usize = 4;

/// Keys and values of rows; the first byte says which. Each has one encoding.
///
/// # Panics
/// When one has another.
pub fn rows(data: &[u8]) {
    let Some((which, row)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(row);
    let again = match which % 6 {
        0 => layout::parse_history(row).map(|(key, revision)| layout::history_key(&key, revision)),
        1 => layout::parse_session(row).map(layout::session_key),
        2 => layout::parse_reply(row).map(|(id, sequence)| layout::reply_key(id, sequence)),
        3 => layout::decode_value(b"d", bytes).map(|value| layout::encode_value(&value)),
        4 => SessionRow::decode(b"s", row).map(SessionRow::encode),
        _ => ReplyRow::decode(b"r", bytes).map(|reply| reply.encode()),
    };
    if let Ok(again) = again {
        assert_eq!(again, row);
    }
}

/// A snapshot whose frames' checksums are made to match, and its end the number of rows: fuzzers do not guess them.
pub fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    let (mut at, mut rows) = (HEAD, 0_u64);
    while let Some(payload) = payload(&out, at) {
        let end = at + FRAME_HEAD + payload;
        if out[at] == 2 && payload == 8 {
            out[end - 8..end].copy_from_slice(&rows.to_be_bytes());
        }
        rows += rows_in(&out[at + FRAME_HEAD..end]);
        let sum = crc32fast::hash(&out[..end]);
        out[end..end + CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        at = end + CHECKSUM;
    }
    out
}

/// The length of the payload of the frame at `at`, when all of the frame is there.
fn payload(bytes: &[u8], at: usize) -> Option<usize> {
    let len = u32::from_be_bytes(bytes.get(at + 1..at + FRAME_HEAD)?.try_into().ok()?) as usize;
    bytes.get(at + FRAME_HEAD..(at + FRAME_HEAD).checked_add(len)?.checked_add(CHECKSUM)?)?;
    Some(len)
}

/// How many pairs of a key and a value there are.
fn rows_in(mut payload: &[u8]) -> u64 {
    let mut fields = 0;
    while let Some((len, rest)) = payload.split_first_chunk::<4>() {
        let Some((_, rest)) = rest.split_at_checked(u32::from_be_bytes(*len) as usize) else { break };
        payload = rest;
        fields += 1;
    }
    fields / 2
}
