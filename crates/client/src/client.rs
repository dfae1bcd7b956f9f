//! The client: which node to ask, and when to ask another one.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coracle_level::{Error, Result};
use tokio::time::{self, Instant};
use tonic::Status;

use crate::{ClientOptions, backoff::Backoff, discovery, endpoint::Endpoint, failure::Failure, holds::Holds, pb};

/// How long the leader is looked for at most once, while another node answers in its stead.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(300);

/// A cluster, from outside; cheap to clone, and clones share their connections.
///
/// Commits and linearizable reads go to the leader if it can be found, and otherwise to any node, which passes them on.
/// What surely had no effect, or has the same one when it is repeated, is retried until the deadline, on one node after another.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

/// What a node says of itself, or why it does not.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its client address.
    pub endpoint: String,
    /// Its status.
    pub status: Result<pb::StatusResponse>,
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller: there is no address.
    #[error("no endpoint was given; expected at least one HOST:PORT")]
    NoEndpoints,
    /// The caller: an address does not parse.
    #[error("\"{address}\" is not an endpoint: {reason}; expected HOST:PORT")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The environment: no node answered in time.
    #[error("none of {endpoints} answered within {} ms", .waited.as_millis())]
    Unreachable {
        /// Who was asked.
        endpoints: String,
        /// For how long.
        waited: Duration,
    },
}

impl ConnectError {
    pub(crate) fn address(address: &str, reason: String) -> ConnectError {
        ConnectError::Address { address: address.to_owned(), reason }
    }
}

/// What one call to one node returns.
pub(crate) type Called<T> = std::result::Result<T, Status>;

/// What it means to send a request twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes nothing, so that its outcome is never unknown.
    Read,
    /// It has the same effect twice as once.
    Repeatable,
    /// It has an effect each time.
    Fragile,
}

pub(crate) struct Inner {
    pub(crate) options: ClientOptions,
    /// How many nodes were given; those that were found come after them.
    pub(crate) given: usize,
    nodes: Mutex<Nodes>,
    pub(crate) holds: Mutex<Holds>,
    /// Where stale reads go: any node will do, so that clients spread over them.
    stale: AtomicUsize,
    /// Held by whoever looks for the leader; a single one at a time.
    discovering: tokio::sync::Mutex<()>,
}

struct Nodes {
    all: Vec<Arc<Endpoint>>,
    preferred: usize,
    /// Whether the preferred one said that it leads, and has not failed since.
    leads: bool,
    looked_at: Option<Instant>,
}

