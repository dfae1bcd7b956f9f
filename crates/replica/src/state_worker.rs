//! What the state machine's worker does.

use std::{io, sync::Arc};

use bytes::{Buf, Bytes};
use coracle_core::{EntryKind, Run, SnapshotMeta};
use coracle_storage::{Applied, SnapshotSource, SnapshotStore, SnapshotWriter, StateMachine, StorageError};

use crate::{Completion, StateEffect};

/// How many bytes of a snapshot are read or written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Does what a [`StateEffect`] asks for, one after the other.
pub struct StateWorker {
    machine: Box<dyn StateMachine>,
    snapshots: Arc<dyn SnapshotStore>,
}

/// What came of a [`StateEffect`].
#[derive(Debug)]
pub enum Work {
    /// It is done.
    Done(Completion),
    /// The rest is done beside later work.
    Snapshot(SnapshotJob),
}

/// A snapshot that is being written to the store, on a thread of its own or step by step.
pub struct SnapshotJob {
    source: Box<dyn SnapshotSource>,
    store: Arc<dyn SnapshotStore>,
    /// `None` before the first step.
    writer: Option<Box<dyn SnapshotWriter>>,
    hasher: crc32fast::Hasher,
    meta: SnapshotMeta,
}

impl StateWorker {
    /// A worker for `machine`, whose snapshots lie in `snapshots`.
    pub fn new(machine: Box<dyn StateMachine>, snapshots: Arc<dyn SnapshotStore>) -> StateWorker {
        StateWorker { machine, snapshots }
    }

    /// The state machine.
    pub fn machine(&mut self) -> &mut dyn StateMachine {
        &mut *self.machine
    }

    /// Does what `effect` asks for. Errors come back as [`Completion::Failed`].
    pub fn run(&mut self, effect: StateEffect) -> Work {
        let done = match effect {
            StateEffect::Apply { entries } => self.apply(&entries),
            StateEffect::Query { request, query } => {
                self.machine.query(&query).map(|answer| Completion::Answered { request, answer })
            }
            StateEffect::Flush => self.flush(),
            StateEffect::InstallSnapshot { meta } => self.install(&meta),
            StateEffect::TakeSnapshot { meta } => match self.take_snapshot(*meta) {
                Ok(job) => return Work::Snapshot(job),
                Err(error) => Err(error),
            },
        };
        Work::Done(done.unwrap_or_else(|error| failed("the state machine", &error)))
    }

    fn apply(&mut self, entries: &[Run]) -> Result<Completion, StorageError> {
        let mut replies = Vec::new();
        self.machine.apply(entries, &mut replies)?;
        let commands = entries.iter().flat_map(Run::entries).filter(|entry| entry.kind == EntryKind::Command).count();
        if replies.len() != commands {
            let what = format!("{} replies were given to {commands} commands: expected one each", replies.len());
            return Err(StorageError::Invalid(what));
        }
        Ok(Completion::Applied { applied: self.machine.applied(), replies })
    }

    fn flush(&mut self) -> Result<Completion, StorageError> {
        let flushed = self.machine.flush()?;
        Ok(Completion::Flushed { applied: Applied { flushed, ..self.machine.applied() } })
    }

    fn install(&mut self, meta: &SnapshotMeta) -> Result<Completion, StorageError> {
        StoredSnapshot::install(&*self.snapshots, meta, &mut *self.machine)?;
        self.delete_older_snapshots()?;
        Ok(Completion::SnapshotInstalled { applied: self.machine.applied() })
    }

    fn take_snapshot(&mut self, mut meta: SnapshotMeta) -> Result<SnapshotJob, StorageError> {
        let applied = self.machine.applied().applied;
        if applied != meta.last_included_index {
            let expected = meta.last_included_index;
            return Err(StorageError::Invalid(format!("a snapshot at {expected} is due, the state is at {applied}")));
        }
        self.delete_older_snapshots()?;
        let source = self.machine.snapshot()?;
        meta.size = 0;
        Ok(SnapshotJob { source, store: self.snapshots.clone(), writer: None, hasher: crc32fast::Hasher::new(), meta })
    }
}

