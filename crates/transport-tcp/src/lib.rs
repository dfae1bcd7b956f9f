//! Coracle's MessagePack transport over TCP and Unix sockets.
//!
//! [`TcpTransport`] is the transport, [`TcpOptions`] are its limits and times.
//! Each process sends on connections that it makes itself, one per remote process, and only receives on those that others make.
//!
//! # On the wire
//!
//! Integers are big-endian.
//! A connection begins with a preamble in both directions, the same in all versions: eight bytes of magic, the version as `u32`, and one byte of purpose.
//! Then packets follow, each `length u32, kind u8, body`; the length counts kind and body.
//!
//! | Kind | Body | When |
//! |---|---|---|
//! | 0 | a frame: MessagePack, fields by position | once both sides are content |
//! | 1 | a greeting (hello, refusal, welcome): MessagePack, fields by name | handshake, and whenever a process announces other groups than before |
//! | 2 | bytes of the node's own: a question, then its answer | on connections for a question |
//!
//! A process that makes a connection for frames says its hello, is answered by a hello or a refusal, and says in its turn that the other is welcome or why it is not.
//! Over TLS, all of this is inside of it, and the protocol's name there (ALPN) is `coracle-msgpack`.
//! Fields by position are read only by builds of the same preamble version; why that is worth it is in `docs/decisions/messagepack-arrays.md`.

mod dial;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod incoming;
mod listen;
mod options;
mod outgoing;
mod question;
mod secure;
mod shared;
mod transport;
mod wire;

pub use dial::Resolve;
pub use options::TcpOptions;
pub use transport::TcpTransport;
