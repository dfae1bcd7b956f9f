//! The state as a stream of bytes, and back.
//!
//! `magic "CLVL", version u8, revision u64`, then frames `kind u8, length u32, payload, checksum u32`, integers big-endian.
//! A frame of kind 1 holds rows of the store, each `key length u32, key, value length u32, value`: sessions with their replies first, then current values.
//! The last frame, of kind 2, holds the number of rows (u64).
//! A checksum (CRC-32, IEEE) covers everything before it, so that a frame that is missing or in the wrong place does not pass either.

use std::{collections::VecDeque, io::Read, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use coracle_storage::{KvStore, Page, Result, SnapshotReader, SnapshotSource, StorageError};

use super::{
    holds::Pin,
    layout::{self, KeyRange, ValueHead},
    read::{self, Held, PageLimits},
    sessions::Sessions,
};
use crate::Value;

const MAGIC: &[u8; 4] = b"CLVL";
const VERSION: u8 = 1;
const ROWS: u8 = 1;
const END: u8 = 2;
/// What a frame has beside its payload: its kind, the length and the checksum.
const FRAME_BYTES: usize = 1 + 4 + 4;
/// The largest payload: a piece, and one row of the largest kind.
const PAYLOAD_BYTES_MAX: usize = 32 << 20;
/// The most that is set aside for a frame before its bytes are there.
const RESERVED_BYTES_MAX: usize = 2 << 20;
/// The largest piece that is read at once, whatever is asked for.
const PIECE_BYTES_MAX: usize = 8 << 20;
/// The most rows in a piece.
const PIECE_ROWS_MAX: usize = 16_384;

/// Reads the state at the revision that it pins, while the machine goes on.
pub(super) struct Source {
    kv: Arc<dyn KvStore>,
    pin: Pin,
    /// Sessions and replies, taken when the snapshot began: they have no history.
    sessions: VecDeque<(Bytes, Bytes)>,
    /// The keys that are still to come; `None` once the end is written.
    rest: Option<KeyRange>,
    checksum: crc32fast::Hasher,
    begun: bool,
    rows: u64,
}

impl Source {
    pub(super) fn new(kv: Arc<dyn KvStore>, pin: Pin, sessions: &Sessions) -> Source {
        Source {
            kv,
            pin,
            sessions: sessions.rows().into(),
            rest: Some(KeyRange::ALL),
            checksum: crc32fast::Hasher::new(),
            begun: false,
            rows: 0,
        }
    }

    /// Appends the frame with the next current values; what is left to read.
    fn values(&mut self, rest: &KeyRange, bytes_max: usize, out: &mut BytesMut) -> Result<KeyRange> {
        let held = Held { revision: self.pin.revision(), shared: self.pin.shared() };
        let limits = PageLimits { entries: PIECE_ROWS_MAX, bytes: bytes_max, values: true };
        let page = read::page(&*self.kv, Some(held), rest, false, limits)?;
        if !self.pin.is_valid() {
            return Err(StorageError::Stopped("the state was replaced while a snapshot of it was read".to_owned()));
        }
        let left = match page.entries.last() {
            Some((last, _)) if page.more => rest.split(last, false).1,
            _ => KeyRange::NONE,
        };
        let row_bytes = |(key, value): &(Bytes, Value)| (1 + key.len(), ValueHead::BYTES + value.value.len());
        let bytes = page.entries.iter().map(row_bytes).map(|(key, value)| 8 + key + value).sum();
        self.rows += page.entries.len() as u64;
        if !page.entries.is_empty() {
            self.frame(ROWS, bytes, out, |out| {
                for entry in &page.entries {
                    let (key_bytes, value_bytes) = row_bytes(entry);
                    out.put_u32(key_bytes as u32);
                    out.put_u8(layout::DATA);
                    out.put_slice(&entry.0);
                    out.put_u32(value_bytes as u32);
                    ValueHead::from(&entry.1).put(&entry.1.value, out);
                }
            });
        }
        Ok(left)
    }

    /// Appends the frame with the next rows of sessions.
    fn session_rows(&mut self, bytes_max: usize, out: &mut BytesMut) {
        let mut page = Page::new();
        let mut bytes = 0;
        while bytes < bytes_max && page.len() < PIECE_ROWS_MAX {
            let Some((row, value)) = self.sessions.pop_front() else { break };
            bytes += 8 + row.len() + value.len();
            page.push((row, value));
        }
        self.rows += page.len() as u64;
        self.frame(ROWS, bytes, out, |out| {
            for (row, value) in &page {
                out.put_u32(row.len() as u32);
                out.put_slice(row);
                out.put_u32(value.len() as u32);
                out.put_slice(value);
            }
        });
    }

    /// Appends a frame whose payload has `bytes`.
    fn frame(&mut self, kind: u8, bytes: usize, out: &mut BytesMut, payload: impl FnOnce(&mut BytesMut)) {
        // Room for the end, too, which may follow.
        out.reserve(bytes + 2 * FRAME_BYTES + 8);
        let start = out.len();
        out.put_u8(kind);
        out.put_u32(bytes as u32);
        payload(out);
        self.checksum.update(&out[start..]);
        let sum = self.checksum.clone().finalize();
        out.put_u32(sum);
        self.checksum.update(&sum.to_be_bytes());
    }
}

impl SnapshotSource for Source {
    fn read(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        let Some(rest) = self.rest.take() else { return Ok(None) };
        let mut out = BytesMut::new();
        if !self.begun {
            self.begun = true;
            out.put_slice(MAGIC);
            out.put_u8(VERSION);
            out.put_u64(self.pin.revision());
            self.checksum.update(&out);
        }
        let bytes_max = bytes_max.clamp(1, PIECE_BYTES_MAX);
        let left = if self.sessions.is_empty() {
            self.values(&rest, bytes_max, &mut out)?
        } else {
            self.session_rows(bytes_max, &mut out);
            rest
        };
        if left.is_empty() {
            let count = self.rows;
            self.frame(END, 8, &mut out, |out| out.put_u64(count));
        } else {
            self.rest = Some(left);
        }
        Ok(Some(out.freeze()))
    }
}

/// Reads what [`Source`] wrote, a frame at a time.
pub(super) struct Reader<'a, 'b> {
    from: &'a mut SnapshotReader<'b>,
    checksum: crc32fast::Hasher,
    revision: u64,
    rows: u64,
}

impl<'a, 'b> Reader<'a, 'b> {
    /// Reads the head; the snapshot has to be of `revision`.
    pub(super) fn open(from: &'a mut SnapshotReader<'b>, revision: u64) -> Result<Reader<'a, 'b>> {
        let mut reader = Reader { from, checksum: crc32fast::Hasher::new(), revision, rows: 0 };
        let mut head = reader.take(MAGIC.len() + 1 + 8)?;
        let magic = head.split_to(MAGIC.len());
        if magic[..] != MAGIC[..] {
            return Err(damaged(format!("it begins with \"{}\", \"CLVL\" was expected", magic.escape_ascii())));
        }
        match head.get_u8() {
            VERSION => {}
            other => return Err(damaged(format!("it is of version {other}, {VERSION} was expected"))),
        }
        match head.get_u64() {
            found if found == revision => Ok(reader),
            found => Err(damaged(format!("it is of revision {found}, {revision} was expected"))),
        }
    }

    /// The next rows, checked; `None` at the end.
    pub(super) fn rows(&mut self) -> Result<Option<Page>> {
        let mut head = self.take(5)?;
        let kind = head.get_u8();
        let len = head.get_u32() as usize;
        if len > PAYLOAD_BYTES_MAX {
            return Err(damaged(format!("a frame of {len} bytes, at most {PAYLOAD_BYTES_MAX} were expected")));
        }
        let payload = self.take(len)?;
        let expected = self.checksum.clone().finalize();
        if self.take(4)?.get_u32() != expected {
            return Err(damaged("a frame does not match its checksum".to_owned()));
        }
        match kind {
            ROWS => self.decode_rows(payload).map(Some),
            END => self.end(&payload).map(|()| None),
            other => Err(damaged(format!("a frame of the unknown kind {other}"))),
        }
    }

    fn decode_rows(&mut self, mut payload: Bytes) -> Result<Page> {
        let mut page = Page::new();
        while !payload.is_empty() {
            let key = field(&mut payload)?;
            let value = field(&mut payload)?;
            check_row(&key, &value, self.revision)?;
            page.push((key, value));
        }
        self.rows += page.len() as u64;
        Ok(page)
    }

    fn end(&mut self, payload: &[u8]) -> Result<()> {
        if payload != self.rows.to_be_bytes() {
            return Err(damaged(format!("it has {} rows, its end says otherwise", self.rows)));
        }
        let mut after = Vec::new();
        self.from.take(1).read_to_end(&mut after).map_err(failed)?;
        if after.is_empty() { Ok(()) } else { Err(damaged("bytes follow its end".to_owned())) }
    }

    fn take(&mut self, len: usize) -> Result<Bytes> {
        // A forged length reserves no more than a piece: the buffer grows with what is there.
        let mut bytes = Vec::with_capacity(len.min(RESERVED_BYTES_MAX));
        self.from.take(len as u64).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() < len {
            return Err(damaged("it ends too early".to_owned()));
        }
        self.checksum.update(&bytes);
        Ok(bytes.into())
    }
}

fn field(payload: &mut Bytes) -> Result<Bytes> {
    let short = || damaged("a row ends too early".to_owned());
    if payload.len() < 4 {
        return Err(short());
    }
    let len = payload.get_u32() as usize;
    if payload.len() < len {
        return Err(short());
    }
    Ok(payload.split_to(len))
}

/// Whether a row is one that the state at `revision` can have.
fn check_row(key: &Bytes, value: &Bytes, revision: u64) -> Result<()> {
    let is_known = match key.first() {
        Some(&layout::DATA) => {
            let (head, _) = ValueHead::decode(key, value)?;
            head.created <= head.modified && head.modified.0 <= revision
        }
        Some(&layout::SESSION) => {
            let id = layout::parse_session(key)?;
            let last_used = layout::SessionRow::decode(key, value)?.last_used;
            id <= last_used && last_used <= revision
        }
        Some(&layout::REPLY) => {
            layout::parse_reply(key)?;
            layout::ReplyRow::decode(key, value.clone())?.index <= revision
        }
        _ => return Err(layout::damaged(key, "no row of a snapshot has such a key")),
    };
    if is_known { Ok(()) } else { Err(layout::damaged(key, "it is of a later revision than the snapshot")) }
}

fn failed(error: std::io::Error) -> StorageError {
    StorageError::io("read the snapshot", error)
}

fn damaged(what: String) -> StorageError {
    StorageError::damaged("the snapshot", what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    #[test]
    fn rows_of_later_revisions_are_refused() {
        let value = |created, modified| {
            let value =
                Value { value: Bytes::new(), created: Revision(created), modified: Revision(modified), version: 1 };
            (layout::data_key(b"k"), layout::encode_value(&value))
        };
        let session = |id, last_used| {
            (layout::session_key(id), layout::SessionRow { floor: 0, last_used, pending_max: 1 }.encode())
        };
        let reply = |index| (layout::reply_key(1, 2), layout::ReplyRow { index, reply: Bytes::new() }.encode());
        for (key, row) in [value(1, 7), value(7, 7), session(1, 7), session(7, 7), reply(7)] {
            assert!(check_row(&key, &row, 7).is_ok(), "{key:?}");
            assert!(check_row(&key, &row, 6).is_err(), "{key:?}");
        }
        assert!(check_row(&value(7, 6).0, &value(7, 6).1, 7).is_err());
        assert!(check_row(&session(7, 6).0, &session(7, 6).1, 7).is_err());
    }
}
