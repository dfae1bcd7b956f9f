//! The rules of the Raft paper and thesis, section by section. Each test names its section.

#[path = "../common/mod.rs"]
mod common;

mod contracts;
mod elections;
mod reads;
mod replication;
mod safety;
mod snapshots;
