//! Hostile bytes on any port: the connection is closed for a logged reason, memory does not grow, and the cluster does not notice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use coracle::{
    client::{Client, ClientOptions},
    core::{ClusterId, GroupId, Incarnation, NodeId},
    level::{Error, Kv, Op, ReadAt, Txn},
    transport::{GroupHello, Hello, PROTOCOL_VERSION},
};
use coracle_tests::{
    cluster::Cluster,
    peer::{answer_until_closed, closes_after, handshake, preamble},
    wait::{PATIENCE, eventually},
};
use serde_json::Value;

/// Far below what the connections together announce, far above what allocators keep.
const GROWTH_MAX: u64 = 48 << 20;
const ROUNDS: usize = 50;

/// Writes something, waits until `node` has it and says so, and returns what must not change from then on.
async fn settled(cluster: &Cluster, node: usize) -> [Value; 3] {
    let op = Op::Put { key: Bytes::from("key"), value: Bytes::from("value") };
    let revision = cluster.client(PATIENCE).commit(Txn { ops: vec![op] }, None).await.unwrap().revision.0;
    eventually("the node shows the write", || {
        let status = cluster.status(node);
        // The status of a node is a picture of a moment ago.
        let is_there = ["last", "commit", "applied"].iter().all(|field| status[field] == revision);
        if is_there { Ok(()) } else { Err(format!("{revision}: {status:#}")) }
    });
    calm(cluster, node)
}

/// What must not change, as one node sees it.
fn calm(cluster: &Cluster, node: usize) -> [Value; 3] {
    let status = cluster.status(node);
    ["term", "leader", "last"].map(|field| status[field].clone())
}

fn id(status: &Value, field: &str) -> u64 {
    u64::from_str_radix(status[field].as_str().unwrap(), 16).unwrap()
}

/// A correct hello of a process that has this to say of itself.
fn hello(name: &str, cluster: Option<u64>, node: u64, incarnation: u64) -> Hello {
    let group = GroupHello {
        group: GroupId(1),
        cluster_name: name.to_owned(),
        cluster: cluster.map(ClusterId),
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
    };
    Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 7, groups: vec![group] }
}

