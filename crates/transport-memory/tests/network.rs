//! The network inside one process behaves as the others do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use coracle_core::{Body, GroupId, Incarnation, Message, NodeId, Term};
use coracle_transport::{
    Address, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Peer, Refusal, Sent, Transport, TransportError,
};
use coracle_transport_memory::{MemoryNetwork, MemoryTransport};

const GROUP: GroupId = GroupId(1);

struct TestHost {
    node: NodeId,
    incarnation: Mutex<Incarnation>,
    groups: Mutex<Vec<GroupId>>,
    refuses: Mutex<bool>,
    received: Mutex<Vec<Frame>>,
    lost: Mutex<Vec<NodeId>>,
}

impl Host for TestHost {
    fn hello(&self) -> Hello {
        let group = |group: &GroupId| GroupHello {
            group: *group,
            cluster_name: "test".into(),
            cluster: None,
            node: self.node,
            incarnation: *self.incarnation.lock().unwrap(),
        };
        let groups = self.groups.lock().unwrap().iter().map(group).collect();
        Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 1, groups }
    }
    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        self.groups.lock().unwrap().contains(&group).then_some(self.node)
    }
    fn admit(&self, _: &GroupHello) -> Result<(), Refusal> {
        if *self.refuses.lock().unwrap() { Err(Refusal::NoGroup) } else { Ok(()) }
    }
    fn receive(&self, frames: Vec<Frame>) {
        self.received.lock().unwrap().extend(frames);
    }
    fn unreachable(&self, _: GroupId, peer: NodeId) {
        self.lost.lock().unwrap().push(peer);
    }
    fn answer(&self, question: Bytes) -> Bytes {
        if question.is_empty() { vec![0; 1024 * 1024 + 1].into() } else { question }
    }
}

struct Process {
    transport: MemoryTransport,
    host: Arc<TestHost>,
}

impl Process {
    async fn start(network: &MemoryNetwork, id: u64) -> Process {
        let host = Arc::new(TestHost {
            node: NodeId(id),
            incarnation: Mutex::new(Incarnation(id)),
            groups: Mutex::new(vec![GROUP]),
            refuses: Mutex::default(),
            received: Mutex::default(),
            lost: Mutex::default(),
        });
        let transport = network.transport();
        let bound = transport.listen(&Address::memory(id), host.clone()).await.unwrap();
        assert_eq!(bound, Address::memory(id));
        for peer in 1..=3 {
            transport.set_peer(peer_record(GROUP, peer));
        }
        Process { transport, host }
    }

    fn send(&self, to: u64) -> Sent {
        self.send_in(GROUP, to)
    }

    fn send_in(&self, group: GroupId, to: u64) -> Sent {
        let body = Body::HeartbeatResponse { round: 1, promise: 0 };
        let message = Message { from: self.host.node, to: NodeId(to), term: Term(1), body };
        self.transport.send(Frame { group, message })
    }

    fn received(&self) -> usize {
        self.host.received.lock().unwrap().len()
    }

    fn lost(&self) -> Vec<NodeId> {
        std::mem::take(&mut *self.host.lost.lock().unwrap())
    }
}

fn peer_record(group: GroupId, id: u64) -> Peer {
    Peer { group, id: NodeId(id), incarnation: Incarnation(id), addresses: vec![Address::memory(id)] }
}

async fn pair() -> (MemoryNetwork, Process, Process) {
    let network = MemoryNetwork::new();
    let (a, b) = (Process::start(&network, 1).await, Process::start(&network, 2).await);
    (network, a, b)
}

#[tokio::test]
async fn frames_arrive_and_are_counted() {
    let (_network, a, b) = pair().await;
    assert_eq!((a.send(2), a.send(3), b.received()), (Sent::Queued, Sent::Unreachable, 1));
    let stats = a.transport.stats(GROUP, NodeId(2));
    assert_eq!((stats.is_connected, stats.frames_sent), (true, 1));
    assert_eq!(b.transport.stats(GROUP, NodeId(1)).frames_received, 1);
    assert_eq!(a.transport.stats(GROUP, NodeId(3)).frames_dropped, 1);
}

