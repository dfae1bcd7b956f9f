//! A system that is measured: its processes, and clients of it.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::{self, Instant};
use tonic::transport::{Channel, Endpoint};

use super::{
    Failure, coracle, etcd, redis,
    servers::{Server, free_ports},
    usage::{self, Usage},
};

/// How long a system may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(60);
/// How long to wait before it is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// How often free ports are drawn again when somebody else takes one in between.
const PORT_ATTEMPTS: usize = 4;

/// Which system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With this `--storage`, in which `DIR` stands for a directory of each node's own.
    Coracle { storage: String },
    /// With fsync.
    Etcd,
    /// Alone, with `appendfsync always`.
    Redis,
}

impl Kind {
    /// The name in tables.
    pub(crate) fn name(&self) -> String {
        match self {
            Kind::Coracle { storage } => format!("coracle {storage}"),
            Kind::Etcd => "etcd".to_owned(),
            Kind::Redis => "redis-server alone".to_owned(),
        }
    }

    pub(crate) fn is_coracle(&self) -> bool {
        matches!(self, Kind::Coracle { .. })
    }

    /// Where its program is, as `cargo xtask bench` says in a variable.
    fn program(&self) -> Result<PathBuf, Failure> {
        let variable = match self {
            Kind::Coracle { .. } => "CORACLE_BENCH_CORACLE",
            Kind::Etcd => "CORACLE_BENCH_ETCD",
            Kind::Redis => "CORACLE_BENCH_REDIS",
        };
        let path: Option<OsString> = std::env::var_os(variable);
        let missing = || format!("{variable} must be the path of the program; `cargo xtask bench` sets it");
        Ok(path.map(PathBuf::from).ok_or_else(missing)?)
    }
}

/// Processes that run.
#[derive(Debug)]
pub(crate) struct System {
    pub(crate) kind: Kind,
    servers: Vec<Server>,
    /// Where clients find each of them.
    endpoints: Vec<String>,
    /// What starts each of them again.
    arguments: Vec<Vec<String>>,
    /// Its data; deleted last.
    dir: TempDir,
}

impl System {
    /// Starts so many processes on empty directories within `dir`, and waits until one leads.
    pub(crate) async fn start(kind: &Kind, nodes: usize, dir: &Path) -> Result<System, Failure> {
        System::start_with(kind, nodes, &[], dir).await
    }

    /// The same with further options for each node.
    pub(crate) async fn start_with(
        kind: &Kind,
        nodes: usize,
        options: &[String],
        dir: &Path,
    ) -> Result<System, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in(dir)?;
            let system = System::spawn(kind, nodes, options, dir)?;
            match system.wait_until_ready().await {
                Ok(_) => return Ok(system),
                Err(error) if attempts < PORT_ATTEMPTS && error.to_string().contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn spawn(kind: &Kind, nodes: usize, options: &[String], dir: TempDir) -> Result<System, Failure> {
        let ports = free_ports(nodes * 2)?;
        let (peers, clients) = ports.split_at(nodes);
        let mut arguments = match kind {
            Kind::Coracle { storage } => coracle::arguments(dir.path(), storage, peers, clients),
            Kind::Etcd => etcd::arguments(dir.path(), peers, clients),
            Kind::Redis => vec![redis::arguments(dir.path(), clients[0])],
        };
        arguments.iter_mut().for_each(|arguments| arguments.extend_from_slice(options));
        let endpoints = clients.iter().take(arguments.len()).map(|port| format!("127.0.0.1:{port}")).collect();
        let mut system = System { kind: kind.clone(), servers: Vec::new(), endpoints, arguments, dir };
        for node in 0..system.arguments.len() {
            let server = system.spawn_node(node)?;
            system.servers.push(server);
        }
        Ok(system)
    }

    fn spawn_node(&self, node: usize) -> Result<Server, Failure> {
        let log = self.dir.path().join(format!("n{}.log", node + 1));
        Ok(Server::start(&self.kind.program()?, &self.arguments[node], log)?)
    }

    /// Kills a node and starts it again on its directory.
    pub(crate) fn restart(&mut self, node: usize) -> Result<(), Failure> {
        self.servers[node].stop();
        self.servers[node] = self.spawn_node(node)?;
        Ok(())
    }

    /// Starts one more node, which asks the others to take it in, and says which it is.
    pub(crate) fn add_node(&mut self) -> Result<usize, Failure> {
        let ports = free_ports(2)?;
        let node = self.arguments.len();
        self.arguments.push(coracle::joining(&self.arguments[0], node, ports[0], ports[1], self.dir.path()));
        self.endpoints.push(format!("127.0.0.1:{}", ports[1]));
        let server = self.spawn_node(node)?;
        self.servers.push(server);
        Ok(node)
    }

    /// Where the data of all nodes are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until a node leads, and says which.
    pub(crate) async fn wait_until_ready(&self) -> Result<usize, Failure> {
        let deadline = Instant::now() + READY_WAIT;
        loop {
            self.check()?;
            let asked = time::timeout(READY_WAIT, self.leader()).await?;
            match asked {
                Ok(leader) => return Ok(leader),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => time::sleep(PAUSE).await,
            }
        }
    }

    /// An error if a server has ended.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.servers.iter().try_for_each(Server::check)
    }

