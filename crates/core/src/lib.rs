//! Raft as a pure state machine.
//!
//! The crate has no I/O, no clock, no threads, no async, no global randomness and no logger: time and a seed come in as arguments, effects go out as values.
//! The same configuration and inputs give the same outputs, bit for bit.
//!
//! Read [`Raft`] first, then [`Input`] and [`Output`].
//! A driver hands in everything that has arrived and then takes outputs until it is told when to wake:
//!
//! ```
//! use coracle_core::{Config, Input, Membership, NodeId, Output, Raft, Recovered, Time};
//!
//! let id = NodeId(1);
//! let recovered = Recovered::founded(Membership::of_voters([id]));
//! let mut raft = Raft::new(Config::new(id, 7), recovered, Time::ZERO)?;
//! let mut now = Time::ZERO;
//! while !raft.is_leader() {
//!     raft.handle(now, Input::Time);
//!     loop {
//!         match raft.poll() {
//!             Output::Wake { at } => {
//!                 now = at.unwrap_or(now);
//!                 break;
//!             }
//!             Output::Persist(persist) => raft.handle(now, Input::Persisted { ticket: persist.ticket }),
//!             _ => {}
//!         }
//!     }
//! }
//! # Ok::<(), coracle_core::ConfigError>(())
//! ```
//!
//! A panic in this crate is a bug of this crate, never the answer to bad input.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bugs;
mod config;
mod entry;
mod input;
mod log;
mod membership;
mod message;
mod output;
mod quorum;
mod raft;
mod rng;
mod types;

#[doc(hidden)]
pub use bugs::Bug;
pub use config::{Config, ConfigError};
pub use entry::{DecodeError, Entry, EntryKind, Run, decode_runs, encode_runs, encoded_len, salvage_run};
pub use input::{Input, LogRead, Recovered};
pub use membership::{Membership, MembershipChange, NodeRecord, Role as MemberRole};
pub use message::{AppendResult, Body, Forwarded, InstallSnapshot, Message, SnapshotMeta};
pub use output::{Base, CallOff, CalledOff, Event, Fatal, HardState, Outcome, Output, Persist, RejectReason};
pub use raft::{Progress, Raft, Role, Status, Usage};
pub use rng::Rng;
pub use types::{ClusterId, GroupId, Incarnation, Index, NodeId, ProposalId, ReadId, Term, Ticket, Time};
