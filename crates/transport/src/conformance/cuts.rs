//! Connections end, and are made again.

use super::{
    Factory, Verdict,
    messages::every_kind,
    process::{GROUP, Process, assert_rising, eventually, frame, next_round, pair},
    proxy::{Line, Proxy},
};

pub(super) async fn a_restarted_peer_is_reached_again(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    let Process { transport, address, .. } = b;
    transport.shutdown().await;
    drop(transport);
    let b = Process::start_at(factory, 2, &address).await;
    a.reaches(&b).await;
    b.knows(&a);
    b.reaches(&a).await;
    Verdict::Passed
}

pub(super) async fn a_cut_is_reported_and_mended(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(line) = Line::between(factory, &a, &b).await else { return Verdict::Skipped };
    a.reaches(&b).await;
    assert!(!a.has_lost(&b), "nobody was unreachable yet");
    line.cut();
    eventually("the host is told that the peer is unreachable", || {
        a.send(b.node, next_round());
        a.has_lost(&b) && !a.is_connected_to(&b)
    })
    .await;
    line.mend();
    a.reaches(&b).await;
    assert!(a.is_connected_to(&b), "a frame arrived, and there is no connection");
    Verdict::Passed
}

pub(super) async fn nothing_is_repeated_or_reordered_over_cuts(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(line) = Line::between(factory, &a, &b).await else { return Verdict::Skipped };
    for _ in 0..10 {
        a.reaches(&b).await;
        for _ in 0..50 {
            a.send(b.node, next_round());
        }
        line.cut();
        eventually("the cut is noticed", || {
            a.send(b.node, next_round());
            !a.is_connected_to(&b)
        })
        .await;
        line.mend();
    }
    a.reaches(&b).await;
    assert_rising(&b.rounds_from(&a));
    Verdict::Passed
}

pub(super) async fn frames_split_at_every_byte(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(proxy) = Proxy::to(&b.address).await else { return Verdict::Skipped };
    proxy.set(|settings| settings.piece_bytes_max = 1);
    a.knows_at(&b, vec![proxy.address.clone()]);
    a.reaches(&b).await;
    let sent: Vec<_> = every_kind().into_iter().map(|body| frame(GROUP, a.node, b.node, body)).collect();
    for frame in &sent {
        a.transport.send(frame.clone());
    }
    eventually("all frames arrive, in order", || b.host.state().received.ends_with(&sent)).await;
    assert!(!a.has_lost(&b), "what came byte by byte was taken for a loss");
    Verdict::Passed
}

/// Up to so many bytes a connection is cut at each of them: that is the handshake, and the first frames.
const BYTES_CUT: usize = 400;

pub(super) async fn connections_cut_at_every_byte(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(proxy) = Proxy::to(&b.address).await else { return Verdict::Skipped };
    a.knows_at(&b, vec![proxy.address.clone()]);
    for bytes in 1..=BYTES_CUT {
        let connections = proxy.accepted();
        proxy.set(|settings| settings.bytes_max = bytes);
        eventually("another connection is made, and cut", || {
            a.send(b.node, next_round());
            proxy.accepted() > connections
        })
        .await;
    }
    proxy.set(|settings| settings.bytes_max = usize::MAX);
    a.reaches(&b).await;
    assert_rising(&b.rounds_from(&a));
    Verdict::Passed
}
