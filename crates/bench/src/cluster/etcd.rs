//! etcd, and as much of its interface as is measured.
//!
//! Its messages are written down here with the numbers that its documentation gives; fields that are not needed are left out.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::Failure;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// More than is ever written, so that it does not refuse writes half-way.
const QUOTA_BYTES: &str = "8589934592";

/// Asks to set a key.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What every answer begins with.
#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// It is set.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

/// Asks for a key.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    /// Whether the node answers from what it has itself.
    #[prost(bool, tag = "7")]
    serializable: bool,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// What was found.
#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

/// Asks a node for its view.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

/// A node's view.
#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    /// Whom it takes for the leader; 0 when it knows none.
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// A client of one node.
#[derive(Clone, Debug)]
pub(crate) struct Client(Grpc<Channel>);

impl Client {
    pub(crate) fn new(channel: Channel) -> Client {
        Client(Grpc::new(channel))
    }

    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let _: PutResponse = self.call(PUT, PutRequest { key, value }).await?;
        Ok(())
    }

    /// The value's length.
    pub(crate) async fn get(&mut self, key: Bytes, is_stale: bool) -> Result<Option<usize>, Failure> {
        let found: RangeResponse = self.call(RANGE, RangeRequest { key, serializable: is_stale }).await?;
        Ok(found.kvs.first().map(|found| found.value.len()))
    }

    /// Whether the node leads.
    pub(crate) async fn leads(&mut self) -> Result<bool, Failure> {
        let status: StatusResponse = self.call(STATUS, StatusRequest {}).await?;
        Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Failure>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(self.0.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }
}

/// The arguments of each node, with its own directory in `dir`; the first half of the ports is for peers.
pub(crate) fn arguments(dir: &Path, peer_ports: &[u16], client_ports: &[u16]) -> Vec<Vec<String>> {
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let members: Vec<String> = (1..).zip(peer_ports).map(|(node, port)| format!("n{node}={}", url(port))).collect();
    let members = members.join(",");
    let of_node = |(node, (peer, client)): (usize, (&u16, &u16))| {
        let (peer, client) = (url(peer), url(client));
        let data = dir.join(format!("n{node}")).display().to_string();
        let options = [
            ("--name", format!("n{node}")),
            ("--data-dir", data),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--initial-cluster", members.clone()),
            ("--initial-cluster-state", "new".to_owned()),
            ("--quota-backend-bytes", QUOTA_BYTES.to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-level", "warn".to_owned()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    };
    (1..).zip(peer_ports.iter().zip(client_ports)).map(of_node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_documented_bytes() {
        let put = PutRequest { key: "k".into(), value: "v".into() };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x01v");
        let range = RangeRequest { key: "k".into(), serializable: true };
        assert_eq!(range.encode_to_vec(), b"\x0a\x01k\x38\x01");
        let found = RangeResponse::decode(&b"\x12\x06\x0a\x01k\x2a\x01v\x20\x01"[..]).unwrap();
        assert_eq!(found.kvs[0].value, "v");
    }

    #[test]
    fn every_node_knows_all() {
        let arguments = arguments(Path::new("/d"), &[1, 2, 3], &[4, 5, 6]);
        assert_eq!(arguments.len(), 3);
        let text = arguments[1].join(" ");
        assert!(text.contains("--data-dir /d/n2"), "{text}");
        assert!(text.contains("--listen-client-urls http://127.0.0.1:5"), "{text}");
        assert!(text.contains("n1=http://127.0.0.1:1,n2=http://127.0.0.1:2,n3=http://127.0.0.1:3"), "{text}");
    }
}
