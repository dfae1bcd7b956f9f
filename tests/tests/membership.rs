//! Nodes that come and go while clients write.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coracle_tests::{cluster::Cluster, load::Load, proxy::Proxy, state, wait::eventually};

const WRITERS: usize = 3;

/// Starts a node on an empty directory that asks these members to be taken in.
fn start_to_join(cluster: &mut Cluster, node: usize, members: &[usize]) {
    let addresses = cluster.addresses(members);
    cluster.nodes[node].peers.clear();
    cluster.nodes[node].extra = vec!["--join".to_owned(), addresses];
    cluster.nodes[node].start();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c16_a_cluster_grows_to_five_and_shrinks_to_three_under_load_and_counts_each_write_once() {
    let mut cluster = Cluster::start(&[]);
    let (invited, asking) = (cluster.add(&["--standby"]), cluster.add(&[]));
    let loads: Vec<Load> = (0..WRITERS).map(|n| Load::start(cluster.level(), &format!("sum/{n}"))).collect();
    let goes_on = || loads.iter().for_each(Load::goes_on);
    goes_on();
    // One waits to be taken in, the other asks for it itself.
    cluster.nodes[invited].start();
    let joined = cluster.cli(&["join", &cluster.nodes[invited].address()]).expect(0);
    cluster.nodes[invited].ready();
    assert_eq!(joined.stdout, format!("node {} is a voter\n", cluster.id(invited)));
    goes_on();
    start_to_join(&mut cluster, asking, &[0, invited]);
    cluster.nodes[asking].ready();
    cluster.has_voters(&[0, 1, 2, 3, 4]);
    goes_on();
    // The leader goes, whoever it is by now, and then one of those who founded the cluster.
    let mut left: Vec<usize> = (0..5).collect();
    for round in 0..2 {
        let leader = cluster.leader_among(&left);
        let leaves = if round == 0 { leader } else { *left.iter().find(|node| **node != leader).unwrap() };
        let id = cluster.id(leaves);
        let ended = cluster.cli(&["leave", &id[..8]]).expect(0);
        assert_eq!(ended.stdout, format!("node {id} has left\n"));
        left.retain(|node| *node != leaves);
        goes_on();
        // Who is no member any more may be stopped, or not: the others do not need it.
        cluster.nodes[leaves].signal("TERM");
        assert!(cluster.nodes[leaves].wait().success());
        goes_on();
        cluster.has_voters(&left);
    }
    let mut expected = state::State::new();
    for load in loads {
        let key = load.key().to_owned();
        let count = load.stop().await;
        assert_eq!(cluster.cli(&["get", &key]).expect(0).stdout, format!("{count}\n"));
        expected.insert(key.into(), count.to_string().into());
    }
    let clients: Vec<_> = left.iter().map(|&node| cluster.client_at(node)).collect();
    state::agree(&clients, &expected).await;
}

#[test]
fn c01_a_node_that_lost_its_directory_comes_back_as_a_new_one() {
    let mut cluster = Cluster::start(&[]);
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    let wiped = cluster.others(cluster.leader())[0];
    let old = cluster.id(wiped);
    cluster.nodes[wiped].kill();
    cluster.nodes[wiped].wait();
    cluster.wipe(wiped);
    let others = cluster.others(wiped);
    start_to_join(&mut cluster, wiped, &others);
    // It is told who it is taken for, and what to do.
    assert_eq!(cluster.nodes[wiped].wait().code(), Some(77));
    let log = cluster.nodes[wiped].log_since_start();
    assert!(log.contains(&format!("coracle leave {old}")), "{log}");
    cluster.cli(&["leave", &old]).expect(0);
    cluster.cli(&["leave", &old]).expect(1).says(&["coracle members"]);
    cluster.nodes[wiped].start();
    cluster.nodes[wiped].ready();
    assert_ne!(cluster.id(wiped), old);
    cluster.has_voters(&[0, 1, 2]);
    eventually("it has what was written before", || {
        let found = cluster.cli_at(wiped, &["get", "--stale", "boat"]);
        if found.stdout == "coracle\n" { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c16_a_change_that_does_not_come_about_is_called_off_and_may_be_asked_for_again() {
    let mut cluster = Cluster::start(&["--promotion-timeout", "1s"]);
    let node = cluster.add(&["--standby"]);
    // The node answers questions, and hears nothing of the log: those connections begin with a hello, which is kept back.
    let listens = cluster.nodes[node].peer_port;
    let proxy = Proxy::before(format!("127.0.0.1:{listens}"), "Hello").await;
    let (_, port) = proxy.endpoint.rsplit_once(':').unwrap();
    cluster.nodes[node].peer_port = port.parse().unwrap();
    cluster.nodes[node].extra.extend(["--bind".to_owned(), format!("127.0.0.1:{listens}")]);
    cluster.nodes[node].start();
    let address = cluster.nodes[node].address();
    let ended = cluster.cli(&["join", &address]).expect(77).says(&[
        "called off",
        "was not heard of",
        "coracle leave",
        &address,
    ]);
    assert_eq!(ended.stdout, "");
    let id = cluster.id(node);
    assert_eq!(cluster.members().get(&id).map(String::as_str), Some("learner"));
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    proxy.go_on();
    assert_eq!(cluster.cli(&["join", &address]).expect(0).stdout, format!("node {id} is a voter\n"));
    cluster.has_voters(&[0, 1, 2, 3]);
}

#[test]
fn a_node_that_stands_by_says_so_to_clients_until_it_is_taken_in() {
    let mut cluster = Cluster::start(&[]);
    let node = cluster.add(&["--standby"]);
    cluster.nodes[node].start();
    eventually("clients are told", || {
        let ended = cluster.cli_at(node, &["put", "boat", "coracle", "--timeout", "1s"]);
        let is_told = ended.code == Some(69) && ended.stderr.contains("stands by: `coracle join` takes it in");
        if is_told { Ok(()) } else { Err(format!("{ended:?}")) }
    });
    let address = cluster.nodes[node].address();
    cluster.cli(&["join", &address]).expect(0);
    cluster.nodes[node].ready();
    cluster.cli_at(node, &["put", "boat", "coracle"]).expect(0);
}

#[test]
fn c15_leadership_moves_on_request() {
    let cluster = Cluster::start(&["--log-entries-kept", "0"]);
    let first = cluster.leader();
    let other = cluster.others(first)[0];
    let id = cluster.id(other);
    let ended = cluster.cli(&["transfer", &id[..8]]).expect(0);
    assert_eq!(ended.stdout, format!("node {id} leads\n"));
    assert_eq!(cluster.leader(), other);
    cluster.cli(&["transfer", &id]).expect(0);
    assert_eq!(cluster.leader(), other, "it leads already");
    cluster.cli(&["weaken", &id, "--for", "1m"]).expect(0);
    eventually("the weakened leader has handed over", || {
        let leader = cluster.leader();
        if leader == other { Err("it still leads".to_owned()) } else { Ok(()) }
    });
    let table = cluster.cli(&["members"]).expect(0).stdout;
    assert!(table.contains("leading") && table.matches("replicating").count() == 2, "{table}");
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    cluster.cli_at(first, &["snapshot", &cluster.id(first)]).expect(0);
    eventually("the log is cut", || {
        let status = cluster.status(first);
        if status["base"].as_u64() > Some(0) { Ok(()) } else { Err(status.to_string()) }
    });
}
