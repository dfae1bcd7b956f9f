//! Deletes history that no held revision shows any more, a little with each batch.

use std::ops::Bound;

use bytes::Bytes;
use coracle_core::Index;
use coracle_storage::{KvOp, KvStore, Result, ScanRange};

use super::{batch::Batch, holds::Shared, layout};

/// The most rows looked at with one batch.
const STEP_ROWS: usize = 256;
/// The most bytes looked at with one batch.
const STEP_BYTES: usize = 1 << 20;
/// Rows deleted at once when the machine is opened.
const OPEN_ROWS: usize = 4096;

/// Where the sweep is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// How many rows of history there are.
    rows: usize,
    /// While a sweep is under way, the last row that it looked at.
    at: Option<Bound<Bytes>>,
    /// A revision was let go of since this sweep began: another has to follow.
    again: bool,
}

impl Sweep {
    /// A row of history is in the batch.
    pub(super) fn added(&mut self) {
        self.rows += 1;
    }

    /// How many rows of history there are.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Looks at the next rows, if there is reason to.
    pub(super) fn step(&mut self, kv: &dyn KvStore, shared: &Shared, batch: &mut Batch) -> Result<()> {
        self.again |= shared.take_released();
        if self.at.is_none() {
            if !std::mem::take(&mut self.again) || self.rows == 0 {
                return Ok(());
            }
            self.at = Some(Bound::Unbounded);
        }
        let all = layout::all(layout::HISTORY);
        let from = match self.at.take() {
            Some(Bound::Excluded(row)) => Bound::Excluded(row),
            _ => all.from,
        };
        let page = layout::scan(kv, &ScanRange { from, ..all }, STEP_ROWS, STEP_BYTES)?;
        self.at = page.last().map(|(row, _)| Bound::Excluded(row.clone()));
        for (row, bytes) in page {
            let (_, replaced) = layout::parse_history(&row)?;
            let value = layout::decode_value(&row, bytes)?;
            if !shared.is_needed(value.modified.0, replaced) {
                batch.set(row, None);
                self.rows = self.rows.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// Deletes all history: no revision is held when a machine is opened.
pub(super) fn delete_all(kv: &dyn KvStore, applied: Index) -> Result<()> {
    loop {
        let page = layout::scan(kv, &layout::all(layout::HISTORY), OPEN_ROWS, STEP_BYTES)?;
        if page.is_empty() {
            return Ok(());
        }
        kv.write(page.into_iter().map(|(row, _)| KvOp::Delete(row)).collect(), applied)?;
    }
}