impl Client {
    /// A client of the cluster that these nodes belong to; it returns when the first of them has answered.
    ///
    /// # Errors
    /// When an address does not parse, or no node answers before the deadline.
    pub async fn connect<I>(endpoints: I, options: ClientOptions) -> std::result::Result<Client, ConnectError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let client = Client::connect_lazy(endpoints, options)?;
        let waited = client.inner.options.deadline;
        let answered = time::timeout(waited, async {
            let mut backoff = Backoff::new();
            while client.inner.discover().await == 0 {
                time::sleep(backoff.step()).await;
            }
        });
        match answered.await {
            Ok(()) => Ok(client),
            Err(_) => Err(ConnectError::Unreachable { endpoints: client.endpoints().join(", "), waited }),
        }
    }

    /// A client that connects when it is first asked for something. Needs a tokio runtime round it.
    ///
    /// # Errors
    /// When an address does not parse.
    pub fn connect_lazy<I>(endpoints: I, options: ClientOptions) -> std::result::Result<Client, ConnectError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut all: Vec<Arc<Endpoint>> = Vec::new();
        for address in endpoints {
            let endpoint = Endpoint::new(address.as_ref(), &options)?;
            if all.iter().all(|known| known.address != endpoint.address) {
                all.push(Arc::new(endpoint));
            }
        }
        if all.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let start = getrandom::u32().unwrap_or(0) as usize % all.len();
        Ok(Client {
            inner: Arc::new(Inner {
                options,
                given: all.len(),
                nodes: Mutex::new(Nodes { all, preferred: 0, leads: false, looked_at: None }),
                holds: Mutex::default(),
                stale: AtomicUsize::new(start),
                discovering: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// The addresses that the client was given.
    pub fn endpoints(&self) -> Vec<String> {
        self.inner.all()[..self.inner.given].iter().map(|endpoint| endpoint.address.clone()).collect()
    }

    /// What the node at one address says of itself; it is asked once.
    ///
    /// # Errors
    /// `Unavailable` when it does not answer; `Protocol` when the address does not parse or something else answers.
    pub async fn status(&self, endpoint: &str) -> Result<pb::StatusResponse> {
        let address = crate::endpoint::normal(endpoint).map_err(|error| Error::Protocol(error.to_string()))?;
        let known = self.inner.all().into_iter().find(|known| known.address == address);
        let endpoint = match known {
            Some(known) => known,
            None => Endpoint::new(&address, &self.inner.options)
                .map(Arc::new)
                .map_err(|error| Error::Protocol(error.to_string()))?,
        };
        discovery::status(&endpoint, self.inner.options.status).await.map_err(|failure| match failure {
            Failure::Answer(error) => error,
            Failure::Unsent(reason) | Failure::Broken(reason) => Error::Unavailable(reason),
        })
    }

    /// What each node that the client was given says of itself, in their order; all are asked at once.
    pub async fn statuses(&self) -> Vec<NodeView> {
        let asked: Vec<_> = self
            .endpoints()
            .into_iter()
            .map(|endpoint| {
                let client = self.clone();
                let address = endpoint.clone();
                (endpoint, tokio::spawn(async move { client.status(&address).await }))
            })
            .collect();
        let mut views = Vec::with_capacity(asked.len());
        for (endpoint, status) in asked {
            let status = status.await.unwrap_or_else(|error| Err(Error::Unavailable(error.to_string())));
            views.push(NodeView { endpoint, status });
        }
        views
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

impl Inner {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.nodes().all.clone()
    }

    pub(crate) fn add(&self, endpoint: Arc<Endpoint>) {
        let mut nodes = self.nodes();
        if nodes.all.iter().all(|known| known.address != endpoint.address) {
            nodes.all.push(endpoint);
        }
    }

    pub(crate) fn prefer(&self, leader: &Arc<Endpoint>) {
        let mut nodes = self.nodes();
        if let Some(at) = nodes.all.iter().position(|endpoint| endpoint.address == leader.address) {
            nodes.preferred = at;
            nodes.leads = true;
        }
    }

    /// The node to ask, and whether somebody should look for a better one.
    pub(crate) fn preferred(self: &Arc<Self>) -> Arc<Endpoint> {
        let (endpoint, look) = {
            let mut nodes = self.nodes();
            let now = Instant::now();
            let look = !nodes.leads && nodes.looked_at.is_none_or(|at| now - at >= DISCOVERY_INTERVAL);
            if look {
                nodes.looked_at = Some(now);
            }
            (Arc::clone(&nodes.all[nodes.preferred]), look)
        };
        if look {
            self.look_for_leader();
        }
        endpoint
    }

    /// Any node, always the same one until it fails.
    pub(crate) fn any(&self) -> Arc<Endpoint> {
        let nodes = self.nodes();
        Arc::clone(&nodes.all[self.stale.load(Ordering::Relaxed) % nodes.all.len()])
    }

    fn look_for_leader(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(_single) = inner.discovering.try_lock() {
                inner.discover().await;
            }
        });
    }

    /// The node at hand failed, or does not lead: asks the next one from then on.
    fn move_on(&self, from: &Arc<Endpoint>) {
        let mut nodes = self.nodes();
        let count = nodes.all.len();
        if Arc::ptr_eq(&nodes.all[nodes.preferred], from) {
            nodes.preferred = (nodes.preferred + 1) % count;
            nodes.leads = false;
        }
        let stale = self.stale.load(Ordering::Relaxed) % count;
        if Arc::ptr_eq(&nodes.all[stale], from) {
            self.stale.store(stale + 1, Ordering::Relaxed);
        }
    }

    /// Calls one node after the other until there is an answer, or the deadline has come.
    pub(crate) async fn call<T, C, A, F>(&self, kind: Kind, choose: C, attempt: A) -> Result<T>
    where
        C: Fn() -> Arc<Endpoint> + Send + Sync,
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<T>> + Send,
    {
        let deadline = Instant::now() + self.options.deadline;
        let mut backoff = Backoff::new();
        let mut may_have_happened = false;
        loop {
            let endpoint = choose();
            let failure = match self.attempt(kind, deadline, attempt(Arc::clone(&endpoint))).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            may_have_happened |= kind != Kind::Read && failure.is_unknown();
            let repeat = failure.is_without_effect() || (failure.is_unknown() && kind != Kind::Fragile);
            let wait = backoff.step().max(retry_after(&failure));
            if !repeat || Instant::now() + wait >= deadline {
                return Err(self.give_up(&endpoint, failure, may_have_happened, repeat));
            }
            tracing::debug!(endpoint = %endpoint.address, reason = %failure.reason(), "asking again");
            if !matches!(failure, Failure::Answer(Error::Busy { .. })) {
                self.move_on(&endpoint);
            }
            time::sleep(wait).await;
        }
    }

    async fn attempt<T>(
        &self,
        kind: Kind,
        deadline: Instant,
        call: impl Future<Output = Called<T>>,
    ) -> std::result::Result<T, Failure> {
        // Giving up early on what cannot be repeated would only make its outcome unknown.
        let until = match kind {
            Kind::Fragile => deadline,
            Kind::Read | Kind::Repeatable => deadline.min(Instant::now() + self.options.attempt),
        };
        match time::timeout_at(until, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => Err(Failure::from_status(&status)),
            Err(_) => Err(Failure::Broken("no answer in time".to_owned())),
        }
    }

    /// The error that a call ends in.
    fn give_up(&self, endpoint: &Endpoint, failure: Failure, may_have_happened: bool, timed_out: bool) -> Error {
        let waited = self.options.deadline.as_millis();
        let told = match &failure {
            _ if timed_out => {
                format!("gave up after {waited} ms; last from {}: {}", endpoint.address, failure.reason())
            }
            Failure::Answer(Error::Unknown(reason)) => reason.clone(),
            _ => format!("{}: {}", endpoint.address, failure.reason()),
        };
        match failure {
            _ if may_have_happened && (timed_out || failure.is_unknown()) => Error::Unknown(told),
            Failure::Answer(error @ Error::Busy { .. }) => error,
            Failure::Answer(error) if !timed_out => error,
            _ => Error::Unavailable(told),
        }
    }
}

fn retry_after(failure: &Failure) -> Duration {
    match failure {
        Failure::Answer(Error::Busy { retry_after }) => *retry_after,
        _ => Duration::ZERO,
    }
}
