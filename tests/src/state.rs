//! What a node or a cluster holds.

use std::{collections::BTreeMap, ops::Bound, time::Duration};

use bytes::Bytes;
use coracle::{
    client::Client,
    level::{Kv, ReadAt, ScanSpec},
};

use crate::wait::PATIENCE;

/// Keys and values.
pub type State = BTreeMap<Bytes, Bytes>;

/// All that one node has applied, page by page: only of use while nobody writes.
///
/// # Errors
/// As [`Kv::page`] does.
pub async fn stale(client: &dyn Kv) -> Result<State, coracle::level::Error> {
    let mut state = State::new();
    let mut from = Bound::Unbounded;
    loop {
        let spec = ScanSpec { from, to: Bound::Unbounded, reverse: false, limit: 1000, values: true };
        let page = client.page(ReadAt::Stale, spec).await?.value;
        let last = page.entries.last().map(|(key, _)| key.clone());
        state.extend(page.entries);
        match last {
            Some(last) if page.more => from = Bound::Excluded(last),
            _ => return Ok(state),
        }
    }
}

/// Waits until every node has exactly this state.
///
/// # Panics
/// When one has another state in the end.
pub async fn agree(clients: &[Client], expected: &State) {
    for client in clients {
        reaches(client, expected).await;
    }
}

/// Waits until one node has exactly this state.
///
/// # Panics
/// When it has another state in the end.
pub async fn reaches(node: &dyn Kv, expected: &State) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = stale(node).await;
        if found.as_ref() == Ok(expected) {
            return;
        }
        let is_over = tokio::time::Instant::now() >= deadline;
        assert!(
            !is_over,
            "a node has {}",
            found.map_or_else(|error| error.to_string(), |state| difference(&state, expected))
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a state has otherwise than it should.
fn difference(found: &State, expected: &State) -> String {
    let keys: std::collections::BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let differs = keys.into_iter().filter(|key| found.get(*key) != expected.get(*key));
    let shown: Vec<_> = differs.take(10).map(|key| (key, found.get(key), expected.get(key))).collect();
    format!("{} keys instead of {}; (key, found, expected): {shown:?}", found.len(), expected.len())
}
