//! What is fuzzed of a log.

use bytes::Bytes;
use coracle_core::{Base, Entry, GroupId, Index, Term};
use redis::Value;

use super::{
    record::{self, FIELDS},
    row,
};
use crate::fuzzing::{record as one_encoding, sealed};

/// A row at an index, of a group: the first byte says which, and whether its checksum is made to match. Each has one encoding.
///
/// # Panics
/// When one has another.
pub fn rows(data: &[u8]) {
    let Some((at, rest)) = data.split_first() else { return };
    let (group, index) = (GroupId(1), Index(u64::from(at >> 1)));
    let mut row = rest.to_vec();
    if at & 1 == 1 && row.len() >= row::HEADER {
        let checksum = row::checksum(group, &row[5..]);
        row[1..5].copy_from_slice(&checksum.to_le_bytes());
    }
    if let Some((term, entry)) = row::decode(group, index, &Bytes::from(row.clone())) {
        assert_eq!(row::encode(group, index, term, &entry), row);
    }
}

/// The row of an entry, for a corpus.
pub fn row_bytes(index: Index, term: Term, entry: &Entry) -> Vec<u8> {
    row::encode(GroupId(1), index, term, entry)
}

/// The fields of a log's hash: each a length of one byte, and bytes; 255 is no field. Records are sealed here.
///
/// # Panics
/// When what is read contradicts itself, or a record that was read is another one when it is written.
pub fn log_fields(data: &[u8]) {
    let mut rest = data;
    let values = FIELDS.map(|name| {
        let (len, after) = rest.split_first().unwrap_or((&255, &[]));
        if *len == 255 {
            rest = after;
            return Value::Nil;
        }
        let (body, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        Value::BulkString(field(name, body))
    });
    let Ok(Some(read)) = record::read(values.into(), "a fuzzer") else { return };
    assert!(read.base.index <= read.last_index && read.purged <= read.base.index, "{read:?}");
}

/// The first three are numbers, the others records.
fn field(name: &str, body: &[u8]) -> Vec<u8> {
    if FIELDS[..3].contains(&name) {
        return body.to_vec();
    }
    one_encoding::<record::Outline>(FIELDS[6], body);
    one_encoding::<Base>(FIELDS[3], body);
    let name = if name.starts_with("state") { "state" } else { name };
    sealed(name, body)
}
