//! What a run of entries changes, until it is written as one batch.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_storage::{KvBatch, KvOp};

use super::layout;
use crate::Value;

/// What each row costs beyond its bytes, about.
const ROW_BYTES: usize = 64;

/// Changes that are not written yet; later entries see them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Current values by their rows; `None` for deleted.
    values: BTreeMap<Bytes, Option<Value>>,
    /// All other rows; `None` for deleted.
    rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Batch {
    /// What the batch says about the row of a current value; `None` when it says nothing.
    pub(super) fn value(&self, row: &[u8]) -> Option<&Option<Value>> {
        self.values.get(row)
    }

    /// Sets or deletes a current value.
    pub(super) fn set_value(&mut self, row: Bytes, value: Option<Value>) {
        self.bytes += ROW_BYTES + row.len() + value.as_ref().map_or(0, |value| value.value.len());
        self.values.insert(row, value);
    }

    /// Sets a row of another kind.
    pub(super) fn put(&mut self, row: Bytes, value: Bytes) {
        self.bytes += ROW_BYTES + row.len() + value.len();
        self.rows.insert(row, Some(value));
    }

    /// Deletes a row of another kind.
    pub(super) fn delete(&mut self, row: Bytes) {
        self.bytes += ROW_BYTES + row.len();
        self.rows.insert(row, None);
    }

    /// How much has come together, about; what was overwritten within the batch counts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch for the store; nothing is left.
    pub(super) fn take(&mut self) -> KvBatch {
        let Batch { values, rows, .. } = std::mem::take(self);
        let rows = rows.into_iter().map(|(row, value)| operation(row, value));
        let values = values.into_iter().map(|(row, value)| operation(row, value.as_ref().map(layout::encode_value)));
        rows.chain(values).collect()
    }
}

fn operation(row: Bytes, value: Option<Bytes>) -> KvOp {
    match value {
        Some(value) => KvOp::Put(row, value),
        None => KvOp::Delete(row),
    }
}
