//! A cluster over TLS, and those who are not let in.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use coracle_tests::{
    certs::{equip, make as certs},
    cluster::Cluster,
    node::Node,
};

/// Three nodes over TLS, and the directory of their certificates.
fn cluster() -> (Cluster, PathBuf) {
    let mut path = None;
    let cluster = Cluster::arranged(3, &[], |nodes| {
        let folder = nodes[0].data.with_file_name("certs");
        certs(&folder, &["127.0.0.1", "localhost"]);
        nodes.iter_mut().for_each(Node::over_tls);
        let peers: Vec<String> = nodes.iter().map(Node::address).collect();
        for node in nodes {
            equip(node, &folder, "127.0.0.1");
            node.peers.clone_from(&peers);
        }
        path = Some(folder);
    });
    (cluster, path.unwrap())
}

#[test]
fn three_nodes_over_tls_serve_and_take_in_a_fourth() {
    let (mut cluster, folder) = cluster();
    cluster.leader();
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    for node in 0..3 {
        assert_eq!(cluster.cli_at(node, &["get", "boat"]).expect(0).stdout.trim(), "coracle");
        assert!(cluster.status(node)["members"].to_string().contains("/tls"));
    }
    let fourth = cluster.add(&[]);
    let join = cluster.addresses(&[0, 1]);
    cluster.nodes[fourth].over_tls();
    equip(&mut cluster.nodes[fourth], &folder, "127.0.0.1");
    cluster.nodes[fourth].extra.extend(["--join".to_owned(), join]);
    cluster.nodes[fourth].start();
    cluster.nodes[fourth].ready();
    cluster.has_voters(&[0, 1, 2, fourth]);
    cluster.kill_all();
    cluster.restart_all();
    assert_eq!(cluster.cli(&["get", "boat"]).expect(0).stdout.trim(), "coracle");
}

#[test]
fn a_node_of_another_ca_is_refused_on_both_sides() {
    let (mut cluster, _) = cluster();
    let other = cluster.folder().join("other");
    certs(&other, &["127.0.0.1"]);
    let fourth = cluster.add(&[]);
    let join = cluster.addresses(&[0]);
    cluster.nodes[fourth].over_tls();
    equip(&mut cluster.nodes[fourth], &other, "127.0.0.1");
    cluster.nodes[fourth].extra.extend(["--join".to_owned(), join]);
    cluster.nodes[fourth].start();
    cluster.nodes[fourth].logs("the other side's certificate is not of this node's CA");
    cluster.nodes[0].logs("it is not of the CA that is trusted there");
    cluster.has_voters(&[0, 1, 2]);
}

#[test]
fn a_member_that_comes_back_with_anothers_certificate_is_refused_and_told_why() {
    let (mut cluster, folder) = cluster();
    let leader = cluster.leader();
    let member = cluster.others(leader)[0];
    cluster.nodes[member].kill();
    cluster.nodes[member].wait();
    // By its own address, its certificate is right; the others know it by another one.
    equip(&mut cluster.nodes[member], &folder, "localhost");
    cluster.nodes[member].advertise("localhost");
    cluster.nodes[member].start();
    // When it asks for votes, and when the leader looks for it.
    cluster.nodes.iter().for_each(|node| node.logs("the certificate is for localhost, and node"));
    cluster.nodes[leader].logs("is for localhost, not for 127.0.0.1, which was dialled");
    equip(&mut cluster.nodes[member], &folder, "127.0.0.1");
    cluster.nodes[member].advertise("127.0.0.1");
    cluster.nodes[member].kill();
    cluster.nodes[member].wait();
    cluster.nodes[member].start();
    cluster.nodes[member].ready();
    cluster.leader();
}

/// Restarts the nodes one after the other, each changed and then joined at its address, so that the others know it by what it has by then.
fn change_one_by_one(cluster: &mut Cluster, change: impl Fn(&mut Node)) {
    for node in 0..cluster.nodes.len() {
        cluster.leader();
        cluster.nodes[node].kill();
        cluster.nodes[node].wait();
        change(&mut cluster.nodes[node]);
        cluster.nodes[node].start();
        cluster.nodes[node].ready();
        cluster.leader();
        let address = cluster.nodes[node].address();
        cluster.cli(&["join", &address]).expect(0);
    }
}

#[test]
fn a_cluster_in_plaintext_moves_to_tls_while_it_serves() {
    let mut cluster = Cluster::start(&[]);
    let folder = cluster.folder().join("certs");
    certs(&folder, &["127.0.0.1"]);
    cluster.cli(&["put", "boat", "coracle"]).expect(0);
    change_one_by_one(&mut cluster, |node| {
        equip(node, &folder, "127.0.0.1");
        let port = coracle_tests::ports::free();
        node.extra.push(format!("/ip4/127.0.0.1/tcp/{port}/tls"));
    });
    cluster.cli(&["put", "boat", "both"]).expect(0);
    change_one_by_one(&mut cluster, |node| {
        let secure = node.extra.pop().unwrap();
        node.peer_port = secure.split('/').nth(4).unwrap().parse().unwrap();
        node.over_tls();
    });
    cluster.kill_all();
    cluster.restart_all();
    assert_eq!(cluster.cli(&["get", "boat"]).expect(0).stdout.trim(), "both");
    let members = cluster.status(0)["members"].to_string();
    assert_eq!(members.matches("/tls").count(), 3, "nobody is known by another address: {members}");
}

/// What a node that is started like this says when it ends, which it does with this exit code.
fn ends(node: &mut Node, code: i32) -> String {
    node.start();
    assert_eq!(node.wait().code(), Some(code), "{}", node.log_tail());
    node.log_since_start()
}

#[test]
fn a_node_that_others_would_refuse_does_not_start_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certs");
    certs(&path, &["127.0.0.1", "a.example"]);
    let mut node = Node::new("n1", folder.path());
    node.over_tls();
    let log = ends(&mut node, 78);
    assert!(log.contains("is over TLS: a node needs the CA") && log.contains("--tls-cert"), "{log}");
    equip(&mut node, &path, "a.example");
    let log = ends(&mut node, 78);
    assert!(
        log.contains("the node's certificate is for a.example, and not for its address /ip4/127.0.0.1/tcp/"),
        "{log}"
    );
    expired::write(&path);
    equip(&mut node, &path, "expired");
    let log = ends(&mut node, 78);
    assert!(log.contains("expired.pem expired on 2020-12-31"), "{log}");
    equip(&mut node, &path, "missing");
    let log = ends(&mut node, 78);
    assert!(log.contains("cannot read") && log.contains("missing.pem"), "{log}");
}

mod expired {
    use std::{fs, path::Path};

    use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};

    /// Writes `expired.pem` and `expired.key`, of the CA in this directory.
    pub(crate) fn write(folder: &Path) {
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let issuer = KeyPair::from_pem(&read("ca.key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), issuer).unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 12, 31));
        let key = KeyPair::generate().unwrap();
        fs::write(folder.join("expired.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(folder.join("expired.key"), key.serialize_pem()).unwrap();
    }
}
