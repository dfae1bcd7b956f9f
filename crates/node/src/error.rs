//! Why a node does not start, and why it stops.

use coracle_core::{ConfigError, GroupId};
use coracle_replica::{FoundingRefusal, JoinRefusal};
use coracle_storage::StorageError;
use coracle_transport::TransportError;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The options are wrong, or do not fit the store.
    #[error(transparent)]
    Configuration(#[from] Configuration),
    /// The peers found, or have founded, a cluster without this node.
    #[error(transparent)]
    Refused(#[from] FoundingRefusal),
    /// The cluster that it was to join does not take it in.
    #[error(transparent)]
    NotTakenIn(#[from] JoinRefusal),
    /// The store cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The transport cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The process of the groups is shut down.
    #[error("the process is shut down: no group can be started in it")]
    Closed,
    /// The environment: threads or randomness are not to be had.
    #[error("{what}: {source}")]
    Environment {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What is wrong with the options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Configuration {
    /// The store belongs to another cluster.
    #[error(
        "the store belongs to cluster \"{found}\", the options name \"{expected}\": use its own directory for each cluster"
    )]
    ClusterName {
        /// The cluster in the store.
        found: String,
        /// The cluster in the options.
        expected: String,
    },
    /// The store was made with another engine.
    #[error("the store was made with the engine \"{found}\", it is opened with \"{expected}\"")]
    Engine {
        /// The engine in the store.
        found: String,
        /// The engine that opens it.
        expected: &'static str,
    },
    /// The store holds a log, but not whose it is.
    #[error("the store holds a log but no identity: it is damaged, or was copied in part")]
    IdentityMissing,
    /// The store's identity and its log are of different clusters.
    #[error("the store's identity is of cluster {identity}, its log of cluster {log}")]
    ClusterId {
        /// In the identity.
        identity: String,
        /// In the log.
        log: String,
    },
    /// The log does not know the node.
    #[error("the log was founded without node {node}: the store's identity or its log is another node's")]
    NotInLog {
        /// The node in the identity.
        node: String,
    },
    /// A text is missing.
    #[error("{what} must not be empty")]
    Empty {
        /// Which.
        what: &'static str,
    },
    /// The group runs in this process already.
    #[error("group {group} is hosted by this process already")]
    GroupTaken {
        /// Which.
        group: GroupId,
    },
    /// The group ended while its storage had not answered, and still may.
    #[error("group {group} has ended in this process before its storage had answered: start it in a new process")]
    GroupLeftBehind {
        /// Which.
        group: GroupId,
    },
    /// A group's number is out of range.
    #[error("group {group} is out of range: expected less than 2^63")]
    GroupOutOfRange {
        /// Which.
        group: GroupId,
    },
    /// The process hosts as many groups as it can.
    #[error("a process hosts at most {max} groups")]
    TooManyGroups {
        /// The limit.
        max: usize,
    },
    /// The replica's options contradict each other.
    #[error(transparent)]
    Replica(#[from] ConfigError),
}

/// Why a node does not run any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopReason {
    /// It was asked to.
    #[error("it was shut down")]
    Shutdown,
    /// Its storage failed (C18).
    #[error("storage failed: {0}")]
    Storage(String),
    /// Its data is damaged, or contradicts what it acknowledged (C20).
    #[error("damaged data: {0}")]
    Damaged(String),
    /// Something that should not happen.
    #[error("internal: {0}")]
    Internal(String),
}
