//! From the command line to a cluster.

use std::sync::Arc;

use coracle_client::{Client, ClientOptions, ConnectError};
use coracle_level::Level;

use crate::{
    cli::ClusterArgs,
    exit::{Code, Failure, Outcome},
};

/// A client of the cluster; it connects when it is first asked for something.
pub(crate) fn client(cluster: &ClusterArgs) -> Outcome<Client> {
    let options = ClientOptions::default().with_deadline(cluster.timeout);
    Client::connect_lazy(&cluster.endpoints, options).map_err(|error| match error {
        ConnectError::NoEndpoints | ConnectError::Address { .. } => {
            Failure::new(Code::Usage, format!("--endpoints: {error}"))
        }
        _ => Failure::new(Code::Unavailable, error.to_string()),
    })
}

/// The store, with a session of its own for writes, so that each takes effect once however often it is retried.
pub(crate) fn level(client: Client, cluster: &ClusterArgs) -> Level {
    Level::new(Arc::new(client)).with_deadline(cluster.timeout)
}

/// Gives the session back, so that short-lived commands leave nothing behind. It ends by itself otherwise.
pub(crate) async fn leave(level: Level) {
    if let Err(error) = level.close().await {
        tracing::debug!(%error, "the session was not closed");
    }
}
