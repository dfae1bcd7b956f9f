//! Cells whose nodes are in this process, on the network in memory.

use std::{sync::Arc, time::Duration};

use coracle::{
    Builder, MemoryNetwork, Node,
    core::NodeId,
    level::{HandleOptions, Level},
};
use coracle_tests::{
    redis::Redis,
    state::{self, State},
    wait::{PATIENCE, until},
};
use tempfile::TempDir;

use super::{Cell, World};

/// Nodes of the crate `coracle`.
pub(crate) struct Within {
    cell: Cell,
    /// `None` while it is away.
    nodes: Vec<Option<Node>>,
    /// The address of each on the network.
    places: Vec<u64>,
    network: MemoryNetwork,
    servers: Vec<Redis>,
    folder: TempDir,
}

impl Within {
    pub(crate) async fn start(cell: Cell) -> Within {
        let (network, folder, servers) = (MemoryNetwork::new(), tempfile::tempdir().unwrap(), cell.servers());
        let mut world = Within { cell, nodes: Vec::new(), places: vec![1, 2, 3], network, servers, folder };
        let started: Vec<_> = (0..3)
            .map(|node| tokio::spawn(world.builder(node).peers(["/memory/1", "/memory/2", "/memory/3"]).build()))
            .collect();
        for node in started {
            world.nodes.push(Some(node.await.unwrap().unwrap()));
        }
        world
    }

    fn builder(&self, node: usize) -> Builder {
        let data = self.folder.path().join(format!("n{node}"));
        Node::builder()
            .address(format!("/memory/{}", self.places[node]))
            .network(&self.network)
            .storage(self.cell.storage_url(&data, &self.servers, node))
            .heartbeat_interval(Duration::from_millis(50))
            .election_timeout(Duration::from_millis(300)..=Duration::from_millis(600))
    }

    fn node(&self, node: usize) -> &Node {
        self.nodes[node].as_ref().unwrap()
    }

    fn present(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Removes the member that is not here any more.
    async fn remove_absent(&self) {
        let present: Vec<NodeId> = self.present().map(|node| node.id()).collect();
        let places: Vec<usize> = (0..3).filter(|&node| self.nodes[node].is_some()).collect();
        let leader = self.node(self.leader_among(&places).await);
        let absent = leader.members().into_iter().find(|member| !present.contains(&member.id)).unwrap();
        leader.leave(absent.id).await.unwrap();
    }
}

impl World for Within {
    async fn leader_among(&self, nodes: &[usize]) -> usize {
        let mut leader = None;
        until("the nodes agree on a leader", || {
            let statuses: Vec<_> = nodes.iter().map(|&node| self.node(node).status()).collect();
            leader = nodes.iter().zip(&statuses).find(|(_, status)| status.role == "leader").map(|(&node, _)| node);
            let views = || statuses.iter().map(|status| (status.leader, status.term));
            let id = leader.map(|leader| self.node(leader).id());
            id.is_some() && views().all(|view| view.0 == id && Some(view) == views().next())
        });
        leader.unwrap()
    }

    fn level(&self, node: usize) -> Level {
        let backoff_max = Duration::from_millis(200);
        let options = HandleOptions { deadline: PATIENCE, backoff_max, ..HandleOptions::default() };
        Level::with_options(Arc::clone(&self.node(node).kv()), options)
    }

    async fn crash(&mut self, node: usize) {
        // The others hear nothing of its end: it cannot hand over.
        self.network.isolate(self.places[node]);
        self.nodes[node].take().unwrap().shutdown().await;
        self.network.heal();
    }

    async fn come_back(&mut self, node: usize) {
        let mut builder = self.builder(node);
        if self.cell.forgets() {
            self.remove_absent().await;
            let members: Vec<String> =
                self.present().flat_map(|node| node.addresses()).map(ToString::to_string).collect();
            self.places[node] = 4;
            builder = self.builder(node).join(members);
        }
        self.nodes[node] = Some(builder.build().await.unwrap());
        until("all are voters", || {
            self.present().all(|node| {
                let members = node.members();
                members.len() == 3 && members.iter().all(|member| member.role == "voter")
            })
        });
    }

    fn isolate(&self, node: usize) {
        self.network.isolate(self.places[node]);
    }

    fn heal(&self, _: usize) {
        self.network.heal();
    }

    async fn reaches(&self, node: usize, expected: &State) {
        state::reaches(&*self.node(node).kv(), expected).await;
    }
}
