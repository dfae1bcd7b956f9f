//! Stores and shorthands for the tests of the machine.

use std::sync::Mutex;

use coracle_storage::{KvBatch, Page, ScanRange};

use super::*;
use crate::{Command, Op, Txn, map_store::Map};

pub(super) fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(super) fn put(name: &'static str, value: &'static str) -> Op {
    Op::Put { key: key(name), value: key(value) }
}

pub(super) fn txn(ops: Vec<Op>) -> Command {
    Command::Txn { txn: Txn { ops }, once: None }
}

/// All bytes of a snapshot, in pieces of about `piece`.
pub(super) fn read_all(source: &mut dyn SnapshotSource, piece: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(next) = source.read(piece).unwrap() {
        assert!(!next.is_empty());
        bytes.extend_from_slice(&next);
    }
    assert_eq!(source.read(piece).unwrap(), None);
    bytes
}

pub(super) fn install(machine: &mut LevelMachine, index: Index, mut bytes: &[u8]) -> Result<()> {
    machine.install(index, &mut bytes)
}

/// All keys and values, page by page.
pub(super) fn scan_all(machine: &mut LevelMachine, at: Option<Revision>) -> Vec<(Bytes, Bytes)> {
    let mut scan = ScanSpec { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false, limit: 50, values: true };
    let mut entries = Vec::new();
    loop {
        let page = match ask(machine, Query::Page { at, scan: scan.clone() }) {
            Ok(QueryReply::Page(read)) => read.value,
            other => panic!("expected Page, got {other:?}"),
        };
        entries.extend(page.entries);
        match entries.last() {
            Some((last, _)) if page.more => scan.from = Bound::Excluded(last.clone()),
            _ => return entries,
        }
    }
}

/// A store that keeps what it held after each batch, and whose scans return few rows at a time.
pub(super) struct Recording {
    store: MapStore,
    boundaries: Option<Mutex<Vec<Map>>>,
    rows_max: usize,
}

impl Recording {
    pub(super) fn new(store: MapStore) -> Recording {
        let boundaries = Some(Mutex::new(vec![store.read().clone()]));
        Recording { store, boundaries, rows_max: 2 }
    }

    /// One that records nothing.
    pub(super) fn slow(store: MapStore) -> Recording {
        Recording { store, boundaries: None, rows_max: 3 }
    }

    /// What it held at first and after each batch since the last flush.
    pub(super) fn boundaries(&self) -> Vec<Map> {
        self.boundaries.as_ref().map(|maps| maps.lock().unwrap().clone()).unwrap_or_default()
    }

    fn record(&self) {
        if let Some(maps) = &self.boundaries {
            maps.lock().unwrap().push(self.store.read().clone());
        }
    }

    fn forget(&self) {
        if let Some(maps) = &self.boundaries {
            *maps.lock().unwrap() = vec![self.store.read().clone()];
        }
    }
}

impl KvStore for Recording {
    fn applied(&self) -> Result<Option<Index>> {
        self.store.applied()
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        self.store.write(batch, applied)?;
        self.record();
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.store.get(key)
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        self.store.scan(range, count_max.min(self.rows_max), bytes_max)
    }

    fn flush(&self) -> Result<Index> {
        self.forget();
        self.store.flush()
    }

    fn replace_begin(&self) -> Result<()> {
        self.store.replace_begin()
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        self.store.replace_add(page)
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        self.store.replace_end(applied)?;
        self.forget();
        Ok(())
    }
}
