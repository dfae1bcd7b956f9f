//! Bugs on purpose, in the simulator's own layer.

use bytes::Bytes;
use coracle_core::{Entry, EntryKind, Index, Run};
use coracle_storage::{Applied, Result, SnapshotReader, SnapshotSource, StateMachine};

use crate::Bug;

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
