//! How a group starts: registration, founding, recovery, loop, in this order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use coracle_core::{ClusterId, GroupId, Membership, NodeId, Time};
use coracle_replica::{Founder, Replica, RequestMap, Start, list_differs, recover};
use coracle_storage::{Identity, StateMachine, StorageError, Store};
use coracle_transport::{Address, Transport};
use tokio::sync::{broadcast, watch};
use tracing::Instrument;

use crate::{
    Configuration, FoundingMode, GroupOptions, Node, NodeEvent, NodeOptions, StartError, StopReason,
    acquaintances::{Acquaintance, Acquaintances},
    directory::Directory,
    effects::Storage,
    founding,
    host::Registration,
    identity::{self, Standing},
    inbox::{Inbox, InboxLimits, Life},
    joining::{self, Beside},
    node::Shared,
    process::{Parts, Process, blocking},
    run::{Finished, Loop},
};

/// Who owns a group's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The one group that it hosts: both end together.
    Node,
    /// Somebody else; other groups may be hosted.
    Groups,
}

/// Starts a node in a process of its own. On failure, or when it is dropped before its end, the transport is closed again.
pub(crate) async fn start(
    options: NodeOptions,
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    machine: Box<dyn StateMachine>,
) -> Result<Node, StartError> {
    let (process, options) = options.split();
    validate(&options)?;
    let process = Process::open(process, store, transport, Some(options.group)).await?;
    let span = tracing::info_span!("node", id = %process.identity.node);
    let started = group(process.clone(), options, machine, Owner::Node).instrument(span).await;
    if started.is_err() {
        process.close(true).await;
    }
    started
}

/// Starts a group in a process. On failure it is hosted no more.
pub(crate) async fn group(
    process: Arc<Process>,
    options: GroupOptions,
    machine: Box<dyn StateMachine>,
    owner: Owner,
) -> Result<Node, StartError> {
    validate(&options)?;
    let parts = process.parts()?;
    let kept = parts.identity.clone();
    let identity = blocking(move || Ok(lock(&kept).clone())).await?;
    let directory = Arc::new(Directory::new(options.group, identity));
    let inbox = Arc::new(Inbox::new(limits(&options)));
    directory.set_founder(founder(&options, &process));
    let registration = process.host.clone().register(directory.clone(), inbox.clone())?;
    let assembly = Assembly { options, process, parts, owner, directory, inbox, registration };
    assembly.start(machine).await
}

/// What a group's node is put together from.
struct Assembly {
    options: GroupOptions,
    process: Arc<Process>,
    parts: Parts,
    owner: Owner,
    directory: Arc<Directory>,
    inbox: Arc<Inbox>,
    registration: Registration,
}

impl Assembly {
    /// Founding and recovery, then the loop. Given up when the process closes.
    async fn start(mut self, machine: Box<dyn StateMachine>) -> Result<Node, StartError> {
        let ready = async {
            be_founded(&self.options, &self.parts, &self.directory, &self.process.transport).await?;
            recovered(&self.options, &self.parts.store, machine).await
        };
        let (machine, start) = tokio::select! {
            ready = ready => ready?,
            () = self.process.closing() => return Err(StartError::Closed),
        };
        let (identity, boot_nonce) = (&self.process.identity, self.process.boot_nonce);
        let seed = seed(boot_nonce, self.options.group);
        self.options.replica.boot_nonce = boot_nonce;
        self.options.replica.raft.id = identity.node;
        self.options.replica.raft.seed = seed;
        let engine = self.process.store.engine;
        tracing::info!(seed, boot_nonce, incarnation = %identity.incarnation, engine, "starts");
        self.run(machine, start)
    }

