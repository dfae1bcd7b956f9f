//! What a transaction does to the current values.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;
use coracle_storage::{KvStore, Result};

use super::{batch::Batch, layout};
use crate::{Committed, Error, Op, Revision, Txn, Value};

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
    /// What it was before the transaction.
    before: Option<Value>,
    /// What it is afterwards, once an operation has said it.
    after: Option<Option<Value>>,
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
    /// Works out what `txn` does at `revision`, on top of the store and what `batch` adds to it.
    /// The outer error is the storage's, the inner one the transaction's.
    pub(super) fn run(
        kv: &'a dyn KvStore,
        batch: &'a Batch,
        revision: Revision,
        txn: Txn,
    ) -> Result<crate::Result<Effect>> {
        let mut transaction = Transaction { kv, batch, revision, changes: Changes::default(), integers: Vec::new() };
        for op in txn.ops {
            if let Err(error) = transaction.step(op)? {
                return Ok(Err(error));
            }
        }
        let Transaction { changes, integers, .. } = transaction;
        Ok(Ok(Effect { changes, committed: Committed { revision, integers } }))
    }

    fn step(&mut self, op: Op) -> Result<crate::Result<()>> {
        let revision = self.revision;
        match op {
            Op::Put { key, value } => self.change(&key)?.put(value, revision),
            Op::Delete { key } => self.change(&key)?.after = Some(None),
            Op::Increment { key, by } => {
                let change = self.change(&key)?;
                let Some(sum) = integer(change.current()).and_then(|old| old.checked_add(by)) else {
                    return Ok(Err(Error::NotAnInteger { key: shown(&key) }));
                };
                change.put(sum.to_string().into(), revision);
                self.integers.push(sum);
            }
        }
        Ok(Ok(()))
    }

    fn change(&mut self, key: &[u8]) -> Result<&mut Change> {
        let (kv, batch) = (self.kv, self.batch);
        self.changes.of(layout::data_key(key), |row| match batch.value(row) {
            Some(value) => Ok(value.clone()),
            None => kv.get(row)?.map(|bytes| layout::decode_value(row, bytes)).transpose(),
        })
    }
}

impl Changes {
    /// That of a row, which begins with what the row is in the store.
    fn of(&mut self, row: Bytes, before: impl FnOnce(&Bytes) -> Result<Option<Value>>) -> Result<&mut Change> {
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
    fn current(&self) -> Option<&Value> {
        self.after.as_ref().unwrap_or(&self.before).as_ref()
    }

    /// What the key was, and what it is afterwards.
    pub(super) fn into_parts(self) -> (Option<Value>, Option<Value>) {
        let Change { before, after } = self;
        (before, after.flatten())
    }

    fn put(&mut self, value: Bytes, revision: Revision) {
        let (created, version) = match self.current() {
            Some(old) => (old.created, old.version + 1),
            None => (revision, 1),
        };
        self.after = Some(Some(Value { value, created, modified: revision, version }));
    }
}

/// A value as Redis reads an integer: the shortest decimal form, with no sign but a minus and no spaces; an absent one counts as 0.
fn integer(value: Option<&Value>) -> Option<i64> {
    let Some(value) = value else { return Some(0) };
    let text = std::str::from_utf8(&value.value).ok()?;
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

    fn read(text: &str) -> Option<i64> {
        let value = Bytes::copy_from_slice(text.as_bytes());
        integer(Some(&Value { value, created: Revision(1), modified: Revision(1), version: 1 }))
    }

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        assert_eq!(integer(None), Some(0));
        for number in [0, 1, -1, 10, i64::MAX, i64::MIN] {
            assert_eq!(read(&number.to_string()), Some(number));
        }
        for text in ["", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1.0", "0x1", "9223372036854775808", "\u{0661}"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_long_key_is_shown_in_part() {
        assert_eq!(shown(b"a\0"), "a\\x00");
        assert_eq!(shown(&[b'k'; 65]), format!("{}...", "k".repeat(64)));
    }
}
