//! Coracle's transport over gRPC.
//!
//! [`GrpcTransport`] is the transport, [`GrpcOptions`] are its limits and times.
//! What is said is in `proto/coracle/v1/raft.proto`.
//! Each process sends on streams that it opens itself, one per remote process and each on a connection of its own, and only receives on those that others open.
//!
//! Over TLS, all of this is inside of it, and the protocol's name there (ALPN) is `h2`.
//!
//! # Copies
//!
//! Entries are encoded once, in the encoding of the log, and copied once more into the message.
//! On arrival a message is gathered in one buffer, of which the entries' data are slices: they are copied no more.
//! All frames that wait when a stream can take more leave as one message.

mod codec;
mod connection;
mod convert;
mod dial;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod incoming;
mod listen;
mod options;
mod outbox;
mod outgoing;
mod secure;
mod service;
mod shared;
mod transport;
mod wire;

pub use options::GrpcOptions;
pub use transport::GrpcTransport;

mod pb {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    #![allow(clippy::all, clippy::unwrap_used, clippy::allow_attributes_without_reason, reason = "generated")]
    tonic::include_proto!("coracle.v1");
}

#[cfg(test)]
mod hostile_tests;
