//! What the tests of this crate share.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::time::{Duration, Instant};

use coracle::{Builder, Node, level::Level};

/// More than any of the tests needs on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `is_true`, and fails when that takes too long.
pub async fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(start.elapsed() < DEADLINE, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts all of them at the same time, as founding needs it.
pub async fn build_all(builders: Vec<Builder>) -> Vec<Node> {
    let building: Vec<_> = builders.into_iter().map(|builder| tokio::spawn(builder.build())).collect();
    let mut nodes = Vec::new();
    for node in building {
        let node = tokio::time::timeout(DEADLINE, node).await.expect("the nodes found in time");
        nodes.push(node.unwrap().expect("the node starts"));
    }
    nodes
}

/// The position of the node that leads.
pub async fn leader(nodes: &[Node]) -> usize {
    let mut at = None;
    wait_until("somebody leads", || {
        at = nodes.iter().position(|node| node.is_running() && node.status().role == "leader");
        at.is_some()
    })
    .await;
    at.unwrap()
}

/// The value as text.
pub async fn get(db: &Level, key: &str) -> Option<String> {
    let value = db.get(key).await.expect("the read succeeds");
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}
