//! Changes that take effect together.

use bytes::Bytes;

use crate::{Op, Txn};

/// Changes that take effect together or not at all, in order; [`Level::write`](crate::Level::write) commits them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<Op>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut WriteBatch {
        self.push(Op::Put { key: copy(key), value: copy(value) })
    }

    /// Removes a key; that it is absent is no error.
    pub fn del(&mut self, key: impl AsRef<[u8]>) -> &mut WriteBatch {
        self.push(Op::Delete { key: copy(key) })
    }

    /// Adds to a decimal integer; an absent key counts as 0.
    pub fn increment(&mut self, key: impl AsRef<[u8]>, by: i64) -> &mut WriteBatch {
        self.push(Op::Increment { key: copy(key), by })
    }

    /// Forgets all changes so far.
    pub fn clear(&mut self) -> &mut WriteBatch {
        self.ops.clear();
        self
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn push(&mut self, op: Op) -> &mut WriteBatch {
        self.ops.push(op);
        self
    }
}

impl From<WriteBatch> for Txn {
    fn from(batch: WriteBatch) -> Txn {
        Txn { ops: batch.ops }
    }
}

/// Bytes of our own.
pub(super) fn copy(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}
