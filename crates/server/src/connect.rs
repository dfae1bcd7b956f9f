//! From the command line to a cluster.

use std::{sync::Arc, time::Duration};

use coracle::client::{Client, ClientOptions, ConnectError};
use coracle::level::{HandleOptions, Level};

use crate::{
    cli::ClusterArgs,
    exit::{Code, Failure, Outcome},
};

/// How much longer the handle waits than the client below it.
const GRACE: Duration = Duration::from_millis(20);

/// A client of the cluster; it connects when it is first asked for something.
pub(crate) fn client(cluster: &ClusterArgs) -> Outcome<Client> {
    client_within(cluster, cluster.timeout())
}

/// The same, for calls that may take so long.
pub(crate) fn client_within(cluster: &ClusterArgs, deadline: Duration) -> Outcome<Client> {
    let mut options = ClientOptions::default().with_deadline(deadline);
    options.status = options.status.min(deadline);
    Client::connect_lazy(&cluster.endpoints, options).map_err(|error| match error {
        ConnectError::NoEndpoints | ConnectError::Address { .. } => {
            Failure::new(Code::Usage, format!("--endpoints: {error}"))
        }
        _ => Failure::new(Code::Unavailable, error.to_string()),
    })
}

/// The store, with a session of its own for writes, so that each takes effect once however often it is retried.
pub(crate) fn level(client: Client, deadline: Duration) -> Level {
    let mut options = HandleOptions::default();
    // The client's own deadline comes first, since it knows best what an unanswered request means; no attempt fits in after it.
    options.deadline = deadline + GRACE;
    options.backoff_min = options.backoff_min.max(2 * GRACE);
    Level::with_options(Arc::new(client), options)
}

/// Gives the session back, so that short-lived commands leave nothing behind. It ends by itself otherwise.
pub(crate) async fn leave(level: Level) {
    if let Err(error) = level.close().await {
        tracing::debug!(%error, "the session was not closed");
    }
}
