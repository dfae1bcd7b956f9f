//! The handshake between two processes.

use coracle_core::{ClusterId, GroupId, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

/// The version of the frames; processes with another one are refused.
pub const PROTOCOL_VERSION: u32 = 2;

/// What a process says of itself before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// Optional features; none are defined in version 1.
    pub features: u64,
    /// Drawn at each start of the process (C24).
    pub boot_nonce: u64,
    /// The groups that the process hosts.
    pub groups: Vec<GroupHello>,
}

/// What a process says of one of its groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupHello {
    /// Which group.
    pub group: GroupId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The cluster's id; `None` while unfounded.
    pub cluster: Option<ClusterId>,
    /// The node that hosts it there.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// Why a handshake was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Another protocol version.
    #[error("protocol version {theirs} is spoken there, {ours} here")]
    Version {
        /// The refusing side's.
        ours: u32,
        /// The refused side's.
        theirs: u32,
    },
    /// Another cluster name.
    #[error("that is cluster \"{theirs}\", this is cluster \"{ours}\"")]
    ClusterName {
        /// The refusing side's.
        ours: String,
        /// The refused side's.
        theirs: String,
    },
    /// The same name, another cluster.
    #[error("that is another cluster of the same name: its id is {theirs}, this one's is {ours}")]
    Cluster {
        /// The refusing side's.
        ours: ClusterId,
        /// The refused side's.
        theirs: ClusterId,
    },
    /// Not a member here.
    #[error("node {node} is not a member of this cluster")]
    Stranger {
        /// Who.
        node: NodeId,
    },
    /// The id of a member, but another life of it.
    #[error("node {node} is a member in another incarnation: its directory was wiped or copied")]
    Incarnation {
        /// Who.
        node: NodeId,
    },
    /// The node that is expected at this address is not there.
    #[error("node {node} of group {group} is expected at this address, and is not hosted there")]
    NotHosted {
        /// Its group.
        group: GroupId,
        /// Who.
        node: NodeId,
    },
    /// A member whose certificate is for other hosts than its addresses.
    #[error(
        "the certificate is for {}, and node {node} is at {}: a name in it must be the host of one of its addresses",
        presented.join(", "), expected.join(", ")
    )]
    Certificate {
        /// Who.
        node: NodeId,
        /// The hosts of the member's addresses.
        expected: Vec<String>,
        /// For whom the certificate is.
        presented: Vec<String>,
    },
    /// No group in common.
    #[error("no group in common")]
    NoGroup,
}
