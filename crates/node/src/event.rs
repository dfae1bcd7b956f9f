//! What those who listen are told.

use coracle_core::{Event, NodeId};

use crate::StopReason;

/// Something that an operator or a test may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The replica's.
    Replica(Event),
    /// The connection to a peer was lost, or could not be made.
    Unreachable {
        /// Which.
        peer: NodeId,
    },
    /// There is no space for a snapshot: it was given up, and is tried again. Told once, until one succeeds.
    SnapshotGivenUp {
        /// What was missing.
        what: String,
    },
    /// The node is not a member any more: its removal is committed, or its peers say so. It keeps running and takes no part.
    Removed,
    /// The node has stopped; nothing follows.
    Stopped(StopReason),
}
