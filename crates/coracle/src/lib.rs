//! A Raft toolkit, and a replicated key-value store to embed.
//!
//! [`Node::builder`] makes a node of addresses and a storage URL; [`Node::db`] is the replicated, linearizable, ordered key-value store on it.
//! [`Groups`] hosts several groups in one process.
//! An own state machine goes in by [`Builder::state_machine`]; own storage and transport by [`Builder::store`] and [`Builder::transport`].
//! This crate only names concrete adapters and puts the layers together: the work is done in `coracle-node`, `coracle-replica`, `coracle-core` and `coracle-level`.
//!
//! ```
//! use coracle::Node;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder().address("/memory/4711").storage("memory:").build().await?;
//! let db = node.db();
//! db.put("boat", "coracle").await?;
//! assert_eq!(db.get("boat").await?.as_deref(), Some(&b"coracle"[..]));
//! node.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod builder;
mod error;
mod founding;
mod groups;
mod holds;
mod local_kv;
mod node;
mod open;
mod pipeline;
mod requests;
mod several;
mod storage_url;

pub mod prelude;

pub use builder::Builder;
pub use error::BuildError;
pub use groups::{GroupBuilder, Groups, GroupsBuilder};
pub use local_kv::LocalKv;
pub use node::Node;
pub use open::{StoreOptions, TransportOptions, open_store, open_store_with, open_transport};
pub use storage_url::{StateEngine, StorageUrl, StorageUrlError};

#[cfg(feature = "client")]
pub use coracle_client as client;
pub use coracle_core as core;
pub use coracle_level as level;
pub use coracle_node::{
    Configuration, FoundingMode, FoundingRefusal, GroupOptions, JoinError, JoinRefusal, JoinRole, MemberStatus,
    NodeEvent, NodeOptions, NodeStatus, PeerProgress, PromotionError, StartError, StopReason, TransferError,
};
pub use coracle_replica::{Consistency, Reply, RequestError};
pub use coracle_storage as storage;
pub use coracle_transport as transport;
#[cfg(feature = "memory")]
pub use coracle_transport_memory::MemoryNetwork;
