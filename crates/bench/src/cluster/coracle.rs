//! Coracle's processes and its interface, as generated: what its client adds for an application's sake stays out.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use coracle_client::{
    ClientOptions,
    pb::{self, Consistency, ReadAt, StatusRequest, cluster_client::ClusterClient, kv_client::KvClient, op},
};
use coracle_level::{Kv, Op, Txn};
use tonic::transport::Channel;

use super::Failure;

/// A client of one node.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    kv: KvClient<Channel>,
    cluster: ClusterClient<Channel>,
}

impl Client {
    pub(crate) fn new(channel: Channel) -> Client {
        Client { kv: KvClient::new(channel.clone()), cluster: ClusterClient::new(channel) }
    }

    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let put = pb::Op { op: Some(op::Op::Put(pb::Put { key, value })) };
        self.kv.commit(pb::CommitRequest { ops: vec![put], once: None }).await?;
        Ok(())
    }

    /// The value's length.
    pub(crate) async fn get(&mut self, key: Bytes, is_stale: bool) -> Result<Option<usize>, Failure> {
        let consistency = if is_stale { Consistency::Stale } else { Consistency::Linearizable };
        let at = ReadAt { consistency: consistency.into(), ..ReadAt::default() };
        let found = self.kv.get_many(pb::GetManyRequest { at: Some(at), keys: vec![key] }).await?.into_inner();
        let value = found.values.into_iter().next().and_then(|found| found.value);
        Ok(value.map(|value| value.value.len()))
    }

    /// Whether the node leads.
    pub(crate) async fn leads(&mut self) -> Result<bool, Failure> {
        Ok(self.status().await?.role() == pb::Role::Leader)
    }

    /// The node's view.
    pub(crate) async fn status(&mut self) -> Result<pb::StatusResponse, Failure> {
        Ok(self.cluster.status(StatusRequest {}).await?.into_inner())
    }

    /// Makes the node take a snapshot, and returns when it is durable.
    pub(crate) async fn take_snapshot(&mut self) -> Result<(), Failure> {
        self.cluster.snapshot(pb::TakeSnapshotRequest {}).await?;
        Ok(())
    }
}

/// The client that applications use: its calls share one stream.
#[derive(Clone, Debug)]
pub(crate) struct StreamClient(Arc<coracle_client::Client>);

impl StreamClient {
    pub(crate) async fn connect(endpoints: &[String]) -> Result<StreamClient, Failure> {
        let endpoints = endpoints.iter().map(String::as_str);
        Ok(StreamClient(Arc::new(coracle_client::Client::connect(endpoints, ClientOptions::default()).await?)))
    }

    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        self.0.commit(Txn { ops: vec![Op::Put { key, value }] }, None).await?;
        Ok(())
    }
}

/// The arguments of each node; `DIR` in the storage stands for a directory of its own in `dir`.
pub(crate) fn arguments(dir: &Path, storage: &str, peer_ports: &[u16], client_ports: &[u16]) -> Vec<Vec<String>> {
    let address = |port: &u16| format!("/ip4/127.0.0.1/tcp/{port}");
    let peers: Vec<String> = peer_ports.iter().map(address).collect();
    let peers = peers.join(",");
    let of_node = |(node, (peer, client)): (usize, (&u16, &u16))| {
        let storage = storage.replace("DIR", &dir.join(format!("n{node}")).display().to_string());
        let api = format!("127.0.0.1:{client}");
        let words = ["serve", &address(peer), "--peers", &peers, "--storage", &storage, "--api", &api];
        words.into_iter().chain(["--log-level", "warn"]).map(str::to_owned).collect()
    };
    (1..).zip(peer_ports.iter().zip(client_ports)).map(of_node).collect()
}

/// The arguments of one more node, the `node`th from 0, made of those of the first: it asks the members to take it in.
pub(crate) fn joining(first: &[String], node: usize, peer_port: u16, client_port: u16, dir: &Path) -> Vec<String> {
    let own = |node: usize| dir.join(format!("n{}", node + 1)).display().to_string();
    let mut arguments: Vec<String> = first.iter().map(|word| word.replace(&own(0), &own(node))).collect();
    arguments[1] = format!("/ip4/127.0.0.1/tcp/{peer_port}");
    for at in 0..arguments.len() {
        match &*arguments[at] {
            "--peers" => arguments[at] = "--join".to_owned(),
            "--api" => arguments[at + 1] = format!("127.0.0.1:{client_port}"),
            _ => {}
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_a_directory_of_its_own() {
        let arguments = arguments(Path::new("/d"), "file:DIR?state=memory", &[1, 2, 3], &[4, 5, 6]);
        assert_eq!(arguments.len(), 3);
        let text = arguments[2].join(" ");
        assert!(text.starts_with("serve /ip4/127.0.0.1/tcp/3 --peers /ip4/127.0.0.1/tcp/1,"), "{text}");
        assert!(text.contains("--storage file:/d/n3?state=memory --api 127.0.0.1:6"), "{text}");
    }

    #[test]
    fn one_more_node_asks_the_members() {
        let dir = Path::new("/d");
        let first = arguments(dir, "file:DIR?state=memory", &[1, 2, 3], &[4, 5, 6]).swap_remove(0);
        let text = joining(&first, 3, 7, 8, dir).join(" ");
        assert!(text.starts_with("serve /ip4/127.0.0.1/tcp/7 --join /ip4/127.0.0.1/tcp/1,"), "{text}");
        assert!(text.contains("--storage file:/d/n4?state=memory --api 127.0.0.1:8"), "{text}");
    }
}
