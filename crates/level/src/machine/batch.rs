//! What a run of entries changes, until it is written as one batch.

use bytes::Bytes;
use coracle_storage::{KvBatch, KvOp};
use indexmap::IndexMap;

/// What each row costs beyond its bytes, about.
const ROW_BYTES: usize = 64;
/// For how many rows the next batch finds room that is there already.
const ROWS_KEPT_MAX: usize = 8192;

/// Changes that are not written yet; later entries see them. They stay in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// `None` for deleted.
    rows: IndexMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

impl Batch {
    /// What the batch says about a row; `None` when it says nothing.
    pub(super) fn row(&self, row: &[u8]) -> Option<&Option<Bytes>> {
        // A look into nothing would still hash the key.
        if self.rows.is_empty() { None } else { self.rows.get(row) }
    }

    /// Sets a row, or deletes it.
    pub(super) fn set(&mut self, row: Bytes, value: Option<Bytes>) {
        self.bytes += ROW_BYTES + row.len() + value.as_ref().map_or(0, Bytes::len);
        self.rows.insert(row, value);
    }

    /// How much has come together, about; what was overwritten within the batch counts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch for the store; nothing is left.
    pub(super) fn take(&mut self) -> KvBatch {
        self.bytes = 0;
        let operations = self.rows.drain(..).map(|(row, value)| match value {
            Some(value) => KvOp::Put(row, value),
            None => KvOp::Delete(row),
        });
        let operations = operations.collect();
        self.rows.shrink_to(ROWS_KEPT_MAX);
        operations
    }
}
