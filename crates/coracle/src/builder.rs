//! What a node is made of.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use coracle_core::GroupId;
use coracle_level::{LevelMachine, LevelOptions, Limits, SessionLimits};
use coracle_node::{JoinRole, NodeOptions};
use coracle_storage::{StateMachine, Store};
use coracle_transport::{Address, AddressError, Transport};

use crate::{
    BuildError, LocalKv, Node, StorageUrl, StorageUrlError, StoreOptions,
    founding::{self, Founding},
    open::{TransportOptions, check_reach},
    open_store_with, open_transport,
};

/// What a node is made of; [`Node::builder`] begins one.
#[must_use = "a builder does nothing until it is built"]
pub struct Builder {
    addresses: Vec<String>,
    bind: Vec<String>,
    founding: Founding,
    storage: Option<Result<StorageUrl, StorageUrlError>>,
    store: Option<Arc<dyn Store>>,
    store_options: StoreOptions,
    transport: Option<Arc<dyn Transport>>,
    transport_options: TransportOptions,
    machine: Option<Box<dyn StateMachine>>,
    limits: Limits,
    session_limits: SessionLimits,
    options: NodeOptions,
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            addresses: Vec::new(),
            bind: Vec::new(),
            founding: Founding::Alone,
            storage: None,
            store: None,
            store_options: StoreOptions::default(),
            transport: None,
            transport_options: TransportOptions::default(),
            machine: None,
            limits: Limits::default(),
            session_limits: SessionLimits::default(),
            options: NodeOptions::new("coracle", Vec::new()),
        }
    }

    /// Where peers reach the node: `/ip4/10.0.0.1/tcp/9490`, `/memory/7`. May be called several times, for several addresses.
    pub fn address(mut self, address: impl ToString) -> Builder {
        self.addresses.push(address.to_string());
        self
    }

    /// Where the node listens, if that is not where peers reach it.
    pub fn bind(mut self, address: impl ToString) -> Builder {
        self.bind.push(address.to_string());
        self
    }

    /// The nodes to found the cluster with, the node itself included or not. Without it, a node with an empty store founds alone.
    pub fn peers<A: ToString>(mut self, peers: impl IntoIterator<Item = A>) -> Builder {
        self.founding = Founding::peers(peers);
        self
    }

    /// Nodes of the cluster that a node with an empty store is to join: it asks one after the other until it is taken in. A node whose store belongs to a cluster ignores them.
    pub fn join<A: ToString>(mut self, members: impl IntoIterator<Item = A>) -> Builder {
        self.founding = Founding::join(members);
        self
    }

    /// What the node asks to be in the cluster that it joins. Default a voter.
    pub fn join_role(mut self, role: JoinRole) -> Builder {
        self.options.join_role = role;
        self
    }

    /// A node with an empty store waits until a cluster takes it in ([`Node::join`](coracle_node::Node::join)), instead of founding one. A node whose store belongs to a cluster ignores it.
    pub fn standby(mut self) -> Builder {
        self.founding = Founding::Standby;
        self
    }

    /// Where the data is kept, as a [`StorageUrl`]. Default `./coracle-data`, by the engine that made it, a new one in plain files.
    pub fn storage(mut self, url: impl ToString) -> Builder {
        self.storage = Some(url.to_string().parse());
        self
    }

    /// [`Builder::storage`] with a URL that was read before. Those of Redis do not show their passwords as text.
    pub fn storage_url(mut self, url: StorageUrl) -> Builder {
        self.storage = Some(Ok(url));
        self
    }

    /// How the store is opened that the URL names.
    pub fn store_options(mut self, options: StoreOptions) -> Builder {
        self.store_options = options;
        self
    }

    /// The cluster's name. Default `coracle`.
    pub fn cluster(mut self, name: impl Into<String>) -> Builder {
        self.options.cluster_name = name.into();
        self
    }

    /// Where clients reach the node; it goes into the membership, and leader hints carry it.
    pub fn client_address(mut self, address: impl Into<String>) -> Builder {
        self.options.client_address = address.into();
        self
    }

    /// Replicates an own state machine instead of the key-value store; [`Node::propose`](coracle_node::Node::propose) and [`Node::query`](coracle_node::Node::query) talk to it, and [`Node::db`] is of no use.
    pub fn state_machine(mut self, machine: impl StateMachine + 'static) -> Builder {
        self.machine = Some(Box::new(machine));
        self
    }

    /// Keeps the data in an opened store, of any adapter, instead of one named by a URL.
    pub fn store(mut self, store: Arc<dyn Store>) -> Builder {
        self.store = Some(store);
        self
    }

    /// Talks to peers by a transport of any adapter, instead of the one that the addresses name. Each node needs its own.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Builder {
        self.transport = Some(transport);
        self
    }

    /// By which certificates addresses over TLS are spoken to, by the transport that the addresses name.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: coracle_transport::tls::Tls) -> Builder {
        self.transport_options.tls = Some(tls);
        self
    }

    /// Takes memory addresses for those of this network, instead of the process's own.
    #[cfg(feature = "memory")]
    pub fn network(self, network: &coracle_transport_memory::MemoryNetwork) -> Builder {
        self.transport(Arc::new(network.transport()))
    }

    /// How often a leader shows that it is alive. Default 100 ms.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Builder {
        self.options.replica.raft.heartbeat_interval = interval;
        self
    }

    /// How long a node does without a leader before it stands for election: drawn from this range. Default 500 ms to 1 s.
    pub fn election_timeout(mut self, timeout: RangeInclusive<Duration>) -> Builder {
        self.options.replica.raft.election_timeout_min = *timeout.start();
        self.options.replica.raft.election_timeout_max = *timeout.end();
        self
    }

    /// The key-value store's limits.
    pub fn limits(mut self, limits: Limits, session_limits: SessionLimits) -> Builder {
        (self.limits, self.session_limits) = (limits, session_limits);
        self
    }

    /// Changes any other option. Addresses and founding are the builder's own.
    pub fn options(mut self, change: impl FnOnce(&mut NodeOptions)) -> Builder {
        change(&mut self.options);
        self
    }

    /// Starts the node. With an empty store, this waits with `peers` until all of them are there, with `join` and `standby` until the node is taken in.
    ///
    /// # Errors
    /// When an address or the storage URL does not parse, the store does not open, or the node does not start.
    pub async fn build(self) -> Result<Node, BuildError> {
        let mut options = self.options;
        options.addresses = parse(&self.addresses)?;
        options.bind = parse(&self.bind)?;
        if options.addresses.is_empty() {
            return Err(BuildError::NoAddress);
        }
        let founding = self.founding.parse()?;
        let url = self.storage.transpose()?;
        let transport = match self.transport {
            Some(transport) => transport,
            None => {
                let binds = if options.bind.is_empty() { &options.addresses } else { &options.bind };
                check_reach(binds, founding::peers_of(&founding), &self.transport_options)?;
                self.transport_options.check_certificate(&options.addresses)?;
                open_transport(binds, &self.transport_options)?
            }
        };
        options.founding = founding;
        let limits = self.limits.clamped();
        let (store, machine, group) = (self.store, self.machine, options.group);
        let data = Data { store, store_options: self.store_options, machine, url, group, limits: limits.clone() };
        let (store, machine) = blocking(move || open_data(data)).await?;
        let node = coracle_node::Node::start(options, store, transport, machine).await?;
        let kv = Arc::new(LocalKv::new(node.clone(), limits, self.session_limits));
        Ok(Node::new(node, kv))
    }
}

