//! Coracle's store on a Redis server.
//!
//! [`RedisStore::open`] takes a server and a namespace on it; each node has a namespace of its own, and better a server of its own.
//! Every key begins with `coracle:{namespace}:`.
//!
//! | Key | What it holds |
//! |---|---|
//! | `owner` | The fence: the epoch of the last opening, and who it was; what was found lost |
//! | `lanes` | The number of the last write to each of: `log`, `identity`, `kv:<group>`, `snapshots:<group>` |
//! | `identity` | Who the store speaks for |
//! | `log:<group>`, `log:<group>:rows` | Term, vote, base and outline of a log; its entries by index, each with its index, term and checksum |
//! | `kv:<group>`, `:keys`, `:values` | The applied index; keys in order; values by key |
//! | `snapshots:<group>`, `:<content>` | Which snapshots there are; the pieces of one |
//!
//! # What it promises
//!
//! An acknowledged write survives what the server's settings say it survives: they are read at each connection, and [`durability`](coracle_storage::Store::durability) says what they come to.
//! With `appendonly yes`, `appendfsync always` and `no-appendfsync-on-rewrite no` that is a power loss; with less, or when the server does not tell, opening is refused unless [`allow_weaker_durability`](RedisOptions::allow_weaker_durability) is set.
//! A server that may throw keys away is always refused.
//! One that does not tell whether it may is accepted with weaker durability only, and [`durability_doubt`](coracle_storage::Store::durability_doubt) says so.
//!
//! A write is one script: it is carried out as a whole or not at all, and has a number in its lane.
//! When an answer is lost it is sent again under the same number, and is not carried out twice.
//! While the server is away, loads its data, is out of memory or refuses writes, requests wait, for ever if need be, until it answers or the store is [closed](RedisStore::close): it is a slow disk (C18).
//! After each new connection it is compared with what it acknowledged, in every lane; one that came back with less ends the store with [`StorageError::Lost`].
//! That is noted on the server, and so is what the next opening is refused with, unless weaker durability is allowed: a node that was started there again would have forgotten its votes.
//!
//! A second process is refused with [`StorageError::Locked`] as long as the server sees the first one connected.
//! If it does not, the second one takes the fence, and whatever the first one sends after that changes nothing and ends it with [`StorageError::Stopped`].
//! So a process that crashed can come back at once.
//!
//! # What it cannot promise
//!
//! What was acknowledged is known to the process only: when process and server both end, and the server comes back with less, nothing tells.
//! Neither do settings that are changed while it is connected, until it connects again.
//! A replica that takes over for its master has what it has: replication in Redis does not wait.
//! The two copies of term and vote lie in the same server.
//!
//! ```no_run
//! use coracle_storage_redis::{RedisOptions, RedisStore, RedisUrl};
//!
//! let url: RedisUrl = "redis+unix:///run/redis.sock?namespace=n1".parse()?;
//! let store = RedisStore::open(&url, RedisOptions::default())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod codec;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod identity;
mod kv;
mod link;
mod log;
mod script;
mod server;
mod settings;
mod snapshot;
mod url;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coracle_core::GroupId;
use coracle_storage::{Durability, Identity, KvStore, LogStore, Result, SnapshotStore, StorageError, Store};
use redis::{ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};

pub use crate::url::{RedisUrl, RedisUrlError};
use crate::{
    identity::RedisIdentity, kv::RedisKv, log::RedisLog, server::Server, snapshot::RedisSnapshots, url::Address,
};

const ENGINE: &str = "redis";

/// How a store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOptions {
    /// Whether a server that can lose what it acknowledged, does not tell, or is known to have lost some of it, is accepted; `durability` still says what it is.
    pub allow_weaker_durability: bool,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How long an answer may take: after that the connection is given up, and the request sent again on another. It is also how long a request may go on after the store was closed.
    pub response_timeout: Duration,
    /// How long opening waits for a server that is not there, or loads its data.
    pub open_timeout: Duration,
    /// Whom to trust, and who this is, for `rediss`.
    pub tls: RedisTls,
}

impl Default for RedisOptions {
    fn default() -> RedisOptions {
        RedisOptions {
            allow_weaker_durability: false,
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(10),
            open_timeout: Duration::from_secs(10),
            tls: RedisTls::default(),
        }
    }
}

