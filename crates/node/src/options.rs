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

/// What a process that hosts several groups is told when it starts.
#[derive(Clone, Debug)]
pub struct ProcessOptions {
    /// The name of the cluster: nodes of another name are refused.
    pub cluster_name: String,
    /// Where peers reach this process. A port 0 is filled in with the one that was bound.
    pub addresses: Vec<Address>,
    /// Where it listens; empty means at `addresses`.
    pub bind: Vec<Address>,
}

impl ProcessOptions {
    /// For a process of the cluster `cluster_name` at `addresses`, where it listens too.
    pub fn new(cluster_name: impl Into<String>, addresses: Vec<Address>) -> ProcessOptions {
        ProcessOptions { cluster_name: cluster_name.into(), addresses, bind: Vec::new() }
    }
}

/// What one group of a process is told when it starts.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// Which group of the store and the transport it is: the same number on all its nodes, below 2^63.
    pub group: GroupId,
    /// Where clients reach it; leader hints carry it. It may be empty.
    pub client_address: String,
    /// How the group becomes part of a cluster while it is unfounded.
    pub founding: FoundingMode,
    /// What it asks to be with [`FoundingMode::Join`]. Default a voter.
    pub join_role: JoinRole,
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

impl GroupOptions {
    /// The defaults for a group, which founds alone.
    pub fn new(group: GroupId) -> GroupOptions {
        let mut options = NodeOptions::new("", Vec::new());
        options.group = group;
        options.split().1
    }
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

    /// What the process is told of it, and what its group.
    pub(crate) fn split(self) -> (ProcessOptions, GroupOptions) {
        let process = ProcessOptions { cluster_name: self.cluster_name, addresses: self.addresses, bind: self.bind };
        let group = GroupOptions {
            group: self.group,
            client_address: self.client_address,
            founding: self.founding,
            join_role: self.join_role,
            replica: self.replica,
            inbox_messages_max: self.inbox_messages_max,
            inbox_bytes_max: self.inbox_bytes_max,
            shutdown_grace: self.shutdown_grace,
            events_max: self.events_max,
        };
        (process, group)
    }
}
