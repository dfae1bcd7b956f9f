//! Three nodes.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc, time::Duration};

use coracle::{
    client::{Client, ClientOptions},
    level::{HandleOptions, Level},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    cli::{Ended, coracle},
    node::{Node, NotReady},
    wait::{PATIENCE, eventually},
};

const PORT_ATTEMPTS: usize = 5;

/// A cluster of real processes in a directory that goes with it.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; they end before their directory.
    pub nodes: Vec<Node>,
    folder: TempDir,
}

impl Cluster {
    /// Three nodes, founded and ready.
    ///
    /// # Panics
    /// When they do not become ready.
    #[track_caller]
    pub fn start(extra: &[&str]) -> Cluster {
        Cluster::of(3, extra)
    }

    /// So many nodes, founded and ready, with further arguments of `serve`.
    ///
    /// # Panics
    /// When they do not become ready.
    #[track_caller]
    pub fn of(count: usize, extra: &[&str]) -> Cluster {
        Cluster::arranged(count, extra, |_| {})
    }

    /// So many nodes, each arranged by the caller before any is started.
    ///
    /// # Panics
    /// When they do not become ready.
    #[track_caller]
    pub fn arranged(count: usize, extra: &[&str], mut arrange: impl FnMut(&mut [Node])) -> Cluster {
        for _ in 0..PORT_ATTEMPTS {
            let folder = tempfile::tempdir().unwrap();
            let nodes = (1..=count).map(|number| Node::new(&format!("n{number}"), folder.path())).collect();
            let mut cluster = Cluster { nodes, folder };
            let peers: Vec<String> = cluster.nodes.iter().map(Node::address).collect();
            for node in &mut cluster.nodes {
                node.peers.clone_from(&peers);
                node.extra = extra.iter().map(|&arg| arg.to_owned()).collect();
            }
            arrange(&mut cluster.nodes);
            cluster.nodes.iter_mut().for_each(Node::start);
            if cluster.all_ready() {
                return cluster;
            }
        }
        panic!("somebody takes every port that was free a moment ago");
    }

    #[track_caller]
    fn all_ready(&mut self) -> bool {
        self.nodes.iter_mut().all(|node| match node.ready_or_not() {
            Ok(()) => true,
            Err(NotReady::PortTaken) => false,
            Err(error) => panic!("{} is not ready: {error:?}:\n{}", node.name, node.log_tail()),
        })
    }

    /// One more node, not started, with arguments of its own for `serve`; returns its place. Those who look for the cluster from here on know of it.
    pub fn add(&mut self, extra: &[&str]) -> usize {
        let place = self.nodes.len();
        let mut node = Node::new(&format!("n{}", place + 1), self.folder.path());
        node.extra = extra.iter().map(|&arg| arg.to_owned()).collect();
        self.nodes.push(node);
        place
    }

    /// The peers' addresses of these nodes, as `--join` takes them.
    pub fn addresses(&self, nodes: &[usize]) -> String {
        let addresses: Vec<String> = nodes.iter().map(|&node| self.nodes[node].address()).collect();
        addresses.join(",")
    }

    /// The id of a node that runs.
    #[track_caller]
    pub fn id(&self, node: usize) -> String {
        self.status(node)["id"].as_str().expect("it tells its id").to_owned()
    }

    /// The members' ids and roles, as the leader tells them.
    #[track_caller]
    pub fn members(&self) -> BTreeMap<String, String> {
        let members = self.cli(&["members", "--json"]).expect(0).json();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let members = members["members"].as_array().expect("a list");
        members.iter().map(|member| (text(&member["id"]), text(&member["role"]))).collect()
    }