    /// Which node leads.
    pub(crate) async fn leader(&self) -> Result<usize, Failure> {
        let mut last: Failure = "no node leads".into();
        for node in 0..self.endpoints.len() {
            match self.leads(node).await {
                Ok(true) => return Ok(node),
                Ok(false) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn leads(&self, node: usize) -> Result<bool, Failure> {
        match &self.kind {
            Kind::Coracle { .. } => self.coracle(node).await?.leads().await,
            Kind::Etcd => etcd::Client::new(self.connect(node).await?).leads().await,
            Kind::Redis => redis::Client::connect(&self.endpoints[node]).await.map(|_| true),
        }
    }

    /// A client of a node of Coracle.
    pub(crate) async fn coracle(&self, node: usize) -> Result<coracle::Client, Failure> {
        Ok(coracle::Client::new(self.connect(node).await?))
    }

    async fn connect(&self, node: usize) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoints[node]))?;
        Ok(endpoint.tcp_nodelay(true).connect().await?)
    }

    /// Clients of a node, which share so many connections; those of Redis have one each, as its protocol wants it.
    pub(crate) async fn clients(&self, node: usize, number: usize, connections: usize) -> Result<Vec<Client>, Failure> {
        let mut clients = Vec::with_capacity(number);
        if self.kind == Kind::Redis {
            for _ in 0..number {
                clients.push(Client::Redis(redis::Client::connect(&self.endpoints[node]).await?));
            }
            return Ok(clients);
        }
        let mut channels = Vec::new();
        for _ in 0..connections {
            channels.push(self.connect(node).await?);
        }
        clients.extend(channels.iter().cycle().take(number).map(|channel| match &self.kind {
            Kind::Coracle { .. } => Client::Coracle(coracle::Client::new(channel.clone())),
            _ => Client::Etcd(etcd::Client::new(channel.clone())),
        }));
        Ok(clients)
    }

    /// Clients that send their calls on so many streams, where the system has any.
    pub(crate) async fn stream_clients(
        &self,
        node: usize,
        number: usize,
        streams: usize,
    ) -> Result<Vec<Client>, Failure> {
        if !self.kind.is_coracle() {
            return self.clients(node, number, streams).await;
        }
        let mut shared = Vec::new();
        for _ in 0..streams {
            shared.push(coracle::StreamClient::connect(&self.endpoints).await?);
        }
        Ok(shared.into_iter().cycle().take(number).map(Client::Stream).collect())
    }

    /// What its processes have used.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let pids: Vec<u32> = self.servers.iter().map(Server::pid).collect();
        Usage::of(&pids)
    }

    /// How often the disk of its data was flushed, by anybody, where the system counts it.
    pub(crate) fn flushes(&self) -> Option<u64> {
        usage::flushes(self.dir.path())
    }

    /// How much memory each process has, in bytes, the leader first.
    pub(crate) fn memory(&self, leader: usize) -> io::Result<Vec<u64>> {
        let mut nodes: Vec<usize> = (0..self.servers.len()).collect();
        nodes.rotate_left(leader);
        nodes.into_iter().map(|node| usage::memory(self.servers[node].pid())).collect()
    }
}

/// A client of any system.
#[derive(Debug)]
pub(crate) enum Client {
    Coracle(coracle::Client),
    Stream(coracle::StreamClient),
    Etcd(etcd::Client),
    Redis(redis::Client),
}

impl Client {
    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        match self {
            Client::Coracle(client) => client.put(key, value).await,
            Client::Stream(client) => client.put(key, value).await,
            Client::Etcd(client) => client.put(key, value).await,
            Client::Redis(client) => client.put(key, value).await,
        }
    }

    /// The value's length.
    pub(crate) async fn get(&mut self, key: Bytes, is_stale: bool) -> Result<Option<usize>, Failure> {
        match self {
            Client::Coracle(client) => client.get(key, is_stale).await,
            Client::Stream(_) => Err("gets on a stream are not measured".into()),
            Client::Etcd(client) => client.get(key, is_stale).await,
            Client::Redis(client) => client.get(key).await,
        }
    }
}
