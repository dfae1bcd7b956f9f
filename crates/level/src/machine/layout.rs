//! How the state lies in the ordered map; `docs/level-layout.md` has the same for people.
//!
//! | Row | Key | Value |
//! |---|---|---|
//! | current value | `d`, key | version byte, created, modified, version, value |
//! | history | `h`, escaped key, revision that replaced it | as above: what was current until then |
//! | session | `s`, id | version byte, floor, last used, most replies |
//! | reply | `r`, id, sequence | version byte, index, reply |
//!
//! All integers are big-endian, so that rows sort by number.
//! In an escaped key each 0 byte is followed by 255, and two 0 bytes end it: escaped keys sort as the keys do, and none is the beginning of another.

use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle_storage::{KvStore, Page, Result, ScanRange, StorageError};

use crate::{Revision, Value};

/// Current values.
pub(super) const DATA: u8 = b'd';
/// Values that were overwritten or deleted, while a held revision shows them.
pub(super) const HISTORY: u8 = b'h';
/// Sessions.
pub(super) const SESSION: u8 = b's';
/// Replies of sessions.
pub(super) const REPLY: u8 = b'r';

/// The version of all rows' values, their first byte.
const VERSION: u8 = 1;
/// What ends an escaped key; it sorts before anything that can stand in its place.
const END: [u8; 2] = [0, 0];
/// Sorts after `END` with any revision, and before any longer escaped key.
const AFTER_END: [u8; 2] = [0, 1];

/// Which keys of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) from: Bound<Bytes>,
    pub(super) to: Bound<Bytes>,
}

impl KeyRange {
    /// All of them.
    pub(super) const ALL: KeyRange = KeyRange { from: Bound::Unbounded, to: Bound::Unbounded };

    /// None of them.
    pub(super) const NONE: KeyRange =
        KeyRange { from: Bound::Excluded(Bytes::new()), to: Bound::Excluded(Bytes::new()) };

    /// Whether no key can be in it. Stores may panic on such a range.
    pub(super) fn is_empty(&self) -> bool {
        is_empty(&self.from, &self.to)
    }

    /// What a scan has seen once it has come to `key`, and what is left.
    pub(super) fn split(&self, key: &Bytes, reverse: bool) -> (KeyRange, KeyRange) {
        let (upto, after) = (Bound::Included(key.clone()), Bound::Excluded(key.clone()));
        if reverse {
            let seen = KeyRange { from: upto, to: self.to.clone() };
            (seen, KeyRange { from: self.from.clone(), to: after })
        } else {
            let seen = KeyRange { from: self.from.clone(), to: upto };
            (seen, KeyRange { from: after, to: self.to.clone() })
        }
    }

    /// The rows of current values.
    pub(super) fn data(&self, reverse: bool) -> ScanRange {
        let from = match &self.from {
            Bound::Unbounded => Bound::Included(Bytes::from_static(&[DATA])),
            Bound::Included(key) => Bound::Included(data_key(key)),
            Bound::Excluded(key) => Bound::Excluded(data_key(key)),
        };
        let to = match &self.to {
            Bound::Unbounded => Bound::Excluded(Bytes::from_static(&[DATA + 1])),
            Bound::Included(key) => Bound::Included(data_key(key)),
            Bound::Excluded(key) => Bound::Excluded(data_key(key)),
        };
        ScanRange { from, to, reverse }
    }

    /// The rows of history.
    pub(super) fn history(&self, reverse: bool) -> ScanRange {
        let from = match &self.from {
            Bound::Unbounded => Bytes::from_static(&[HISTORY]),
            Bound::Included(key) => escaped(key, END).freeze(),
            Bound::Excluded(key) => escaped(key, AFTER_END).freeze(),
        };
        let to = match &self.to {
            Bound::Unbounded => Bytes::from_static(&[HISTORY + 1]),
            Bound::Included(key) => escaped(key, AFTER_END).freeze(),
            Bound::Excluded(key) => escaped(key, END).freeze(),
        };
        ScanRange { from: Bound::Included(from), to: Bound::Excluded(to), reverse }
    }
}