    /// Sets the loop going. The group's part of the store is the loop's alone from here on.
    fn run(self, machine: Box<dyn StateMachine>, start: Start) -> Result<Node, StartError> {
        let Assembly { options, process, parts, owner, directory, inbox, registration } = self;
        let clock = process.clock;
        let replica = Replica::new(options.replica.clone(), start, clock.now()).map_err(Configuration::from)?;
        let snapshots = parts.store.snapshots(options.group)?;
        let storage = Storage::new(&parts.devices, options.group, snapshots, machine, inbox.clone())
            .map_err(|source| StartError::Environment { what: "cannot start a thread", source })?;
        // The process alone keeps the store and the threads: they go when it closes.
        drop(parts);
        let (published, status) = watch::channel(Arc::new(replica.status()));
        let (events, _) = broadcast::channel(options.events_max.max(1));
        let (stop, stopped) = watch::channel(None);
        let transport = process.transport.clone();
        let raft = &options.replica.raft;
        let acquaintances = Acquaintances::new(raft.id, raft.election_timeout_max * 2);
        let mut run = Loop {
            replica,
            acquaintances,
            storage,
            transport: transport.clone(),
            directory: directory.clone(),
            inbox: inbox.clone(),
            clock,
            published,
            events: events.clone(),
            shutdown_grace: options.shutdown_grace,
            waiters: RequestMap::default(),
            to_wake: Vec::new(),
            unreached: BTreeSet::new(),
            last_published: Time::ZERO,
            is_changed: true,
            failure: None,
            has_given_up_snapshot: false,
            fatal: None,
        };
        run.meet_members(clock.now());
        inbox.advance(Life::Running);
        directory.set_status(status.clone());
        let (transport_too, status_too) = (transport.clone(), status.clone());
        let beside =
            Beside { directory: directory.clone(), transport: transport_too, inbox: inbox.clone(), status: status_too };
        attend(beside, &options);
        let (store, addresses) = (process.store.clone(), process.addresses.clone());
        let (inbox_too, directory_too) = (inbox.clone(), directory.clone());
        let end = End {
            inbox: inbox_too,
            directory: directory_too,
            process,
            owner,
            registration,
            events: events.clone(),
            stop,
        };
        tokio::spawn(supervise(run, end).in_current_span());
        let next_request = AtomicU64::new(0);
        Ok(Node::new(Shared { inbox, directory, transport, store, addresses, status, events, stopped, next_request }))
    }
}

/// The boot nonce, told apart for each group: equal seeds would make one process the first to stand for election in all of them.
fn seed(boot_nonce: u64, group: GroupId) -> u64 {
    /// 2^64 divided by the golden ratio: spreads consecutive numbers.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    boot_nonce.wrapping_add(group.0.wrapping_mul(SPREAD))
}

/// Sets going what happens beside the loop; it ends with it.
fn attend(beside: Beside, options: &GroupOptions) {
    tokio::spawn(beside.clone().introduce().in_current_span());
    if let FoundingMode::Join(addresses) = &options.founding {
        // Ends at once where the node is a member.
        tokio::spawn(beside.pursue(addresses.clone(), options.join_role).in_current_span());
    }
}

/// What is closed, and who is told, when a node has ended.
struct End {
    inbox: Arc<Inbox>,
    directory: Arc<Directory>,
    process: Arc<Process>,
    owner: Owner,
    registration: Registration,
    events: broadcast::Sender<NodeEvent>,
    stop: watch::Sender<Option<StopReason>>,
}

/// Runs the loop to its end, whatever that is, and then closes what is left.
async fn supervise(run: Loop, end: End) {
    let End { inbox, directory, process, owner, mut registration, events, stop } = end;
    let ended = tokio::spawn(run.run().in_current_span()).await;
    let Finished { reason, is_clean } =
        ended.unwrap_or_else(|error| Finished { reason: StopReason::Internal(error.to_string()), is_clean: false });
    match &reason {
        StopReason::Shutdown => tracing::info!("shut down"),
        reason => tracing::error!(%reason, "stopped"),
    }
    // A loop that panicked left its requests there.
    inbox.close();
    if !is_clean {
        registration.leave_behind();
    }
    match owner {
        Owner::Node => process.close(is_clean).await,
        Owner::Groups => directory.forget_members(&*process.transport),
    }
    drop(registration);
    drop(process);
    let _ = events.send(NodeEvent::Stopped(reason.clone()));
    stop.send_replace(Some(reason));
}

