//! A node with its key-value store.

use std::{fmt, ops::Deref, sync::Arc};

use coracle_level::{Kv, Level};

use crate::{Builder, LocalKv};

/// A running node: everything that [`coracle_node::Node`] does, and the key-value store on it.
/// Cheap to clone; when the last clone and the last store of it are dropped, the node is shut down.
#[derive(Clone)]
pub struct Node {
    node: coracle_node::Node,
    kv: Arc<LocalKv>,
}

impl Node {
    /// Begins a node.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(node: coracle_node::Node, kv: Arc<LocalKv>) -> Node {
        Node { node, kv }
    }

    /// The replicated key-value store. Clones of one handle share a session for their writes.
    pub fn db(&self) -> Level {
        Level::new(self.kv())
    }

    /// The store's object-safe bottom, for servers and shells of one's own.
    pub fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone()
    }
}

impl Deref for Node {
    type Target = coracle_node::Node;

    fn deref(&self) -> &coracle_node::Node {
        &self.node
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}
