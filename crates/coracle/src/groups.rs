//! Several groups in one process.

use std::{fmt, ops::RangeInclusive, sync::Arc, time::Duration};

use coracle_core::{GroupId, NodeId};
use coracle_level::{Limits, SessionLimits};
use coracle_node::{GroupOptions, JoinRole, ProcessOptions};
use coracle_storage::{StateMachine, Store};
use coracle_transport::{Address, Transport};

use crate::{
    BuildError, LocalKv, Node, StorageUrl, StorageUrlError, StoreOptions,
    builder::{blocking, key_value_machine, open_named, parse},
    founding::{self, Founding},
    open::{TransportOptions, check_reach},
    open_transport,
};

/// Several groups in one process, over one store and one transport: for data that is to be replicated apart, each part with a leader and a log of its own.
///
/// They share connections, threads and syncs of the disk, so that a hundred of them cost little more than one as long as little happens in them.
/// Cheap to clone. When all clones are dropped, the groups that run go on.
///
/// ```
/// use coracle::Groups;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let groups = Groups::builder().address("/memory/4712").storage("memory:").open().await?;
/// let users = groups.group(1).start().await?;
/// let orders = groups.group(2).start().await?;
/// users.db().put("name", "Ada").await?;
/// assert_eq!(orders.db().get("name").await?, None);
/// groups.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Groups {
    groups: coracle_node::Groups,
    /// Where this process listens, and with what; unless the transport was brought along.
    binds: Option<Arc<(Vec<Address>, TransportOptions)>>,
}

impl Groups {
    /// Begins a process.
    pub fn builder() -> GroupsBuilder {
        GroupsBuilder::new()
    }

    /// Begins a group of this process. Its number is the same on all its nodes, and below 2^63.
    pub fn group(&self, number: u64) -> GroupBuilder {
        GroupBuilder {
            process: self.clone(),
            founding: Founding::Alone,
            machine: None,
            limits: Limits::default(),
            session_limits: SessionLimits::default(),
            options: GroupOptions::new(GroupId(number)),
        }
    }

    /// Who this process is, in all its groups.
    pub fn id(&self) -> NodeId {
        self.groups.id()
    }

    /// Where peers reach it, ports filled in.
    pub fn addresses(&self) -> &[Address] {
        self.groups.addresses()
    }

    /// Shuts all groups down, closes the transport and lets the store go. No group can be started any more.
    pub async fn shutdown(&self) {
        self.groups.shutdown().await;
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.groups.fmt(f)
    }
}

/// What a process of several groups is made of; [`Groups::builder`] begins one.
#[must_use = "a builder does nothing until it is opened"]
pub struct GroupsBuilder {
    cluster: String,
    addresses: Vec<String>,
    bind: Vec<String>,
    storage: Option<Result<StorageUrl, StorageUrlError>>,
    store: Option<Arc<dyn Store>>,
    store_options: StoreOptions,
    transport: Option<Arc<dyn Transport>>,
    transport_options: TransportOptions,
}

impl GroupsBuilder {
    fn new() -> GroupsBuilder {
        GroupsBuilder {
            cluster: "coracle".to_owned(),
            addresses: Vec::new(),
            bind: Vec::new(),
            storage: None,
            store: None,
            store_options: StoreOptions::default(),
            transport: None,
            transport_options: TransportOptions::default(),
        }
    }

    /// Where peers reach the process: `/ip4/10.0.0.1/tcp/9490`, `/memory/7`. May be called several times, for several addresses.
    pub fn address(mut self, address: impl ToString) -> GroupsBuilder {
        self.addresses.push(address.to_string());
        self
    }

    /// Where the process listens, if that is not where peers reach it.
    pub fn bind(mut self, address: impl ToString) -> GroupsBuilder {
        self.bind.push(address.to_string());
        self
    }

    /// Where the data of all groups is kept, as a [`StorageUrl`]. Default `./coracle-data`, by the engine that made it, a new one in plain files.
    pub fn storage(mut self, url: impl ToString) -> GroupsBuilder {
        self.storage = Some(url.to_string().parse());
        self
    }

    /// [`GroupsBuilder::storage`] with a URL that was read before. Those of Redis do not show their passwords as text.
    pub fn storage_url(mut self, url: StorageUrl) -> GroupsBuilder {
        self.storage = Some(Ok(url));
        self
    }

    /// How the store is opened that the URL names.
    pub fn store_options(mut self, options: StoreOptions) -> GroupsBuilder {
        self.store_options = options;
        self
    }

    /// The cluster's name. Default `coracle`.
    pub fn cluster(mut self, name: impl Into<String>) -> GroupsBuilder {
        self.cluster = name.into();
        self
    }

    /// Keeps the data in an opened store, of any adapter, instead of one named by a URL.
    pub fn store(mut self, store: Arc<dyn Store>) -> GroupsBuilder {
        self.store = Some(store);
        self
    }

