//! The command line against a cluster: what it prints, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use coracle_tests::{cli::coracle, cluster::Cluster, proxy::Proxy};
use serde_json::json;

#[test]
fn values_are_put_read_counted_and_deleted_on_any_node() {
    let cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    for node in [leader, cluster.others(leader)[0]] {
        let run = |args: &[&str]| cluster.cli_at(node, args);
        run(&["get", "absent"]).expect(1).says(&["there is no key \"absent\""]);
        run(&["put", "text", "hello"]).expect(0);
        assert_eq!(run(&["get", "text"]).expect(0).stdout, "hello\n");
        run(&["incr", "text"]).expect(77).says(&["\"text\"", "not a 64-bit decimal integer"]);
        assert_eq!(run(&["get", "text"]).expect(0).stdout, "hello\n", "the increment changed nothing");
        assert_eq!(run(&["incr", "number"]).expect(0).stdout, "1\n");
        assert_eq!(run(&["incr", "number", "41"]).expect(0).stdout, "42\n");
        assert_eq!(run(&["incr", "number", "-50"]).expect(0).stdout, "-8\n");
        run(&["put", "edge", "9223372036854775807"]).expect(0);
        run(&["incr", "edge"]).expect(77);
        assert_eq!(run(&["get", "edge"]).expect(0).stdout, "9223372036854775807\n");
        let found = run(&["get", "number", "--json"]).expect(0).json();
        assert_eq!((&found["value"], &found["version"]), (&json!("-8"), &json!(3)));
        for key in ["text", "number", "edge"] {
            run(&["del", key]).expect(0);
            run(&["get", key]).expect(1);
        }
        run(&["del", "text"]).expect(0);
        let absent = run(&["get", "text", "--json"]).expect(1);
        assert_eq!(absent.json()["value"], json!(null));
        assert_eq!(absent.stderr, "");
    }
}

#[test]
fn scans_go_both_ways_within_bounds_and_limits() {
    let cluster = Cluster::start(&[]);
    let follower = cluster.others(cluster.leader())[0];
    for key in ["a/1", "a/2", "a/3", "b/1", "b/2"] {
        cluster.cli(&["put", key, &format!("value of {key}")]).expect(0);
    }
    let scan = |args: &[&str]| {
        let all = cluster.cli(&[&["scan", "--keys"], args].concat()).expect(0).stdout;
        assert_eq!(cluster.cli_at(follower, &[&["scan", "--keys"], args].concat()).expect(0).stdout, all);
        all.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(scan(&[]), ["a/1", "a/2", "a/3", "b/1", "b/2"]);
    assert_eq!(scan(&["--reverse"]), ["b/2", "b/1", "a/3", "a/2", "a/1"]);
    assert_eq!(scan(&["--prefix", "a/"]), ["a/1", "a/2", "a/3"]);
    assert_eq!(scan(&["--prefix", "a/", "--reverse", "--limit", "2"]), ["a/3", "a/2"]);
    assert_eq!(scan(&["--from", "a/2", "--to", "b/2"]), ["a/2", "a/3", "b/1"]);
    assert_eq!(scan(&["--from", "a/2", "--to", "b/2", "--reverse"]), ["b/1", "a/3", "a/2"]);
    assert_eq!(scan(&["--limit", "1"]), ["a/1"]);
    assert!(scan(&["--limit", "0"]).is_empty() && scan(&["--prefix", "c"]).is_empty());
    assert_eq!(cluster.cli(&["scan", "--limit", "1"]).expect(0).stdout, "a/1\tvalue of a/1\n");
    let json = cluster.cli(&["scan", "--limit", "1", "--json"]).expect(0).json();
    assert_eq!(json, json!({ "key": "a/1", "value": "value of a/1" }));
    cluster.cli(&["scan", "--prefix", "a", "--from", "b"]).expect(2).says(&["--prefix"]);
}

#[test]
fn the_status_shows_every_node_also_those_that_are_down() {
    let mut cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let away = cluster.others(leader)[0];
    cluster.nodes[away].kill();
    cluster.nodes[away].wait();
    let statuses = cluster.statuses();
    assert_eq!(statuses.len(), 3);
    for (node, status) in statuses.iter().enumerate() {
        assert_eq!(status["endpoint"], json!(cluster.nodes[node].endpoint()));
        assert_eq!(status["up"], json!(node != away), "{status}");
    }
    let status = &statuses[leader];
    assert_eq!((&status["storage"], &status["durability"]), (&json!("file"), &json!("power-loss")));
    assert_eq!(status["members"].as_array().map(Vec::len), Some(3));
    let table = cluster.cli(&["status"]).expect(0).stdout;
    assert!(table.contains("leader") && table.contains("unreachable"), "{table}");
    cluster.cli_at(away, &["--timeout", "1s", "status"]).expect(69).says(&["none of", "answered"]);
}

#[test]
fn a_cluster_without_a_majority_is_unavailable_within_the_timeout() {
    let mut cluster = Cluster::start(&[]);
    cluster.cli(&["put", "key", "value"]).expect(0);
    let left = cluster.leader();
    for node in cluster.others(left) {
        cluster.nodes[node].kill();
        cluster.nodes[node].wait();
    }
    // An idle leader needs a moment to see that it is alone; reads are never answered without a majority.
    for args in [&["get", "key"][..], &["scan"], &["put", "key", "other"], &["incr", "number"]] {
        let ended = cluster.cli(&[&["--timeout", "2s"], args].concat()).expect(69).says(&["A majority of the nodes"]);
        assert!(ended.took < Duration::from_secs(6), "{ended:#?}");
    }
    assert_eq!(cluster.cli(&["get", "--stale", "key"]).expect(0).stdout, "value\n");
    cluster.nodes[left].kill();
    cluster.nodes[left].wait();
    cluster.cli(&["--timeout", "1s", "get", "key"]).expect(69);
    cluster.restart_all();
    assert_eq!(cluster.cli(&["get", "key"]).expect(0).stdout, "value\n");
    cluster.cli(&["get", "number"]).expect(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_outcome_is_unknown_says_so() {
    const KEY: &str = "a key that nobody else would write";
    let mut cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let mut proxy = Proxy::before(cluster.nodes[leader].endpoint(), KEY).await;
    let endpoint = proxy.endpoint.clone();
    let put = tokio::task::spawn_blocking(move || {
        coracle(["--endpoints", &endpoint, "--timeout", "3s", "put", KEY, "value"])
    });
    // The session is open by then: it is the write itself that loses its majority.
    proxy.seen().await;
    for node in cluster.others(leader) {
        cluster.nodes[node].kill();
        cluster.nodes[node].wait();
    }
    proxy.go_on();
    let ended = put.await.unwrap().expect(75).says(&["outcome is unknown", "read the key before you repeat"]);
    assert!(ended.took < Duration::from_secs(8), "{ended:#?}");
    // It was appended to the old leader's log, and comes true with it: both ends are allowed, a half one is not.
    for node in cluster.others(leader) {
        cluster.nodes[node].start();
        cluster.nodes[node].ready();
    }
    let found = cluster.cli(&["get", KEY]);
    match found.code {
        Some(0) => assert_eq!(found.stdout, "value\n"),
        _ => drop(found.expect(1)),
    }
}
