//! Real processes on real sockets and disks, for the tests beside this crate: what they start, ask, kill and wait for.
//!
//! The tests run the binary that `CORACLE_BIN` names, or build it themselves.
//! Nothing sleeps for a fixed time: everything is waited for with [`wait::eventually`], whose deadline is generous since machines may be loaded.
//! A failed test shows what its nodes logged.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod binary;
pub mod certs;
pub mod cli;
pub mod cluster;
pub mod cutter;
pub mod dice;
pub mod demo;
pub mod history;
pub mod inject;
pub mod ledger;
pub mod load;
pub mod network;
pub mod node;
pub mod peer;
pub mod ports;
pub mod power;
pub mod proxy;
pub mod small_disk;
pub mod redis;
pub mod state;
pub mod tools;
pub mod trace;
pub mod wait;