impl StateWorker {
    /// Deletes whole snapshots but the newest: before another one is taken and after one was installed, so that two are kept at most for long.
    /// One that is yet to be installed is beyond the state, and so is the newest then: all stay.
    fn delete_older_snapshots(&self) -> Result<(), StorageError> {
        match self.snapshots.latest()? {
            Some(latest) if latest.last_included_index <= self.machine.applied().applied => {
                self.snapshots.keep_only(latest.content)
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for StateWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateWorker").field("applied", &self.machine.applied()).finish_non_exhaustive()
    }
}

impl SnapshotJob {
    /// Writes the whole snapshot.
    pub fn run(mut self) -> Completion {
        loop {
            if let Some(completion) = self.step() {
                return completion;
            }
        }
    }

    /// Writes the next piece; the completion comes with the last, and `step` is not called again.
    pub fn step(&mut self) -> Option<Completion> {
        match self.write_piece() {
            Ok(true) => None,
            Ok(false) => Some(Completion::SnapshotTaken { meta: self.meta.clone().into() }),
            // What there is of it goes with the writer, which is dropped.
            Err(error) if is_no_space(&error) => {
                Some(Completion::SnapshotNotTaken { what: format!("the snapshot: {error}") })
            }
            Err(error) => Some(failed("the snapshot", &error)),
        }
    }

    /// Whether there is more to write.
    fn write_piece(&mut self) -> Result<bool, StorageError> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.store.begin()?,
        };
        let piece = match self.source.read(PIECE_BYTES) {
            Err(error @ StorageError::Stopped(_)) => return self.end_with_newer(error),
            piece => piece?,
        };
        if let Some(piece) = piece {
            writer.write(&piece)?;
            self.hasher.update(&piece);
            self.meta.size += piece.len() as u64;
            self.writer = Some(writer);
            return Ok(true);
        }
        self.meta.checksum = self.hasher.clone().finalize();
        self.meta.content = content(&self.meta);
        self.finish(writer)?;
        Ok(false)
    }

    /// The state cannot be read any more. A snapshot that was installed meanwhile has replaced it: that one is newer and as good.
    fn end_with_newer(&mut self, error: StorageError) -> Result<bool, StorageError> {
        let latest = self.store.latest()?.filter(|it| it.last_included_index > self.meta.last_included_index);
        self.meta = latest.ok_or(error)?;
        Ok(false)
    }

    /// A snapshot that arrived from a peer meanwhile may be newer: it is not to be replaced by an older one.
    fn finish(&mut self, writer: Box<dyn SnapshotWriter>) -> Result<(), StorageError> {
        match self.store.latest()? {
            Some(latest) if latest.last_included_index >= self.meta.last_included_index => self.meta = latest,
            _ => writer.commit(&self.meta)?,
        }
        Ok(())
    }
}

impl std::fmt::Debug for SnapshotJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotJob").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// The bytes of a stored snapshot.
pub(crate) struct StoredSnapshot<'a> {
    store: &'a dyn SnapshotStore,
    /// Where the next bytes are read.
    offset: u64,
    meta: &'a SnapshotMeta,
    buffered: Bytes,
    hasher: crc32fast::Hasher,
    is_damaged: bool,
}

impl<'a> StoredSnapshot<'a> {
    /// Replaces a state by the snapshot. Its bytes have lain on a disk: they are checked before the machine gets the last of them, since it need not notice by itself.
    pub(crate) fn install(
        store: &'a dyn SnapshotStore,
        meta: &'a SnapshotMeta,
        machine: &mut dyn StateMachine,
    ) -> Result<(), StorageError> {
        let mut reader = StoredSnapshot::open(store, meta);
        let installed = machine.install(meta.last_included_index, &mut reader);
        if reader.is_damaged { Err(damaged(store, meta)) } else { installed }
    }

    /// Reads all of it once, before a state makes way for it.
    ///
    /// # Errors
    /// When it is damaged, which names its place, or cannot be read.
    pub(crate) fn check(store: &dyn SnapshotStore, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let mut reader = StoredSnapshot::open(store, meta);
        while reader.offset < meta.size && !reader.is_damaged {
            reader.take_piece()?;
        }
        if reader.is_damaged { Err(damaged(store, meta)) } else { Ok(()) }
    }

    fn open(store: &'a dyn SnapshotStore, meta: &'a SnapshotMeta) -> StoredSnapshot<'a> {
        let (hasher, buffered) = (crc32fast::Hasher::new(), Bytes::new());
        StoredSnapshot { store, offset: 0, meta, buffered, hasher, is_damaged: false }
    }

    /// The next piece of the store's, counted in.
    fn take_piece(&mut self) -> Result<Bytes, StorageError> {
        let gone = || {
            StorageError::io(format!("read {}", self.store.place(self.meta.content)), io::ErrorKind::NotFound.into())
        };
        let piece = self.store.read(self.meta.content, self.offset, PIECE_BYTES)?.ok_or_else(gone)?;
        self.offset += piece.len() as u64;
        self.hasher.update(&piece);
        let is_other = self.offset >= self.meta.size && self.hasher.clone().finalize() != self.meta.checksum;
        self.is_damaged = piece.is_empty() || is_other;
        Ok(piece)
    }

    /// The next piece of the store's.
    fn piece(&mut self) -> io::Result<Bytes> {
        let piece = self.take_piece().map_err(io::Error::other)?;
        if self.is_damaged { Err(io::ErrorKind::InvalidData.into()) } else { Ok(piece) }
    }
}

