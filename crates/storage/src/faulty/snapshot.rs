//! Snapshots that fail on purpose.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::SnapshotMeta;

use super::faults::{Fault, Faults, Op, error};
use crate::{Result, SnapshotStore, SnapshotWriter, StorageError};

/// See the module.
pub(super) struct FaultySnapshots {
    inner: Arc<dyn SnapshotStore>,
    faults: Faults,
}

impl FaultySnapshots {
    pub(super) fn new(inner: Arc<dyn SnapshotStore>, faults: Faults) -> FaultySnapshots {
        FaultySnapshots { inner, faults }
    }

    fn writer(&self, inner: Box<dyn SnapshotWriter>) -> Box<dyn SnapshotWriter> {
        Box::new(FaultyWriter { inner, faults: self.faults.clone() })
    }
}

impl SnapshotStore for FaultySnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        self.faults.operate(Op::SnapshotRead, 0, || self.inner.latest())
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        Ok(self.writer(self.inner.begin()?))
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        Ok(self.writer(self.inner.resume(meta)?))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        self.faults.operate(Op::SnapshotRead, 0, || self.inner.read(content, offset, len))
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        self.inner.keep_only(content)
    }

    fn discard(&self, content: u64) -> Result<()> {
        self.inner.discard(content)
    }

    fn damaged(&self) -> Result<Vec<StorageError>> {
        self.inner.damaged()
    }

    fn place(&self, content: u64) -> String {
        self.inner.place(content)
    }
}

struct FaultyWriter {
    inner: Box<dyn SnapshotWriter>,
    faults: Faults,
}

impl SnapshotWriter for FaultyWriter {
    fn offset(&self) -> u64 {
        self.inner.offset()
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        let Some(fault) = self.faults.begin(Op::SnapshotWrite) else { return self.inner.write(data) };
        let done = match fault {
            Fault::Torn | Fault::TornWithin => self.faults.below(data.len()),
            Fault::ErrorAfter => data.len(),
            _ => 0,
        };
        if done > 0 {
            self.inner.write(&data[..done])?;
        }
        Err(error(Op::SnapshotWrite, fault, data.len() as u64))
    }

    fn commit(self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        let FaultyWriter { inner, faults } = *self;
        faults.operate(Op::SnapshotCommit, meta.size, || inner.commit(meta))
    }
}
