//! What a transaction does to the current values.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use coracle_storage::{KvStore, Result, StorageError};

use super::{
    batch::Batch,
    layout::{self, ValueHead},
};
use crate::{Committed, Error, Revision, command::OpRef};

/// How much of a key an error shows, in bytes.
const SHOWN_KEY_BYTES: usize = 64;

/// A transaction under way: nothing outside it changes until it is done.
pub(super) struct Transaction<'a> {
    kv: &'a dyn KvStore,
    batch: &'a Batch,
    revision: Revision,
    changes: Changes,
    integers: Vec<i64>,
}

/// What becomes of a key.
pub(super) struct Change {
    /// What the key's row said before the transaction, beside the value.
    pub(super) before: Option<ValueHead>,
    /// The key's row afterwards, and its head, once an operation has said it.
    pub(super) after: Option<Option<(ValueHead, Bytes)>>,
}

/// What becomes of keys, by the rows of their current values. Most transactions change one, which needs no map.
#[derive(Default)]
pub(super) struct Changes {
    first: Option<(Bytes, Change)>,
    rest: BTreeMap<Bytes, Change>,
}

/// What a transaction that succeeds does.
pub(super) struct Effect {
    pub(super) changes: Changes,
    pub(super) committed: Committed,
}

impl<'a> Transaction<'a> {
    /// Works out what `ops` do at `revision`, on top of the store and what `batch` adds to it.
    /// The outer error is the storage's, the inner one the transaction's.
    pub(super) fn run(
        kv: &'a dyn KvStore,
        batch: &'a Batch,
        revision: Revision,
        ops: &[OpRef<'_>],
    ) -> Result<crate::Result<Effect>> {
        let mut transaction = Transaction { kv, batch, revision, changes: Changes::default(), integers: Vec::new() };
        for op in ops {
            if let Err(error) = transaction.step(op)? {
                return Ok(Err(error));
            }
        }
        let Transaction { changes, integers, .. } = transaction;
        Ok(Ok(Effect { changes, committed: Committed { revision, integers } }))
    }

    fn step(&mut self, op: &OpRef<'_>) -> Result<crate::Result<()>> {
        let revision = self.revision;
        match *op {
            OpRef::Put { key, value } => self.change(layout::data_key(key))?.put(value, revision),
            OpRef::Delete { key } => self.change(layout::data_key(key))?.after = Some(None),
            OpRef::Increment { key, by } => {
                let (change, old) = self.counter(layout::data_key(key))?;
                let Some(sum) = old.and_then(|old| old.checked_add(by)) else {
                    return Ok(Err(Error::NotAnInteger { key: shown(key) }));
                };
                change.put(sum.to_string().as_bytes(), revision);
                self.integers.push(sum);
            }
        }
        Ok(Ok(()))
    }

    /// What becomes of a row, and the integer that it holds by now; `None` when its value is none.
    fn counter(&mut self, row: Bytes) -> Result<(&mut Change, Option<i64>)> {
        let (kv, batch, mut before) = (self.kv, self.batch, None);
        let change = self.changes.of(row, |row| {
            current(kv, batch, row, |bytes| {
                let read = bytes.map(|bytes| ValueHead::decode(row, bytes)).transpose()?;
                before = read.map_or(Some(0), |(_, value)| integer(value));
                Ok(read.map(|(head, _)| head))
            })?
        })?;
        let now = match &change.after {
            Some(after) => after.as_ref().map_or(Some(0), |(_, bytes)| integer(&bytes[ValueHead::BYTES..])),
            None => before,
        };
        Ok((change, now))
    }

    fn change(&mut self, row: Bytes) -> Result<&mut Change> {
        let (kv, batch) = (self.kv, self.batch);
        self.changes.of(row, |row| {
            let head = |bytes: &[u8]| ValueHead::decode(row, bytes).map(|(head, _)| head);
            current(kv, batch, row, |bytes| bytes.map(head).transpose())?
        })
    }
}

/// What `see` makes of a row as it is in the store with what `batch` adds to it.
pub(super) fn current<T>(
    kv: &dyn KvStore,
    batch: &Batch,
    row: &[u8],
    see: impl FnOnce(Option<&[u8]>) -> T,
) -> Result<T> {
    if let Some(bytes) = batch.row(row) {
        return Ok(see(bytes.as_deref()));
    }
    let (mut see, mut seen) = (Some(see), None);
    kv.inspect(row, &mut |bytes| {
        if let Some(see) = see.take() {
            seen = Some(see(bytes));
        }
    })?;
    seen.ok_or_else(|| StorageError::Invalid("a store that was asked for a value showed nothing".to_owned()))
}

impl Changes {
    /// That of a row, which begins with what the row says in the store.
    fn of(&mut self, row: Bytes, before: impl FnOnce(&Bytes) -> Result<Option<ValueHead>>) -> Result<&mut Change> {
        let Changes { first, rest } = self;
        let begin = |row: &Bytes| before(row).map(|before| Change { before, after: None });
        match first {
            None => {
                let change = begin(&row)?;
                Ok(&mut first.insert((row, change)).1)
            }
            Some((known, change)) if *known == row => Ok(change),
            Some(_) => match rest.entry(row) {
                Entry::Occupied(change) => Ok(change.into_mut()),
                Entry::Vacant(place) => {
                    let change = begin(place.key())?;
                    Ok(place.insert(change))
                }
            },
        }
    }

    /// All of them, in no order.
    pub(super) fn into_iter(self) -> impl Iterator<Item = (Bytes, Change)> {
        self.first.into_iter().chain(self.rest)
    }
}

impl Change {
    fn put(&mut self, value: &[u8], revision: Revision) {
        let current = match &self.after {
            Some(after) => after.as_ref().map(|(head, _)| *head),
            None => self.before,
        };
        let (created, version) = match current {
            Some(old) => (old.created, old.version + 1),
            None => (revision, 1),
        };
        let head = ValueHead { created, modified: revision, version };
        self.after = Some(Some((head, head.encode(value))));
    }
}

/// A value as Redis reads an integer: the shortest decimal form, with no sign but a minus and no spaces.
fn integer(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    if number.to_string() == text { Some(number) } else { None }
}

/// The beginning of a key, readably.
fn shown(key: &[u8]) -> String {
    let head = key[..key.len().min(SHOWN_KEY_BYTES)].escape_ascii();
    let more = if key.len() > SHOWN_KEY_BYTES { "..." } else { "" };
    format!("{head}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(integer(number.to_string().as_bytes()), Some(number));
        }
        for text in ["", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "\u{0661}"] {
            assert_eq!(integer(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_long_key_is_shown_in_part() {
        assert_eq!(shown(b"a\0"), "a\\x00");
        assert_eq!(shown(&[b'k'; 65]), format!("{}...", "k".repeat(64)));
    }
}