fn validate(options: &GroupOptions) -> Result<(), Configuration> {
    if !identity::is_valid_group(options.group) {
        return Err(Configuration::GroupOutOfRange { group: options.group });
    }
    if options.founding == FoundingMode::Join(Vec::new()) {
        return Err(Configuration::Empty { what: "the list of nodes to ask to be taken in" });
    }
    Ok(options.replica.raft.validate()?)
}

fn limits(options: &GroupOptions) -> InboxLimits {
    InboxLimits {
        messages_max: options.inbox_messages_max,
        message_bytes_max: options.inbox_bytes_max,
        requests_max: options.replica.requests_max,
        request_bytes_max: options.replica.request_bytes_max,
    }
}

fn founder(options: &GroupOptions, process: &Process) -> Founder {
    let identity = &process.identity;
    Founder {
        group: options.group,
        id: identity.node,
        incarnation: identity.incarnation,
        boot_nonce: process.boot_nonce,
        cluster_name: identity.cluster_name.clone(),
        addresses: process.addresses.iter().map(Address::to_string).collect(),
        client_address: options.client_address.clone(),
    }
}

/// Founds or joins the group if its log is empty; repairs what a crash left half done if it is not.
async fn be_founded(
    options: &GroupOptions,
    parts: &Parts,
    directory: &Arc<Directory>,
    transport: &Arc<dyn Transport>,
) -> Result<(), StartError> {
    let (group, kept) = (options.group, parts.clone());
    let found = blocking(move || {
        let mut found = kept.store.log().recover(group, 0)?;
        if found.is_empty() {
            return Ok(None);
        }
        if identity::mend_founding(&*kept.store.log(), group, &found)? {
            found = kept.store.log().recover(group, 0)?;
        }
        let mut identity = lock(&kept.identity);
        let first = identity::repair(&*kept.store, group, &mut identity, &found)?;
        let standing = identity::standing(&identity, &found);
        let latest = found.memberships.last().map(|(_, membership)| membership.clone());
        let none = || StorageError::damaged("the log", "it holds no membership");
        let membership = latest.or(found.base.membership).ok_or_else(none)?;
        Ok::<_, StartError>(Some((identity.clone(), first, standing, membership)))
    })
    .await?;
    if let Some((identity, first, standing, membership)) = found {
        directory.set_standing(standing);
        directory.set_known(acquaintances(&membership));
        warn_of_changes(options, directory, standing, first.as_ref(), &membership);
        directory.founded(identity, first);
        return Ok(());
    }
    if let Some(cluster) = directory.cluster() {
        let what = format!("it is empty, but the node belongs to cluster {cluster}");
        return Err(StorageError::damaged("the log", what).into());
    }
    be_founded_anew(options, parts, directory, transport).await
}

/// Founds or joins a group whose log is empty.
async fn be_founded_anew(
    options: &GroupOptions,
    parts: &Parts,
    directory: &Arc<Directory>,
    transport: &Arc<dyn Transport>,
) -> Result<(), StartError> {
    let peers: &[Address] = match &options.founding {
        FoundingMode::Alone => {
            tracing::info!("was given no peers: founds a cluster alone");
            &[]
        }
        FoundingMode::Peers(peers) => peers,
        mode @ (FoundingMode::Join(_) | FoundingMode::Standby) => {
            check_asked(directory, mode)?;
            let (_, membership) = joining::be_taken_in(directory, transport, mode, options.join_role).await?;
            return keep_joining(options.group, parts, directory, membership.cluster).await;
        }
    };
    let (first, membership) = founding::found(directory, transport, peers).await?;
    let (group, kept, data) = (options.group, parts.clone(), first.clone());
    let (identity, membership) = blocking(move || {
        let mut identity = lock(&kept.identity);
        identity::keep_founding(&*kept.store, group, &mut identity, &data, &membership)?;
        Ok::<_, StartError>((identity.clone(), membership))
    })
    .await?;
    directory.set_known(acquaintances(&membership));
    directory.founded(identity, Some(first));
    Ok(())
}

