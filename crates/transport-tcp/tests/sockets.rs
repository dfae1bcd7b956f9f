//! The transport on real sockets: what it carries, how it comes back, what it does when there is too much.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{GROUP, Process, eventually, options, pair};
use coracle_core::{Body, GroupId, Incarnation, NodeId};
use coracle_transport::{Address, Fault, Peer, Route, Sent, Transport, TransportError};
use coracle_transport_tcp::{TcpOptions, TcpTransport};
use tokio::net::{TcpListener, TcpStream};

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
async fn names_ipv6_and_unix_sockets_are_spoken() {
    let directory = tempfile::tempdir().unwrap();
    let socket = Address::unix(directory.path().join("a b.sock").to_str().unwrap()).unwrap();
    for bind in ["/ip6/::1/tcp/0", "/dns4/localhost/tcp/0", "/dns/localhost/tcp/0", &socket.to_string()] {
        let b = Process::start_at(2, 2, bind, options()).await;
        let a = Process::start(1).await;
        a.knows(&b);
        b.knows(&a);
        a.reaches(&b).await;
        b.reaches(&a).await;
    }
}

#[tokio::test]
async fn a_unix_socket_that_was_left_behind_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let address = Address::unix(path.to_str().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let a = Process::start_at(1, 1, &address.to_string(), options()).await;
    let second = TcpTransport::new(options()).listen(&address, a.host.clone()).await;
    assert!(matches!(second, Err(TransportError::Listen { .. })), "somebody listens there");
    a.transport.shutdown().await;
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let file = TcpTransport::new(options()).listen(&address, a.host.clone()).await;
    assert!(matches!(file, Err(TransportError::Listen { .. })));
    assert!(path.exists(), "it is no socket");
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let a = Process::start(1).await;
    let error = TcpTransport::new(options()).listen(&a.address, a.host.clone()).await.unwrap_err();
    assert!(matches!(error, TransportError::Listen { .. }));
    assert!(error.to_string().contains(&a.address.to_string()), "{error}");
    let again = a.transport.listen(&"/ip4/127.0.0.1/tcp/0".parse().unwrap(), a.host.clone()).await;
    assert!(again.unwrap_err().to_string().contains("already"));
    let memory = TcpTransport::new(options()).listen(&Address::memory(1), a.host.clone()).await;
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
    let addresses = vec![listener.local_addr().unwrap().into()];
    (listener, Peer { group: GROUP, id: NodeId(9), incarnation: Incarnation(9), addresses })
}

#[tokio::test]
async fn a_full_queue_says_so_and_is_shared_by_the_groups_of_a_process() {
    let small = TcpOptions { queue_frames_max: 3, ..options() };
    let a = Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0", small).await;
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
    let patient = TcpOptions { backoff_max: Duration::from_secs(3600), ..options() };
    let a = Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0", patient).await;
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
    let one = TcpOptions { connections_max: 1, ..options() };
    let b = Process::start_at(2, 2, "/ip4/127.0.0.1/tcp/0", one).await;
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
async fn who_has_not_shaken_hands_takes_few_places() {
    let two = TcpOptions { handshakes_max: 2, ..options() };
    let b = Process::start_at(2, 2, "/ip4/127.0.0.1/tcp/0", two).await;
    let a = Process::start(1).await;
    a.knows(&b);
    a.reaches(&b).await;
    let Route::Tcp { port, .. } = b.address.route() else { panic!("{}", b.address) };
    let mut silent = Vec::new();
    while b.transport.faults().of(Fault::Overload) == 0 {
        assert!(silent.len() < 100, "as many as one likes");
        silent.push(TcpStream::connect(("127.0.0.1", *port)).await.unwrap());
        tokio::task::yield_now().await;
    }
    b.host.received.lock().unwrap().clear();
    a.reaches(&b).await;
    let c = Process::start(3).await;
    c.knows(&b);
    eventually("no place for another", || {
        c.send(2, 1);
        c.lost() > 0
    })
    .await;
    silent.clear();
    c.reaches(&b).await;
}

#[tokio::test]
async fn idle_connections_are_closed_and_made_again() {
    let short = TcpOptions { idle_timeout: Duration::from_millis(50), ..options() };
    let (a, b) = (Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0", short).await, Process::start(2).await);
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