#[tokio::test]
async fn a_cut_way_carries_nothing_until_it_is_mended() {
    let (network, a, b) = pair().await;
    assert_eq!((a.send(2), b.send(1)), (Sent::Queued, Sent::Queued));
    network.disconnect(2, 1);
    assert_eq!((a.lost(), b.lost()), (vec![NodeId(2)], vec![NodeId(1)]));
    assert_eq!((a.send(2), b.send(1)), (Sent::Unreachable, Sent::Unreachable));
    assert!(!a.transport.stats(GROUP, NodeId(2)).is_connected);
    network.reconnect(1, 2);
    assert_eq!((a.send(2), b.send(1)), (Sent::Queued, Sent::Queued));
    network.isolate(2);
    assert_eq!((a.send(2), b.send(1)), (Sent::Unreachable, Sent::Unreachable));
    network.rejoin(2);
    assert_eq!(a.send(2), Sent::Queued);
    network.isolate(1);
    network.heal();
    assert_eq!(a.send(2), Sent::Queued);
}

#[tokio::test]
async fn who_is_refused_is_unreachable_on_either_side() {
    let (_network, a, b) = pair().await;
    *b.host.refuses.lock().unwrap() = true;
    assert_eq!((a.send(2), b.send(1)), (Sent::Unreachable, Sent::Unreachable));
    *b.host.refuses.lock().unwrap() = false;
    assert_eq!(a.send(2), Sent::Queued);
}

#[tokio::test]
async fn c01_another_incarnation_is_a_stranger() {
    let (network, a, b) = pair().await;
    assert_eq!(a.send(2), Sent::Queued);
    drop(b);
    assert_eq!(a.lost(), [NodeId(2)]);
    let b = Process::start(&network, 2).await;
    *b.host.incarnation.lock().unwrap() = Incarnation(99);
    assert_eq!((a.send(2), b.received()), (Sent::Unreachable, 0));
    a.transport.set_peer(Peer { incarnation: Incarnation(99), ..peer_record(GROUP, 2) });
    assert_eq!((a.send(2), b.received()), (Sent::Queued, 1));
}

#[tokio::test]
async fn groups_opened_later_are_announced() {
    let (_network, a, b) = pair().await;
    assert_eq!(a.send(2), Sent::Queued);
    a.transport.set_peer(peer_record(GroupId(5), 2));
    assert_eq!(a.send_in(GroupId(5), 2), Sent::Unreachable);
    a.host.groups.lock().unwrap().push(GroupId(5));
    b.host.groups.lock().unwrap().push(GroupId(5));
    assert_eq!(a.send_in(GroupId(5), 2), Sent::Queued);
}

#[tokio::test]
async fn addresses_are_taken_once_and_chosen_when_zero() {
    let (network, a, _b) = pair().await;
    let taken = network.transport().listen(&Address::memory(1), a.host.clone()).await;
    assert!(taken.unwrap_err().to_string().contains("/memory/1"));
    let again = a.transport.listen(&Address::memory(8), a.host.clone()).await;
    assert!(matches!(again, Err(TransportError::Listen { .. })));
    let third = network.transport();
    assert_eq!(third.listen(&Address::memory(0), a.host.clone()).await.unwrap(), Address::memory(3));
    let tcp = network.transport().listen(&Address::tcp("::1", 1).unwrap(), a.host.clone()).await;
    assert!(matches!(tcp, Err(TransportError::Unsupported { .. })));
}

#[tokio::test]
async fn questions_are_answered_without_admission() {
    let (network, a, b) = pair().await;
    *b.host.refuses.lock().unwrap() = true;
    let outsider = network.transport();
    let there = Address::memory(2);
    assert_eq!(outsider.ask(&there, Bytes::from_static(b"who?")).await.unwrap(), "who?");
    let oversized = outsider.ask(&there, Bytes::new()).await.unwrap_err();
    assert!(oversized.to_string().contains("answer has 1048577 bytes"), "{oversized}");
    network.disconnect(1, 2);
    assert!(matches!(a.transport.ask(&there, Bytes::from_static(b"?")).await, Err(TransportError::Unanswered { .. })));
}

#[tokio::test]
async fn after_shutdown_nothing_passes() {
    let (network, a, b) = pair().await;
    assert_eq!(b.send(1), Sent::Queued);
    a.transport.shutdown().await;
    assert_eq!(b.lost(), [NodeId(1)]);
    assert_eq!((a.send(2), b.send(1)), (Sent::Unreachable, Sent::Unreachable));
    assert!(matches!(a.transport.ask(&Address::memory(2), Bytes::new()).await, Err(TransportError::Closed)));
    let successor = Process::start(&network, 1).await;
    assert_eq!((b.send(1), successor.received()), (Sent::Queued, 1));
}