/// A node cannot be taken in by itself.
fn check_asked(directory: &Directory, mode: &FoundingMode) -> Result<(), Configuration> {
    let (FoundingMode::Join(asked), Some(own)) = (mode, directory.founder()) else { return Ok(()) };
    if asked.iter().all(|address| own.addresses.contains(&address.to_string())) {
        return Err(Configuration::Empty { what: "the list of other nodes to ask to be taken in" });
    }
    Ok(())
}

/// Keeps durably which cluster takes this node in; it acknowledges nothing before that (C2).
async fn keep_joining(
    group: GroupId,
    parts: &Parts,
    directory: &Directory,
    cluster: ClusterId,
) -> Result<(), StartError> {
    let kept = parts.clone();
    let identity = blocking(move || {
        let mut identity = lock(&kept.identity);
        identity::keep_joining(&*kept.store, group, &mut identity, cluster)?;
        Ok::<_, StartError>(identity.clone())
    })
    .await?;
    tracing::info!(%cluster, "joins the cluster");
    directory.set_standing(Standing::Joining);
    directory.set_known(BTreeMap::new());
    directory.founded(identity, None);
    Ok(())
}

fn acquaintances(membership: &Membership) -> BTreeMap<NodeId, Acquaintance> {
    membership.nodes.iter().map(|node| (node.id, Acquaintance::of(node))).collect()
}

/// An identity that a panic left half changed differs from the store at most by a founding that is done again.
fn lock(identity: &Mutex<Identity>) -> MutexGuard<'_, Identity> {
    identity.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A founded node ignores what it is told of its peers; it says so when that differs from what is recorded.
fn warn_of_changes(
    options: &GroupOptions,
    directory: &Directory,
    standing: Standing,
    first: Option<&bytes::Bytes>,
    latest: &Membership,
) {
    let Some(own) = directory.founder() else { return };
    let first = first.and_then(|first| Membership::decode(first.clone()).ok());
    match (&options.founding, first) {
        (FoundingMode::Peers(peers), Some(first)) => {
            let peers: Vec<String> = peers.iter().map(Address::to_string).collect();
            if list_differs(&peers, own.id, &first) {
                tracing::warn!(
                    "the list of peers differs from the one that the cluster was founded with, and is ignored"
                );
            }
        }
        (FoundingMode::Peers(_), None) => {
            tracing::warn!("this node joined its cluster: the list of peers to found one with is ignored");
        }
        (FoundingMode::Join(_) | FoundingMode::Standby, _) if standing != Standing::Joining => {
            tracing::warn!("this node belongs to a cluster already: it neither joins one nor stands by");
        }
        _ => {}
    }
    let recorded = latest.node(own.id);
    if recorded.is_some_and(|node| node.addresses != own.addresses || node.client_address != own.client_address) {
        tracing::warn!(
            "this node's addresses differ from those that the cluster knows: peers and clients use the known ones until it is joined again"
        );
    }
}

/// Recovers the log and the state machine.
async fn recovered(
    options: &GroupOptions,
    store: &Arc<dyn Store>,
    mut machine: Box<dyn StateMachine>,
) -> Result<(Box<dyn StateMachine>, Start), StartError> {
    let (group, tail_bytes_max, store) = (options.group, options.replica.raft.tail_bytes_max, store.clone());
    blocking(move || {
        let snapshots = store.snapshots(group)?;
        let start = recover(&*store.log(), &*snapshots, &mut *machine, group, tail_bytes_max)?;
        let start = start.ok_or_else(|| StorageError::damaged("the log", "it is empty after the founding"))?;
        for what in &start.damaged_snapshots {
            tracing::warn!("{what}: this snapshot is not used");
        }
        if start.applied.applied < start.recovered.base.index {
            let base_index = start.recovered.base.index;
            tracing::warn!(%base_index, "the state is behind the start of the log: nothing is served until the leader has sent a snapshot");
        }
        Ok((machine, start))
    })
    .await
}
