//! The network inside one process: for tests, and for replicas that share one.
//!
//! A [`MemoryNetwork`] is cheap to clone and hands out [`MemoryTransport`]s, which listen on `/memory/N`.
//! The handshake is that of the other transports: both sides admit each other, the expected incarnation is checked, and who is refused is unreachable.
//! Connections can be cut and mended by [`MemoryNetwork::disconnect`], [`MemoryNetwork::isolate`] and their opposites.
//!
//! Frames are handed to the receiving host by the caller of `send`; there is no queue here, and so nothing is ever full.

mod network;
mod transport;

pub use network::MemoryNetwork;
pub use transport::MemoryTransport;
