//! Clusters on real sockets, and on real disks.
#![cfg(all(feature = "memory", feature = "tcp"))]
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::net::TcpListener;

use common::{get, leader, reserve, try_build_all};
use coracle::{BuildError, Builder, Node, RequestError, StartError, StopReason};

/// Starts a cluster; again with other ports when somebody else took one in between.
async fn cluster(storage: &dyn Fn(usize) -> String, count: usize) -> (Vec<Node>, Vec<String>) {
    for _ in 0..10 {
        let addresses = reserve(count);
        match try_build_all(builders(&addresses, storage)).await {
            Ok(nodes) => return (nodes, addresses),
            Err(BuildError::Start(StartError::Transport(_))) => {}
            Err(error) => panic!("the nodes start: {error}"),
        }
    }
    panic!("no free ports");
}

fn builders(addresses: &[String], storage: &dyn Fn(usize) -> String) -> Vec<Builder> {
    let builder = |(at, address)| Node::builder().address(address).peers(addresses).storage(storage(at));
    addresses.iter().enumerate().map(builder).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_on_tcp_replicates_and_survives_its_leader() {
    let (nodes, _) = cluster(&|_| "memory:".to_owned(), 3).await;
    nodes[0].db().put("boat", "coracle").await.unwrap();
    for node in &nodes {
        assert_eq!(get(&node.db(), "boat").await.as_deref(), Some("coracle"));
    }
    let first = leader(&nodes).await;
    assert_eq!(nodes[first].shutdown().await, StopReason::Shutdown);
    let other = &nodes[(first + 1) % 3];
    other.db().put("boat", "canoe").await.unwrap();
    assert_eq!(get(&nodes[(first + 2) % 3].db(), "boat").await.as_deref(), Some("canoe"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fits_in_no_frame_is_refused_and_does_not_stop_the_cluster() {
    let (nodes, _) = cluster(&|_| "memory:".to_owned(), 3).await;
    let first = leader(&nodes).await;
    let max = 6 << 20;
    for node in [first, (first + 1) % 3] {
        let refused = nodes[node].propose(vec![0; max + 1]).await.unwrap_err();
        assert_eq!(refused, RequestError::TooLarge { max, got: max + 1 });
        // It means nothing to the state machine, which answers so: what counts is that it is committed.
        nodes[node].propose(vec![0; max]).await.unwrap();
    }
    nodes[0].db().put("boat", "coracle").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_0_is_filled_in() {
    let node = Node::builder().address("/ip4/127.0.0.1/tcp/0").storage("memory:").build().await.unwrap();
    let address = node.addresses()[0].to_string();
    assert!(address.starts_with("/ip4/127.0.0.1/tcp/") && !address.ends_with("/0"), "{address}");
    assert_eq!(node.status().members[0].addresses, [address]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    let error = Node::builder().address(&address).storage("memory:").build().await.unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_two_addresses_is_reached_at_both() {
    // The first is in both networks, the second only in memory, and a third only on TCP.
    let addresses = reserve(2);
    let memory = ["/memory/9001", "/memory/9002"];
    let first = Node::builder().address(memory[0]).address(&addresses[0]);
    let second = Node::builder().address(memory[1]);
    let nodes = [first, second].map(|builder| builder.peers(memory).storage("memory:"));
    let nodes = common::build_all(nodes.into()).await;
    nodes[1].db().put("boat", "coracle").await.unwrap();
    assert_eq!(get(&nodes[0].db(), "boat").await.as_deref(), Some("coracle"));
    assert_eq!(nodes[0].addresses().iter().map(ToString::to_string).collect::<Vec<_>>(), [memory[0], &addresses[0]]);
    let stranger = Node::builder().address(&addresses[1]).peers(&addresses).storage("memory:").build().await;
    let refused = stranger.expect_err("the first answers on TCP that the cluster was founded without this node");
    assert!(refused.to_string().contains("was founded without this node"), "{refused}");
}

#[cfg(feature = "sled")]
mod sled {
    use std::collections::BTreeSet;

    use coracle::{FoundingRefusal, storage::StorageError};

    use super::{
        common::{build_all, wait_until},
        *,
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_restarted_on_its_directories_has_its_data() {
        let directory = tempfile::tempdir().unwrap();
        let storage = |at: usize| format!("sled:{}", directory.path().join(format!("n{at}")).display());
        let (nodes, addresses) = cluster(&storage, 3).await;
        for n in 0..30 {
            nodes[n % 3].db().put(format!("key-{n}"), format!("value-{n}")).await.unwrap();
        }
        let ids: BTreeSet<_> = nodes.iter().map(|node| node.id()).collect();
        for node in &nodes {
            assert_eq!(node.shutdown().await, StopReason::Shutdown);
        }
        drop(nodes);
        let nodes = build_all(builders(&addresses, &storage)).await;
        assert_eq!(nodes.iter().map(|node| node.id()).collect::<BTreeSet<_>>(), ids);
        for n in 0..30 {
            assert_eq!(get(&nodes[(n + 1) % 3].db(), &format!("key-{n}")).await, Some(format!("value-{n}")));
        }
        assert_eq!(nodes[0].status().durability.to_string(), "power-loss");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn h54_a_wiped_directory_is_refused_and_the_others_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = |at: usize| directory.path().join(format!("n{at}"));
        let storage = |at: usize| format!("sled:{}", path(at).display());
        let (nodes, addresses) = cluster(&storage, 3).await;
        let member = nodes[0].id();
        nodes[0].shutdown().await;
        std::fs::remove_dir_all(path(0)).unwrap();
        let wiped = builders(&addresses, &storage).swap_remove(0).build().await.unwrap_err();
        let BuildError::Start(StartError::Refused(refusal)) = wiped else { panic!("refused: {wiped:?}") };
        assert_eq!(refusal, FoundingRefusal::Wiped { member });
        nodes[1].db().put("still", "here").await.unwrap();
        assert_eq!(get(&nodes[2].db(), "still").await.as_deref(), Some("here"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_down_catches_up() {
        let directory = tempfile::tempdir().unwrap();
        let storage = |at: usize| format!("sled:{}", directory.path().join(format!("n{at}")).display());
        let (mut nodes, addresses) = cluster(&storage, 3).await;
        let down = nodes.remove(0);
        down.shutdown().await;
        drop(down);
        for n in 0..20 {
            nodes[n % 2].db().put(format!("key-{n}"), "value").await.unwrap();
        }
        let back = builders(&addresses, &storage).swap_remove(0).build().await.unwrap();
        let applied = nodes[0].status().applied_index;
        wait_until("it has caught up", || back.status().applied_index >= applied).await;
        assert_eq!(get(&back.db(), "key-19").await.as_deref(), Some("value"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let storage = format!("sled:{}", directory.path().display());
        let builder = || Node::builder().address("/ip4/127.0.0.1/tcp/0").storage(&storage);
        let node = builder().build().await.unwrap();
        let error = builder().build().await.unwrap_err();
        assert!(matches!(error, BuildError::Storage(StorageError::Locked { .. })), "{error:?}");
        node.shutdown().await;
        builder().build().await.expect("the lock is let go when the node has stopped");
    }
}
