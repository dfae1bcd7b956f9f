//! How fresh a read is, with nodes that are cut off.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{DEADLINE, build_all, leader};
use coracle::{
    MemoryNetwork, Node,
    level::{Error, ReadAt},
};

/// So long that nobody else is elected while a test looks at a leader that is cut off.
const ELECTION: Duration = Duration::from_secs(3);

async fn cluster(network: &MemoryNetwork, lease: Duration, election: Duration) -> Vec<Node> {
    let builder = |at: u64| {
        Node::builder()
            .address(format!("/memory/{at}"))
            .peers((1..=3).map(|peer| format!("/memory/{peer}")))
            .network(network)
            .storage("memory:")
            .election_timeout(election..=2 * election)
            .options(|options| {
                options.replica.leader_wait = Duration::from_millis(300);
                options.replica.raft.lease_duration = lease;
            })
    };
    build_all((1..=3).map(builder).collect()).await
}

async fn read(node: &Node, at: ReadAt) -> Result<Option<Bytes>, Error> {
    let read = node.kv().get_many(at, vec![Bytes::from("k")]).await?;
    Ok(read.value.into_iter().next().flatten().map(|value| value.value))
}

fn text(value: &'static str) -> Result<Option<Bytes>, Error> {
    Ok(Some(Bytes::from_static(value.as_bytes())))
}

#[tokio::test(flavor = "multi_thread")]
async fn c12_a_bounded_read_on_a_follower_that_is_cut_off_fails_rather_than_being_too_old() {
    const MAX_AGE: Duration = Duration::from_millis(200);
    let network = MemoryNetwork::new();
    let nodes = cluster(&network, Duration::ZERO, Duration::from_millis(200)).await;
    let first = leader(&nodes).await;
    let (away, other) = ((first + 1) % 3, (first + 2) % 3);
    nodes[first].db().put("k", "old").await.unwrap();
    for at in [ReadAt::Linearizable, ReadAt::Lease, ReadAt::Bounded(MAX_AGE), ReadAt::Bounded(Duration::ZERO)] {
        assert_eq!(read(&nodes[away], at).await, text("old"), "{at:?}");
    }
    network.isolate(away as u64 + 1);
    nodes[other].db().put("k", "new").await.unwrap();
    let acknowledged = Instant::now();
    tokio::time::sleep_until((acknowledged + MAX_AGE).into()).await;
    let found = read(&nodes[away], ReadAt::Bounded(MAX_AGE)).await;
    assert!(matches!(found, Err(Error::NotLeader { .. } | Error::Unavailable(_))), "{found:?}");
    // A bound that the follower can vouch for, and none at all.
    assert_eq!(read(&nodes[away], ReadAt::Bounded(Duration::from_secs(3600))).await, text("old"));
    assert_eq!(read(&nodes[away], ReadAt::Stale).await, text("old"));
    network.heal();
    let healed = Instant::now();
    loop {
        match read(&nodes[away], ReadAt::Bounded(MAX_AGE)).await {
            Ok(found) => break assert_eq!(Ok(found), text("new")),
            Err(error) => assert!(healed.elapsed() < DEADLINE, "it answers within the bound again: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_a_leader_with_a_lease_answers_alone_and_one_without_does_not() {
    for (lease, expected) in [(ELECTION, true), (Duration::ZERO, false)] {
        let network = MemoryNetwork::new();
        let nodes = cluster(&network, lease, ELECTION).await;
        let first = leader(&nodes).await;
        nodes[first].db().put("k", "v").await.unwrap();
        // Its round is what the others make their promise with.
        assert_eq!(read(&nodes[first], ReadAt::Linearizable).await, text("v"));
        network.isolate(first as u64 + 1);
        let wait = Duration::from_secs(1);
        let alone = tokio::time::timeout(wait, read(&nodes[first], ReadAt::Lease)).await;
        assert_eq!(alone.ok() == Some(text("v")), expected, "with a lease of {lease:?}");
        let round = tokio::time::timeout(wait, read(&nodes[first], ReadAt::Linearizable)).await;
        assert!(!matches!(round, Ok(Ok(_))), "nobody was there to ask: {round:?}");
    }
}
