//! Nodes that speak in different ways: refused with what is wrong, unless all listen in both.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coracle_tests::{cluster::Cluster, node::Node, ports};

/// A second address for a node, which speaks the other way.
fn other_address(ending: &str) -> String {
    format!("/ip4/127.0.0.1/tcp/{}{ending}", ports::free())
}

#[test]
fn nodes_that_all_listen_on_both_found_a_cluster_and_serve() {
    // Those who found it are named by either address.
    let cluster = Cluster::arranged(3, &[], |nodes| {
        nodes[1].ends_with("/http");
        let peers: Vec<String> = nodes.iter().map(Node::address).collect();
        for (node, ending) in nodes.iter_mut().zip(["/http", "", "/http"]) {
            node.peers.clone_from(&peers);
            node.extra.push(other_address(ending));
        }
    });
    cluster.leader();
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    for node in 0..3 {
        assert_eq!(cluster.cli_at(node, &["get", "boat"]).expect(0).stdout.trim(), "coracle");
    }
}

#[test]
fn a_node_does_not_start_when_a_peer_speaks_what_it_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Node> = ["tcp", "grpc", "both"].map(|name| Node::new(name, folder.path())).into();
    nodes[1].ends_with("/http");
    nodes[2].extra.push(other_address("/http"));
    let peers: Vec<String> = nodes.iter().map(Node::address).collect();
    for (at, other) in [(0, 1), (1, 0)] {
        nodes[at].peers.clone_from(&peers);
        nodes[at].start();
        assert_eq!(nodes[at].wait().code(), Some(78), "{}", nodes[at].log_tail());
        let text = format!("{} cannot be reached from {}", nodes[other].address(), nodes[at].address());
        nodes[at].logs(&text);
    }
    nodes[2].peers = peers;
    nodes[2].start();
    nodes[2].logs("waiting");
}
