//! How the nodes are while the demo runs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coracle::client::Client;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{self, MissedTickBehavior},
};

use crate::status;

/// How often each node is asked.
const INTERVAL: Duration = Duration::from_millis(100);
/// A node that takes longer is not up.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// A node, as it was a moment ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NodeState {
    pub(crate) endpoint: String,
    pub(crate) up: bool,
    pub(crate) id: Option<String>,
    pub(crate) role: Option<&'static str>,
    pub(crate) term: Option<u64>,
    pub(crate) commit: Option<u64>,
    pub(crate) applied: Option<u64>,
    pub(crate) leader: bool,
}

/// Asks every node again and again, until it is dropped.
pub(crate) struct Watch {
    states: Arc<Mutex<Vec<NodeState>>>,
    _asking: JoinSet<()>,
}

impl Watch {
    pub(crate) fn start(client: &Client) -> Watch {
        let endpoints = client.endpoints();
        let states = endpoints.iter().map(|endpoint| down(endpoint)).collect();
        let states = Arc::new(Mutex::new(states));
        let mut asking = JoinSet::new();
        for (at, endpoint) in endpoints.into_iter().enumerate() {
            asking.spawn(ask(client.clone(), endpoint, at, Arc::clone(&states)));
        }
        Watch { states, _asking: asking }
    }

    pub(crate) fn states(&self) -> Vec<NodeState> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn ask(client: Client, endpoint: String, at: usize, states: Arc<Mutex<Vec<NodeState>>>) {
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let state = match time::timeout(ANSWER_MAX, client.status(&endpoint)).await {
            Ok(Ok(status)) => NodeState {
                endpoint: endpoint.clone(),
                up: status.stopped.is_empty(),
                id: Some(status::id(status.node_id)),
                role: Some(status::role(&status)),
                term: Some(status.term),
                commit: Some(status.commit_index),
                applied: Some(status.applied_index),
                leader: status::role(&status) == "leader",
            },
            Ok(Err(_)) | Err(_) => down(&endpoint),
        };
        states.lock().unwrap_or_else(PoisonError::into_inner)[at] = state;
    }
}

fn down(endpoint: &str) -> NodeState {
    NodeState { endpoint: endpoint.to_owned(), ..NodeState::default() }
}