fn is_empty(from: &Bound<Bytes>, to: &Bound<Bytes>) -> bool {
    match (from, to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}

/// All rows of one kind.
pub(super) fn all(kind: u8) -> ScanRange {
    let (from, to) = (Bytes::copy_from_slice(&[kind]), Bytes::copy_from_slice(&[kind + 1]));
    ScanRange { from: Bound::Included(from), to: Bound::Excluded(to), reverse: false }
}

/// Scans, unless the range is empty.
pub(super) fn scan(kv: &dyn KvStore, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
    if is_empty(&range.from, &range.to) {
        return Ok(Page::new());
    }
    kv.scan(range, count_max, bytes_max)
}

/// Where a key's current value is.
pub(super) fn data_key(key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(1 + key.len());
    row.put_u8(DATA);
    row.put_slice(key);
    row.freeze()
}

/// The key whose current value is in a row of [`data_key`].
pub(super) fn user_key(row: &[u8]) -> &[u8] {
    &row[1..]
}

/// Where a key's value that `replaced` did away with is.
pub(super) fn history_key(key: &[u8], replaced: u64) -> Bytes {
    let mut row = escaped(key, END);
    row.put_u64(replaced);
    row.freeze()
}

/// Where a session is.
pub(super) fn session_key(id: u64) -> Bytes {
    let mut row = BytesMut::with_capacity(9);
    row.put_u8(SESSION);
    row.put_u64(id);
    row.freeze()
}

/// Where a session's reply is.
pub(super) fn reply_key(id: u64, sequence: u64) -> Bytes {
    let mut row = BytesMut::with_capacity(17);
    row.put_u8(REPLY);
    row.put_u64(id);
    row.put_u64(sequence);
    row.freeze()
}

fn escaped(key: &[u8], end: [u8; 2]) -> BytesMut {
    let mut row = BytesMut::with_capacity(1 + key.len() + 2 + 8);
    row.put_u8(HISTORY);
    for &byte in key {
        row.put_u8(byte);
        if byte == 0 {
            row.put_u8(255);
        }
    }
    row.put_slice(&end);
    row
}

/// The key and the revision of a row of history.
pub(super) fn parse_history(row: &[u8]) -> Result<(Bytes, u64)> {
    let wrong = || damaged(row, "its key is not an escaped key and a revision");
    let mut rest = row.strip_prefix(&[HISTORY]).ok_or_else(wrong)?;
    let mut key = BytesMut::with_capacity(rest.len());
    loop {
        let (byte, after) = match rest {
            [0, 255, after @ ..] => (0, after),
            [0, 0, revision @ ..] => {
                let revision = revision.try_into().map_err(|_| wrong())?;
                return Ok((key.freeze(), u64::from_be_bytes(revision)));
            }
            [byte, after @ ..] if *byte != 0 => (*byte, after),
            _ => return Err(wrong()),
        };
        key.put_u8(byte);
        rest = after;
    }
}

/// The id of a row of a session.
pub(super) fn parse_session(row: &[u8]) -> Result<u64> {
    match row {
        [SESSION, id @ ..] if id.len() == 8 => Ok((&id[..]).get_u64()),
        _ => Err(damaged(row, "its key is not a session's id")),
    }
}

/// The id and sequence of a row of a reply.
pub(super) fn parse_reply(row: &[u8]) -> Result<(u64, u64)> {
    match row {
        [REPLY, rest @ ..] if rest.len() == 16 => {
            let mut rest = rest;
            Ok((rest.get_u64(), rest.get_u64()))
        }
        _ => Err(damaged(row, "its key is not a session's id and a sequence")),
    }
}

/// What the row of a current value, or of history, says beside the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueHead {
    pub(super) created: Revision,
    pub(super) modified: Revision,
    pub(super) version: u64,
}

