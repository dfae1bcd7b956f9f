//! How a node starts: identity, listening, founding, recovery, loop, in this order.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, atomic::AtomicU64},
};

use coracle_core::Time;
use coracle_replica::{Founder, Replica, Start, list_differs, recover};
use coracle_storage::{Identity, StateMachine, StorageError, Store};
use coracle_transport::{Address, Route, Transport};
use tokio::sync::{broadcast, watch};
use tracing::Instrument;

use crate::{
    Configuration, FoundingMode, Node, NodeEvent, NodeOptions, StartError, StopReason,
    directory::Directory,
    effects::Storage,
    founding,
    host::NodeHost,
    identity,
    inbox::{Inbox, InboxLimits, Life},
    node::Shared,
    run::{Clock, Loop},
    status::StoreFacts,
};

/// Starts a node. On failure, or when it is dropped before its end, the transport is closed again.
pub(crate) async fn start(
    options: NodeOptions,
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    machine: Box<dyn StateMachine>,
) -> Result<Node, StartError> {
    validate(&options)?;
    let boot_nonce = identity::random()?;
    let (identity, options, store) = blocking(move || {
        let identity = identity::establish(&*store, &options)?;
        Ok::<_, StartError>((identity, options, store))
    })
    .await?;
    let span = tracing::info_span!("node", id = %identity.node);
    let mut guard = CloseUnlessStarted { transport: Some(transport.clone()) };
    let started =
        start_with_identity(options, store, transport.clone(), machine, identity, boot_nonce).instrument(span).await;
    guard.transport = None;
    if started.is_err() {
        transport.shutdown().await;
    }
    started
}

async fn start_with_identity(
    mut options: NodeOptions,
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    machine: Box<dyn StateMachine>,
    identity: Identity,
    boot_nonce: u64,
) -> Result<Node, StartError> {
    let directory = Arc::new(Directory::new(options.group, boot_nonce, identity.clone()));
    let inbox = Arc::new(Inbox::new(limits(&options)));
    let host = Arc::new(NodeHost { directory: directory.clone(), inbox: inbox.clone() });
    let addresses = listen(&options, &*transport, host).await?;
    directory.set_founder(founder(&options, &identity, boot_nonce, &addresses));
    let identity = be_founded(&options, &store, &directory, &transport, identity).await?;
    let (machine, start) = recovered(&options, &store, machine).await?;

    options.replica.boot_nonce = boot_nonce;
    options.replica.raft.id = identity.node;
    options.replica.raft.seed = boot_nonce;
    tracing::info!(seed = boot_nonce, incarnation = %identity.incarnation, engine = store.engine(), "starts");
    Assembly { options, store, transport, directory, inbox, addresses }.run(machine, start)
}

/// What a node is put together from once it is founded.
struct Assembly {
    options: NodeOptions,
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    directory: Arc<Directory>,
    inbox: Arc<Inbox>,
    addresses: Vec<Address>,
}

impl Assembly {
    /// Sets the loop going. The store is the loop's alone from here on.
    fn run(self, machine: Box<dyn StateMachine>, start: Start) -> Result<Node, StartError> {
        let Assembly { options, store, transport, directory, inbox, addresses } = self;
        let clock = Clock::start();
        let replica = Replica::new(options.replica.clone(), start, clock.now()).map_err(Configuration::from)?;
        let snapshots = store.snapshots(options.group)?;
        let storage = Storage::new(store.log(), snapshots, machine, options.group, inbox.clone())
            .map_err(|source| StartError::Environment { what: "cannot start a thread", source })?;
        let (published, status) = watch::channel(Arc::new(replica.status()));
        let (events, _) = broadcast::channel(options.events_max.max(1));
        let (stop, stopped) = watch::channel(None);
        let run = Loop {
            replica,
            storage,
            transport: transport.clone(),
            directory: directory.clone(),
            inbox: inbox.clone(),
            clock,
            published,
            events: events.clone(),
            shutdown_grace: options.shutdown_grace,
            waiters: HashMap::new(),
            unreached: BTreeSet::new(),
            last_published: Time::ZERO,
            is_changed: true,
            failure: None,
            fatal: None,
        };
        run.meet_members();
        inbox.advance(Life::Running);
        let end = End { inbox: inbox.clone(), transport: transport.clone(), events: events.clone(), stop };
        tokio::spawn(supervise(run, end).in_current_span());
        let store = StoreFacts { engine: store.engine(), durability: store.durability() };
        let next_request = AtomicU64::new(0);
        Ok(Node::new(Shared { inbox, directory, transport, store, addresses, status, events, stopped, next_request }))
    }
}

