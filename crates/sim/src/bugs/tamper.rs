//! Bugs round the state machine and below it.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{Entry, EntryKind, Index, Run};
use coracle_storage::{
    Applied, KvBatch, KvStore, Page, Result, ScanRange, SnapshotReader, SnapshotSource, StateMachine,
};

use super::Bug;

/// Changes a command before it is applied.
type Change = Box<dyn Fn(Index, &Bytes) -> Option<Bytes> + Send>;

/// A state machine that gets other commands than those in the log.
pub(crate) struct Tampered {
    machine: Box<dyn StateMachine>,
    change: Change,
}

/// Every so many indexes a command is left out, under the bug that does so.
const SKIP_EVERY: u64 = 97;

/// Puts a bug that needs no knowledge of the state machine round it.
pub(crate) fn wrap(machine: Box<dyn StateMachine>, bug: Option<Bug>, node: usize) -> Box<dyn StateMachine> {
    if bug != Some(Bug::SkipEntry) || node != 0 {
        return machine;
    }
    tamper(machine, |index, _| index.0.is_multiple_of(SKIP_EVERY).then(Bytes::new))
}

/// A state machine that applies what `change` makes of a command, where it makes anything of it.
pub(crate) fn tamper(
    machine: Box<dyn StateMachine>,
    change: impl Fn(Index, &Bytes) -> Option<Bytes> + Send + 'static,
) -> Box<dyn StateMachine> {
    Box::new(Tampered { machine, change: Box::new(change) })
}

impl Tampered {
    fn change(&self, run: &Run) -> Run {
        let change = |(index, entry): (Index, &Entry)| match entry.kind {
            EntryKind::Command => (self.change)(index, &entry.data).map_or_else(|| entry.clone(), Entry::command),
            EntryKind::Noop | EntryKind::Membership => entry.clone(),
        };
        Run::new(run.first(), run.term(), run.iter().map(change).collect::<Vec<_>>())
    }
}

impl StateMachine for Tampered {
    fn applied(&self) -> Applied {
        self.machine.applied()
    }

    fn apply(&mut self, entries: &[Run], replies: &mut Vec<Bytes>) -> Result<()> {
        let entries: Vec<Run> = entries.iter().map(|run| self.change(run)).collect();
        self.machine.apply(&entries, replies)
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes> {
        self.machine.query(query)
    }

    fn flush(&mut self) -> Result<Index> {
        self.machine.flush()
    }

    fn is_durable(&self) -> bool {
        self.machine.is_durable()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>> {
        self.machine.snapshot()
    }

    fn install(&mut self, index: Index, snapshot: &mut SnapshotReader<'_>) -> Result<()> {
        self.machine.install(index, snapshot)
    }

    fn state_hash(&mut self) -> Option<u64> {
        self.machine.state_hash()
    }

    fn never_blocks(&self) -> bool {
        self.machine.never_blocks()
    }
}

/// The first bytes of the rows that the level state machine keeps for sessions.
const SESSION_ROWS: [u8; 2] = [b's', b'r'];

/// A store that does not keep its promises.
struct Faulty {
    kv: Arc<dyn KvStore>,
    bug: Bug,
}

/// Puts a bug below the state machine, if it is one that belongs there.
pub(crate) fn store(kv: Arc<dyn KvStore>, bug: Option<Bug>) -> Arc<dyn KvStore> {
    match bug {
        Some(bug @ (Bug::ApplyTwice | Bug::SessionsNotInSnapshot)) => Arc::new(Faulty { kv, bug }),
        _ => kv,
    }
}

impl KvStore for Faulty {
    fn applied(&self) -> Result<Option<Index>> {
        self.kv.applied()
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        if self.bug == Bug::ApplyTwice
            && let Some(before) = self.kv.applied()?
        {
            self.kv.write(batch, before)?;
            return self.kv.write(Vec::new(), applied);
        }
        self.kv.write(batch, applied)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.kv.get(key)
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        self.kv.scan(range, count_max, bytes_max)
    }

    fn flush(&self) -> Result<Index> {
        self.kv.flush()
    }

    fn replace_begin(&self) -> Result<()> {
        self.kv.replace_begin()
    }

    fn replace_add(&self, mut page: Page) -> Result<()> {
        if self.bug == Bug::SessionsNotInSnapshot {
            page.retain(|(key, _)| !key.first().is_some_and(|kind| SESSION_ROWS.contains(kind)));
        }
        self.kv.replace_add(page)
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        self.kv.replace_end(applied)
    }

    fn never_blocks(&self) -> bool {
        self.kv.never_blocks()
    }
}
