//! The transport on real sockets: what it carries, how it comes back, what it does when there is too much.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{GROUP, Process, eventually, grpc_address, options, pair};
use coracle_core::{Body, GroupId, Incarnation, NodeId};
use coracle_transport::{Address, Fault, Peer, Sent, Transport, TransportError};
use coracle_transport_grpc::{GrpcOptions, GrpcTransport};
use tokio::net::TcpListener;

#[tokio::test]
async fn frames_arrive_in_order_both_ways_and_are_counted() {
    let (a, b) = pair().await;
    for round in 1..=1000 {
        assert_eq!((a.send(2, round), b.send(1, round)), (Sent::Queued, Sent::Queued));
    }
    let all: Vec<u64> = (1..=1000).collect();
    eventually("all frames", || a.rounds() == all && b.rounds() == all).await;
    let (sent, received) = (a.transport.stats(GROUP, NodeId(2)), b.transport.stats(GROUP, NodeId(1)));
    assert!(sent.is_connected && sent.bytes_sent > received.bytes_received, "sizes with and without headers");
    assert_eq!((sent.frames_sent, sent.frames_dropped), (1000, 0));
    eventually("all counted", || b.transport.stats(GROUP, NodeId(1)).frames_received == 1000).await;
    assert_eq!((a.transport.faults().total(), a.lost()), (0, 0));
    assert_eq!(a.transport.stats(GROUP, NodeId(9)), Default::default());
}

#[tokio::test]
async fn large_frames_pass() {
    let (a, b) = pair().await;
    let data = Bytes::from(vec![7; 6 << 20]);
    let body = Body::Propose { nonce: 1, sequence: 1, commands: vec![data] };
    assert_eq!(a.send_body(GROUP, 2, body.clone()), Sent::Queued);
    eventually("the frame", || !b.host.received.lock().unwrap().is_empty()).await;
    assert_eq!(b.host.received.lock().unwrap()[0].message.body, body);
}

#[tokio::test]
async fn names_and_ipv6_are_spoken() {
    for bind in ["/ip6/::1/tcp/0/http", "/dns4/localhost/tcp/0/http", "/dns/localhost/tcp/0/http"] {
        let b = Process::start_at(2, 2, bind, options()).await;
        let a = Process::start(1).await;
        a.knows(&b);
        b.knows(&a);
        a.reaches(&b).await;
        b.reaches(&a).await;
        assert_eq!(a.transport.ask(&b.address, Bytes::new()).await.unwrap(), "re: ");
    }
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let a = Process::start(1).await;
    let error = GrpcTransport::new(options()).listen(&a.address, a.host.clone()).await.unwrap_err();
    assert!(matches!(error, TransportError::Listen { .. }));
    assert!(error.to_string().contains(&a.address.to_string()), "{error}");
    let again = a.transport.listen(&"/ip4/127.0.0.1/tcp/0/http".parse().unwrap(), a.host.clone()).await;
    assert!(again.unwrap_err().to_string().contains("already"));
    let memory = GrpcTransport::new(options()).listen(&Address::memory(1), a.host.clone()).await;
    assert!(matches!(memory, Err(TransportError::Unsupported { .. })));
}

#[tokio::test]
async fn a_peer_that_restarts_on_its_port_is_reached_again() {
    let (a, b) = pair().await;
    a.reaches(&b).await;
    let bind = b.address.to_string();
    b.transport.shutdown().await;
    eventually("the loss", || a.lost() > 0).await;
    assert!(!a.transport.stats(GROUP, NodeId(2)).is_connected);
    let b = Process::start_at(2, 2, &bind, options()).await;
    a.reaches(&b).await;
}

