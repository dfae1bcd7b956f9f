//! The log of a group.

use coracle_core::{Base, GroupId, HardState, Index, LogRead, Membership, Persist, Run, Runs, Term};

use crate::Result;

/// One group's part of a write: cut off, then repair, then append, then set; all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBatch {
    /// Whose log.
    pub group: GroupId,
    /// Delete this index and all after it.
    pub truncate_from: Option<Index>,
    /// Write these over the entries that lie there, damaged or not, and over nothing else: in order, each of an index and a term that the log holds before the batch, and that the batch does not cut off (C19).
    pub repaired: Vec<Run>,
    /// Append these; they follow what is left.
    pub entries: Runs,
    /// Set this.
    pub hard_state: Option<HardState>,
    /// The log begins here: delete this index and all before it.
    pub base: Option<Base>,
}

impl LogBatch {
    /// What the core asks to be written.
    pub fn new(group: GroupId, persist: Persist) -> LogBatch {
        let Persist { ticket: _, truncate_from, repaired, entries, hard_state, base } = persist;
        LogBatch { group, truncate_from, repaired, entries, hard_state, base: base.map(|base| *base) }
    }

    /// A batch that appends.
    pub fn append(group: GroupId, entries: Vec<Run>) -> LogBatch {
        let entries = entries.into();
        LogBatch { group, truncate_from: None, repaired: Vec::new(), entries, hard_state: None, base: None }
    }
}

/// What a log held when it was opened (C3).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RecoveredLog {
    /// Term, vote, commit hint.
    pub hard_state: HardState,
    /// Where the log begins.
    pub base: Base,
    /// The first index of each term in the retained log, in order; damaged entries included.
    pub terms: Vec<(Index, Term)>,
    /// The membership entries of the whole retained log, in order, as far as they are known.
    pub memberships: Vec<(Index, Membership)>,
    /// The last index; the base's when there are no entries.
    pub last_index: Index,
    /// The most recent entries, up to the last; they begin after the last damaged one.
    pub tail: Vec<Run>,
    /// The entries whose index and term are known and whose data are not what was written, in order (C19).
    pub damaged: Vec<Index>,
    /// Whether one of them may hold a membership that is not in `memberships`.
    pub is_membership_damaged: bool,
}

impl RecoveredLog {
    /// Whether nothing was ever written. A node that is still to join has a base that says so, and no entries.
    pub fn is_empty(&self) -> bool {
        self.last_index == Index::ZERO && self.hard_state == HardState::default() && self.base.membership.is_none()
    }
}

/// The logs of the groups of a node.
pub trait LogStore: Send + Sync {
    /// What the log of `group` holds, synced: bytes that were only in a cache are on disk when this returns (C3).
    /// At most about `tail_bytes_max` bytes of recent entries come along.
    ///
    /// # Errors
    /// When it cannot be read, or anything else than the data of entries is damaged; that includes an entry whose term cannot be told.
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog>;

    /// Writes the batches of one or many groups: each all or nothing, and all as durable as the store promises when this returns.
    /// Batches of one group are written in order.
    /// [`StorageError::Invalid`](crate::StorageError::Invalid) and [`StorageError::Full`](crate::StorageError::Full) say that nothing was written, and after `Full` the same write is tried again later; after any other error nothing more is accepted: the caller stops for good (C18).
    ///
    /// # Errors
    /// When anything could not be written or synced, or a batch would leave a gap.
    fn write(&self, batches: &[LogBatch]) -> Result<()>;

    /// Reads from `from` to `to`, both included: as many entries as fit in `bytes_max`, at least one. Works while a write is under way.
    ///
    /// # Errors
    /// When the store cannot be read, or the log ends before `from`.
    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead>;

    /// Whether `write` never waits for a device: such a store may be called in line, and is never [full](crate::StorageError::Full).
    fn never_blocks(&self) -> bool {
        false
    }
}
