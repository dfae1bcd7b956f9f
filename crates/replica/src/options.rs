//! The options of a replica, and what it starts from.

use std::time::Duration;

use coracle_core::{Recovered, SnapshotMeta};
use coracle_storage::Applied;

/// The options of a replica. The limits bound what it holds; what goes beyond is refused with `Busy`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReplicaOptions {
    /// The options of the protocol.
    pub raft: coracle_core::Config,
    /// Drawn at each start of the process; names this life in forwarded requests (C24).
    pub boot_nonce: u64,
    /// How many bytes of a snapshot travel in one message. Default 1 MiB.
    pub snapshot_chunk_bytes: usize,
    /// How many pieces of a snapshot are on their way to one peer. Default 4.
    pub snapshot_window: usize,
    /// A transfer that makes no progress for so long is given up. Default 10 s.
    pub snapshot_timeout: Duration,
    /// The log is compacted when more applied entries than this are retained. Default 100,000.
    pub log_entries_max: u64,
    /// The log is compacted when it takes more bytes than this. Default 64 MiB.
    pub log_bytes_max: u64,
    /// How many applied entries stay behind for slow peers, as far as they take no more than half of `log_bytes_max`. Default 10,000.
    pub log_entries_kept: u64,
    /// The most requests that wait for their end. Default 65,536.
    pub requests_max: usize,
    /// The most bytes of commands and queries that wait to be handed on. Default 64 MiB.
    pub request_bytes_max: usize,
    /// The most bytes of one command. It has to fit, with what surrounds it, into the transport's largest frame: what cannot be sent is never committed, nor is anything after it. Default 6 MiB.
    pub command_bytes_max: usize,
    /// A forwarded command whose answer takes longer has an unknown outcome. Default 5 s.
    pub forward_timeout: Duration,
    /// The most bytes of commands or replies in one message between replicas; a single larger one travels alone. Default 4 MiB.
    pub forward_bytes_max: usize,
    /// How long a request waits for a leader to be known. Default 2 s.
    pub leader_wait: Duration,
}

impl ReplicaOptions {
    /// The defaults.
    pub fn new(raft: coracle_core::Config, boot_nonce: u64) -> ReplicaOptions {
        ReplicaOptions {
            raft,
            boot_nonce,
            snapshot_chunk_bytes: 1 << 20,
            snapshot_window: 4,
            snapshot_timeout: Duration::from_secs(10),
            log_entries_max: 100_000,
            log_bytes_max: 64 << 20,
            log_entries_kept: 10_000,
            requests_max: 1 << 16,
            request_bytes_max: 64 << 20,
            command_bytes_max: 6 << 20,
            forward_timeout: Duration::from_secs(5),
            forward_bytes_max: 4 << 20,
            leader_wait: Duration::from_secs(2),
        }
    }

    /// Whether the options go together; those of the protocol are checked by the core.
    pub(crate) fn validate(&self) -> Result<(), coracle_core::ConfigError> {
        for (limit, is_zero) in [
            ("snapshot_chunk_bytes", self.snapshot_chunk_bytes == 0),
            ("snapshot_window", self.snapshot_window == 0),
            ("log_entries_max", self.log_entries_max == 0),
            ("log_bytes_max", self.log_bytes_max == 0),
            ("requests_max", self.requests_max == 0),
            ("request_bytes_max", self.request_bytes_max == 0),
            ("command_bytes_max", self.command_bytes_max == 0),
            ("forward_bytes_max", self.forward_bytes_max == 0),
        ] {
            if is_zero {
                return Err(coracle_core::ConfigError::Zero { limit });
            }
        }
        Ok(())
    }
}

/// What a replica starts from: what [`recover`](crate::recover) found, or what was just founded.
#[derive(Clone, Debug)]
pub struct Start {
    /// What the log held.
    pub recovered: Recovered,
    /// How far the state machine is.
    pub applied: Applied,
    /// The newest stored snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// Whether the state machine makes its state durable itself; if not, snapshots do.
    pub is_durable: bool,
    /// What of the stored snapshots is damaged, for people: it was passed over.
    pub damaged_snapshots: Vec<String>,
}
