//! The simulated disk's snapshots.

use std::{
    mem,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use coracle_core::{Rng, SnapshotMeta};
use coracle_storage::{Result, SnapshotStore, SnapshotWriter, StorageError};

use super::{
    lock,
    switch::{DiskOp, Switch},
};

/// How many whole snapshots are kept.
const WHOLE_MAX: usize = 2;

/// Whole snapshots, and one that is being received.
#[derive(Debug, Default)]
pub(super) struct SimSnapshots {
    state: Arc<Mutex<State>>,
    switch: Arc<Switch>,
}

#[derive(Debug, Default)]
struct State {
    /// In ascending order of what they cover.
    whole: Vec<(SnapshotMeta, Bytes)>,
    received: Option<(u64, Vec<u8>)>,
}

impl State {
    fn add(&mut self, meta: &SnapshotMeta, data: Vec<u8>) -> Result<()> {
        if data.len() as u64 != meta.size || crc32fast::hash(&data) != meta.checksum {
            return Err(StorageError::damaged("a snapshot", "its size or checksum is not that of its bytes"));
        }
        self.whole.retain(|(other, _)| other.content != meta.content);
        // What was just stored stays, however old it is.
        let extra = (self.whole.len() + 1).saturating_sub(WHOLE_MAX);
        self.whole.drain(..extra);
        self.whole.push((meta.clone(), data.into()));
        self.whole.sort_by_key(|(meta, _)| meta.last_included_index);
        Ok(())
    }
}

impl SimSnapshots {
    pub(super) fn new(switch: Arc<Switch>) -> SimSnapshots {
        SimSnapshots { state: Arc::default(), switch }
    }

    pub(super) fn crash(&self, rng: &mut Rng) {
        let mut state = lock(&self.state);
        if let Some((_, data)) = &mut state.received {
            let keep = rng.below(data.len() as u64 + 1) as usize;
            data.truncate(keep);
        }
    }
}

impl SnapshotStore for SimSnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        Ok(lock(&self.state).whole.last().map(|(meta, _)| meta.clone()))
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Own { store: self.state.clone(), switch: self.switch.clone(), data: Vec::new() }))
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let mut state = lock(&self.state);
        if state.received.as_ref().is_none_or(|(content, _)| *content != meta.content) {
            state.received = Some((meta.content, Vec::new()));
        }
        Ok(Box::new(Received { store: self.state.clone(), switch: self.switch.clone(), content: meta.content }))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        self.switch.operate(DiskOp::SnapshotRead)?;
        let state = lock(&self.state);
        let Some((_, data)) = state.whole.iter().find(|(meta, _)| meta.content == content) else { return Ok(None) };
        let from = (offset as usize).min(data.len());
        Ok(Some(data.slice(from..from.saturating_add(len).min(data.len()))))
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        lock(&self.state).whole.retain(|(meta, _)| meta.content == content);
        Ok(())
    }

    fn discard(&self, content: u64) -> Result<()> {
        lock(&self.state).whole.retain(|(meta, _)| meta.content != content);
        Ok(())
    }
}

fn write(switch: &Switch) -> Result<()> {
    switch.reserve(DiskOp::SnapshotWrite)?;
    switch.operate(DiskOp::SnapshotWrite)
}

/// A snapshot of the node's own state.
struct Own {
    store: Arc<Mutex<State>>,
    switch: Arc<Switch>,
    data: Vec<u8>,
}

impl SnapshotWriter for Own {
    fn offset(&self) -> u64 {
        self.data.len() as u64
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        write(&self.switch)?;
        self.data.extend_from_slice(data);
        Ok(())
    }

    fn commit(self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        lock(&self.store).add(meta, self.data)
    }
}

/// A snapshot from a peer: its bytes outlive the writer.
struct Received {
    store: Arc<Mutex<State>>,
    switch: Arc<Switch>,
    content: u64,
}

impl Received {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T> {
        match &mut lock(&self.store).received {
            Some((content, data)) if *content == self.content => Ok(change(data)),
            _ => Err(StorageError::Invalid("another snapshot is being received".into())),
        }
    }
}

impl SnapshotWriter for Received {
    fn offset(&self) -> u64 {
        self.with(|data| data.len() as u64).unwrap_or(0)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        write(&self.switch)?;
        self.with(|data| data.extend_from_slice(bytes))
    }

    fn commit(self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        let data = self.with(mem::take)?;
        let mut state = lock(&self.store);
        state.received = None;
        state.add(meta, data)
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Index, Membership, NodeId, Term};

    use super::*;

    fn meta(content: u64, index: u64, data: &[u8]) -> SnapshotMeta {
        SnapshotMeta {
            content,
            last_included_index: Index(index),
            last_included_term: Term(1),
            membership_index: Index(1),
            membership: Membership::of_voters([NodeId(1)]),
            size: data.len() as u64,
            checksum: crc32fast::hash(data),
        }
    }

    #[test]
    fn a_receipt_goes_on_where_it_stopped_and_commits_what_matches() {
        let store = SimSnapshots::default();
        let meta = meta(7, 10, b"hello");
        store.resume(&meta).unwrap().write(b"he").unwrap();
        let mut writer = store.resume(&meta).unwrap();
        assert_eq!(writer.offset(), 2);
        writer.write(b"llo").unwrap();
        writer.commit(&meta).unwrap();
        assert_eq!(store.latest().unwrap(), Some(meta));
        assert_eq!(store.read(7, 1, 3).unwrap().unwrap(), "ell");
        assert_eq!(store.read(8, 1, 3).unwrap(), None);
    }

    #[test]
    fn bytes_that_do_not_match_are_refused() {
        let store = SimSnapshots::default();
        let mut writer = store.begin().unwrap();
        writer.write(b"other").unwrap();
        assert!(writer.commit(&meta(7, 10, b"hello")).is_err());
        assert_eq!(store.latest().unwrap(), None);
    }
}