    /// Talks to peers by a transport of any adapter, instead of the one that the addresses name.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> GroupsBuilder {
        self.transport = Some(transport);
        self
    }

    /// By which certificates addresses over TLS are spoken to, by the transport that the addresses name.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: coracle_transport::tls::Tls) -> GroupsBuilder {
        self.transport_options.tls = Some(tls);
        self
    }

    /// Takes memory addresses for those of this network, instead of the process's own.
    #[cfg(feature = "memory")]
    pub fn network(self, network: &coracle_transport_memory::MemoryNetwork) -> GroupsBuilder {
        self.transport(Arc::new(network.transport()))
    }

    /// Opens the store and listens; no group is hosted yet.
    ///
    /// # Errors
    /// When an address or the storage URL does not parse, the store does not open, or the process cannot listen.
    pub async fn open(self) -> Result<Groups, BuildError> {
        let mut options = ProcessOptions::new(self.cluster, parse(&self.addresses)?);
        options.bind = parse(&self.bind)?;
        if options.addresses.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let url = self.storage.transpose()?;
        let store_options = self.store_options;
        let (transport, binds) = match self.transport {
            Some(transport) => (transport, None),
            None => {
                let binds = if options.bind.is_empty() { &options.addresses } else { &options.bind };
                self.transport_options.check_certificate(&options.addresses)?;
                let transport = open_transport(binds, &self.transport_options)?;
                (transport, Some(Arc::new((binds.clone(), self.transport_options))))
            }
        };
        let store = match self.store {
            Some(store) => store,
            None => blocking(move || open_named(url, &store_options)).await?,
        };
        let groups = coracle_node::Groups::open(options, store, transport).await?;
        Ok(Groups { groups, binds })
    }
}

/// What a group of a process is made of; [`Groups::group`] begins one.
#[must_use = "a builder does nothing until it is started"]
pub struct GroupBuilder {
    process: Groups,
    founding: Founding,
    machine: Option<Box<dyn StateMachine>>,
    limits: Limits,
    session_limits: SessionLimits,
    options: GroupOptions,
}

impl GroupBuilder {
    /// The processes to found the group with, this one included or not: not every group has to be on all of them. Without it, a group that is not founded yet is founded alone.
    pub fn peers<A: ToString>(mut self, peers: impl IntoIterator<Item = A>) -> GroupBuilder {
        self.founding = Founding::peers(peers);
        self
    }

    /// Processes that have the group, which this one is to join: it asks one after the other until it is taken in. A group that belongs to a cluster ignores them.
    pub fn join<A: ToString>(mut self, members: impl IntoIterator<Item = A>) -> GroupBuilder {
        self.founding = Founding::join(members);
        self
    }

    /// What the group's node here asks to be in the cluster that it joins. Default a voter.
    pub fn join_role(mut self, role: JoinRole) -> GroupBuilder {
        self.options.join_role = role;
        self
    }

    /// The group waits here until a cluster takes it in ([`Node::join`](coracle_node::Node::join)), instead of being founded.
    pub fn standby(mut self) -> GroupBuilder {
        self.founding = Founding::Standby;
        self
    }

    /// Where clients reach the group here; it goes into the membership, and leader hints carry it.
    pub fn client_address(mut self, address: impl Into<String>) -> GroupBuilder {
        self.options.client_address = address.into();
        self
    }

    /// Replicates an own state machine instead of the key-value store.
    pub fn state_machine(mut self, machine: impl StateMachine + 'static) -> GroupBuilder {
        self.machine = Some(Box::new(machine));
        self
    }

    /// How often a leader shows that it is alive. Default 100 ms.
    pub fn heartbeat_interval(mut self, interval: Duration) -> GroupBuilder {
        self.options.replica.raft.heartbeat_interval = interval;
        self
    }

    /// How long a node does without a leader before it stands for election: drawn from this range. Default 500 ms to 1 s.
    pub fn election_timeout(mut self, timeout: RangeInclusive<Duration>) -> GroupBuilder {
        self.options.replica.raft.election_timeout_min = *timeout.start();
        self.options.replica.raft.election_timeout_max = *timeout.end();
        self
    }

    /// The key-value store's limits.
    pub fn limits(mut self, limits: Limits, session_limits: SessionLimits) -> GroupBuilder {
        (self.limits, self.session_limits) = (limits, session_limits);
        self
    }

    /// Changes any other option. The founding is the builder's own.
    pub fn options(mut self, change: impl FnOnce(&mut GroupOptions)) -> GroupBuilder {
        change(&mut self.options);
        self
    }

    /// Starts the group. Before it is founded, this waits with `peers` until all of them have started it too, with `join` and `standby` until it is taken in.
    ///
    /// # Errors
    /// When a peer's address does not parse, the group's data does not open, or the group does not start.
    pub async fn start(self) -> Result<Node, BuildError> {
        let mut options = self.options;
        options.founding = self.founding.parse()?;
        if let Some((binds, transport)) = self.process.binds.as_deref() {
            check_reach(binds, founding::peers_of(&options.founding), transport)?;
        }
        let limits = self.limits.clamped();
        let machine = match self.machine {
            Some(machine) => machine,
            None => {
                let (store, group, limits) = (self.process.groups.store()?, options.group, limits.clone());
                blocking(move || key_value_machine(&*store, group, limits)).await?
            }
        };
        let node = self.process.groups.start(options, machine).await?;
        let kv = Arc::new(LocalKv::new(node.clone(), limits, self.session_limits));
        Ok(Node::new(node, kv))
    }
}
