//! Snapshots in memory.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coracle_core::SnapshotMeta;
use coracle_storage::{Result, SnapshotStore, SnapshotWriter, StorageError};

use crate::lock;

/// One group's snapshots. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemorySnapshots {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    whole: Vec<(SnapshotMeta, Bytes)>,
    /// What was received of a snapshot that nobody writes at this moment.
    partial: Option<(u64, Vec<u8>)>,
}

impl SnapshotStore for MemorySnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        let held = lock(&self.held);
        let newest = held.whole.iter().max_by_key(|(meta, _)| (meta.last_included_index, meta.last_included_term));
        Ok(newest.map(|(meta, _)| meta.clone()))
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        Ok(Box::new(Writer { store: self.clone(), content: None, data: Vec::new() }))
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let partial = lock(&self.held).partial.take();
        let data = partial.filter(|(content, _)| *content == meta.content).map(|(_, data)| data).unwrap_or_default();
        Ok(Box::new(Writer { store: self.clone(), content: Some(meta.content), data }))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        let held = lock(&self.held);
        let Some((_, data)) = held.whole.iter().find(|(meta, _)| meta.content == content) else { return Ok(None) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let end = start.saturating_add(len).min(data.len());
        Ok(Some(data.slice(start..end)))
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        lock(&self.held).whole.retain(|(meta, _)| meta.content == content);
        Ok(())
    }

    fn discard(&self, content: u64) -> Result<()> {
        lock(&self.held).whole.retain(|(meta, _)| meta.content != content);
        Ok(())
    }
}

struct Writer {
    store: MemorySnapshots,
    /// Which snapshot is received; `None` for one of this node's own.
    content: Option<u64>,
    data: Vec<u8>,
}

impl SnapshotWriter for Writer {
    fn offset(&self) -> u64 {
        self.data.len() as u64
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.data.extend_from_slice(data);
        Ok(())
    }

    fn commit(mut self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        self.content = None;
        let data = Bytes::from(std::mem::take(&mut self.data));
        let (size, checksum) = (data.len() as u64, crc32fast::hash(&data));
        if (size, checksum) != (meta.size, meta.checksum) {
            let what = format!(
                "{size} bytes with checksum {checksum:08x}, expected {} bytes with {:08x}",
                meta.size, meta.checksum
            );
            return Err(StorageError::damaged(format!("snapshot {:016x}", meta.content), what));
        }
        let mut held = lock(&self.store.held);
        held.whole.retain(|(other, _)| other.content != meta.content);
        // The newest of the others stays: it may be on its way to a peer (C8).
        let newest = held.whole.drain(..).max_by_key(|(meta, _)| (meta.last_included_index, meta.last_included_term));
        held.whole.extend(newest);
        held.whole.push((meta.clone(), data));
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(content) = self.content {
            lock(&self.store.held).partial = Some((content, std::mem::take(&mut self.data)));
        }
    }
}