impl ValueHead {
    /// How many bytes of a row come before the value.
    pub(super) const BYTES: usize = 25;

    /// The row of a value with this head.
    pub(super) fn encode(self, value: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(ValueHead::BYTES + value.len());
        self.put(value, &mut out);
        out.freeze()
    }

    /// Appends that row.
    pub(super) fn put(self, value: &[u8], out: &mut BytesMut) {
        out.put_u8(VERSION);
        out.put_u64(self.created.0);
        out.put_u64(self.modified.0);
        out.put_u64(self.version);
        out.put_slice(value);
    }

    /// Reads what [`ValueHead::encode`] wrote at `row`: the head and the value.
    pub(super) fn decode<'a>(row: &[u8], bytes: &'a [u8]) -> Result<(ValueHead, &'a [u8])> {
        let mut rest = expect(row, bytes, ValueHead::BYTES - 1)?;
        let (created, modified) = (Revision(rest.get_u64()), Revision(rest.get_u64()));
        Ok((ValueHead { created, modified, version: rest.get_u64() }, rest))
    }
}

impl From<&Value> for ValueHead {
    fn from(value: &Value) -> ValueHead {
        ValueHead { created: value.created, modified: value.modified, version: value.version }
    }
}

/// A current value's or history's row.
pub(super) fn encode_value(value: &Value) -> Bytes {
    ValueHead::from(value).encode(&value.value)
}

/// Reads what [`encode_value`] wrote at `row`.
pub(super) fn decode_value(row: &[u8], mut bytes: Bytes) -> Result<Value> {
    let (ValueHead { created, modified, version }, _) = ValueHead::decode(row, &bytes)?;
    bytes.advance(ValueHead::BYTES);
    Ok(Value { value: bytes, created, modified, version })
}

/// What a session's row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionRow {
    pub(super) floor: u64,
    pub(super) last_used: u64,
    pub(super) pending_max: u32,
}

impl SessionRow {
    pub(super) fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(21);
        out.put_u8(VERSION);
        out.put_u64(self.floor);
        out.put_u64(self.last_used);
        out.put_u32(self.pending_max);
        out.freeze()
    }

    pub(super) fn decode(row: &[u8], bytes: &[u8]) -> Result<SessionRow> {
        let mut bytes = expect(row, bytes, 20)?;
        let decoded = SessionRow { floor: bytes.get_u64(), last_used: bytes.get_u64(), pending_max: bytes.get_u32() };
        if bytes.is_empty() { Ok(decoded) } else { Err(damaged(row, "bytes follow the session")) }
    }
}

/// What a reply's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplyRow {
    /// The entry that was answered.
    pub(super) index: u64,
    /// The encoded reply.
    pub(super) reply: Bytes,
}

impl ReplyRow {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(9 + self.reply.len());
        out.put_u8(VERSION);
        out.put_u64(self.index);
        out.put_slice(&self.reply);
        out.freeze()
    }

    pub(super) fn decode(row: &[u8], mut bytes: Bytes) -> Result<ReplyRow> {
        expect(row, &bytes, 8)?;
        bytes.advance(1);
        Ok(ReplyRow { index: bytes.get_u64(), reply: bytes })
    }
}

/// What follows the version byte, which is at least `len` bytes.
fn expect<'a>(row: &[u8], bytes: &'a [u8], len: usize) -> Result<&'a [u8]> {
    match bytes.split_first() {
        Some((&VERSION, rest)) if rest.len() >= len => Ok(rest),
        Some((&VERSION, _)) | None => Err(damaged(row, "it ends too early")),
        Some((other, _)) => Err(damaged(row, &format!("it is of version {other}, {VERSION} was expected"))),
    }
}

