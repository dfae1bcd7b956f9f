//! The trait that an adapter implements.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::{GroupId, NodeId};

use crate::{Address, Frame, GroupHello, Hello, Peer, Refusal};

/// The process's side of a transport: what it says of itself, whom it lets in, and where frames go.
/// Its methods are called from the transport's own tasks and never block.
pub trait Host: Send + Sync + 'static {
    /// What this process says of itself, as of now.
    fn hello(&self) -> Hello;

    /// The node that hosts the group here, as of now; `None` when none does. Asked for each frame that arrives.
    fn hosts(&self, group: GroupId) -> Option<NodeId>;

    /// Whether what another process hosts of a group may talk to what is hosted of it here. Groups are judged apart: a stranger to one may be a member of another.
    ///
    /// # Errors
    /// Why not; the reason is logged, and sent to a process of which no group is admitted.
    fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal>;

    /// Where a node is that [`admit`](Host::admit) knows as a member of the group; empty when it is none, or when that is not known. Over TLS, its certificate has to be for the host of one of them.
    fn addresses(&self, group: GroupId, node: NodeId) -> Vec<Address> {
        let _ = (group, node);
        Vec::new()
    }

    /// Takes frames that arrived, in order, of one process. The transport has checked that each sender is hosted there and was admitted here.
    /// Frames for which there is no room are dropped: Raft repairs that.
    fn receive(&self, frames: Vec<Frame>);

    /// Takes one frame that arrived by itself, as [`receive`](Host::receive) does.
    fn receive_one(&self, frame: Frame) {
        self.receive(vec![frame]);
    }

    /// The connection to a node was lost, or could not be made.
    fn unreachable(&self, group: GroupId, peer: NodeId);

    /// The process of `peer` does not let this one in, and says why. It counts as unreachable, too.
    fn refused(&self, group: GroupId, peer: NodeId, refusal: &Refusal) {
        let _ = (group, peer, refusal);
    }

    /// Answers a question from outside of any group: founding and joining (C2). `question` and the answer are the node's own encoding, at most 1 MiB.
    fn answer(&self, question: Bytes) -> Bytes;
}

/// What became of a frame that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It waits to be written.
    Queued,
    /// The queue to that process is full; it was dropped.
    Full,
    /// There is no connection; it was dropped.
    Unreachable,
}

/// What a transport counted for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PeerStats {
    /// Whether there is a connection.
    pub is_connected: bool,
    /// Frames written.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Frames dropped for lack of room or of a connection.
    pub frames_dropped: u64,
    /// Bytes written.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
}

/// Why a transport could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which one.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// This transport does not speak what the address asks for.
    #[error("{address} is not an address of the {transport} transport")]
    Unsupported {
        /// Which one.
        address: String,
        /// Which transport.
        transport: &'static str,
    },
    /// The address asks for TLS, and this transport has none.
    #[error("{address} is over TLS: {reason}")]
    Tls {
        /// Which one.
        address: String,
        /// What is missing.
        reason: String,
    },
    /// A question could not be put, or was not answered.
    #[error("no answer from {address}: {reason}")]
    Unanswered {
        /// Who was asked.
        address: String,
        /// Why.
        reason: String,
    },
    /// The transport was shut down.
    #[error("the transport is closed")]
    Closed,
}

/// Carries frames between processes.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Begins to listen on `bind` and to hand what arrives to `host`; returns the address that was bound, its port filled in.
    /// Called once, before anything else.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    async fn listen(&self, bind: &Address, host: Arc<dyn Host>) -> Result<Address, TransportError>;

    /// Sets where a node is; it may be called again with other addresses. Connections are made when there is something to send.
    fn set_peer(&self, peer: Peer);

    /// Forgets a node.
    fn remove_peer(&self, group: GroupId, id: NodeId);

    /// Sends a frame, without ever blocking. Frames to one node arrive in order or not at all.
    fn send(&self, frame: Frame) -> Sent;

    /// Asks the process at `address` a question, outside of any group; waits a few seconds at most.
    ///
    /// # Errors
    /// When there is no answer.
    async fn ask(&self, address: &Address, question: Bytes) -> Result<Bytes, TransportError>;

    /// What was counted for a node.
    fn stats(&self, group: GroupId, peer: NodeId) -> PeerStats;

    /// Stops listening, writes what is queued within a short while, and closes all connections.
    async fn shutdown(&self);
}
