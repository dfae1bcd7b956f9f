//! What an application brings.

use std::io::Read;

use bytes::Bytes;
use coracle_core::{Index, Run};

use crate::Result;

/// How far a state machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Applied {
    /// The last index applied.
    pub applied: Index,
    /// The last index that would still be applied after a power cut.
    pub flushed: Index,
}

/// A replicated state machine.
///
/// Every replica applies the same entries in the same order, so `apply` depends on nothing but the state and the entries: no clock, no randomness, no environment.
/// A bad command is answered by a reply that says so, on every replica alike (C20); an `Err` is the failure of this replica's storage and stops it.
pub trait StateMachine: Send {
    /// How far the state is. After a start it says what was recovered.
    fn applied(&self) -> Applied;

    /// Applies entries that follow the last ones, and pushes exactly one reply for each that is a command; no-ops and memberships only move the applied index.
    ///
    /// # Errors
    /// When the state cannot be written: the replica stops.
    fn apply(&mut self, entries: &[Run], replies: &mut Vec<Bytes>) -> Result<()>;

    /// Answers a query from the state as it is, without changing it.
    ///
    /// # Errors
    /// When the state cannot be read: the replica stops.
    fn query(&mut self, query: &[u8]) -> Result<Bytes>;

    /// Makes the state durable if it can, and returns how far it is. A state that lives in memory returns what its last snapshot covered.
    ///
    /// # Errors
    /// When it cannot be synced: the replica stops.
    fn flush(&mut self) -> Result<Index>;

    /// Whether `flush` moves the flushed index. If not, the replica takes a snapshot before it compacts the log, and installs it after a start.
    fn is_durable(&self) -> bool;

    /// Begins a snapshot of the state as it is. What is read from it does not change, although entries go on being applied.
    ///
    /// # Errors
    /// When the state cannot be read: the replica stops.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>>;

    /// Replaces the state by a snapshot that covers everything up to `index`, durably if the state is.
    ///
    /// # Errors
    /// When the snapshot does not decode or the state cannot be written: the replica stops.
    fn install(&mut self, index: Index, snapshot: &mut SnapshotReader<'_>) -> Result<()>;

    /// A hash over the state that replicas with the same applied index share; `None` when it is not worth its cost.
    fn state_hash(&mut self) -> Option<u64> {
        None
    }

    /// Whether `apply` and `query` never wait for a device and are quick: such a machine runs in line.
    fn never_blocks(&self) -> bool {
        false
    }
}

/// What a snapshot is installed from.
pub type SnapshotReader<'a> = dyn Read + 'a;

/// A snapshot's bytes, piece by piece, read on a thread of its own.
pub trait SnapshotSource: Send {
    /// The next piece, of about `bytes_max` bytes; `None` at the end.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn read(&mut self, bytes_max: usize) -> Result<Option<Bytes>>;
}
