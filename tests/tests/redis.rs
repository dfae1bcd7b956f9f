//! Redis servers that die in the middle of the word count: it is exact, or a node stops and says why.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coracle_tests::{cluster::Cluster, demo::Words, redis::Redis};

const WORDS: u64 = 1500;
/// What a node says, and its exit code, when its server came back with less than it had acknowledged.
const LOST: &str = "lost what it had acknowledged";
const DAMAGED: Option<i32> = Some(65);

/// Three nodes; each has a server of its own, or all have namespaces on one.
fn start(count: usize) -> (Cluster, Vec<Redis>) {
    let servers: Vec<Redis> = (0..count).map(|_| Redis::start()).collect();
    let cluster = Cluster::arranged(3, &[], |nodes| {
        for (at, node) in nodes.iter_mut().enumerate() {
            node.storage = Some(servers[at % count].url(&format!("n{at}")));
        }
    });
    (cluster, servers)
}

/// Kills a server and starts it on what it has on disk.
fn restart(server: &mut Redis) {
    server.kill();
    server.restart();
}

#[test]
fn the_count_is_exact_when_servers_are_killed_and_restarted() {
    let (cluster, mut servers) = start(3);
    let words = Words::start(&cluster.endpoints(), WORDS);
    words.reaches(WORDS / 10);
    restart(&mut servers[cluster.leader()]);
    words.reaches(WORDS * 3 / 10);
    let follower = cluster.others(cluster.leader())[0];
    restart(&mut servers[follower]);
    words.reaches(WORDS / 2);
    // All at once.
    servers.iter_mut().for_each(Redis::kill);
    servers.iter_mut().for_each(Redis::restart);
    words.is_exact();
}

#[test]
fn a_node_whose_server_lost_its_last_writes_stops_and_the_others_count_exactly() {
    for is_leader in [false, true] {
        let (mut cluster, mut servers) = start(3);
        let words = Words::start(&cluster.endpoints(), WORDS);
        words.reaches(WORDS / 10);
        let leader = cluster.leader();
        let node = if is_leader { leader } else { cluster.others(leader)[0] };
        let earlier = servers[node].copy();
        words.reaches(WORDS * 4 / 10);
        servers[node].kill();
        servers[node].put_back(&earlier);
        servers[node].restart();
        let status = cluster.nodes[node].wait();
        assert_eq!(status.code(), DAMAGED, "{}", cluster.nodes[node].log_tail());
        cluster.nodes[node].logs(LOST);
        words.is_exact();
        let others = cluster.others(node);
        cluster.leader_among(&others);
    }
}

#[test]
fn the_count_is_exact_when_a_server_of_all_nodes_is_killed_and_restarted() {
    let (cluster, mut servers) = start(1);
    let words = Words::start(&cluster.endpoints(), WORDS);
    for tenth in [2, 4, 6] {
        words.reaches(WORDS * tenth / 10);
        restart(&mut servers[0]);
    }
    words.is_exact();
    cluster.leader();
}

#[test]
fn all_nodes_stop_when_a_server_of_all_lost_its_last_writes() {
    let (mut cluster, mut servers) = start(1);
    let words = Words::start(&cluster.endpoints(), WORDS);
    words.reaches(WORDS / 10);
    let earlier = servers[0].copy();
    words.reaches(WORDS * 4 / 10);
    servers[0].kill();
    servers[0].put_back(&earlier);
    servers[0].restart();
    for node in &mut cluster.nodes {
        assert_eq!(node.wait().code(), DAMAGED, "{}", node.log_tail());
        node.logs(LOST);
    }
}

#[test]
fn status_and_members_show_the_durability_that_the_server_gives_at_this_moment() {
    let mut servers: Vec<Redis> = (0..3).map(|_| Redis::start()).collect();
    servers[1].ask(&["CONFIG", "SET", "appendfsync", "everysec"]).unwrap();
    let cluster = Cluster::arranged(3, &["--allow-weaker-durability"], |nodes| {
        for (node, server) in nodes.iter_mut().zip(&servers) {
            node.storage = Some(server.url("n"));
        }
    });
    cluster.leader();
    let shown = || {
        let shown = cluster.cli(&["members", "--json"]).expect(0).json();
        let of = |id: &str| {
            let members = shown["members"].as_array().unwrap().clone();
            members.into_iter().find(|member| member["id"] == id).unwrap()["durability"].clone()
        };
        [0, 1, 2].map(|node| {
            let status = cluster.status(node);
            assert_eq!(status["durability"], of(status["id"].as_str().unwrap()), "{shown}");
            status["durability"].as_str().unwrap().to_owned()
        })
    };
    assert_eq!(shown(), ["power-loss", "process-crash", "power-loss"]);
    cluster.nodes[1].logs("durability=process-crash");
    cluster.nodes[1].logs("what this node acknowledges survives the crash of a process, and not that of the machine");
    assert!(!cluster.nodes[0].log().contains("what this node acknowledges survives"));
    let table = cluster.cli(&["members"]).expect(0).stdout;
    assert!(table.lines().next().unwrap().ends_with("DURABILITY") && table.contains("process-crash"), "{table}");
    // Started again, it is as its command line says.
    restart(&mut servers[1]);
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    coracle_tests::wait::eventually("the settings that hold by now are shown", || {
        let found = shown();
        if found.iter().all(|one| one == "power-loss") { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn what_a_server_does_not_tell_is_shown_as_unknown() {
    let server = Redis::start();
    server.ask(&["ACL", "SETUSER", "default", "-config"]).unwrap();
    let cluster =
        Cluster::arranged(1, &["--allow-weaker-durability"], |nodes| nodes[0].storage = Some(server.url("n")));
    cluster.leader();
    let told = "volatile, eviction unknown";
    assert_eq!(cluster.status(0)["durability"], told);
    for command in ["members", "status"] {
        let table = cluster.cli(&[command]).expect(0).stdout;
        assert!(table.contains(told), "{table}");
    }
    cluster.nodes[0].logs("does not tell its maxmemory-policy");
}