/// What is needed to open a node's data.
struct Data {
    store: Option<Arc<dyn Store>>,
    store_options: StoreOptions,
    machine: Option<Box<dyn StateMachine>>,
    url: Option<StorageUrl>,
    group: GroupId,
    limits: Limits,
}

/// A store, and the state machine in it.
type Opened = (Arc<dyn Store>, Box<dyn StateMachine>);

/// Opens what may wait for a disk: the store, and the state machine in it unless there is another.
fn open_data(data: Data) -> Result<Opened, BuildError> {
    let Data { store, store_options, machine, url, group, limits } = data;
    let store = match store {
        Some(store) => store,
        None => open_named(url, &store_options)?,
    };
    let machine = match machine {
        Some(machine) => machine,
        None => key_value_machine(&*store, group, limits)?,
    };
    Ok((store, machine))
}

/// Opens the store of a URL, or the default one.
pub(crate) fn open_named(url: Option<StorageUrl>, options: &StoreOptions) -> Result<Arc<dyn Store>, BuildError> {
    let url = url.map_or_else(StorageUrl::found_or_default, Ok)?;
    open_store_with(&url, options)
}

/// The key-value store as a state machine, with its state in the group's part of the store. This may wait for a disk.
pub(crate) fn key_value_machine(
    store: &dyn Store,
    group: GroupId,
    limits: Limits,
) -> Result<Box<dyn StateMachine>, BuildError> {
    let options = LevelOptions { limits, ..LevelOptions::default() };
    Ok(Box::new(LevelMachine::open(store.kv(group)?, options)?))
}

/// Runs what waits for a disk where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let source = std::io::Error::other(error.to_string());
        Err(coracle_node::StartError::Environment { what: "opening the store failed", source }.into())
    })
}

pub(crate) fn parse(texts: &[impl AsRef<str>]) -> Result<Vec<Address>, AddressError> {
    texts.iter().map(|text| text.as_ref().parse()).collect()
}
