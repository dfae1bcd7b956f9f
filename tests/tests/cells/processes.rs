//! Cells of real processes on real sockets.

use std::path::PathBuf;

use coracle::level::Level;
use coracle_tests::{
    certs,
    cluster::Cluster,
    network::Network,
    node::Node,
    ports,
    redis::Redis,
    state::{self, State},
};

use super::{Cell, Transport, World};

const HOST: &str = "127.0.0.1";

/// Processes, with a proxy before each port for peers.
pub(crate) struct Processes {
    cell: Cell,
    cluster: Cluster,
    servers: Vec<Redis>,
    network: Network,
}

impl Processes {
    pub(crate) fn start(cell: Cell) -> Processes {
        let servers = cell.servers();
        let network = Network::default();
        let cluster = Cluster::arranged(3, &[], |nodes| {
            for (at, node) in nodes.iter_mut().enumerate() {
                arrange(cell, node, &servers, at, &network);
            }
            let peers: Vec<String> = nodes.iter().map(Node::address).collect();
            nodes.iter_mut().for_each(|node| node.peers.clone_from(&peers));
        });
        Processes { cell, cluster, servers, network }
    }
}

/// Gives a node its storage, its certificate, and its place in the network.
fn arrange(cell: Cell, node: &mut Node, servers: &[Redis], at: usize, network: &Network) {
    node.storage = Some(cell.storage_url(&node.data, servers, at));
    match cell.transport {
        Transport::Tcp | Transport::Memory => {}
        Transport::TcpOverTls => node.ends_with("/tls"),
        Transport::Grpc => node.ends_with("/http"),
        Transport::GrpcOverTls => node.ends_with("/tls/http"),
        Transport::Unix => return node.over_unix(),
    }
    if matches!(cell.transport, Transport::TcpOverTls | Transport::GrpcOverTls) {
        let folder: PathBuf = node.data.with_file_name("certs");
        if !folder.exists() {
            certs::make(&folder, &[HOST]);
        }
        certs::equip(node, &folder, HOST);
    }
    let bound = ports::free();
    while !network.stands_before(bound, node.peer_port) {
        node.peer_port = ports::free();
    }
    node.extra.extend(["--bind".to_owned(), format!("{HOST}:{bound}")]);
}

impl World for Processes {
    async fn leader_among(&self, nodes: &[usize]) -> usize {
        self.cluster.leader_among(nodes)
    }

    fn level(&self, _: usize) -> Level {
        self.cluster.level()
    }

    async fn crash(&mut self, node: usize) {
        self.cluster.nodes[node].kill();
        self.cluster.nodes[node].wait();
    }

    async fn come_back(&mut self, node: usize) {
        if self.cell.forgets() {
            let members = self.cluster.others(node);
            let ids: Vec<String> = members.iter().map(|&member| self.cluster.id(member)).collect();
            let gone = self.cluster.members().into_keys().find(|id| !ids.contains(id)).unwrap();
            self.cluster.cli(&["leave", &gone]).expect(0);
            let mut new = Node::new(&format!("new{node}"), self.cluster.folder());
            arrange(self.cell, &mut new, &self.servers, node, &self.network);
            new.extra.extend(["--join".to_owned(), self.cluster.addresses(&members)]);
            self.cluster.nodes[node] = new;
        }
        self.cluster.nodes[node].start();
        self.cluster.nodes[node].ready();
        self.cluster.has_voters(&[0, 1, 2]);
    }

    fn isolate(&self, node: usize) {
        let node = &self.cluster.nodes[node];
        match self.cell.transport {
            // Who is at the other end of a Unix socket cannot be told from outside: what it holds back by standing still is the same.
            Transport::Unix => node.signal("STOP"),
            _ => self.network.isolate(node.peer_port, node.pid()),
        }
    }

    fn heal(&self, node: usize) {
        match self.cell.transport {
            Transport::Unix => self.cluster.nodes[node].signal("CONT"),
            _ => self.network.heal(),
        }
    }

    async fn reaches(&self, node: usize, expected: &State) {
        state::reaches(&self.cluster.client_at(node), expected).await;
    }
}
