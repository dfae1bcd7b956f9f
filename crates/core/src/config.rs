//! The options of a replica's protocol.

use core::time::Duration;

use crate::NodeId;

/// The options of a replica's protocol.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
    /// The boot nonce, new at each start (C24): names this life's questions to a leader, and is where randomness comes from, mixed with the id so that equal seeds do not split votes for ever.
    pub seed: u64,
    /// How often a leader shows that it is alive. Default 100 ms.
    pub heartbeat_interval: Duration,
    /// The shortest election timeout. Default 500 ms.
    pub election_timeout_min: Duration,
    /// The longest election timeout; each is drawn between the two. Default 1 s.
    pub election_timeout_max: Duration,
    /// For how long this node promises, with each answer to a leader, to help elect nobody else: what lease reads rest on (C13). At most `election_timeout_min`; zero promises nothing, and allows no lease. Default zero.
    ///
    /// A restarted node keeps still for as long as its promise may last, so lower it only while no leader relies on it.
    pub lease_duration: Duration,
    /// By how many percent the clocks of two nodes may drift apart, for lease reads; those are wrong beyond it, and where a machine is suspended (C13). Default 10.
    pub clock_drift_percent: u32,
    /// A change of voters is called off when a node that is to be promoted is not heard of, or does not come nearer, for so long, or when no majority of those who would vote is alive for so long. Default 30 s.
    pub promotion_timeout: Duration,
    /// A write of the log that takes longer makes a leader step down (C18). Default 2 s.
    pub disk_write_max: Duration,
    /// The most bytes of entries in one `AppendEntries`; a single larger entry travels alone. Default 1 MiB.
    pub append_bytes_max: usize,
    /// The most `AppendEntries` on their way to one peer. Default 64.
    pub inflight_messages_max: usize,
    /// The most bytes of entries on their way to one peer. Default 8 MiB.
    pub inflight_bytes_max: usize,
    /// The most bytes of entries that are appended and not committed; more is `Busy`. Default 64 MiB.
    pub uncommitted_bytes_max: usize,
    /// The most bytes of a leader's own proposals that are committed and not yet applied here; more is `Busy`. Default 64 MiB.
    pub unapplied_bytes_max: usize,
    /// The most bytes of entries handed out to be applied and not yet applied. Default 16 MiB.
    pub apply_bytes_max: usize,
    /// The most reads that wait; more is `Busy`. Default 65,536.
    pub reads_max: usize,
    /// The most bytes of recent entries kept in memory for slow peers; older ones are read from the log. Default 16 MiB.
    pub tail_bytes_max: usize,
    /// A deliberate bug.
    #[cfg(feature = "bugs")]
    #[doc(hidden)]
    pub bug: Option<crate::Bug>,
}

/// Options that contradict each other, or do not fit what was recovered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The election timeout is not a range well above the heartbeat interval.
    #[error(
        "election_timeout_min must be at least twice heartbeat_interval, and less than election_timeout_max: got {min:?}, {heartbeat:?} and {max:?}"
    )]
    ElectionTimeout {
        /// `election_timeout_min`.
        min: Duration,
        /// `election_timeout_max`.
        max: Duration,
        /// `heartbeat_interval`.
        heartbeat: Duration,
    },
    /// A lease that voters could not keep to, or clocks that say nothing.
    #[error(
        "lease_duration must be at most election_timeout_min, and clock_drift_percent below 100: got {lease:?}, {min:?} and {drift}"
    )]
    Lease {
        /// `lease_duration`.
        lease: Duration,
        /// `election_timeout_min`.
        min: Duration,
        /// `clock_drift_percent`.
        drift: u32,
    },
    /// A limit that must not be zero.
    #[error("{limit} must be at least 1")]
    Zero {
        /// Which limit.
        limit: &'static str,
    },
    /// What was recovered is no log.
    #[error("the recovered log contradicts itself: {what}")]
    Recovered {
        /// In what.
        what: &'static str,
    },
}

impl Config {
    /// The defaults for node `id`.
    pub fn new(id: NodeId, seed: u64) -> Config {
        Config {
            id,
            seed,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            lease_duration: Duration::ZERO,
            clock_drift_percent: 10,
            promotion_timeout: Duration::from_secs(30),
            disk_write_max: Duration::from_secs(2),
            append_bytes_max: 1 << 20,
            inflight_messages_max: 64,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            unapplied_bytes_max: 64 << 20,
            apply_bytes_max: 16 << 20,
            reads_max: 1 << 16,
            tail_bytes_max: 16 << 20,
            #[cfg(feature = "bugs")]
            bug: None,
        }
    }

    /// Whether the options go together.
    ///
    /// # Errors
    /// When they do not, naming the option.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.election_timeout_min < self.heartbeat_interval * 2
            || self.election_timeout_min >= self.election_timeout_max
            || self.heartbeat_interval.is_zero()
        {
            return Err(ConfigError::ElectionTimeout {
                min: self.election_timeout_min,
                max: self.election_timeout_max,
                heartbeat: self.heartbeat_interval,
            });
        }
        if self.lease_duration > self.election_timeout_min || self.clock_drift_percent >= 100 {
            return Err(ConfigError::Lease {
                lease: self.lease_duration,
                min: self.election_timeout_min,
                drift: self.clock_drift_percent,
            });
        }
        for (limit, value) in [
            ("append_bytes_max", self.append_bytes_max),
            ("inflight_messages_max", self.inflight_messages_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("unapplied_bytes_max", self.unapplied_bytes_max),
            ("apply_bytes_max", self.apply_bytes_max),
            ("reads_max", self.reads_max),
            ("tail_bytes_max", self.tail_bytes_max),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero { limit });
            }
        }
        Ok(())
    }
}
