//! Finding the leader: every node says whom it takes for it.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time};

use crate::{
    calls::Inner,
    endpoint::Endpoint,
    failure::Failure,
    pb::{Role, StatusRequest, StatusResponse},
};

/// The most nodes that a client learns of beside those that it was given.
const FOUND_MAX: usize = 64;

/// A node's answer.
struct View {
    endpoint: Arc<Endpoint>,
    status: StatusResponse,
}

impl View {
    fn leads(&self) -> bool {
        self.status.role() == Role::Leader && self.status.stopped.is_empty()
    }
}

impl Inner {
    /// Asks all nodes, prefers the leader from then on if there is one, and says how many answered.
    pub(crate) async fn discover(self: &Arc<Self>) -> usize {
        let views = self.ask_all().await;
        match newest_leader(&views) {
            Some(view) => self.prefer(&view.endpoint),
            None => self.follow_hint(&views, newest_term(&views)).await,
        }
        views.len()
    }

    /// The answers, in the order in which they came; none is waited for once a majority has answered and its newest term has a leader.
    /// A leader that was replaced may answer first, but in a majority somebody knows the term of its successor.
    async fn ask_all(&self) -> Vec<View> {
        let mut asked = JoinSet::new();
        for endpoint in self.all() {
            asked.spawn(ask(endpoint, self.options.status));
        }
        let majority = asked.len() / 2 + 1;
        let mut views: Vec<View> = Vec::new();
        while let Some(answer) = asked.join_next().await {
            views.extend(answer.ok().and_then(Result::ok));
            if views.len() >= majority && newest_leader(&views).is_some() {
                break;
            }
        }
        views
    }

    /// Goes to a leader that was not among the nodes given, if it says itself that it leads the same cluster: an address that others advertise may mean something else from here.
    async fn follow_hint(self: &Arc<Self>, views: &[View], term: u64) {
        let hint = views.iter().find(|view| view.status.term == term && !view.status.leader_client_address.is_empty());
        let Some(hint) = hint else { return };
        let address = &hint.status.leader_client_address;
        if self.all().len() >= self.given + FOUND_MAX || self.all().iter().any(|known| known.address == *address) {
            return;
        }
        let Ok(endpoint) = Endpoint::new(address, &self.options) else { return };
        let Ok(view) = ask(Arc::new(endpoint), self.options.status).await else { return };
        if view.leads() && view.status.cluster_id.is_some() && view.status.cluster_id == hint.status.cluster_id {
            self.add(Arc::clone(&view.endpoint));
            self.prefer(&view.endpoint);
        }
    }
}

fn newest_term(views: &[View]) -> u64 {
    views.iter().map(|view| view.status.term).max().unwrap_or(0)
}

/// The leader of the newest term: an older one is cut off, and will not commit anything.
fn newest_leader(views: &[View]) -> Option<&View> {
    let term = newest_term(views);
    views.iter().find(|view| view.leads() && view.status.term == term)
}

async fn ask(endpoint: Arc<Endpoint>, within: Duration) -> Result<View, Failure> {
    let status = status(&endpoint, within).await?;
    Ok(View { endpoint, status })
}

/// One node's own view.
pub(crate) async fn status(endpoint: &Endpoint, within: Duration) -> Result<StatusResponse, Failure> {
    let mut cluster = endpoint.cluster();
    match time::timeout(within, cluster.status(StatusRequest {})).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Failure::from_status(&status)),
        Err(_) => Err(Failure::Broken(format!("no answer within {} ms", within.as_millis()))),
    }
}
