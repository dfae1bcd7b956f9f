//! What operators ask of a node: members, leadership, snapshots.

use std::time::Duration;

use coracle_core::{Event, Index, MembershipChange, NodeId};
use coracle_replica::RequestError;
use tokio::sync::broadcast::error::RecvError;

use crate::{
    MemberStatus, Node, NodeEvent,
    inbox::{Order, Request},
};

/// A handover ends by itself after the longest election timeout; who leads then is known within a few of them.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(30);

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This node does not lead: ask the one that does.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Nobody else can lead, or the node that was to is no voter, or does not answer.
    #[error("no such voter was there to take over")]
    Nobody,
    /// The target did not take over in time; this node goes on leading, or somebody else is elected.
    #[error("the target did not take over in time")]
    TimedOut,
}

impl Node {
    /// Changes who is in the group (C16), on the leader. Ends when the intent is committed; new voters are promoted once they have caught up, which [`NodeEvent`]s and [`Node::members`] tell.
    ///
    /// # Errors
    /// `Rejected` when it surely had no effect: elsewhere than on the leader, while another change is under way, or when such a membership cannot be; `Unknown` when it may have one.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Index, RequestError> {
        self.submit(Request::Change(change)).await.map(|reply| reply.index)
    }

    /// Removes a member, on the leader; a leader removes itself, too, and hands over.
    ///
    /// # Errors
    /// As [`Node::change_membership`].
    pub async fn leave(&self, id: NodeId) -> Result<Index, RequestError> {
        self.change_membership(MembershipChange { set: Vec::new(), remove: vec![id] }).await
    }

    /// Every node of the cluster, as this one sees it.
    pub fn members(&self) -> Vec<MemberStatus> {
        self.status().members
    }

    /// Takes a snapshot now, and cuts the log below what of it is durable; returns the index that it covers.
    ///
    /// # Errors
    /// When the node has nothing to take it of, or stops.
    pub async fn snapshot(&self) -> Result<Index, RequestError> {
        self.submit(Request::Snapshot).await.map(|reply| reply.index)
    }

    /// Prefers for so long that others lead (C15): a leader hands over, and a follower lets others campaign first. Zero ends it.
    pub fn weaken(&self, duration: Duration) {
        self.shared.inbox.push_order(Order::Weaken(duration));
    }

    /// Hands leadership over, to a voter of choice or to the one whose log is furthest, and waits until somebody else leads.
    ///
    /// # Errors
    /// When this node does not lead, or nobody takes over.
    pub async fn transfer(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let (own, mut events) = (self.id(), self.events());
        let status = self.shared.status.borrow().clone();
        if status.leader != Some(own) {
            return Err(TransferError::NotLeader { leader: status.leader });
        }
        if status.membership.voters().all(|voter| voter == own) || to == Some(own) {
            return Err(TransferError::Nobody);
        }
        self.shared.inbox.push_order(Order::Transfer(to));
        let taken_over = async {
            loop {
                match events.recv().await {
                    Ok(NodeEvent::Replica(Event::TransferAborted { to: None })) => return Err(TransferError::Nobody),
                    Ok(NodeEvent::Replica(Event::TransferAborted { .. })) => return Err(TransferError::TimedOut),
                    Ok(NodeEvent::Replica(Event::Role { leader: Some(leader), .. })) if leader != own => {
                        return Ok(leader);
                    }
                    Ok(NodeEvent::Stopped(_)) | Err(RecvError::Closed) => return Err(TransferError::TimedOut),
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                }
            }
        };
        tokio::time::timeout(TRANSFER_DEADLINE, taken_over).await.unwrap_or(Err(TransferError::TimedOut))
    }
}
