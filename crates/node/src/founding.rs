//! Founding, carried out: asks over the transport and waits by the clock what [`Founding`] decides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_core::{ClusterId, Membership};
use coracle_replica::{Answer, Founding, FoundingRefusal, Inquiry, Step};
use coracle_transport::{Address, Transport};
use tokio::task::JoinSet;

use crate::{StartError, clock::Clock, directory::Directory, identity, join};

/// How often to say who is missing.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);
/// How often to look whether what others asked changed anything.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A question's end: whom it went to, and the answer or why there is none.
type End = (String, Result<Answer, String>);

/// Waits until this node knows the first entry: its data, and what it says.
pub(crate) async fn found(
    directory: &Arc<Directory>,
    transport: &Arc<dyn Transport>,
    peers: &[Address],
) -> Result<(Bytes, Membership), StartError> {
    let clock = Clock::start();
    let cluster = ClusterId(identity::random()?);
    let Some(own) = directory.founder() else { return Err(not_ready()) };
    let names: BTreeMap<String, &Address> = peers.iter().map(|address| (address.to_string(), address)).collect();
    directory.begin_founding(Founding::new(own, names.keys().cloned(), cluster, clock.now()));
    let mut questions: JoinSet<End> = JoinSet::new();
    let mut progress_at = clock.now().plus(PROGRESS_INTERVAL);
    loop {
        let now = clock.now();
        if now >= progress_at {
            progress_at = now.plus(PROGRESS_INTERVAL);
            tell_progress(directory);
        }
        match directory.poll_founding(now).ok_or_else(not_ready)? {
            Step::Ask { address, question } => {
                let to = names.get(&address).map(|address| (*address).clone());
                let transport = transport.clone();
                let inquiry = Inquiry::Founding(question);
                questions.spawn(async move { (address, ask(&*transport, to, inquiry).await) });
            }
            Step::Found(membership) => {
                tracing::info!(cluster = %membership.cluster, nodes = membership.nodes.len(), "founds the cluster");
                return Ok((membership.encode(), membership));
            }
            Step::Copy { first, membership } => {
                tracing::info!(cluster = %membership.cluster, "was founded with its peers");
                return Ok((first, membership));
            }
            Step::Refuse(refusal) => return Err(refused(refusal)),
            Step::Wait { until } => {
                let look_at = now.plus(LOOK_INTERVAL);
                let until = until.map_or(look_at, |until| until.min(look_at));
                tokio::select! {
                    Some(end) = questions.join_next() => take(directory, clock, end),
                    () = clock.reached(Some(until)) => {}
                }
            }
        }
    }
}

async fn ask(transport: &dyn Transport, to: Option<Address>, inquiry: Inquiry) -> Result<Answer, String> {
    let to = to.ok_or("the address is not in the list")?;
    join::ask(transport, &to, &inquiry).await
}

fn take(directory: &Directory, clock: Clock, end: Result<End, tokio::task::JoinError>) {
    let Ok((address, result)) = end else { return };
    let now = clock.now();
    directory.with_founding(|founding| match result {
        Ok(answer) => founding.answered(&address, answer, now),
        Err(reason) => founding.unanswered(&address, reason, now),
    });
}

fn tell_progress(directory: &Directory) {
    let missing = directory.with_founding(|founding| founding.missing()).unwrap_or_default();
    if missing.is_empty() {
        tracing::info!("all peers have answered; waiting for the node of the lowest id to found the cluster");
        return;
    }
    let missing: Vec<String> = missing.into_iter().map(|(address, reason)| format!("{address} ({reason})")).collect();
    tracing::info!(missing = missing.join(", "), "waiting for all peers, to found the cluster");
}

fn refused(refusal: FoundingRefusal) -> StartError {
    tracing::error!(%refusal, "does not found a cluster with its peers");
    refusal.into()
}

fn not_ready() -> StartError {
    let source = std::io::Error::other("founding ended while it was under way");
    StartError::Environment { what: "cannot found the cluster", source }
}
