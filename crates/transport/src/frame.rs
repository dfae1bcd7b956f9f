//! What travels between processes once they shook hands.

use coracle_core::{GroupId, Incarnation, Message, NodeId};

use crate::Address;

/// A message and the group it belongs to; the message names its sender and its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which group.
    pub group: GroupId,
    /// The message.
    pub message: Message,
}

/// A node that frames may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which group it is in.
    pub group: GroupId,
    /// Who it is.
    pub id: NodeId,
    /// Which life of it: a process that hosts another one at this address is a stranger (C1).
    pub incarnation: Incarnation,
    /// Where it is, in the order to try.
    pub addresses: Vec<Address>,
}
