//! The object-safe bottom of the facade.

use std::{ops::Bound, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Pipeline;

/// The log index of the entry that wrote something: rises with every transaction, with gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A client's session, for writes that take effect once (C22): the index of the entry that registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ReadAt {
    /// It sees every write that was acknowledged before it began, on any node.
    #[default]
    Linearizable,
    /// The same, on a leader that holds a lease without asking anybody: true as long as clocks drift no further than the nodes are configured for, and no machine is suspended (C13).
    /// Without a lease, as on nodes that do not allow it, it is a linearizable read.
    Lease,
    /// It lacks nothing that was acknowledged longer ago than this before it began. A node that cannot tell asks the leader, and fails when there is none.
    Bounded(Duration),
    /// It sees what the node that answers has applied, which may be old.
    Stale,
    /// It sees the state as of a revision that is held by a snapshot.
    Revision(Revision),
}

/// A read's answer, and the revision that it shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read<T> {
    /// The answer.
    pub value: T,
    /// The state that it was read from.
    pub revision: Revision,
}

/// A value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The bytes.
    pub value: Bytes,
    /// When the key came into being.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// How often it was written since it came into being: 1 for the first time.
    pub version: u64,
}

/// Which keys a scan visits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSpec {
    /// The lower bound.
    pub from: Bound<Bytes>,
    /// The upper bound.
    pub to: Bound<Bytes>,
    /// From the upper bound down.
    pub reverse: bool,
    /// The most keys to return in this page; the server has its own limit too.
    pub limit: u32,
    /// Whether values come along.
    pub values: bool,
}

/// A page of a scan.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScanPage {
    /// Keys, and their values (empty when they were not asked for), in the order of the scan.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Whether more may follow; the next page begins after the last key of this one.
    pub more: bool,
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Sets a key.
    Put {
        /// The key; it may be empty.
        key: Bytes,
        /// The value; it may be empty.
        value: Bytes,
    },
    /// Removes a key; that it is absent is no error.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Adds to a decimal integer; an absent key counts as 0.
    Increment {
        /// The key.
        key: Bytes,
        /// What to add.
        by: i64,
    },
}

/// Changes that take effect together, as one log entry.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Txn {
    /// The changes, in order.
    pub ops: Vec<Op>,
}

/// What makes a retried transaction take effect once (C22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Once {
    /// The session.
    pub session: SessionId,
    /// The transaction's number in it, from 1; each is used once.
    pub sequence: u64,
    /// Every number up to here was answered and will not be asked for again.
    pub floor: u64,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The revision that it made.
    pub revision: Revision,
    /// The new value of each `Increment`, in order.
    pub integers: Vec<i64>,
}

/// What can go wrong, by who is to blame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller: over a limit. Nothing was replicated.
    #[error("{limit} is limited to {max}: got {got}")]
    LimitExceeded {
        /// Which limit.
        limit: String,
        /// Its value.
        max: u64,
        /// What was asked for.
        got: u64,
    },
    /// The caller: the value is no decimal integer of 64 bits, or would not be one any more. Nothing changed.
    #[error("the value of \"{key}\" is not a 64-bit decimal integer, or would not be one any more")]
    NotAnInteger {
        /// Which key, readably.
        key: String,
    },
    /// The session is unknown or expired: whether the transaction took effect is unknown, and it is not retried silently.
    #[error("session {0:?} is unknown or expired: the outcome of the write is unknown")]
    SessionExpired(SessionId),
    /// The revision is no longer held, or the node that held it is gone.
    #[error("revision {0:?} is no longer held: begin the scan or snapshot again")]
    SnapshotGone(Revision),
    /// The environment: the node that answered does not lead and could not pass it on. The request surely had no effect.
    #[error("not the leader{}", .leader.as_ref().map(|l| format!("; the leader's client address is {l}")).unwrap_or_default())]
    NotLeader {
        /// The leader's client address, if known.
        leader: Option<String>,
    },
    /// The environment: no majority, no leader, or no node could be reached in time. The request surely had no effect.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// The environment: a queue is full. The request surely had no effect.
    #[error("busy: retry in {} ms", .retry_after.as_millis())]
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// The environment: the request may or may not have taken effect, or may yet.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// The handle or the node was closed.
    #[error("closed")]
    Closed,
    /// The other side said what cannot be.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The environment: there is no space to write to; the text says where. The request surely had no effect, and may have one once there is space again.
    #[error("{0}")]
    NoSpace(String),
}

/// What operations return.
pub type Result<T> = std::result::Result<T, Error>;

/// Byte operations on an ordered key-value store; everything else is a shell above it.
#[async_trait]
pub trait Kv: Send + Sync {
    /// The values of keys, all of one revision, in the order of `keys`.
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>>;

    /// Whether keys are there, all of one revision, in the order of `keys`.
    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>>;

    /// A page of a scan.
    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>>;

    /// Commits a transaction; with `once`, a repeated one is answered with what it did the first time.
    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed>;

    /// Holds the newest revision for `hold`, so that scans and gets can read at it; a read at it holds it anew for as long.
    async fn snapshot(&self, hold: Duration) -> Result<Revision>;

    /// Lets go of a revision.
    async fn release(&self, revision: Revision) -> Result<()>;

    /// Registers a session.
    async fn open_session(&self) -> Result<SessionId>;

    /// Forgets a session.
    async fn close_session(&self, session: SessionId) -> Result<()>;

    /// A way of having many calls under way from one task that costs less than a future for each; `None` when there is none.
    fn pipeline(&self) -> Option<Box<dyn Pipeline>> {
        None
    }
}
