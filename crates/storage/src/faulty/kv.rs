//! Key-value data that fails on purpose.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::Index;

use super::faults::{Fault, Faults, Op, error};
use crate::{KvBatch, KvOp, KvStore, Page, Result, ScanRange};

/// See the module.
pub(super) struct FaultyKv {
    inner: Arc<dyn KvStore>,
    faults: Faults,
}

impl FaultyKv {
    pub(super) fn new(inner: Arc<dyn KvStore>, faults: Faults) -> FaultyKv {
        FaultyKv { inner, faults }
    }
}

impl KvStore for FaultyKv {
    fn applied(&self) -> Result<Option<Index>> {
        self.faults.operate(Op::KvRead, 0, || self.inner.applied())
    }

    fn write(&self, mut batch: KvBatch, applied: Index) -> Result<()> {
        let bytes = batch.iter().map(size).sum();
        match self.faults.begin(Op::KvWrite) {
            None => self.inner.write(batch, applied),
            Some(fault) => {
                if fault == Fault::TornWithin {
                    batch.truncate(batch.len() / 2);
                }
                if matches!(fault, Fault::TornWithin | Fault::ErrorAfter) {
                    self.inner.write(batch, applied)?;
                }
                Err(error(Op::KvWrite, fault, bytes))
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.faults.operate(Op::KvRead, 0, || self.inner.get(key))
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        self.faults.operate(Op::KvRead, 0, || self.inner.scan(range, count_max, bytes_max))
    }

    fn flush(&self) -> Result<Index> {
        self.faults.operate(Op::KvFlush, 0, || self.inner.flush())
    }

    fn replace_begin(&self) -> Result<()> {
        self.faults.operate(Op::KvWrite, 0, || self.inner.replace_begin())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let bytes = page.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        self.faults.operate(Op::KvWrite, bytes, || self.inner.replace_add(page))
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        self.faults.operate(Op::KvWrite, 0, || self.inner.replace_end(applied))
    }

    fn is_durable(&self) -> bool {
        self.inner.is_durable()
    }
}

fn size(op: &KvOp) -> u64 {
    match op {
        KvOp::Put(key, value) => (key.len() + value.len()) as u64,
        KvOp::Delete(key) => key.len() as u64,
    }
}
