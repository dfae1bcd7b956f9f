//! What can go wrong with storage.

use coracle_core::Index;

/// What storage operations return.
pub type Result<T> = std::result::Result<T, StorageError>;

/// What can go wrong with storage, by who is to blame.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The environment: an operation of the operating system or of the engine failed. After a failed write or sync the store accepts no more.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried, and on what.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No space, found before anything was written: nothing was written, and the same write may be tried again (C18).
    #[error("no space in {place}: {needed} bytes are needed")]
    Full {
        /// Where.
        place: String,
        /// How many bytes.
        needed: u64,
    },
    /// The data is not what was written.
    #[error("damaged data in {place}: {what}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// A remote store came back with less than it had acknowledged: the log is lost, not shorter (C18).
    #[error("{place} lost what it had acknowledged: {what}")]
    Lost {
        /// Which store.
        place: String,
        /// What is missing.
        what: String,
    },
    /// Another process uses the store.
    #[error("{place} is in use by another process")]
    Locked {
        /// Which store.
        place: String,
    },
    /// The store was made by another engine or a newer version.
    #[error("{place} was made by {found}, not by {expected}")]
    Engine {
        /// Which store.
        place: String,
        /// What made it.
        found: String,
        /// What was to be opened.
        expected: String,
    },
    /// The caller asked for something that cannot be: a gap in the log, a value over a limit.
    #[error("invalid request to the store: {0}")]
    Invalid(String),
    /// The store stopped after an earlier error, or was closed.
    #[error("the store has stopped: {0}")]
    Stopped(String),
    /// The entries from this index on are compacted away.
    #[error("the log begins after {base}")]
    Compacted {
        /// The last index that went.
        base: Index,
    },
}

impl StorageError {
    /// Whether the data is not what was acknowledged, damaged or lost, rather than the storage out of order.
    pub fn is_damage(&self) -> bool {
        matches!(self, StorageError::Damaged { .. } | StorageError::Lost { .. })
    }

    /// An error of the environment.
    pub fn io(operation: impl Into<String>, source: std::io::Error) -> StorageError {
        StorageError::Io { operation: operation.into(), source }
    }

    /// Data that is not what was written.
    pub fn damaged(place: impl Into<String>, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { place: place.into(), what: what.into() }
    }
}
