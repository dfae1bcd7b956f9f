//! A node that dials an address of the other transport: both ends say what is spoken, and nothing else happens.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_core::{Body, GroupId, Incarnation, Message, NodeId, Term};
use coracle_transport::{
    Address, Fault, FaultCounters, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Peer, Refusal, Transport,
};
use coracle_transport_grpc::{GrpcOptions, GrpcTransport};
use coracle_transport_tcp::{TcpOptions, TcpTransport};

const GROUP: GroupId = GroupId(1);

struct TestHost {
    node: NodeId,
    received: Mutex<Vec<Frame>>,
    lost: Mutex<bool>,
}

impl Host for TestHost {
    fn hello(&self) -> Hello {
        let group = GroupHello {
            group: GROUP,
            cluster_name: "test".to_owned(),
            cluster: None,
            node: self.node,
            incarnation: Incarnation(self.node.0),
        };
        Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 1, groups: vec![group] }
    }
    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        (group == GROUP).then_some(self.node)
    }
    fn admit(&self, _: &GroupHello) -> Result<(), Refusal> {
        Ok(())
    }
    fn receive(&self, frames: Vec<Frame>) {
        self.received.lock().unwrap().extend(frames);
    }
    fn unreachable(&self, _: GroupId, _: NodeId) {
        *self.lost.lock().unwrap() = true;
    }
    fn answer(&self, question: Bytes) -> Bytes {
        question
    }
}

struct Side {
    transport: Box<dyn Transport>,
    faults: Arc<FaultCounters>,
    host: Arc<TestHost>,
    address: Address,
}

impl Side {
    async fn start(node: u64, transport: Box<dyn Transport>, faults: Arc<FaultCounters>, bind: &str) -> Side {
        let host = Arc::new(TestHost { node: NodeId(node), received: Mutex::default(), lost: Mutex::default() });
        let address = transport.listen(&bind.parse().unwrap(), host.clone()).await.unwrap();
        Side { transport, faults, host, address }
    }

    async fn tcp(node: u64) -> Side {
        let transport = TcpTransport::new(TcpOptions::default());
        let faults = transport.faults();
        Side::start(node, Box::new(transport), faults, "/ip4/127.0.0.1/tcp/0").await
    }

    async fn grpc(node: u64) -> Side {
        let transport = GrpcTransport::new(GrpcOptions::default());
        let faults = transport.faults();
        Side::start(node, Box::new(transport), faults, "/ip4/127.0.0.1/tcp/0/http").await
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// `a` takes the address of `b` for one of its own kind, which `mistaken` is.
async fn ends_clearly(a: Side, b: Side, mistaken: Address, expected: &str) {
    let question = a.transport.ask(&mistaken, Bytes::new()).await;
    let error = question.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    eventually("the other side counts it, too", || b.faults.of(Fault::Garbage) == 1).await;
    let id = b.host.node;
    a.transport.set_peer(Peer { group: GROUP, id, incarnation: Incarnation(id.0), addresses: vec![mistaken] });
    let body = Body::HeartbeatResponse { round: 1, promise: 0 };
    a.transport.send(Frame { group: GROUP, message: Message { from: a.host.node, to: id, term: Term(1), body } });
    eventually("the host is told", || *a.host.lost.lock().unwrap()).await;
    eventually("both count it", || a.faults.of(Fault::Garbage) > 0 && b.faults.of(Fault::Garbage) > 1).await;
    assert!(b.host.received.lock().unwrap().is_empty());
}

#[tokio::test]
async fn messagepack_at_an_address_of_grpc_is_told_so() {
    let (a, b) = (Side::tcp(1).await, Side::grpc(2).await);
    let mistaken = b.address.to_string().strip_suffix("/http").unwrap().parse().unwrap();
    ends_clearly(a, b, mistaken, "it is gRPC (HTTP/2), whose addresses end with /http").await;
}

#[tokio::test]
async fn grpc_at_an_address_of_messagepack_is_told_so() {
    let (a, b) = (Side::grpc(1).await, Side::tcp(2).await);
    let mistaken: Address = format!("{}/http", b.address).parse().unwrap();
    let expected = format!("speaks MessagePack over TCP ({}), not gRPC ({mistaken})", b.address);
    ends_clearly(a, b, mistaken, &expected).await;
}
