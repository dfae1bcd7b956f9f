//! The tokio shell round a replica.
//!
//! [`Node::start`] gives a store an identity, founds the cluster with its peers if that has not happened, recovers, and runs the replica until it is shut down or stops by itself.
//! [`Groups`] does this for any number of groups over one store and one transport.
//! One task owns each replica and never waits for a device: logs, state machines and snapshots have a few threads for all groups together unless they say that they never block.
//! This crate decides nothing about consensus: that is `coracle-replica`'s, which has no I/O.
//!
//! Read [`Node`] and [`NodeOptions`] first.

mod acquaintances;
mod admissions;
mod clock;
mod directory;
mod effects;
mod error;
mod event;
mod founding;
mod groups;
mod host;
mod identity;
mod inbox;
mod join;
mod joining;
mod log_thread;
mod node;
mod operate;
mod options;
mod pipeline;
mod pool;
mod process;
mod reach;
mod requests;
mod run;
mod start;
mod status;
mod workers;

#[cfg(test)]
mod tests;

pub use coracle_replica::{Consistency, FoundingRefusal, JoinRefusal, JoinRole, Reply, RequestError};
pub use error::{Configuration, StartError, StopReason};
pub use event::NodeEvent;
pub use groups::Groups;
pub use join::{JoinError, PromotionError};
pub use node::Node;
pub use operate::TransferError;
pub use options::{FoundingMode, GroupOptions, NodeOptions, ProcessOptions};
pub use pipeline::Pipeline;
pub use status::{MemberStatus, NodeStatus, PeerProgress};