/// Certificates for `rediss`, in PEM. Those that the URL names go before these.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RedisTls {
    /// The authority that signed the server's certificate; those of the system when there is none.
    pub authority: Option<Vec<u8>>,
    /// This node's certificate and its key, if the server asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authority, identity) = (self.authority.is_some(), self.identity.is_some());
        f.debug_struct("RedisTls").field("authority", &authority).field("identity", &identity).finish()
    }
}

/// A store on a Redis server. Clones are the same store; it is let go when the last of them and of its parts is dropped.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    server: Arc<Server>,
    identity: RedisIdentity,
    log: Arc<RedisLog>,
    kv: Mutex<HashMap<GroupId, Arc<RedisKv>>>,
    snapshots: Mutex<HashMap<GroupId, Arc<RedisSnapshots>>>,
}

impl RedisStore {
    /// Connects to the server and takes the namespace.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another process is connected to the namespace, [`StorageError::Lost`] when an earlier process found that the server lost what it had acknowledged, [`StorageError::Invalid`] when the server's settings promise too little or its password is refused, [`StorageError::Engine`] when another version wrote the namespace, [`StorageError::Io`] when the server cannot be reached in time.
    pub fn open(url: &RedisUrl, options: RedisOptions) -> Result<RedisStore> {
        let client = client(url, &url.tls(&options.tls)?)?;
        let server = Arc::new(Server::new(url, client, options, token()?));
        server.open()?;
        let identity = RedisIdentity::new(server.clone());
        let log = Arc::new(RedisLog::new(server.clone()));
        let shared = Shared { server, identity, log, kv: Mutex::default(), snapshots: Mutex::default() };
        Ok(RedisStore { shared: Arc::new(shared) })
    }

    /// Ends the store: requests that wait for the server return, at the latest after the response timeout, and later ones are refused, with [`StorageError::Stopped`].
    /// For a process that wants to end while the server is away.
    pub fn close(&self) {
        self.shared.server.close();
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("place", &self.shared.server.place).finish_non_exhaustive()
    }
}

impl Store for RedisStore {
    fn close(&self) {
        RedisStore::close(self);
    }

    fn engine(&self) -> &'static str {
        ENGINE
    }

    fn durability(&self) -> Durability {
        self.shared.server.condition().durability
    }

    fn durability_doubt(&self) -> Option<&'static str> {
        self.shared.server.condition().is_eviction_unknown.then_some("eviction unknown")
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.shared.identity.read()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.shared.identity.write(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.shared.log.clone()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        let mut snapshots = lock(&self.shared.snapshots);
        if let Some(found) = snapshots.get(&group) {
            return Ok(found.clone());
        }
        let opened = Arc::new(RedisSnapshots::open(self.shared.server.clone(), group)?);
        snapshots.insert(group, opened.clone());
        Ok(opened)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        let mut kv = lock(&self.shared.kv);
        if let Some(found) = kv.get(&group) {
            return Ok(found.clone());
        }
        let opened = Arc::new(RedisKv::open(self.shared.server.clone(), group)?);
        kv.insert(group, opened.clone());
        Ok(opened)
    }
}

/// A client for the server; nothing is sent yet.
fn client(url: &RedisUrl, tls: &RedisTls) -> Result<redis::Client> {
    let invalid = |error: redis::RedisError| StorageError::Invalid(format!("{url}: {error}"));
    let address = match &url.address {
        Address::Tcp { host, port, is_tls: false } => ConnectionAddr::Tcp(host.clone(), *port),
        Address::Tcp { host, port, is_tls: true } => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
    };
    let mut login = RedisConnectionInfo::default().set_db(url.db.into()).set_skip_set_lib_name();
    if let Some(user) = &url.user {
        login = login.set_username(user);
    }
    if let Some(password) = &url.password {
        login = login.set_password(password);
    }
    let info = address.into_connection_info().map_err(invalid)?.set_redis_settings(login);
    if !url.is_tls() {
        return redis::Client::open(info).map_err(invalid);
    }
    // A process with more than one provider has none until one is chosen; a choice that was made stands.
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    let client_tls = tls.identity.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    redis::Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: tls.authority.clone() })
        .map_err(invalid)
}

/// A random mark for one opening.
fn token() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| StorageError::io("draw random bytes", std::io::Error::other(error.to_string())))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a panic leaves behind under these locks is whole: a value is replaced or it is not.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