/// A row that is not what was written.
pub(super) fn damaged(row: &[u8], what: &str) -> StorageError {
    let shown = &row[..row.len().min(64)];
    StorageError::damaged(format!("the row \"{}\"", shown.escape_ascii()), what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_rows_stay_the_same() {
        assert_eq!(data_key(b"k\0")[..], *b"dk\0");
        assert_eq!(history_key(b"a\0b", 258)[..], *b"ha\0\xffb\0\0\0\0\0\0\0\0\x01\x02");
        assert_eq!(session_key(1)[..], *b"s\0\0\0\0\0\0\0\x01");
        assert_eq!(reply_key(1, 2)[..], *b"r\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
        let value = Value { value: Bytes::from_static(b"v"), created: Revision(1), modified: Revision(2), version: 3 };
        let bytes = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03v";
        assert_eq!(encode_value(&value)[..], *bytes);
        assert_eq!(decode_value(b"d", Bytes::from_static(bytes)).unwrap(), value);
        let session = SessionRow { floor: 1, last_used: 2, pending_max: 3 };
        let bytes = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x03";
        assert_eq!(session.encode()[..], *bytes);
        assert_eq!(SessionRow::decode(b"s", bytes).unwrap(), session);
        let reply = ReplyRow { index: 1, reply: Bytes::from_static(b"r") };
        assert_eq!(reply.encode()[..], *b"\x01\0\0\0\0\0\0\0\x01r");
        assert_eq!(ReplyRow::decode(b"r", reply.encode()).unwrap(), reply);
    }

    #[test]
    fn damaged_rows_are_errors() {
        for bytes in [&b""[..], b"\x01", b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03"] {
            assert!(decode_value(b"d", Bytes::from_static(bytes)).is_err());
            assert!(SessionRow::decode(b"s", bytes).is_err());
            assert!(ReplyRow::decode(b"r", Bytes::from_static(bytes)).is_err());
        }
        assert!(SessionRow::decode(b"s", &[1; 22]).is_err());
        assert!(parse_session(b"s123").is_err() && parse_reply(b"r123").is_err());
        for row in [&b"x"[..], b"h", b"ha", b"ha\0", b"ha\0\x07", b"ha\0\0\0\0"] {
            assert!(parse_history(row).is_err(), "{row:?}");
        }
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 254, 255]), 0..5).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn history_sorts_by_key_then_revision(a in bytes(), b in bytes(), x in any::<u64>(), y in any::<u64>()) {
            let (left, right) = (history_key(&a, x), history_key(&b, y));
            prop_assert_eq!(left.cmp(&right), (&a, x).cmp(&(&b, y)));
            prop_assert_eq!(parse_history(&left).unwrap(), (a, x));
        }

        #[test]
        fn a_range_of_keys_selects_the_same_rows(key in bytes(), from in bytes(), to in bytes(), kind in 0..9u8, revision in any::<u64>()) {
            let bound = |kind, key: &Bytes| match kind {
                0 => Bound::Unbounded,
                1 => Bound::Included(key.clone()),
                _ => Bound::Excluded(key.clone()),
            };
            let range = KeyRange { from: bound(kind % 3, &from), to: bound(kind / 3, &to) };
            let inside = |range: &KeyRange, key: &Bytes| {
                std::ops::RangeBounds::contains(&(range.from.clone(), range.to.clone()), key)
            };
            let selects = |rows: ScanRange, row: Bytes| {
                std::ops::RangeBounds::contains(&(rows.from, rows.to), &row)
            };
            let expected = inside(&range, &key);
            prop_assert_eq!(selects(range.data(false), data_key(&key)), expected);
            prop_assert_eq!(selects(range.history(false), history_key(&key, revision)), expected);
            prop_assert!(!(range.is_empty() && expected));
            for reverse in [false, true] {
                let (seen, left) = range.split(&to, reverse);
                if inside(&range, &to) {
                    prop_assert_eq!(inside(&seen, &key) || inside(&left, &key), expected);
                    prop_assert!(!(inside(&seen, &key) && inside(&left, &key)));
                }
            }
        }
    }
}
