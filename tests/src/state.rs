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
pub async fn stale(client: &Client) -> Result<State, coracle::level::Error> {
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
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = stale(client).await;
            if found.as_ref() == Ok(expected) {
                break;
            }
            let is_over = tokio::time::Instant::now() >= deadline;
            assert!(!is_over, "{client:?} has {} keys instead of {}", found.map_or(0, |s| s.len()), expected.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
