//! What the snapshots' worker does.

use std::sync::Arc;

use coracle_core::{InstallSnapshot, NodeId, SnapshotMeta, Term};
use coracle_storage::{SnapshotStore, SnapshotWriter, StorageError};

use crate::{
    Completion,
    state_worker::{failed, is_no_space},
};

/// Reads stored snapshots for peers, and stores those that arrive.
pub struct SnapshotWorker {
    store: Arc<dyn SnapshotStore>,
    /// The snapshot that is being received.
    open: Option<(SnapshotMeta, Box<dyn SnapshotWriter>)>,
}

impl SnapshotWorker {
    /// A worker for the snapshots in `store`.
    pub fn new(store: Arc<dyn SnapshotStore>) -> SnapshotWorker {
        SnapshotWorker { store, open: None }
    }

    /// Reads up to `len` bytes at `offset` of the snapshot `content`.
    pub fn read(&self, peer: NodeId, content: u64, offset: u64, len: usize) -> Completion {
        match self.store.read(content, offset, len) {
            Ok(data) => Completion::SnapshotRead { peer, content, offset, data },
            Err(error) => failed("a stored snapshot", &error),
        }
    }

    /// Stores a piece. One that does not lie where the last ended is left out, and the answer says what is there.
    pub fn store(&mut self, from: NodeId, term: Term, piece: InstallSnapshot) -> Completion {
        let meta = piece.meta.clone();
        match self.store_piece(piece) {
            Ok((offset, whole)) => Completion::SnapshotStored { from, term, meta: meta.into(), offset, whole },
            // What is there stays, and the leader asks for it and goes on from there.
            Err(error) if is_no_space(&error) => {
                Completion::SnapshotNotStored { what: format!("the snapshot that arrives: {error}") }
            }
            Err(error) => failed("the snapshot that arrives", &error),
        }
    }

    /// How many bytes are there, and whether the snapshot is whole.
    fn store_piece(&mut self, piece: InstallSnapshot) -> Result<(u64, bool), StorageError> {
        let InstallSnapshot { meta, offset, data } = piece;
        let Some(mut writer) = self.writer(&meta)? else { return Ok((meta.size, true)) };
        let fits = offset.checked_add(data.len() as u64).is_some_and(|end| end <= meta.size);
        if offset == writer.offset() && fits && !data.is_empty() {
            writer.write(&data)?;
        }
        let stored = writer.offset();
        if stored < meta.size {
            self.open = Some((meta, writer));
            return Ok((stored, false));
        }
        match writer.commit(&meta) {
            Ok(()) => Ok((meta.size, true)),
            // The sender's bytes are not what it announced: they are forgotten, and it may begin again.
            Err(StorageError::Damaged { .. }) => Ok((0, false)),
            Err(error) => Err(error),
        }
    }

    /// Where the bytes of `meta` go; `None` when it is whole already.
    fn writer(&mut self, meta: &SnapshotMeta) -> Result<Option<Box<dyn SnapshotWriter>>, StorageError> {
        if let Some((open, writer)) = self.open.take()
            && open == *meta
        {
            return Ok(Some(writer));
        }
        if self.store.latest()?.is_some_and(|latest| latest == *meta) {
            return Ok(None);
        }
        self.store.resume(meta).map(Some)
    }
}

impl std::fmt::Debug for SnapshotWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.open.as_ref().map(|(meta, writer)| (meta.content, writer.offset()));
        f.debug_struct("SnapshotWorker").field("open", &open).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{Index, Membership};

    use super::*;
    use crate::testing::MemorySnapshots;

    const DATA: &[u8] = b"the whole state";

    fn meta(content: u64) -> SnapshotMeta {
        SnapshotMeta {
            content,
            last_included_index: Index(9),
            last_included_term: Term(2),
            membership_index: Index(1),
            membership: Membership::of_voters([NodeId(1)]),
            size: DATA.len() as u64,
            checksum: crc32fast::hash(DATA),
        }
    }

    fn piece(content: u64, from: usize, to: usize) -> InstallSnapshot {
        InstallSnapshot { meta: meta(content), offset: from as u64, data: Bytes::from_static(&DATA[from..to]) }
    }

    fn worker() -> SnapshotWorker {
        SnapshotWorker::new(Arc::new(MemorySnapshots::default()))
    }

    fn store(worker: &mut SnapshotWorker, piece: InstallSnapshot) -> (u64, bool) {
        match worker.store(NodeId(1), Term(2), piece) {
            Completion::SnapshotStored { offset, whole, .. } => (offset, whole),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn pieces_are_taken_in_order_and_others_answered_with_what_is_there() {
        let mut worker = worker();
        assert_eq!(store(&mut worker, piece(1, 0, 0)), (0, false));
        assert_eq!(store(&mut worker, piece(1, 0, 5)), (5, false));
        assert_eq!(store(&mut worker, piece(1, 10, 15)), (5, false));
        assert_eq!(store(&mut worker, piece(1, 0, 5)), (5, false));
        assert_eq!(store(&mut worker, piece(1, 5, 15)), (15, true));
        // A repeated piece of a snapshot that is whole is not stored again.
        assert_eq!(store(&mut worker, piece(1, 5, 15)), (15, true));
        match worker.read(NodeId(3), 1, 4, 5) {
            Completion::SnapshotRead { data: Some(data), .. } => assert_eq!(data, &DATA[4..9]),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn c08_only_the_same_content_goes_on() {
        let snapshots = Arc::new(MemorySnapshots::default());
        let mut worker = SnapshotWorker::new(snapshots.clone());
        assert_eq!(store(&mut worker, piece(1, 0, 5)), (5, false));
        let mut restarted = SnapshotWorker::new(snapshots);
        assert_eq!(store(&mut restarted, piece(1, 0, 0)), (5, false));
        assert_eq!(store(&mut restarted, piece(2, 5, 15)), (0, false));
        assert_eq!(store(&mut restarted, piece(1, 5, 15)), (0, false));
    }

    #[test]
    fn bytes_that_are_not_what_was_announced_are_forgotten() {
        let mut worker = worker();
        let mut wrong = piece(1, 0, 15);
        wrong.data = Bytes::from_static(b"another content");
        assert_eq!(store(&mut worker, wrong), (0, false));
        let mut beyond = piece(1, 0, 15);
        beyond.offset = u64::MAX;
        assert_eq!(store(&mut worker, beyond), (0, false));
        let mut long = piece(1, 0, 15);
        long.data = vec![0; 100].into();
        assert_eq!(store(&mut worker, long), (0, false));
        assert_eq!(store(&mut worker, piece(1, 0, 15)), (15, true));
    }
}
