//! What a node is told when it starts.

use std::time::Duration;

use coracle_core::{Config, GroupId, NodeId};
use coracle_replica::{JoinRole, ReplicaOptions};
use coracle_transport::Address;

/// How an unfounded store becomes part of a cluster (C2). A founded one ignores it, with a warning when it differs from what is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundingMode {
    /// It founds a cluster of its own, at once.
    Alone,
    /// It founds one with these; its own address may be among them.
    Peers(Vec<Address>),
    /// It joins the cluster of these: it asks one after the other until it is taken in.
    Join(Vec<Address>),
    /// It waits until a cluster takes it in ([`Node::join`](crate::Node::join)).
    Standby,
}

/// What a node is told when it starts.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// The name of the cluster: nodes of another name are refused.
    pub cluster_name: String,
    /// Where peers reach this node. A port 0 is filled in with the one that was bound.
    pub addresses: Vec<Address>,
    /// Where it listens; empty means at `addresses`.
    pub bind: Vec<Address>,
    /// Where clients reach it; leader hints carry it. It may be empty.
    pub client_address: String,
    /// How an unfounded store becomes part of a cluster.
    pub founding: FoundingMode,
    /// What it asks to be with [`FoundingMode::Join`]. Default a voter.
    pub join_role: JoinRole,
    /// Which group of the store and the transport it is.
    pub group: GroupId,
    /// The replica's options. The node fills in its id, the seed and the boot nonce.
    pub replica: ReplicaOptions,
    /// The most peers' messages that wait for the replica; more are dropped, which Raft repairs. Default 16,384.
    pub inbox_messages_max: usize,
    /// The most bytes that these messages take. Default 64 MiB.
    pub inbox_bytes_max: usize,
    /// How long a shutdown lets requests under way come to an end. Default 2 s.
    pub shutdown_grace: Duration,
    /// How many events wait for a slow listener; older ones are lost to it. Default 1,024.
    pub events_max: usize,
}

impl NodeOptions {
    /// The defaults for a node of the cluster `cluster_name` at `addresses`, which founds alone.
    pub fn new(cluster_name: impl Into<String>, addresses: Vec<Address>) -> NodeOptions {
        NodeOptions {
            cluster_name: cluster_name.into(),
            addresses,
            bind: Vec::new(),
            client_address: String::new(),
            founding: FoundingMode::Alone,
            join_role: JoinRole::Voter,
            group: GroupId(1),
            replica: ReplicaOptions::new(Config::new(NodeId(0), 0), 0),
            inbox_messages_max: 1 << 14,
            inbox_bytes_max: 64 << 20,
            shutdown_grace: Duration::from_secs(2),
            events_max: 1024,
        }
    }
}
