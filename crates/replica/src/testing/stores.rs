//! Stores in memory, as short as tests allow, and a state machine.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, LogRead, Membership, Run, SnapshotMeta, Term};
use coracle_storage::{
    Applied, LogBatch, LogStore, RecoveredLog, Result, SnapshotReader, SnapshotSource, SnapshotStore, SnapshotWriter,
    StateMachine, StorageError,
};

/// The log of one group.
#[derive(Debug, Default)]
pub(crate) struct MemoryLog {
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    base: Base,
    hard_state: HardState,
    entries: Vec<(Term, Entry)>,
    /// Entries whose data are gone.
    damaged: BTreeSet<Index>,
    fails: bool,
}

impl LogState {
    fn last(&self) -> Index {
        self.base.index.plus(self.entries.len() as u64)
    }

    fn runs(&self, from: Index) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut index = self.base.index;
        for (term, entry) in &self.entries {
            index = index.next();
            if index >= from {
                runs.push(Run::new(index, *term, [entry.clone()]));
            }
        }
        runs
    }

    fn write(&mut self, batch: &LogBatch) {
        if let Some(from) = batch.truncate_from {
            self.entries.truncate((from.0 - self.base.index.next().0) as usize);
            self.damaged.split_off(&from);
        }
        for (index, entry) in batch.repaired.iter().flat_map(Run::iter) {
            self.entries[(index.0 - self.base.index.next().0) as usize].1 = entry.clone();
            self.damaged.remove(&index);
        }
        for run in &batch.entries {
            assert_eq!(run.first(), self.last().next(), "no gap");
            self.entries.extend(run.entries().iter().map(|entry| (run.term(), entry.clone())));
        }
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(base) = batch.base.clone() {
            let gone = (base.index.0 - self.base.index.0).min(self.entries.len() as u64) as usize;
            self.entries.drain(..gone);
            self.base = base;
            self.damaged = self.damaged.split_off(&self.base.index.next());
        }
    }
}

impl MemoryLog {
    /// A log whose first entry is the founding membership.
    pub(crate) fn founded(membership: &Membership) -> MemoryLog {
        let log = MemoryLog::default();
        let entry = Entry { kind: EntryKind::Membership, data: membership.encode() };
        let mut state = log.lock();
        state.entries.push((Term(1), entry));
        state.hard_state = HardState { term: Term(1), commit_index: Index(1), ..HardState::default() };
        drop(state);
        log
    }

    /// From here on writes fail.
    pub(crate) fn fail(&self) {
        self.lock().fails = true;
    }

    /// The data of an entry rot.
    pub(crate) fn damage(&self, index: Index) {
        self.lock().damaged.insert(index);
    }

    pub(crate) fn base(&self) -> Base {
        self.lock().base.clone()
    }

    /// Everything in it, for comparison.
    pub(crate) fn content(&self) -> (Base, HardState, Vec<(Term, Entry)>) {
        let state = self.lock();
        (state.base.clone(), state.hard_state, state.entries.clone())
    }

    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap()
    }
}

impl LogStore for MemoryLog {
    fn recover(&self, _: GroupId, _: usize) -> Result<RecoveredLog> {
        let state = self.lock();
        let all = state.runs(Index::ZERO);
        let mut terms: Vec<(Index, Term)> = all.iter().map(|run| (run.first(), run.term())).collect();
        terms.dedup_by_key(|(_, term)| *term);
        let memberships = all
            .iter()
            .flat_map(Run::iter)
            .filter(|(index, entry)| entry.kind == EntryKind::Membership && !state.damaged.contains(index))
            .map(|(index, entry)| (index, Membership::decode(entry.data.clone()).unwrap()))
            .collect();
        Ok(RecoveredLog {
            hard_state: state.hard_state,
            base: state.base.clone(),
            terms,
            memberships,
            last_index: state.last(),
            tail: state.runs(state.damaged.last().map_or(Index::ZERO, |last| last.next())),
            damaged: state.damaged.iter().copied().collect(),
            is_membership_damaged: !state.damaged.is_empty(),
        })
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let mut state = self.lock();
        if state.fails {
            return Err(StorageError::Stopped("by the test".into()));
        }
        batches.iter().for_each(|batch| state.write(batch));
        Ok(())
    }

    fn read(&self, _: GroupId, from: Index, to: Index, _: usize) -> Result<LogRead> {
        let state = self.lock();
        if from <= state.base.index {
            return Ok(LogRead::Compacted);
        }
        if state.runs(from).is_empty() {
            return Err(StorageError::Invalid(format!("the log ends before {from}")));
        }
        let damaged = state.damaged.range(from..=to).next().copied();
        if damaged == Some(from) {
            return Ok(LogRead::Damaged { at: from });
        }
        let to = damaged.map_or(to, Index::prev);
        Ok(LogRead::Entries(state.runs(from).into_iter().filter(|run| run.first() <= to).collect()))
    }
}

/// A snapshot's meta data and its bytes.
type Snapshot<T> = (SnapshotMeta, T);

/// The snapshots of one group: the whole ones, and one that arrives.
#[derive(Debug, Default)]
pub(crate) struct MemorySnapshots {
    whole: Arc<Mutex<Vec<Snapshot<Bytes>>>>,
    part: Arc<Mutex<Option<Snapshot<Vec<u8>>>>>,
}

struct Writer {
    /// `None` for the node's own.
    received: Option<SnapshotMeta>,
    data: Vec<u8>,
    whole: Arc<Mutex<Vec<Snapshot<Bytes>>>>,
    part: Arc<Mutex<Option<Snapshot<Vec<u8>>>>>,
}

