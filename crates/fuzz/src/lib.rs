//! What is fuzzed of Coracle: decoders, and recovery from what is damaged.
//!
//! A [`Target`] takes any bytes; it holds when it does not panic.
//! The corpus in `seeds/` is run by `cargo test`, `cargo xtask fuzz` goes on from there (see `docs/testing.md`).
//! Bodies that need what is private to a crate are in that crate's module `fuzzing`, behind the feature of this name.

mod addresses;
mod client;
mod cluster;
mod consensus;
mod files;
mod histories;
mod level;
mod oracle;
mod peers;
mod questions;
mod source;
mod stores;

/// Something that takes any bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its binary in `fuzz/`, and of its folder in `seeds/`.
    pub name: &'static str,
    /// What is tried; panics when it finds something.
    pub body: fn(&[u8]),
    /// What the corpus begins with, made of real values.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "address", body: addresses::address, seeds: addresses::address_seeds },
    Target { name: "client_messages", body: client::messages, seeds: client::seeds },
    Target { name: "core_cluster", body: cluster::cluster, seeds: cluster::cluster_seeds },
    Target { name: "core_entries", body: consensus::entries, seeds: consensus::entries_seeds },
    Target { name: "core_hostile", body: cluster::hostile, seeds: cluster::hostile_seeds },
    Target { name: "core_membership", body: consensus::membership, seeds: consensus::membership_seeds },
    Target { name: "file_log", body: files::log, seeds: files::log_seeds },
    Target {
        name: "file_records",
        body: coracle_storage_file::fuzzing::records,
        seeds: coracle_storage_file::fuzzing::records_seeds,
    },
    Target { name: "file_recovery", body: files::recovery, seeds: files::recovery_seeds },
    Target { name: "grpc_envelope", body: coracle_transport_grpc::fuzzing::envelope, seeds: peers::envelope_seeds },
    Target { name: "level_messages", body: level::messages, seeds: level::messages_seeds },
    Target { name: "level_rows", body: coracle_level::fuzzing::rows, seeds: level::rows_seeds },
    Target { name: "level_snapshot", body: level::snapshot, seeds: level::snapshot_seeds },
    Target { name: "redis_records", body: coracle_storage_redis::fuzzing::records, seeds: stores::redis_records_seeds },
    Target { name: "redis_rows", body: coracle_storage_redis::fuzzing::rows, seeds: stores::redis_rows_seeds },
    Target { name: "replica_questions", body: questions::questions, seeds: questions::seeds },
    Target { name: "sim_histories", body: histories::histories, seeds: histories::seeds },
    Target { name: "sled_log", body: coracle_storage_sled::fuzzing::log, seeds: stores::sled_log_seeds },
    Target { name: "sled_records", body: coracle_storage_sled::fuzzing::records, seeds: stores::sled_records_seeds },
    Target { name: "storage_url", body: addresses::storage_url, seeds: addresses::storage_url_seeds },
    Target { name: "tcp_frame", body: coracle_transport_tcp::fuzzing::frame, seeds: peers::frame_seeds },
    Target { name: "tcp_greeting", body: coracle_transport_tcp::fuzzing::greeting, seeds: peers::greeting_seeds },
    Target { name: "tcp_stream", body: coracle_transport_tcp::fuzzing::stream, seeds: peers::stream_seeds },
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs one target: what a binary of the fuzzer does with each input.
///
/// # Panics
/// When there is no target of that name, and when it finds something.
pub fn run(name: &str, data: &[u8]) {
    let Some(target) = find(name) else { panic!("there is no target {name}") };
    (target.body)(data);
}