#[tokio::test]
async fn who_cannot_be_reached_is_reported() {
    let (a, b) = pair().await;
    drop(b);
    eventually("unreachable", || {
        a.send(2, 1);
        a.lost() > 2
    })
    .await;
    assert_eq!(a.send(9, 1), Sent::Unreachable, "nobody knows it");
    assert!(a.transport.stats(GROUP, NodeId(2)).frames_dropped > 0);
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let (a, b) = (Process::start(1).await, Process::start(2).await);
    let stranger = Process::start(3).await;
    let nobody = Process::start(4).await;
    nobody.transport.shutdown().await;
    a.knows_at(&b, vec![Address::memory(1), nobody.address.clone(), stranger.address.clone(), b.address.clone()]);
    a.reaches(&b).await;
    assert!(stranger.rounds().is_empty());
}

/// A listener that takes connections and never says anything.
async fn mute() -> (TcpListener, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![grpc_address(&listener)];
    (listener, Peer { group: GROUP, id: NodeId(9), incarnation: Incarnation(9), addresses })
}

#[tokio::test]
async fn a_full_queue_says_so_and_is_shared_by_the_groups_of_a_process() {
    let small = GrpcOptions { queue_frames_max: 3, ..options() };
    let a = Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0/http", small).await;
    let (listener, peer) = mute().await;
    a.transport.set_peer(Peer { group: GroupId(2), ..peer.clone() });
    a.transport.set_peer(peer);
    let sent = [1, 2, 3, 4].map(|round| a.send(9, round));
    assert_eq!(sent, [Sent::Queued, Sent::Queued, Sent::Queued, Sent::Full]);
    assert_eq!(
        a.send_body(GroupId(2), 9, Body::HeartbeatResponse { round: 1, promise: 0 }),
        Sent::Full,
        "one process, one queue"
    );
    let _first = listener.accept().await.unwrap();
    assert_eq!(a.transport.stats(GROUP, NodeId(9)).frames_dropped, 1);
}

#[tokio::test]
async fn a_slow_reader_does_not_hold_up_others() {
    let (a, b) = pair().await;
    let (_listener, peer) = mute().await;
    a.transport.set_peer(peer);
    let full = || Body::Propose { nonce: 1, sequence: 1, commands: vec![vec![0; 4 << 20].into()] };
    eventually("the mute peer's queue is full", || a.send_body(GROUP, 9, full()) == Sent::Full).await;
    a.reaches(&b).await;
}

#[tokio::test]
async fn groups_share_a_connection_and_come_later() {
    let (a, b) = pair().await;
    a.reaches(&b).await;
    let later = GroupId(2);
    let (id, incarnation) = (NodeId(2), Incarnation(2));
    a.transport.set_peer(Peer { group: later, id, incarnation, addresses: vec![b.address.clone()] });
    eventually("the other side does not host it", || {
        a.send_body(later, 2, Body::HeartbeatResponse { round: 1, promise: 0 });
        a.host.lost.lock().unwrap().contains(&(later, id))
    })
    .await;
    a.reaches(&b).await;
    a.host.groups.lock().unwrap().push(later);
    b.host.groups.lock().unwrap().push(later);
    a.reaches_in(later, &b).await;
    assert!(!a.host.lost.lock().unwrap().contains(&(GROUP, id)), "the first group never lost its connection");
}

