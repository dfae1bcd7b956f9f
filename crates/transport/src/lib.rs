//! How nodes talk: the transport trait, addresses, frames and the handshake.
//!
//! [`Transport`] is what an adapter implements; [`Address`] says which one is meant.
//! One transport carries many groups and nodes: a [`Frame`] names group, sender and receiver.

mod address;
mod frame;
mod hello;
mod traits;

pub use address::{Address, AddressError, Route};
pub use frame::{Frame, Peer};
pub use hello::{GroupHello, Hello, PROTOCOL_VERSION, Refusal};
pub use traits::{Host, PeerStats, Sent, Transport, TransportError};