/// That a stored snapshot's bytes are not its own.
pub(crate) fn damaged(store: &dyn SnapshotStore, meta: &SnapshotMeta) -> StorageError {
    let what = format!("the bytes of the snapshot at {} do not match its checksum", meta.last_included_index);
    StorageError::damaged(store.place(meta.content), what)
}

impl io::Read for StoredSnapshot<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.buffered.is_empty() && self.offset < self.meta.size {
            self.buffered = self.piece()?;
        }
        let len = out.len().min(self.buffered.len());
        self.buffered.copy_to_slice(&mut out[..len]);
        Ok(len)
    }
}

/// Names the content (FNV-1a): equal for equal bytes at the same place in the log.
fn content(meta: &SnapshotMeta) -> u64 {
    let words = [meta.last_included_index.0, meta.last_included_term.0, meta.size, u64::from(meta.checksum)];
    words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Whether all that a snapshot lacks is space. Nothing depends on its bytes before it is whole, and a store goes on with no file whose write or sync has failed: so here the device's error says no more than `Full`.
pub(crate) fn is_no_space(error: &StorageError) -> bool {
    match error {
        StorageError::Full { .. } => true,
        StorageError::Io { source, .. } => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
}

pub(crate) fn failed(what: &str, error: &StorageError) -> Completion {
    Completion::Failed { what: format!("{what}: {error}"), is_log: false, is_damage: error.is_damage() }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Entry, Index, Membership, NodeId, Term};

    use super::*;
    use crate::testing::{List, MemorySnapshots};

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            content: index,
            last_included_index: Index(index),
            last_included_term: Term(1),
            membership_index: Index(1),
            membership: Membership::of_voters([NodeId(1)]),
            size: 0,
            checksum: 0,
        }
    }

    fn apply(worker: &mut StateWorker, index: u64) {
        let run = Run::new(Index(index), Term(1), [Entry::command(index.to_be_bytes().to_vec())]);
        worker.run(StateEffect::Apply { entries: run.into() });
    }

    fn take(worker: &mut StateWorker, index: u64) -> SnapshotJob {
        match worker.run(StateEffect::TakeSnapshot { meta: meta(index).into() }) {
            Work::Snapshot(job) => job,
            Work::Done(completion) => panic!("unexpected {completion:?}"),
        }
    }

    /// A state that was replaced before it was read.
    struct Replaced;

    impl SnapshotSource for Replaced {
        fn read(&mut self, _: usize) -> Result<Option<Bytes>, StorageError> {
            Err(StorageError::Stopped("the state was replaced".into()))
        }
    }

    fn job(store: &Arc<MemorySnapshots>, index: u64) -> SnapshotJob {
        let hasher = crc32fast::Hasher::new();
        SnapshotJob { source: Box::new(Replaced), store: store.clone(), writer: None, hasher, meta: meta(index) }
    }

    #[test]
    fn a_snapshot_of_a_state_that_was_replaced_gives_way_to_what_replaced_it() {
        let store = Arc::new(MemorySnapshots::default());
        assert!(matches!(job(&store, 5).run(), Completion::Failed { .. }), "nothing replaced it");
        store.begin().unwrap().commit(&meta(9)).unwrap();
        match job(&store, 5).run() {
            Completion::SnapshotTaken { meta: taken } => assert_eq!(*taken, meta(9)),
            other => panic!("unexpected {other:?}"),
        }
        assert!(matches!(job(&store, 9).run(), Completion::Failed { .. }), "it did not replace a later state");
    }

    #[test]
    fn older_snapshots_are_deleted_unless_one_is_yet_to_be_installed() {
        let store = Arc::new(MemorySnapshots::default());
        let mut worker = StateWorker::new(Box::new(List::new(None)), store.clone());
        for index in 1..=5 {
            apply(&mut worker, index);
            take(&mut worker, index).run();
            assert!(store.count() <= 2, "{} snapshots", store.count());
        }
        for index in [8, 9] {
            store.begin().unwrap().commit(&meta(index)).unwrap();
        }
        take(&mut worker, 5);
        assert_eq!(store.count(), 4, "what the state is to become stays");
        worker.run(StateEffect::InstallSnapshot { meta: meta(8).into() });
        assert_eq!(store.count(), 4, "the newer one too");
        worker.run(StateEffect::InstallSnapshot { meta: meta(9).into() });
        assert_eq!(store.latest().unwrap().map(|meta| meta.content), Some(9));
        assert_eq!(store.count(), 1);
    }
}