/// What is closed, and who is told, when a node has ended.
struct End {
    inbox: Arc<Inbox>,
    transport: Arc<dyn Transport>,
    events: broadcast::Sender<NodeEvent>,
    stop: watch::Sender<Option<StopReason>>,
}

/// Runs the loop to its end, whatever that is, and then closes what is left.
async fn supervise(run: Loop, end: End) {
    let End { inbox, transport, events, stop } = end;
    let ended = tokio::spawn(run.run().in_current_span()).await;
    let reason = ended.unwrap_or_else(|error| StopReason::Internal(error.to_string()));
    match &reason {
        StopReason::Shutdown => tracing::info!("shut down"),
        reason => tracing::error!(%reason, "stopped"),
    }
    // A loop that panicked left its requests there.
    inbox.close();
    transport.shutdown().await;
    let _ = events.send(NodeEvent::Stopped(reason.clone()));
    stop.send_replace(Some(reason));
}

fn validate(options: &NodeOptions) -> Result<(), Configuration> {
    if options.cluster_name.is_empty() {
        return Err(Configuration::Empty { what: "the cluster's name" });
    }
    if options.addresses.is_empty() {
        return Err(Configuration::Empty { what: "the list of advertised addresses" });
    }
    Ok(options.replica.raft.validate()?)
}

fn limits(options: &NodeOptions) -> InboxLimits {
    InboxLimits {
        messages_max: options.inbox_messages_max,
        message_bytes_max: options.inbox_bytes_max,
        requests_max: options.replica.requests_max,
        request_bytes_max: options.replica.request_bytes_max,
    }
}

/// Listens, and returns the addresses to advertise: a port 0 is replaced by the one that was bound.
async fn listen(
    options: &NodeOptions,
    transport: &dyn Transport,
    host: Arc<NodeHost>,
) -> Result<Vec<Address>, StartError> {
    let binds = if options.bind.is_empty() { &options.addresses } else { &options.bind };
    let mut bound = Vec::new();
    for bind in binds {
        bound.push(transport.listen(bind, host.clone()).await?);
    }
    if options.bind.is_empty() {
        return Ok(bound);
    }
    let port = bound.first().and_then(port_of);
    let fill = |address: &Address| match (port_of(address), port) {
        (Some(0), Some(port)) => address.with_port(port),
        _ => address.clone(),
    };
    Ok(options.addresses.iter().map(fill).collect())
}

fn port_of(address: &Address) -> Option<u16> {
    match address.route() {
        Route::Tcp { port, .. } | Route::Grpc { port, .. } => Some(*port),
        _ => None,
    }
}

fn founder(options: &NodeOptions, identity: &Identity, boot_nonce: u64, addresses: &[Address]) -> Founder {
    Founder {
        id: identity.node,
        incarnation: identity.incarnation,
        boot_nonce,
        cluster_name: identity.cluster_name.clone(),
        addresses: addresses.iter().map(Address::to_string).collect(),
        client_address: options.client_address.clone(),
    }
}

