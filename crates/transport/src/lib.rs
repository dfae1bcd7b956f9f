//! How nodes talk: the transport trait, addresses, frames and the handshake.
//!
//! [`Transport`] is what an adapter implements; [`Address`] says which one is meant.
//! One transport carries many groups and nodes: a [`Frame`] names group, sender and receiver.
//! What every adapter has to check of a peer is here once: [`Hosted`] and [`Inbound`].
//! [`links`] is what those that make connections need besides.
//! With the feature `conformance`, the module of that name has the suite that every adapter passes.

mod address;
mod address_parse;
#[cfg(feature = "conformance")]
pub mod conformance;
mod fault;
mod frame;
mod hello;
pub mod links;
mod peer_table;
mod session;
#[cfg(feature = "tls")]
pub mod tls;
mod traits;

pub use address::{Address, AddressError, Route};
pub use fault::{Fault, FaultCounters, LogLimit};
pub use frame::{Frame, Peer};
pub use hello::{GroupHello, Hello, PROTOCOL_VERSION, Refusal};
pub use peer_table::PeerTable;
pub use session::{FrameError, Hosted, Impossible, Inbound, check_hello, check_message};
pub use traits::{Host, PeerStats, Sent, Transport, TransportError};
