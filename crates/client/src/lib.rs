//! A client of a Coracle cluster over gRPC.
//!
//! [`Client`] is a [`coracle_level::Kv`]: it is given the addresses of some nodes, finds the leader, moves on when a node fails, and retries what is safe.
//! It keeps no state that matters: what makes a write take effect once is the session of whoever calls it, so put a [`coracle_level`] shell above it.
//! It also does what operators ask of a cluster: [`Client::members`], [`Client::join`], [`Client::leave`], [`Client::transfer`], [`Client::weaken`], [`Client::take_snapshot`].
//! Its small reads and its commits share one stream for each node that knows `Exchange`, so that many of them under way cost little each.
//! [`pb`] is the interface itself, for servers and for other clients; [`wire`] and [`status`] translate between it and [`coracle_level`].
//!
//! ```no_run
//! use bytes::Bytes;
//! use coracle_client::{Client, ClientOptions};
//! use coracle_level::{Kv, Op, Txn};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(["127.0.0.1:9590", "127.0.0.1:9591"], ClientOptions::default()).await?;
//! let put = Op::Put { key: Bytes::from("boat"), value: Bytes::from("coracle") };
//! let committed = client.commit(Txn { ops: vec![put] }, None).await?;
//! println!("written in revision {}", committed.revision.0);
//! # Ok(())
//! # }
//! ```

mod backoff;
mod calls;
mod client;
mod cluster;
mod codec;
mod discovery;
mod endpoint;
mod exchange;
mod failure;
mod holds;
mod kv;
mod options;
mod refusal;
pub mod status;
pub mod wire;

/// The interface, generated from `proto/coracle/v1`.
pub mod pb {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    #![allow(clippy::all, clippy::unwrap_used, clippy::allow_attributes_without_reason, reason = "generated")]
    tonic::include_proto!("coracle.v1");
}

pub use client::{Client, ConnectError, NodeView};
pub use cluster::ClusterError;
pub use options::ClientOptions;
pub use refusal::{Refusal, RefusalKind};
