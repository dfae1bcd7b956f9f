//! The handle of a running node.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{NodeId, Status};
use coracle_replica::{Consistency, Reply, RequestError, RequestId};
use coracle_storage::{StateMachine, Store};
use coracle_transport::{Address, Transport};
use tokio::sync::{broadcast, watch};

use crate::{
    NodeEvent, NodeOptions, NodeStatus, Pipeline, StartError, StopReason,
    directory::Directory,
    inbox::{Inbox, Life, Request},
    requests,
    status::{self, StoreFacts},
};

/// A running node. Cheap to clone; when the last clone is dropped, the node is shut down.
#[derive(Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

/// What handles need of a node, also after it has stopped: nothing of its store.
pub(crate) struct Shared {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) store: Arc<StoreFacts>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) status: watch::Receiver<Arc<Status>>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) stopped: watch::Receiver<Option<StopReason>>,
    pub(crate) next_request: AtomicU64,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.inbox.advance(Life::Ending);
    }
}

impl Node {
    /// Starts a node: gives a new store its identity, listens, founds the cluster with its peers if the store is empty (which waits for all of them), recovers, and runs.
    /// Must be called within a tokio runtime with time enabled.
    ///
    /// # Errors
    /// When the options do not fit the store, the peers refuse, or store, transport or environment fail.
    pub async fn start(
        options: NodeOptions,
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        machine: Box<dyn StateMachine>,
    ) -> Result<Node, StartError> {
        crate::start::start(options, store, transport, machine).await
    }

    pub(crate) fn new(shared: Shared) -> Node {
        Node { shared: Arc::new(shared) }
    }

    /// Replicates a command and returns the state machine's reply to it. Any node takes it, and forwards it to the leader.
    /// When the future is dropped before its end, whether the command takes effect stays unknown.
    ///
    /// # Errors
    /// `Rejected` when it surely had no effect, `Unknown` when it may or may not have one.
    pub async fn propose(&self, command: impl Into<Bytes>) -> Result<Reply, RequestError> {
        self.submit(Request::Propose(command.into())).await
    }

    /// Asks this node's state machine, as fresh as `consistency` says.
    ///
    /// # Errors
    /// When the query cannot be answered at this time.
    pub async fn query(&self, query: impl Into<Bytes>, consistency: Consistency) -> Result<Reply, RequestError> {
        self.submit(Request::Query(query.into(), consistency)).await
    }

    /// A way of having many requests under way from one task, with what belongs to each.
    /// As many bytes of answers may wait to be taken; queries whose answers find no room end as busy.
    pub fn pipeline<T>(&self, answers_bytes_max: usize) -> Pipeline<T> {
        Pipeline::new(self.clone(), answers_bytes_max)
    }

    pub(crate) async fn submit(&self, request: Request) -> Result<Reply, RequestError> {
        let id = RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
        requests::submit(&self.shared.inbox, id, request).await
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.shared.directory.identity().node
    }

    /// Where peers reach it, ports filled in.
    pub fn addresses(&self) -> &[Address] {
        &self.shared.addresses
    }

    /// What it knew a moment ago; the loop is not disturbed.
    pub fn status(&self) -> NodeStatus {
        let shared = &*self.shared;
        let stopped = shared.stopped.borrow().as_ref().map(StopReason::to_string);
        let status = shared.status.borrow().clone();
        let dropped = shared.inbox.dropped();
        status::compose(&status, &shared.store, &shared.directory, &*shared.transport, dropped, stopped)
    }

    /// Where clients reach the leader, if that is known.
    pub fn leader_client_address(&self) -> Option<String> {
        status::leader_client_address(&self.shared.status.borrow())
    }

    /// What the log lacks, while it waits for space (C18): proposals are refused meanwhile.
    pub fn no_space(&self) -> Option<String> {
        self.shared.directory.no_space()
    }

    /// Whether it takes requests.
    pub fn is_running(&self) -> bool {
        self.shared.inbox.is_running()
    }

    /// What happens from here on. A listener that is too slow loses the oldest events and is told how many.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.shared.events.subscribe()
    }

    /// Waits until this node knows a leader, at most for `deadline`.
    pub async fn wait_for_leader(&self, deadline: Duration) -> Option<NodeId> {
        let mut status = self.shared.status.clone();
        let known = status.wait_for(|status| status.leader.is_some());
        let known = tokio::time::timeout(deadline, known).await.ok()?.ok()?;
        known.leader
    }

    /// Waits until it has stopped, and says why. Everything that it held is let go by then.
    pub async fn stopped(&self) -> StopReason {
        let mut stopped = self.shared.stopped.clone();
        match stopped.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(StopReason::Shutdown),
            Err(_) => StopReason::Internal("the runtime ended before the node did".to_owned()),
        }
    }

    /// Shuts it down: takes no more requests, lets those under way end for a short while, flushes, closes the transport, and waits for its threads.
    pub async fn shutdown(&self) -> StopReason {
        self.shared.inbox.advance(Life::Ending);
        self.stopped().await
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id())
            .field("addresses", &self.shared.addresses)
            .finish_non_exhaustive()
    }
}
