//! What is sent arrives as it was, in order, or not at all.

use coracle_core::{Body, Message, NodeId, Term};

use super::{
    Factory, Verdict,
    messages::{every_kind, pattern},
    process::{GROUP, Process, eventually, frame, pair},
};
use crate::{Frame, PeerStats, Sent};

pub(super) async fn in_order_both_ways(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    b.reaches(&a).await;
    let (at_a, at_b) = (a.rounds_from(&b).len(), b.rounds_from(&a).len());
    for round in 1..=1000 {
        let sent = (a.send(b.node, round), b.send(a.node, round));
        assert_eq!(sent, (Sent::Queued, Sent::Queued), "frame {round} of 1000 small ones over an open connection");
    }
    let last = |process: &Process, from: &Process| process.rounds_from(from).last() == Some(&1000);
    eventually("the last of 1000 frames arrives at both ends", || last(&a, &b) && last(&b, &a)).await;
    for (receiver, sender, before) in [(&a, &b, at_a), (&b, &a, at_b)] {
        // What was sent to find out whether there is a connection may still have been under way.
        let rounds: Vec<u64> =
            receiver.rounds_from(sender)[before..].iter().copied().filter(|&round| round <= 1000).collect();
        assert_eq!(rounds, (1..=1000).collect::<Vec<_>>(), "all frames arrive in order");
        assert!(!receiver.has_lost(sender), "nobody was unreachable, and the host was told that somebody is");
    }
    Verdict::Passed
}

pub(super) async fn every_message_arrives_as_it_was(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    let mut sent: Vec<Frame> = every_kind().into_iter().map(|body| frame(GROUP, a.node, b.node, body)).collect();
    let body = Body::Heartbeat { round: 0, leader_commit: Default::default() };
    sent.push(Frame { group: GROUP, message: Message { from: a.node, to: b.node, term: Term::MAX, body } });
    for frame in &sent {
        assert_eq!(a.transport.send(frame.clone()), Sent::Queued, "{frame:?}");
    }
    let last = sent.last().cloned();
    eventually("the last message arrives", || b.host.state().received.last() == last.as_ref()).await;
    let received = b.host.state().received.clone();
    let received = &received[received.len().saturating_sub(sent.len())..];
    for (sent, received) in sent.iter().zip(received) {
        assert_eq!(sent, received, "a message arrives as it was sent");
    }
    Verdict::Passed
}

fn large(bytes: usize) -> Body {
    Body::Propose { nonce: 1, sequence: 2, commands: vec![pattern(bytes)] }
}

pub(super) async fn a_large_frame_passes(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    let bytes = factory.frame_bytes_max().unwrap_or(16 << 20) / 2;
    let body = large(bytes);
    assert_eq!(a.send_body(b.node, body.clone()), Sent::Queued, "a frame of {bytes} bytes, half of the limit");
    let arrived = || b.host.state().received.iter().any(|frame| frame.message.body == body);
    eventually("a frame of half of the limit arrives as it was", arrived).await;
    Verdict::Passed
}

pub(super) async fn an_oversized_frame_is_dropped_alone(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    let Some(bytes_max) = factory.frame_bytes_max() else { return Verdict::Passed };
    let dropped = a.transport.stats(GROUP, b.node).frames_dropped;
    let sent = a.send_body(b.node, large(bytes_max * 2));
    assert_ne!(sent, Sent::Unreachable, "a frame of twice the limit is no reason to call the peer unreachable");
    a.reaches(&b).await;
    eventually("the oversized frame is counted as dropped", || {
        a.transport.stats(GROUP, b.node).frames_dropped > dropped
    })
    .await;
    let oversized = |frame: &Frame| matches!(frame.message.body, Body::Propose { .. });
    assert!(!b.host.state().received.iter().any(oversized), "a frame of twice the limit arrived");
    assert!(!a.has_lost(&b), "one oversized frame cost the connection");
    Verdict::Passed
}

pub(super) async fn what_was_sent_is_counted(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    assert_eq!(a.transport.stats(GROUP, NodeId(9)), PeerStats::default(), "nothing was counted of who is unknown");
    assert!(!a.is_connected_to(&b), "a connection is made when there is something to send, not before");
    a.reaches(&b).await;
    let before = a.transport.stats(GROUP, b.node);
    assert!(before.is_connected, "a frame arrived, and there is no connection");
    (1..=100).for_each(|round| assert_eq!(a.send(b.node, round), Sent::Queued));
    eventually("the frames arrive", || b.rounds_from(&a).contains(&100)).await;
    eventually("each frame is counted as sent", || {
        a.transport.stats(GROUP, b.node).frames_sent >= before.frames_sent + 100
    })
    .await;
    let (sent, arrived) = (a.transport.stats(GROUP, b.node), b.rounds_from(&a).len() as u64);
    assert_eq!((sent.frames_sent, sent.frames_dropped), (arrived, 0), "of {arrived} frames that arrived");
    eventually("each frame is counted as received", || b.transport.stats(GROUP, a.node).frames_received == arrived)
        .await;
    Verdict::Passed
}
