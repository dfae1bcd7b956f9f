//! What the snapshots' worker does.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use coracle_core::{InstallSnapshot, NodeId, SnapshotMeta, Term};
use coracle_storage::{SnapshotStore, SnapshotWriter, StorageError};

use crate::{
    Completion,
    state_worker::{damaged, failed, is_no_space},
};

/// Reads stored snapshots for peers, and stores those that arrive.
pub struct SnapshotWorker {
    store: Arc<dyn SnapshotStore>,
    /// The snapshot that is being received.
    open: Option<(SnapshotMeta, Box<dyn SnapshotWriter>)>,
    /// What is being read for whom.
    sent: BTreeMap<NodeId, Sent>,
}

/// What was read of a snapshot for a peer, from its beginning and without a gap.
struct Sent {
    meta: SnapshotMeta,
    offset: u64,
    hasher: crc32fast::Hasher,
}

impl Sent {
    fn new(meta: SnapshotMeta) -> Sent {
        Sent { meta, offset: 0, hasher: crc32fast::Hasher::new() }
    }

    /// Counts in what is new of a piece; says whether that was the last and the bytes are not those that were stored.
    fn is_damaged_by(&mut self, offset: u64, data: &Bytes) -> bool {
        // A piece that is sent again was counted in. Behind a gap there is nothing to be told: whoever then gets something wrong begins anew.
        let known = self.offset.checked_sub(offset).and_then(|known| usize::try_from(known).ok());
        let Some(new) = known.and_then(|known| data.get(known..)) else { return false };
        self.hasher.update(new);
        self.offset += new.len() as u64;
        self.offset == self.meta.size && self.hasher.clone().finalize() != self.meta.checksum
    }
}

impl SnapshotWorker {
    /// A worker for the snapshots in `store`.
    pub fn new(store: Arc<dyn SnapshotStore>) -> SnapshotWorker {
        SnapshotWorker { store, open: None, sent: BTreeMap::new() }
    }

    /// Reads up to `len` bytes at `offset` of the snapshot `content`.
    /// Its bytes have lain on a disk: a peer that was sent all of them, and would refuse them, is not sent the last.
    pub fn read(&mut self, peer: NodeId, content: u64, offset: u64, len: usize) -> Completion {
        let read = self.store.read(content, offset, len).and_then(|data| {
            if let Some(data) = &data {
                self.check(peer, content, offset, data)?;
            }
            Ok(data)
        });
        match read {
            Ok(data) => Completion::SnapshotRead { peer, content, offset, data },
            Err(error @ StorageError::Damaged { .. }) => self.put_aside(content, &error),
            Err(error) => failed("a stored snapshot", &error),
        }
    }

    /// Follows what is read for a peer up to its end.
    fn check(&mut self, peer: NodeId, content: u64, offset: u64, data: &Bytes) -> Result<(), StorageError> {
        if offset == 0 {
            // Of one that is not the newest any more nothing is known; the next is.
            let known = self.sent.remove(&peer).filter(|it| it.meta.content == content && it.offset < it.meta.size);
            let sent = match known {
                Some(known) => Some(known),
                None => self.store.latest()?.filter(|meta| meta.content == content).map(Sent::new),
            };
            self.sent.extend(sent.map(|sent| (peer, sent)));
        }
        let Some(sent) = self.sent.get_mut(&peer).filter(|sent| sent.meta.content == content) else { return Ok(()) };
        let is_cut = data.is_empty() && offset < sent.meta.size;
        if is_cut || sent.is_damaged_by(offset, data) { Err(damaged(&*self.store, &sent.meta)) } else { Ok(()) }
    }

    fn put_aside(&mut self, content: u64, error: &StorageError) -> Completion {
        self.sent.retain(|_, sent| sent.meta.content != content);
        match self.store.discard(content) {
            Ok(()) => Completion::SnapshotDamaged { content, what: error.to_string() },
            Err(error) => failed("a damaged snapshot", &error),
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

    /// Reads pieces of five bytes; says whether each came.
    fn read(worker: &mut SnapshotWorker, peer: u64, offsets: &[u64]) -> Vec<bool> {
        let pieces = offsets.iter().map(|offset| match worker.read(NodeId(peer), 1, *offset, 5) {
            Completion::SnapshotRead { data, .. } => data.is_some(),
            Completion::SnapshotDamaged { content: 1, what } => {
                assert!(what.contains("the snapshot at 9"), "{what}");
                false
            }
            other => panic!("unexpected {other:?}"),
        });
        pieces.collect()
    }

    #[test]
    fn p07_the_last_piece_of_a_damaged_snapshot_is_not_sent() {
        for at in [0, 7, 14] {
            // In order, with pieces that are sent again, and resumed behind a gap: then it is noticed in the next round.
            for offsets in [&[0, 5, 10][..], &[0, 5, 0, 5, 5, 10], &[5, 10, 0, 5, 10], &[0, 10, 5, 10]] {
                let snapshots = Arc::new(MemorySnapshots::default());
                let mut worker = SnapshotWorker::new(snapshots.clone());
                assert_eq!(store(&mut worker, piece(1, 0, 15)), (15, true));
                assert!(read(&mut worker, 3, offsets).into_iter().all(|came| came), "it is whole");
                snapshots.damage(at);
                // One that is read to its end for another peer tells for all.
                assert_eq!(read(&mut worker, 4, &[0]), [true]);
                let mut expected = vec![true; offsets.len()];
                expected[offsets.len() - 1] = false;
                assert_eq!(read(&mut worker, 3, offsets), expected, "byte {at}, {offsets:?}");
                assert_eq!(snapshots.latest().unwrap(), None, "it is put aside");
                assert_eq!(read(&mut worker, 4, &[5]), [false]);
            }
        }
    }
}