#[tokio::test]
async fn a_group_that_comes_later_is_introduced_before_its_first_frame() {
    let patient = GrpcOptions { backoff_max: Duration::from_secs(3600), ..options() };
    let a = Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0/http", patient).await;
    let b = Process::start(2).await;
    a.knows(&b);
    a.send(2, 0);
    eventually("the first frame", || !b.host.received.lock().unwrap().is_empty()).await;
    let later = GroupId(7);
    a.host.groups.lock().unwrap().push(later);
    b.host.groups.lock().unwrap().push(later);
    a.knows(&b);
    eventually("an introduction", || a.transport.stats(later, NodeId(2)).is_connected).await;
    a.send_body(later, 2, Body::HeartbeatResponse { round: 1, promise: 0 });
    eventually("its first frame", || b.host.received.lock().unwrap().len() == 2).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let one = GrpcOptions { connections_max: 1, ..options() };
    let b = Process::start_at(2, 2, "/ip4/127.0.0.1/tcp/0/http", one).await;
    let (a, c) = (Process::start(1).await, Process::start(3).await);
    a.knows(&b);
    c.knows(&b);
    a.reaches(&b).await;
    assert_eq!(c.send(2, 1), Sent::Queued);
    eventually("too many", || b.transport.faults().of(Fault::Overload) > 0 && c.lost() > 0).await;
    a.transport.shutdown().await;
    b.host.received.lock().unwrap().clear();
    c.reaches(&b).await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_made_again() {
    let short = GrpcOptions { idle_timeout: Duration::from_millis(50), ..options() };
    let (a, b) = (Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0/http", short).await, Process::start(2).await);
    a.knows(&b);
    a.reaches(&b).await;
    eventually("idle", || !a.transport.stats(GROUP, NodeId(2)).is_connected).await;
    b.host.received.lock().unwrap().clear();
    assert_eq!(a.send(2, 5), Sent::Queued);
    eventually("again", || b.rounds().contains(&5)).await;
    assert_eq!((a.lost(), a.transport.faults().total() + b.transport.faults().total()), (0, 0));
}

#[tokio::test]
async fn shutdown_writes_what_is_queued_and_ends() {
    let (a, b) = pair().await;
    a.reaches(&b).await;
    b.host.received.lock().unwrap().clear();
    (1..=500).for_each(|round| assert_eq!(a.send(2, round), Sent::Queued));
    a.transport.shutdown().await;
    eventually("all that was queued", || b.rounds().ends_with(&(1..=500).collect::<Vec<_>>())).await;
    assert_eq!(a.send(2, 1), Sent::Unreachable);
    assert!(matches!(a.transport.ask(&b.address, Bytes::new()).await, Err(TransportError::Closed)));
    let again = Process::start_at(1, 1, &a.address.to_string(), options()).await;
    b.knows(&again);
    b.reaches(&again).await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_who_does_not_read() {
    let a = Process::start(1).await;
    let (_listener, peer) = mute().await;
    a.transport.set_peer(peer);
    assert_eq!(a.send(9, 1), Sent::Queued);
    tokio::time::timeout(Duration::from_secs(3), a.transport.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_removed_peer_is_not_written_to() {
    let (a, b) = pair().await;
    a.reaches(&b).await;
    a.transport.remove_peer(GROUP, NodeId(2));
    assert_eq!(a.send(2, 1), Sent::Unreachable);
    a.knows(&b);
    b.host.received.lock().unwrap().clear();
    a.reaches(&b).await;
}

#[tokio::test]
async fn three_processes_talk_to_each_other() {
    let all = [Process::start(1).await, Process::start(2).await, Process::start(3).await];
    let others = |this: &Process| all.iter().filter(|other| other.host.node != this.host.node).collect::<Vec<_>>();
    all.iter().for_each(|this| others(this).into_iter().for_each(|other| this.knows(other)));
    for round in 1..=100 {
        for this in &all {
            others(this).iter().for_each(|other| assert_eq!(this.send(other.host.node.0, round), Sent::Queued));
        }
    }
    for this in &all {
        eventually("all frames of both others", || this.rounds().len() == 200).await;
    }
}

#[tokio::test]
async fn who_answers_no_ping_is_given_up() {
    let hasty = GrpcOptions {
        keep_alive_interval: Duration::from_millis(20),
        write_timeout: Duration::from_millis(20),
        handshake_timeout: Duration::from_secs(60),
        ..options()
    };
    let a = Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0/http", hasty).await;
    let (_listener, peer) = mute().await;
    a.transport.set_peer(peer);
    a.send(9, 1);
    eventually("given up", || a.lost() > 0).await;
}
