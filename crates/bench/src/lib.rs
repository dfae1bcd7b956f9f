//! Coracle's benchmarks, beside peers driven their best way, in the same run.
//!
//! A figure is believed only next to its peer's of the same run: start with [`Trio`], what is measured, and [`measure`](mod@measure), how.
//! This crate is a workspace of its own, so that what peers depend on stays out of Coracle's lock file.

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod counting;
#[cfg(feature = "durable")]
pub mod durable;
#[cfg(feature = "groups")]
pub mod groups;
#[cfg(feature = "cluster")]
pub mod growth;
pub mod machine;
pub mod measure;
pub mod ours;
#[cfg(feature = "cluster")]
pub mod plot;
pub mod process;
#[cfg(feature = "peers")]
pub mod raft_rs;
pub mod table;

use bytes::Bytes;

/// How many bytes of data an entry has.
pub const ENTRY_BYTES: usize = 100;

/// After how many entries the log is compacted, so that memory stays flat.
pub const COMPACT_EVERY: u64 = 4096;

/// Three replicas in one thread, with an elected leader, at rest.
pub trait Trio {
    /// Proposes `in_flight` entries on the leader at once, and runs the three until each has applied them and nothing is on its way.
    ///
    /// # Panics
    /// If a replica has not applied exactly these: such a figure would be worthless.
    fn round(&mut self, in_flight: usize);

    /// How many messages were sent since the start.
    fn messages(&self) -> u64;
}

/// What every entry carries: one shared buffer, so that no implementation pays for making it.
pub fn payload() -> Bytes {
    Bytes::from(vec![b'x'; ENTRY_BYTES])
}