impl MemorySnapshots {
    /// How many whole ones there are.
    pub(crate) fn count(&self) -> usize {
        self.whole.lock().unwrap().len()
    }

    /// A byte of every whole one rots.
    pub(crate) fn damage(&self, at: usize) {
        let contents: Vec<u64> = self.whole.lock().unwrap().iter().map(|(meta, _)| meta.content).collect();
        contents.into_iter().for_each(|content| self.damage_one(content, at));
    }

    /// A byte of the whole one named `content` rots.
    pub(crate) fn damage_one(&self, content: u64, at: usize) {
        for (_, data) in self.whole.lock().unwrap().iter_mut().filter(|(meta, _)| meta.content == content) {
            let mut bytes = data.to_vec();
            bytes[at] ^= 4;
            *data = bytes.into();
        }
    }

    fn writer(&self, received: Option<SnapshotMeta>, data: Vec<u8>) -> Box<dyn SnapshotWriter> {
        Box::new(Writer { received, data, whole: self.whole.clone(), part: self.part.clone() })
    }
}

impl SnapshotStore for MemorySnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        let whole = self.whole.lock().unwrap();
        Ok(whole.iter().max_by_key(|(meta, _)| meta.last_included_index).map(|(meta, _)| meta.clone()))
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        Ok(self.writer(None, Vec::new()))
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let part = self.part.lock().unwrap().take().filter(|(known, _)| known == meta);
        Ok(self.writer(Some(meta.clone()), part.map(|(_, data)| data).unwrap_or_default()))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        let whole = self.whole.lock().unwrap();
        Ok(whole.iter().find(|(meta, _)| meta.content == content).map(|(_, data)| {
            let from = (offset as usize).min(data.len());
            data.slice(from..(from + len).min(data.len()))
        }))
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        self.whole.lock().unwrap().retain(|(meta, _)| meta.content == content);
        Ok(())
    }

    fn discard(&self, content: u64) -> Result<()> {
        self.whole.lock().unwrap().retain(|(meta, _)| meta.content != content);
        Ok(())
    }
}

impl SnapshotWriter for Writer {
    fn offset(&self) -> u64 {
        self.data.len() as u64
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.data.extend_from_slice(data);
        if let Some(meta) = &self.received {
            *self.part.lock().unwrap() = Some((meta.clone(), self.data.clone()));
        }
        Ok(())
    }

    fn commit(self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        if self.received.is_some() {
            *self.part.lock().unwrap() = None;
        }
        if meta.size != self.data.len() as u64 || meta.checksum != crc32fast::hash(&self.data) {
            return Err(StorageError::damaged("a snapshot", "size or checksum"));
        }
        let mut whole = self.whole.lock().unwrap();
        whole.retain(|(other, _)| other.content != meta.content);
        whole.push((meta.clone(), self.data.into()));
        Ok(())
    }
}

/// What a durable state machine keeps over a restart.
pub(crate) type Disk = Arc<Mutex<(Vec<u8>, Index)>>;

/// A state machine that keeps the commands it was given; a command is 8 bytes, a reply the number of commands so far.
#[derive(Debug)]
pub(crate) struct List {
    commands: Vec<u8>,
    applied: Index,
    flushed: Index,
    /// `None` when its state lives in memory.
    disk: Option<Disk>,
}

impl List {
    /// With what was flushed.
    pub(crate) fn new(disk: Option<Disk>) -> List {
        let (commands, applied) = disk.as_ref().map(|disk| disk.lock().unwrap().clone()).unwrap_or_default();
        List { commands, applied, flushed: applied, disk }
    }
}

/// The commands in a state or an answer.
pub(crate) fn list_of(state: &[u8]) -> Vec<u64> {
    state.chunks(8).map(|command| u64::from_be_bytes(command.try_into().unwrap())).collect()
}

struct Source(Option<Bytes>);

impl SnapshotSource for Source {
    fn read(&mut self, _: usize) -> Result<Option<Bytes>> {
        Ok(self.0.take().filter(|rest| !rest.is_empty()))
    }
}

impl StateMachine for List {
    fn applied(&self) -> Applied {
        Applied { applied: self.applied, flushed: self.flushed }
    }

    fn apply(&mut self, entries: &[Run], replies: &mut Vec<Bytes>) -> Result<()> {
        for run in entries {
            assert_eq!(run.first(), self.applied.next(), "entries come in order");
            self.applied = run.last();
            for entry in run.entries().iter().filter(|entry| entry.kind == EntryKind::Command) {
                if entry.data == b"broken!!"[..] {
                    return Err(StorageError::Stopped("by the test".into()));
                }
                self.commands.extend_from_slice(&entry.data);
                replies.push(Bytes::copy_from_slice(&(self.commands.len() as u64 / 8).to_be_bytes()));
            }
        }
        Ok(())
    }

    fn query(&mut self, _: &[u8]) -> Result<Bytes> {
        Ok(self.commands.clone().into())
    }

    fn flush(&mut self) -> Result<Index> {
        if let Some(disk) = &self.disk {
            *disk.lock().unwrap() = (self.commands.clone(), self.applied);
            self.flushed = self.applied;
        }
        Ok(self.flushed)
    }

    fn is_durable(&self) -> bool {
        self.disk.is_some()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(Source(Some(self.commands.clone().into()))))
    }

    fn install(&mut self, index: Index, snapshot: &mut SnapshotReader<'_>) -> Result<()> {
        self.commands.clear();
        std::io::Read::read_to_end(snapshot, &mut self.commands).map_err(|e| StorageError::io("read", e))?;
        (self.applied, self.flushed) = (index, index);
        self.flush().map(|_| ())
    }
}
