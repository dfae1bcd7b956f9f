//! Changes that are not in the tree yet.
//!
//! A batch of sled costs several writes of its file and wakes its whole pool of threads, and nobody needs one for each applied entry: the log brings back what is lost here.
//! So changes gather until they are many, and go into the tree as one batch, together with the applied index that they lead to.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use coracle_storage::{KvOp, ScanRange};

/// As many changes go into the tree at once: more would hold up the log for long.
const CHANGES_MAX: usize = 512;
/// And as many bytes of keys and values.
const BYTES_MAX: usize = 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The newest value of each changed key; `None` when it was deleted.
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Pending {
    pub(super) fn take(&mut self, op: &KvOp) {
        // Copied: a command's bytes are a slice of a whole frame, which must not be kept for them.
        let (key, value) = match op {
            KvOp::Put(key, value) => (key, Some(Bytes::copy_from_slice(value))),
            KvOp::Delete(key) => (key, None),
        };
        self.bytes += value.as_ref().map_or(0, Bytes::len);
        match self.changes.get_mut(key) {
            Some(known) => {
                self.bytes -= known.as_ref().map_or(0, Bytes::len);
                *known = value;
            }
            None => {
                self.bytes += key.len();
                self.changes.insert(Bytes::copy_from_slice(key), value);
            }
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.changes.len() >= CHANGES_MAX || self.bytes >= BYTES_MAX
    }

    pub(super) fn clear(&mut self) {
        *self = Pending::default();
    }

    /// What became of a key; `None` when it was not changed.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.changes.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.changes.iter()
    }

    /// The changes in a range that is not empty, in the order of the scan.
    pub(super) fn range(&self, range: &ScanRange) -> Box<dyn Iterator<Item = (&Bytes, &Option<Bytes>)> + '_> {
        let bounds: (Bound<&Bytes>, Bound<&Bytes>) = (range.from.as_ref(), range.to.as_ref());
        let changes = self.changes.range::<Bytes, _>(bounds);
        if range.reverse { Box::new(changes.rev()) } else { Box::new(changes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, len: usize) -> KvOp {
        KvOp::Put(key.to_owned().into(), vec![0; len].into())
    }

    #[test]
    fn bytes_are_those_of_the_newest_values() {
        let mut pending = Pending::default();
        for op in [put("a", 10), put("b", 5), put("a", 3), KvOp::Delete("b".into()), put("b", 1)] {
            pending.take(&op);
        }
        assert_eq!((pending.changes.len(), pending.bytes), (2, 2 + 3 + 1));
        assert!(!pending.is_full());
        pending.take(&put("c", BYTES_MAX));
        assert!(pending.is_full());
        pending.clear();
        assert_eq!((pending.changes.len(), pending.bytes), (0, 0));
        (0..CHANGES_MAX).for_each(|i| pending.take(&put(&i.to_string(), 0)));
        assert!(pending.is_full());
    }
}