/// What strangers send to the peers' port, and the reason that is logged.
fn attacks(victim: &Value, other: &Value) -> Vec<(Vec<u8>, &'static str)> {
    let (cluster, member) = (id(victim, "cluster"), id(other, "id"));
    let start = preamble(PROTOCOL_VERSION);
    let oversized = |len: u32| [&start[..], &len.to_be_bytes(), &[1; 64]].concat();
    let malformed = [&start[..], &[0, 0, 0, 3, 1, 0xc1, 0xc1]].concat();
    vec![
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "does not speak MessagePack over TCP"),
        ((0..=255).cycle().take(1 << 20).collect(), "does not speak MessagePack over TCP"),
        (oversized(u32::MAX), "a packet of 4294967294 bytes was announced"),
        (oversized(1 << 30), "a packet of 1073741823 bytes was announced"),
        (malformed, "a packet does not decode"),
        (preamble(PROTOCOL_VERSION + 1), "protocol version 3 is spoken there, 2 here"),
        (handshake(&hello("other", None, 7, 7)), "that is cluster \\\"other\\\", this is cluster \\\"coracle\\\""),
        (handshake(&hello("coracle", Some(7), 7, 7)), "another cluster of the same name"),
        (handshake(&hello("coracle", Some(cluster), 7, 7)), "is not a member of this cluster"),
        (handshake(&hello("coracle", Some(cluster), member, 7)), "is a member in another incarnation"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_peers_port_are_closed_for_a_logged_reason() {
    // JSON, so that the reasons are quoted in one way.
    let cluster = Cluster::start(&["--log-format", "json"]);
    let leader = cluster.leader();
    for node in [leader, cluster.others(leader)[0]] {
        let other = cluster.others(node)[1];
        let attacks = attacks(&cluster.status(node), &cluster.status(other));
        let before = settled(&cluster, node).await;
        let port = cluster.nodes[node].peer_port;
        // Says nothing at all, and is closed too, some time later.
        let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
        for (bytes, reason) in &attacks {
            closes_after(port, bytes);
            cluster.nodes[node].logs(reason);
        }
        let resident = cluster.nodes[node].resident_bytes();
        for (bytes, _) in attacks.iter().cycle().take(ROUNDS * attacks.len()) {
            closes_after(port, bytes);
        }
        within_bounds(&cluster, node, resident);
        assert_eq!(answer_until_closed(&mut silent), b"");
        assert_eq!(calm(&cluster, node), before, "term, leader and last index of node {node}");
    }
    cluster.cli(&["put", "key", "value"]).expect(0);
}

#[test]
fn a_stranger_is_told_why_it_is_refused() {
    let cluster = Cluster::of(1, &[]);
    let port = cluster.nodes[0].peer_port;
    let answer = closes_after(port, &handshake(&hello("other", None, 7, 7)));
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("Refused") && text.contains("ClusterName") && text.contains("coracle"), "{text}");
    let answer = closes_after(port, &preamble(9));
    assert!(answer.starts_with(&preamble(PROTOCOL_VERSION)), "its own version is told: {answer:?}");
}

fn within_bounds(cluster: &Cluster, node: usize, before: Option<u64>) {
    grew_little(before, cluster.nodes[node].resident_bytes());
}

fn grew_little(before: Option<u64>, after: Option<u64>) {
    let (Some(before), Some(after)) = (before, after) else {
        println!("this system does not tell how much memory a process uses");
        return;
    };
    println!("{} KiB before, {} KiB after", before >> 10, after >> 10);
    assert!(after < before + GROWTH_MAX, "from {before} to {after} bytes");
}

/// An HTTP/2 frame.
fn http2(kind: u8, flags: u8, stream: u32, len: u32, body: &[u8]) -> Vec<u8> {
    [&len.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_the_clients_port_does_no_harm() {
    let cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    let before = settled(&cluster, leader).await;
    let port = cluster.nodes[leader].api_port;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = http2(4, 0, 0, 0, b"");
    let begun = [PREFACE, &settings].concat();
    let attacks: Vec<Vec<u8>> = vec![
        (0..=255).cycle().take(1 << 20).collect(),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        [&begun[..], &http2(0, 0, 1, 0xff_ffff, &[0; 64])].concat(),
        [&begun[..], &http2(1, 4, 1, 64, &[0xff; 64])].concat(),
        [&begun[..], &http2(9, 0, 3, 8, &[0; 8])].concat(),
        [&begun[..], &http2(0xee, 0xff, 5, 8, &[0xff; 8]), &[0xff; 4096]].concat(),
        handshake(&hello("coracle", None, 7, 7)),
    ];
    let send = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // Whether the server closes or waits for more is its own affair, as is whether it reads everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    attacks.iter().for_each(|bytes| send(bytes));
    let resident = cluster.nodes[leader].resident_bytes();
    attacks.iter().cycle().take(ROUNDS * attacks.len()).for_each(|bytes| send(bytes));
    within_bounds(&cluster, leader, resident);
    assert_eq!(calm(&cluster, leader), before, "term, leader and last index");
    assert_eq!(cluster.cli_at(leader, &["get", "key"]).expect(0).stdout, "value\n");
}

/// Each of these is two to four bytes of a request, and some dozens in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_requests_of_many_empty_items_are_refused_before_they_take_memory() {
    const COUNT: usize = 1 << 20;
    let cluster = Cluster::of(1, &[]);
    let mut options = ClientOptions::default();
    options.message_bytes_max = 64 << 20;
    let bold = Client::connect_lazy([cluster.endpoints()], options).unwrap();
    // So that what a large request takes anyway was taken before.
    let large = Op::Put { key: Bytes::from("key"), value: vec![b'v'; 1 << 20].into() };
    bold.commit(Txn { ops: vec![large; 3] }, None).await.unwrap();
    let before = settled(&cluster, 0).await;
    let peak = cluster.nodes[0].peak_bytes();
    let limit = |name: &str, got| Error::LimitExceeded { limit: name.to_owned(), max: 100_000, got };
    let ops = vec![Op::Delete { key: Bytes::new() }; COUNT];
    let refused = bold.commit(Txn { ops }, None).await.unwrap_err();
    assert_eq!(refused, limit("operations per request", COUNT as u64));
    let keys = vec![Bytes::new(); 2 * COUNT];
    let refused = bold.get_many(ReadAt::Stale, keys.clone()).await.unwrap_err();
    assert_eq!(refused, limit("keys per request", 2 * COUNT as u64));
    let refused = bold.contains_many(ReadAt::Stale, keys).await.unwrap_err();
    assert_eq!(refused, limit("keys per request", 2 * COUNT as u64));
    grew_little(peak, cluster.nodes[0].peak_bytes());
    assert_eq!(calm(&cluster, 0), before, "term, leader and last index");
}

async fn refused(client: &Client, key: usize, value: usize) -> Error {
    let put = Op::Put { key: vec![b'k'; key].into(), value: vec![b'v'; value].into() };
    client.commit(Txn { ops: vec![put] }, None).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_a_limit_is_refused_before_it_is_replicated() {
    let cluster = Cluster::start(&[]);
    let leader = cluster.leader();
    // A follower refuses by itself too, instead of passing it on.
    for node in [leader, cluster.others(leader)[0]] {
        let client = cluster.client_at(node);
        let put = Op::Put { key: vec![b'k'; 4096].into(), value: Bytes::from(vec![b'v'; 1 << 20]) };
        client.commit(Txn { ops: vec![put] }, None).await.unwrap();
        let before = settled(&cluster, node).await;
        let limit = |name: &str, max, got| Error::LimitExceeded { limit: name.to_owned(), max, got };
        assert_eq!(refused(&client, 4097, 1).await, limit("key_bytes_max", 4096, 4097));
        assert_eq!(refused(&client, 1, (1 << 20) + 1).await, limit("value_bytes_max", 1 << 20, (1 << 20) + 1));
        let mut options = ClientOptions::default();
        options.message_bytes_max = 64 << 20;
        let bold = Client::connect_lazy(client.endpoints(), options).unwrap();
        let error = refused(&bold, 1, 16 << 20).await;
        assert!(matches!(error, Error::Protocol(_) | Error::LimitExceeded { .. }), "{error:?}");
        assert_eq!(calm(&cluster, node), before, "term, leader and last index of node {node}");
    }
}

#[test]
fn the_command_line_names_the_limit() {
    let cluster = Cluster::of(1, &[]);
    let endpoint = cluster.endpoints();
    let value = vec![b'v'; (1 << 20) + 1];
    let ended = coracle_tests::cli::coracle_with(["--endpoints", &endpoint, "put", "key", "-"], &value);
    ended.expect(77).says(&["value_bytes_max", "1048576", "1048577"]);
    cluster.cli(&["get", "key"]).expect(1);
}
