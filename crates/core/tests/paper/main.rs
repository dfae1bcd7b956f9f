//! The rules of the Raft paper and thesis, section by section. Each test names its section.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;

mod called_off;
mod contracts;
mod crashes;
mod elections;
mod lease;
mod membership;
mod reads;
mod repair;
mod replication;
mod safety;
mod snapshots;
mod stand_in;
mod transfer;
