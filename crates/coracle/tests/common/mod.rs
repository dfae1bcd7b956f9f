//! What the tests of this crate share.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use coracle::{BuildError, Builder, Node, level::Level};
use tokio::task::JoinSet;

/// More than any of the tests needs on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `is_true`, and fails when that takes too long.
pub(crate) async fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts all of them at the same time, as founding needs it. When one does not start, the others are given up.
pub(crate) async fn try_build_all(builders: Vec<Builder>) -> Result<Vec<Node>, BuildError> {
    let mut building = JoinSet::new();
    for (at, builder) in builders.into_iter().enumerate() {
        building.spawn(async move { (at, builder.build().await) });
    }
    let mut nodes = Vec::new();
    while let Some(built) = tokio::time::timeout(DEADLINE, building.join_next()).await.expect("they found in time") {
        let (at, node) = built.unwrap();
        nodes.push((at, node?));
    }
    nodes.sort_by_key(|(at, _)| *at);
    Ok(nodes.into_iter().map(|(_, node)| node).collect())
}

/// The same, for those that cannot fail.
pub(crate) async fn build_all(builders: Vec<Builder>) -> Vec<Node> {
    try_build_all(builders).await.expect("the nodes start")
}

/// The position of the node that leads.
pub(crate) async fn leader(nodes: &[Node]) -> usize {
    let mut at = None;
    wait_until("somebody leads", || {
        at = nodes.iter().position(|node| node.is_running() && node.status().role == "leader");
        at.is_some()
    })
    .await;
    at.unwrap()
}

/// The value as text.
pub(crate) async fn get(db: &Level, key: &str) -> Option<String> {
    let value = db.get(key).await.expect("the read succeeds");
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Addresses on loopback whose ports were free a moment ago: nodes must know each other's before any of them listens.
pub(crate) fn reserve(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port());
    ports.map(|port| format!("/ip4/127.0.0.1/tcp/{port}")).collect()
}
