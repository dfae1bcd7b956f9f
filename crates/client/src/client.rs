//! A cluster, from outside.

use std::{fmt, sync::Arc, time::Duration};

use coracle_level::{Error, Result};
use tokio::time;

use crate::{ClientOptions, backoff::Backoff, calls::Inner, discovery, endpoint::Endpoint, failure::Failure, pb};

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
        Ok(Client { inner: Arc::new(Inner::new(options, all)) })
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
