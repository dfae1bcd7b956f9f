//! State machines that live in memory.

use bytes::Bytes;
use coracle_core::{EntryKind, Index, Run};

use crate::{Applied, Result, SnapshotReader, SnapshotSource, StateMachine, StorageError};

/// A state machine in memory, in its shortest form: wrap it in [`InMemory`].
pub trait Machine: Send + 'static {
    /// Executes a command and returns the reply. It depends on nothing but the state and the command.
    fn apply(&mut self, command: &[u8]) -> Bytes;

    /// Answers a query without changing the state.
    fn query(&self, query: &[u8]) -> Bytes;

    /// The whole state as bytes.
    fn save(&self) -> Bytes;

    /// Replaces the state by what `save` returned.
    ///
    /// # Errors
    /// A text that says what is wrong with the bytes.
    fn load(&mut self, state: &[u8]) -> std::result::Result<(), String>;
}

/// Makes a [`StateMachine`] of a [`Machine`].
#[derive(Debug)]
pub struct InMemory<M> {
    machine: M,
    applied: Index,
    saved: Index,
}

impl<M: Machine> InMemory<M> {
    /// A state machine that starts as `machine`.
    pub fn new(machine: M) -> InMemory<M> {
        InMemory { machine, applied: Index::ZERO, saved: Index::ZERO }
    }
}

impl<M: Machine> StateMachine for InMemory<M> {
    fn applied(&self) -> Applied {
        Applied { applied: self.applied, flushed: self.saved }
    }

    fn apply(&mut self, entries: &[Run], replies: &mut Vec<Bytes>) -> Result<()> {
        replies.reserve(entries.iter().map(Run::len).sum());
        for run in entries {
            for entry in run.entries() {
                if entry.kind == EntryKind::Command {
                    replies.push(self.machine.apply(&entry.data));
                }
            }
            self.applied = run.last();
        }
        Ok(())
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes> {
        Ok(self.machine.query(query))
    }

    fn flush(&mut self) -> Result<Index> {
        Ok(self.saved)
    }

    fn is_durable(&self) -> bool {
        false
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>> {
        Ok(Box::new(Whole(Some(self.machine.save()))))
    }

    fn install(&mut self, index: Index, snapshot: &mut SnapshotReader<'_>) -> Result<()> {
        let mut state = Vec::new();
        std::io::Read::read_to_end(snapshot, &mut state)
            .map_err(|error| StorageError::io("read the snapshot", error))?;
        self.machine.load(&state).map_err(|what| StorageError::damaged("the snapshot", what))?;
        self.applied = index;
        self.saved = index;
        Ok(())
    }

    fn state_hash(&mut self) -> Option<u64> {
        Some(u64::from(crc32fast::hash(&self.machine.save())))
    }

    fn never_blocks(&self) -> bool {
        true
    }
}

/// A snapshot that is in memory as a whole.
struct Whole(Option<Bytes>);

impl SnapshotSource for Whole {
    fn read(&mut self, bytes_max: usize) -> Result<Option<Bytes>> {
        let Some(rest) = &mut self.0 else { return Ok(None) };
        let piece = rest.split_to(bytes_max.max(1).min(rest.len()));
        if rest.is_empty() {
            self.0 = None;
        }
        Ok(if piece.is_empty() { None } else { Some(piece) })
    }
}
