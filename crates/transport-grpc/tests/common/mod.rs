//! A process on a real socket, and waiting for what it does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_core::{Body, GroupId, Incarnation, Message, NodeId, Term};
use coracle_transport::{Address, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Peer, Refusal, Sent, Transport};
use coracle_transport_grpc::{GrpcOptions, GrpcTransport};

pub const GROUP: GroupId = GroupId(1);

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub struct TestHost {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub cluster: Mutex<String>,
    pub groups: Mutex<Vec<GroupId>>,
    pub received: Mutex<Vec<Frame>>,
    pub lost: Mutex<Vec<(GroupId, NodeId)>>,
    /// Where members are, for those who judge by certificates.
    pub places: Mutex<Vec<(NodeId, Address)>>,
    /// What others have against this process.
    pub refusals: Mutex<Vec<Refusal>>,
}

impl Host for TestHost {
    fn hello(&self) -> Hello {
        let group = |group: &GroupId| GroupHello {
            group: *group,
            cluster_name: self.cluster.lock().unwrap().clone(),
            cluster: None,
            node: self.node,
            incarnation: self.incarnation,
        };
        let groups = self.groups.lock().unwrap().iter().map(group).collect();
        Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 1, groups }
    }

    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        self.groups.lock().unwrap().contains(&group).then_some(self.node)
    }

    fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
        let ours = self.cluster.lock().unwrap().clone();
        if theirs.cluster_name == ours {
            return Ok(());
        }
        Err(Refusal::ClusterName { ours, theirs: theirs.cluster_name.clone() })
    }

    fn addresses(&self, _: GroupId, node: NodeId) -> Vec<Address> {
        let places = self.places.lock().unwrap();
        places.iter().filter(|(id, _)| *id == node).map(|(_, address)| address.clone()).collect()
    }

    fn receive(&self, frames: Vec<Frame>) {
        self.received.lock().unwrap().extend(frames);
    }

    fn unreachable(&self, group: GroupId, peer: NodeId) {
        self.lost.lock().unwrap().push((group, peer));
    }

    fn refused(&self, _: GroupId, _: NodeId, refusal: &Refusal) {
        self.refusals.lock().unwrap().push(refusal.clone());
    }

    fn answer(&self, question: Bytes) -> Bytes {
        [b"re: ", question.as_ref()].concat().into()
    }
}

pub struct Process {
    pub transport: GrpcTransport,
    pub host: Arc<TestHost>,
    pub address: Address,
}

/// Short waits, so that failures are soon over.
pub fn options() -> GrpcOptions {
    GrpcOptions {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
        shutdown_timeout: Duration::from_millis(500),
        ..GrpcOptions::default()
    }
}

impl Process {
    pub async fn start(node: u64) -> Process {
        Process::start_at(node, node, "/ip4/127.0.0.1/tcp/0/http", options()).await
    }

    pub async fn start_at(node: u64, incarnation: u64, bind: &str, options: GrpcOptions) -> Process {
        let host = Arc::new(TestHost {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            cluster: Mutex::new("test".to_owned()),
            groups: Mutex::new(vec![GROUP]),
            received: Mutex::default(),
            lost: Mutex::default(),
            places: Mutex::default(),
            refusals: Mutex::default(),
        });
        let transport = GrpcTransport::new(options);
        let address = transport.listen(&bind.parse().unwrap(), host.clone()).await.unwrap();
        Process { transport, host, address }
    }

    pub fn knows(&self, other: &Process) {
        self.knows_at(other, vec![other.address.clone()]);
    }

    pub fn knows_at(&self, other: &Process, addresses: Vec<Address>) {
        for group in other.host.groups.lock().unwrap().iter() {
            let (id, incarnation) = (other.host.node, other.host.incarnation);
            self.transport.set_peer(Peer { group: *group, id, incarnation, addresses: addresses.clone() });
        }
    }

    pub fn send(&self, to: u64, round: u64) -> Sent {
        self.send_body(GROUP, to, Body::HeartbeatResponse { round, promise: 0 })
    }

    pub fn send_body(&self, group: GroupId, to: u64, body: Body) -> Sent {
        let message = Message { from: self.host.node, to: NodeId(to), term: Term(1), body };
        self.transport.send(Frame { group, message })
    }

    /// Sends until something arrives at `other`: as Raft does, which repairs what got lost.
    pub async fn reaches(&self, other: &Process) {
        self.reaches_in(GROUP, other).await;
    }

    pub async fn reaches_in(&self, group: GroupId, other: &Process) {
        let body = || Body::HeartbeatResponse { round: 77, promise: 0 };
        eventually("a frame arrives", || {
            self.send_body(group, other.host.node.0, body());
            other.host.received.lock().unwrap().iter().any(|frame| frame.group == group)
        })
        .await;
    }

    pub fn rounds(&self) -> Vec<u64> {
        let round = |frame: &Frame| match frame.message.body {
            Body::HeartbeatResponse { round, .. } => round,
            _ => 0,
        };
        self.host.received.lock().unwrap().iter().map(round).collect()
    }

    pub fn lost(&self) -> usize {
        self.host.lost.lock().unwrap().len()
    }
}

/// Two processes that know each other.
pub async fn pair() -> (Process, Process) {
    let (a, b) = (Process::start(1).await, Process::start(2).await);
    a.knows(&b);
    b.knows(&a);
    (a, b)
}

/// Where something listens that is not of this crate.
pub fn grpc_address(listener: &tokio::net::TcpListener) -> Address {
    Address::grpc("127.0.0.1", listener.local_addr().unwrap().port()).unwrap()
}