/// Founds the cluster if the store is empty; repairs what a crash left half done if it is not.
async fn be_founded(
    options: &NodeOptions,
    store: &Arc<dyn Store>,
    directory: &Arc<Directory>,
    transport: &Arc<dyn Transport>,
    mut identity: Identity,
) -> Result<Identity, StartError> {
    let (group, kept) = (options.group, store.clone());
    let (repaired, first) = blocking(move || {
        let mut found = kept.log().recover(group, 0)?;
        if found.is_empty() {
            return Ok((identity, None));
        }
        if identity::mend_founding(&*kept.log(), group, &found)? {
            found = kept.log().recover(group, 0)?;
        }
        let first = identity::repair(&*kept, group, &mut identity, &found)?;
        let latest = found.memberships.last().map(|(_, membership)| membership.clone());
        Ok::<_, StartError>((identity, Some((first, latest.or(found.base.membership)))))
    })
    .await?;
    identity = repaired;
    if let Some((first, membership)) = first {
        if let Some(membership) = membership {
            directory.set_membership(membership);
        }
        warn_of_changes(options, directory, first.as_ref());
        directory.founded(identity.clone(), first);
        return Ok(identity);
    }
    if let Some(cluster) = identity.cluster {
        let what = format!("it is empty, but the node belongs to cluster {cluster}");
        return Err(StorageError::damaged("the log", what).into());
    }
    let peers: &[Address] = match &options.founding {
        FoundingMode::Alone => {
            tracing::info!("was given no peers: founds a cluster alone");
            &[]
        }
        FoundingMode::Peers(peers) => peers,
    };
    let (first, membership) = founding::found(directory, transport, peers).await?;
    let (kept, data) = (store.clone(), first.clone());
    let (identity, membership) = blocking(move || {
        identity::keep_founding(&*kept, group, &mut identity, &data, &membership)?;
        Ok::<_, StartError>((identity, membership))
    })
    .await?;
    directory.set_membership(membership);
    directory.founded(identity.clone(), Some(first));
    Ok(identity)
}

/// A founded node ignores what it is told of its peers; it says so when that differs from what is recorded.
fn warn_of_changes(options: &NodeOptions, directory: &Directory, first: Option<&bytes::Bytes>) {
    let membership = first.and_then(|first| coracle_core::Membership::decode(first.clone()).ok());
    let (Some(membership), Some(own)) = (membership, directory.founder()) else { return };
    if let FoundingMode::Peers(peers) = &options.founding {
        let peers: Vec<String> = peers.iter().map(Address::to_string).collect();
        if list_differs(&peers, own.id, &membership) {
            tracing::warn!("the list of peers differs from the one that the cluster was founded with, and is ignored");
        }
    }
    let recorded = membership.node(own.id);
    if recorded.is_some_and(|node| node.addresses != own.addresses || node.client_address != own.client_address) {
        tracing::warn!(
            "this node's addresses differ from those that the cluster was founded with: peers and clients use the recorded ones"
        );
    }
}

/// Recovers the log and the state machine.
async fn recovered(
    options: &NodeOptions,
    store: &Arc<dyn Store>,
    mut machine: Box<dyn StateMachine>,
) -> Result<(Box<dyn StateMachine>, Start), StartError> {
    let (group, tail_bytes_max, store) = (options.group, options.replica.raft.tail_bytes_max, store.clone());
    blocking(move || {
        let snapshots = store.snapshots(group)?;
        let start = recover(&*store.log(), &*snapshots, &mut *machine, group, tail_bytes_max)?;
        let start = start.ok_or_else(|| StorageError::damaged("the log", "it is empty after the founding"))?;
        Ok((machine, start))
    })
    .await
}

/// Runs what waits for a device where waiting is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let source = io::Error::other(error.to_string());
        Err(StartError::Environment { what: "opening the store failed", source })
    })
}

/// Closes the transport when a start is given up half-way.
struct CloseUnlessStarted {
    transport: Option<Arc<dyn Transport>>,
}

impl Drop for CloseUnlessStarted {
    fn drop(&mut self) {
        if let Some(transport) = self.transport.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { transport.shutdown().await });
        }
    }
}
