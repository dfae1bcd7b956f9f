//! What makes operations of a disk fail.

use std::{
    io,
    sync::{Mutex, MutexGuard},
};

use coracle_core::Rng;
use coracle_storage::{Result, StorageError};

use super::lock;

/// An operation that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskOp {
    LogWrite,
    LogRead,
    MapWrite,
    MapRead,
    SnapshotWrite,
    SnapshotRead,
}

impl DiskOp {
    const ALL: [DiskOp; 6] = [
        DiskOp::LogWrite,
        DiskOp::LogRead,
        DiskOp::MapWrite,
        DiskOp::MapRead,
        DiskOp::SnapshotWrite,
        DiskOp::SnapshotRead,
    ];

    /// Any; half of them write the log.
    pub(crate) fn draw(rng: &mut Rng) -> DiskOp {
        if rng.chance(0.5) { DiskOp::LogWrite } else { DiskOp::ALL[rng.below(DiskOp::ALL.len() as u64) as usize] }
    }

    /// A write of the map or the log, which meets the end of the space while it writes.
    pub(crate) fn draw_write(rng: &mut Rng) -> DiskOp {
        if rng.chance(0.5) { DiskOp::LogWrite } else { DiskOp::MapWrite }
    }

    /// Whether it looks for space before it writes. The map does not: a state machine cannot wait.
    fn reserves(self) -> bool {
        matches!(self, DiskOp::LogWrite | DiskOp::SnapshotWrite)
    }

    fn name(self) -> &'static str {
        match self {
            DiskOp::LogWrite => "write the log",
            DiskOp::LogRead => "read the log",
            DiskOp::MapWrite => "write the map",
            DiskOp::MapRead => "read the map",
            DiskOp::SnapshotWrite => "write a snapshot",
            DiskOp::SnapshotRead => "read a snapshot",
        }
    }
}

/// Shared by everything on one disk.
#[derive(Debug, Default)]
pub(crate) struct Switch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The next operation of this kind fails, with this error.
    next: Option<(DiskOp, io::ErrorKind)>,
    is_full: bool,
    /// An operation has failed, in this life of the node.
    has_failed: bool,
}

impl Switch {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Lets the next operation of this kind fail.
    pub(crate) fn fail_next(&self, op: DiskOp) {
        self.state().next = Some((op, io::ErrorKind::Other));
    }

    /// Lets the next write of this kind meet the end of the space while it writes: an error like any other (C18).
    pub(crate) fn exhaust_next(&self, op: DiskOp) {
        self.state().next = Some((op, io::ErrorKind::StorageFull));
    }

    pub(crate) fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// Nothing fails any more.
    pub(crate) fn mend(&self) {
        let state = &mut *self.state();
        state.next = None;
        state.is_full = false;
    }

    /// Does something that does not fail.
    pub(crate) fn unharmed<T>(&self, operation: impl FnOnce() -> T) -> T {
        let next = self.state().next.take();
        let result = operation();
        self.state().next = next;
        result
    }

    /// Whether an operation has failed since the last crash.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// The node is gone, and what it saw with it.
    pub(super) fn crash(&self) {
        let state = &mut *self.state();
        state.next = None;
        state.has_failed = false;
    }

    /// Whether there is space for a write, found before any byte of it is written: nothing has failed without.
    pub(super) fn reserve(&self, op: DiskOp) -> Result<()> {
        match self.state().is_full && op.reserves() {
            true => Err(StorageError::Full { place: "the simulated disk".to_owned(), needed: 1 }),
            false => Ok(()),
        }
    }

    /// Whether an operation succeeds; a write that does not may have written a part.
    pub(super) fn operate(&self, op: DiskOp) -> Result<()> {
        let state = &mut *self.state();
        let Some((_, kind)) = state.next.take_if(|(next, _)| *next == op) else { return Ok(()) };
        state.has_failed = true;
        Err(StorageError::io(op.name(), io::Error::new(kind, "injected by the simulator")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operation_of_the_kind_fails() {
        let switch = Switch::default();
        switch.fail_next(DiskOp::MapRead);
        assert!(switch.operate(DiskOp::LogWrite).is_ok() && !switch.has_failed());
        assert!(switch.operate(DiskOp::MapRead).is_err() && switch.has_failed());
        assert!(switch.operate(DiskOp::MapRead).is_ok());
    }

    #[test]
    fn a_full_disk_can_be_read() {
        let switch = Switch::default();
        switch.set_full(true);
        assert!(switch.reserve(DiskOp::LogRead).is_ok() && switch.reserve(DiskOp::SnapshotWrite).is_err());
        assert!(!switch.has_failed(), "without space nothing has failed");
        switch.crash();
        assert!(switch.reserve(DiskOp::LogWrite).is_err());
        switch.set_full(false);
        assert!(switch.reserve(DiskOp::LogWrite).is_ok());
    }
}
