//! A level-style key-value store.
//!
//! [`Kv`] is the object-safe bottom: byte operations that a local replica, a remote cluster and a map in memory ([`MemoryKv`]) offer alike.
//! [`Level`] is the shell above it. [`LevelMachine`] is the replicated state machine, with sessions.
//! This crate knows neither Raft nor the network.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> coracle_level::Result<()> {
//! use std::sync::Arc;
//!
//! use coracle_level::{Level, MemoryKv};
//!
//! let db = Level::new(Arc::new(MemoryKv::new()));
//! db.put("fruit/apple", "red").await?;
//! let mut batch = db.batch();
//! batch.put("fruit/pear", "green").increment("fruits", 2);
//! db.write(batch).await?;
//!
//! assert_eq!(db.get("fruits").await?.as_deref(), Some(&b"2"[..]));
//! let mut fruits = db.prefix("fruit/").reverse();
//! while let Some(entry) = fruits.next().await {
//!     let (key, value) = entry?;
//!     println!("{} is {}", key.escape_ascii(), value.escape_ascii());
//! }
//! # Ok(())
//! # }
//! ```

mod command;
mod deadlines;
mod kv;
mod limits;
mod machine;
mod map_store;
mod memory;
mod pipeline;
mod shell;

pub use command::{
    Command, CommandReply, MESSAGE_BYTES_MAX, Query, QueryReply, decode_answer, decode_command, decode_query,
    decode_reply, encode_answer, encode_command, encode_query, encode_reply,
};
pub use deadlines::HoldDeadlines;
pub use kv::*;
pub use limits::{Limits, SessionLimits};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use machine::fuzzing;
pub use machine::{LevelMachine, LevelOptions};
pub use memory::MemoryKv;
pub use pipeline::{Answer, Call, Pipeline};
pub use shell::{HandleOptions, Level, Scan, Snapshot, WriteBatch};