    /// Waits until exactly these nodes are voters, and nobody is a member beside them.
    ///
    /// # Panics
    /// When they are not in time.
    #[track_caller]
    pub fn has_voters(&self, nodes: &[usize]) {
        let expected: BTreeMap<String, String> =
            nodes.iter().map(|&node| (self.id(node), "voter".to_owned())).collect();
        eventually("the membership is as it should be", || {
            let found = self.members();
            if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) }
        });
    }

    /// The directory that holds everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills all processes at once (SIGKILL).
    ///
    /// # Panics
    /// When one does not run.
    pub fn kill_all(&mut self) {
        // All are killed before one is waited for.
        self.nodes.iter_mut().for_each(Node::kill);
        for node in &mut self.nodes {
            node.wait();
        }
    }

    /// Starts all processes again and waits until they are ready.
    ///
    /// # Panics
    /// When they do not become ready.
    #[track_caller]
    pub fn restart_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
        self.nodes.iter_mut().for_each(Node::ready);
    }

    /// Deletes a node's directory.
    ///
    /// # Panics
    /// When it cannot.
    pub fn wipe(&self, node: usize) {
        fs::remove_dir_all(&self.nodes[node].data).unwrap();
    }

    /// The client addresses, as the command line takes them.
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> = self.nodes.iter().map(Node::endpoint).collect();
        endpoints.join(",")
    }

    /// Runs a command against the cluster.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Ended {
        let endpoints = self.endpoints();
        coracle(["--endpoints", &endpoints].iter().chain(args))
    }

    /// Runs a command against one node.
    #[track_caller]
    pub fn cli_at(&self, node: usize, args: &[&str]) -> Ended {
        let endpoint = self.nodes[node].endpoint();
        coracle(["--endpoints", &endpoint].iter().chain(args))
    }

    /// What each node says of itself; a node that does not answer has an error in its place.
    #[track_caller]
    pub fn statuses(&self) -> Vec<Value> {
        match self.cli(&["status", "--json"]).json() {
            Value::Array(statuses) => statuses,
            other => panic!("expected an array: {other}"),
        }
    }

    /// What one node says of itself.
    #[track_caller]
    pub fn status(&self, node: usize) -> Value {
        let statuses = self.cli_at(node, &["status", "--json"]).json();
        statuses[0].clone()
    }

    /// Waits until all of `nodes` follow one of themselves, and returns which.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn leader_among(&self, nodes: &[usize]) -> usize {
        eventually("the nodes agree on a leader", || {
            let statuses = self.statuses();
            let leads = |node: &&usize| statuses[**node]["role"] == "leader";
            let leader = nodes.iter().find(leads).copied();
            let id = leader.map(|leader| (&statuses[leader]["id"], &statuses[leader]["term"]));
            let agree = |&node: &usize| id == Some((&statuses[node]["leader"], &statuses[node]["term"]));
            match leader {
                Some(leader) if nodes.iter().all(agree) => Ok(leader),
                _ => Err(format!("{statuses:#?}")),
            }
        })
    }

    /// Waits until all nodes follow one of themselves, and returns which.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn leader(&self) -> usize {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.leader_among(&all)
    }

    /// The others than `node`.
    pub fn others(&self, node: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&other| other != node).collect()
    }

    /// A client that gives up after `deadline`.
    ///
    /// # Panics
    /// Never: the addresses are in order.
    pub fn client(&self, deadline: Duration) -> Client {
        let endpoints: Vec<String> = self.nodes.iter().map(Node::endpoint).collect();
        Client::connect_lazy(endpoints, ClientOptions::default().with_deadline(deadline)).unwrap()
    }

    /// A client of one node alone.
    ///
    /// # Panics
    /// Never: the address is in order.
    pub fn client_at(&self, node: usize) -> Client {
        Client::connect_lazy([self.nodes[node].endpoint()], ClientOptions::default()).unwrap()
    }

    /// A handle with a session of its own, which tries again as long as anything is waited for.
    pub fn level(&self) -> Level {
        let backoff_max = Duration::from_millis(200);
        let options = HandleOptions { deadline: PATIENCE, backoff_max, ..HandleOptions::default() };
        Level::with_options(Arc::new(self.client(PATIENCE)), options)
    }
}
