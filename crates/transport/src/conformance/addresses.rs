//! Where nodes are, and where they are not.

use std::sync::Arc;

use coracle_core::NodeId;

use super::{
    Factory, Verdict,
    process::{GROUP, Process, ends, eventually, next_round, pair},
};
use crate::{Address, Route, Sent, TransportError};

pub(super) async fn the_next_address_is_tried(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let (nobody, stranger) = (Process::start(factory, 4).await, Process::start(factory, 3).await);
    nobody.transport.shutdown().await;
    a.knows_at(&b, vec![unspoken(&b.address), nobody.address.clone(), stranger.address.clone(), b.address.clone()]);
    a.reaches(&b).await;
    assert!(stranger.has_received_nothing(), "a frame reached another node than it was for");
    Verdict::Passed
}

pub(super) async fn a_peer_that_moves(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    b.transport.shutdown().await;
    let moved = Process::start(factory, 2).await;
    a.knows(&moved);
    a.reaches(&moved).await;
    // Without that anything is wrong with the connection to where it was.
    let again = Process::start(factory, 2).await;
    a.knows(&again);
    a.reaches(&again).await;
    again.forgets_what_it_was_told();
    moved.forgets_what_it_was_told();
    a.reaches(&again).await;
    assert!(moved.has_received_nothing(), "frames go where the peer was");
    Verdict::Passed
}

pub(super) async fn a_peer_that_is_removed(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    a.transport.remove_peer(GROUP, b.node);
    assert_eq!(a.send(b.node, next_round()), Sent::Unreachable, "a peer that was removed");
    assert!(!a.is_connected_to(&b), "a peer that was removed");
    a.transport.remove_peer(GROUP, b.node);
    a.knows(&b);
    a.reaches(&b).await;
    Verdict::Passed
}

pub(super) async fn nobody_is_unreachable(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    assert_eq!(a.send(NodeId(9), 1), Sent::Unreachable, "a node that nobody knows");
    a.knows_at(&b, vec![]);
    eventually("a peer without addresses is unreachable", || a.send(b.node, next_round()) == Sent::Unreachable).await;
    assert!(b.has_received_nothing(), "a frame reached a peer without addresses");
    Verdict::Passed
}

pub(super) async fn who_is_not_there_is_reported(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    b.transport.shutdown().await;
    a.reaches_nobody(&b).await;
    Verdict::Passed
}

impl Process {
    async fn reaches_nobody(&self, other: &Process) {
        eventually("the peer is unreachable, and the frames are counted as dropped", || {
            let sent = self.send(other.node, next_round());
            let dropped = self.transport.stats(GROUP, other.node).frames_dropped;
            // The host of a transport that never connects may learn of it from `Sent` alone.
            sent == Sent::Unreachable && dropped > 0
        })
        .await;
        assert!(!self.is_connected_to(other), "there is a connection to who is not there");
    }
}

pub(super) async fn addresses_that_cannot_be_listened_on(factory: &dyn Factory) -> Verdict {
    let a = Process::start(factory, 1).await;
    let host = || Arc::clone(&a.host);
    let busy = ends("listen", factory.transport().listen(&a.address, host())).await;
    match busy {
        Err(TransportError::Listen { address, .. }) => assert_eq!(address, a.address.to_string(), "the busy address"),
        other => panic!("an address that is in use is listened on: {other:?}"),
    }
    let again = ends("listen", a.transport.listen(&factory.bind(), host())).await;
    assert!(matches!(again, Err(TransportError::Listen { .. })), "a transport listens twice: {again:?}");
    let foreign = ends("listen", factory.transport().listen(&unspoken(&a.address), host())).await;
    assert!(matches!(foreign, Err(TransportError::Unsupported { .. })), "another transport's address: {foreign:?}");
    Verdict::Passed
}

/// An address of another transport.
pub(super) fn unspoken(spoken: &Address) -> Address {
    match spoken.route() {
        Route::Memory { .. } => "/ip4/127.0.0.1/tcp/1".parse().unwrap_or_else(|error| panic!("{error}")),
        _ => Address::memory(1),
    }
}
