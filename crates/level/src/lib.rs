//! A level-style key-value store.
//!
//! [`Kv`] is the object-safe bottom: byte operations that a local replica, a remote cluster and a map in memory ([`MemoryKv`]) offer alike.
//! [`Level`] is the shell above it. [`LevelMachine`] is the replicated state machine, with sessions.
//! This crate knows neither Raft nor the network.

mod kv;

pub use kv::*;
