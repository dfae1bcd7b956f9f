//! Who may be part of a cluster: peers, names, engines and directories that do not fit are refused, and the refusal says why.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;

use coracle::{StorageUrl, core::NodeId, open_store, storage::Identity};
use coracle_tests::{cli::coracle, cluster::Cluster, node::Node, ports};

#[test]
fn other_peers_of_a_founded_node_are_ignored_with_a_warning() {
    let mut cluster = Cluster::start(&[]);
    cluster.cli(&["put", "key", "value"]).expect(0);
    let other = format!("/ip4/127.0.0.1/tcp/{}", ports::free());
    let node = &mut cluster.nodes[2];
    node.kill();
    node.wait();
    assert!(!node.log().contains("differs"), "{}", node.log_tail());
    node.peers[0] = other;
    node.start();
    node.ready();
    node.logs("the list of peers differs from the one that the cluster was founded with, and is ignored");
    cluster.leader();
    let members = cluster.status(2)["members"].clone();
    assert_eq!(members.as_array().map(Vec::len), Some(3), "{members}");
    assert_eq!(cluster.cli_at(2, &["get", "key"]).expect(0).stdout, "value\n");
}

#[test]
fn c01_a_wiped_node_is_refused_and_the_others_go_on() {
    let mut cluster = Cluster::start(&[]);
    cluster.cli(&["put", "before", "1"]).expect(0);
    let id = cluster.status(1)["id"].as_str().unwrap().to_owned();
    cluster.nodes[1].kill();
    cluster.nodes[1].wait();
    cluster.wipe(1);
    let refused = coracle(cluster.nodes[1].arguments()).expect(77);
    refused.says(&["error:", "this directory is new", &format!("coracle leave {id}")]);
    cluster.leader_among(&[0, 2]);
    cluster.cli(&["put", "after", "2"]).expect(0);
    assert_eq!(cluster.cli(&["scan", "--keys"]).expect(0).stdout, "after\nbefore\n");
}

#[test]
fn a_directory_of_another_cluster_name_is_refused() {
    let mut cluster = Cluster::of(1, &[]);
    cluster.nodes[0].kill();
    cluster.nodes[0].wait();
    cluster.nodes[0].cluster = Some("other".to_owned());
    coracle(cluster.nodes[0].arguments()).expect(78).says(&["cluster \"coracle\"", "\"other\""]);
}

#[test]
fn a_peer_of_another_cluster_name_is_refused_and_the_cluster_is_unharmed() {
    let cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let term = cluster.status(leader)["term"].clone();
    let mut stranger = Node::new("stranger", cluster.folder());
    stranger.cluster = Some("other".to_owned());
    stranger.peers = vec![stranger.address(), cluster.nodes[0].address()];
    coracle(stranger.arguments()).expect(78).says(&[
        &cluster.nodes[0].address(),
        "is of cluster \"coracle\"",
        "this one is of \"other\"",
    ]);
    assert_eq!(cluster.status(leader)["term"], term);
}

#[test]
fn a_new_node_with_the_peers_of_a_founded_cluster_is_refused() {
    let cluster = Cluster::start(&[]);
    let mut newcomer = Node::new("newcomer", cluster.folder());
    newcomer.peers = vec![newcomer.address(), cluster.nodes[0].address()];
    coracle(newcomer.arguments()).expect(77).says(&["founded without this node"]);
}

#[test]
fn a_locked_directory_is_refused_and_its_owner_goes_on() {
    let cluster = Cluster::of(1, &[]);
    let mut second = Node::new("second", cluster.folder());
    second.data.clone_from(&cluster.nodes[0].data);
    let place = second.data.display().to_string();
    coracle(second.arguments()).expect(78).says(&[&place, "in use by another process", "--storage"]);
    cluster.cli(&["put", "key", "value"]).expect(0);
}

/// A founded node's directory whose identity says something else is refused with these words.
#[track_caller]
fn refused_with_identity(field: &str, value: &str, parts: &[&str]) {
    let mut cluster = Cluster::of(1, &[]);
    cluster.nodes[0].signal("TERM");
    assert!(cluster.nodes[0].wait().success());
    let path = cluster.nodes[0].data.join("identity");
    let text = fs::read_to_string(&path).unwrap();
    let (lines, _) = text.split_once("checksum = ").unwrap();
    let start = format!("{field} = ");
    let change = |line: &str| if line.starts_with(&start) { format!("{start}{value}\n") } else { format!("{line}\n") };
    let lines: String = lines.lines().map(change).collect();
    let checksum = crc32fast::hash(lines.as_bytes());
    fs::write(&path, format!("{lines}checksum = {checksum:08x}\n")).unwrap();
    coracle(cluster.nodes[0].arguments()).expect(78).says(parts);
}

#[test]
fn a_directory_of_another_engine_is_refused() {
    refused_with_identity("engine", "other", &["made by other", "file"]);
}

#[test]
fn a_log_of_another_cluster_is_refused() {
    refused_with_identity("cluster", "0000000000000007", &["identity is of cluster", "its log of"]);
}

#[test]
fn a_directory_of_another_node_is_refused() {
    let mut cluster = Cluster::of(1, &[]);
    cluster.nodes[0].signal("TERM");
    assert!(cluster.nodes[0].wait().success());
    let store = open_store(&StorageUrl::of_directory(&cluster.nodes[0].data).unwrap()).unwrap();
    let identity = store.identity().unwrap().unwrap();
    // The node in the identity is none that the log knows.
    store.set_identity(&Identity { node: NodeId(7), clusters: Default::default(), ..identity }).unwrap();
    drop(store);
    coracle(cluster.nodes[0].arguments()).expect(78).says(&["founded without node", "7"]);
}
