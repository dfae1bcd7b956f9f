//! How a transport ends.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::Body;

use super::{
    Factory, Verdict,
    messages::pattern,
    process::{Process, ends, eventually, next_round, pair},
    proxy::Proxy,
};
use crate::{Sent, TransportError};

pub(super) async fn what_is_queued_is_written(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    (1..=500).for_each(|round| assert_eq!(a.send(b.node, round), Sent::Queued, "frame {round}"));
    ends("shutdown", a.transport.shutdown()).await;
    let all: Vec<u64> = (1..=500).collect();
    eventually("what was queued before the shutdown arrives", || b.rounds_from(&a).ends_with(&all)).await;
    Verdict::Passed
}

pub(super) async fn after_the_end_nothing_goes(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    b.reaches(&a).await;
    ends("shutdown", a.transport.shutdown()).await;
    ends("a second shutdown", a.transport.shutdown()).await;
    a.forgets_what_it_was_told();
    assert_eq!(a.send(b.node, 1), Sent::Unreachable, "after the shutdown");
    assert!(!a.is_connected_to(&b), "after the shutdown");
    a.knows(&b);
    assert_eq!(a.send(b.node, 1), Sent::Unreachable, "to a peer that was set after the shutdown");
    let asked = a.transport.ask(&b.address, Bytes::new()).await;
    assert!(matches!(asked, Err(TransportError::Closed)), "a question after the shutdown: {asked:?}");
    let again = a.transport.listen(&factory.bind(), Arc::clone(&a.host) as _).await;
    assert!(matches!(again, Err(TransportError::Closed)), "listen after the shutdown: {again:?}");
    eventually("the others cannot send there any more", || b.send(a.node, next_round()) == Sent::Unreachable).await;
    assert!(a.has_received_nothing(), "a frame reached the host after the shutdown");
    Verdict::Passed
}

pub(super) async fn others_notice_the_end(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    ends("shutdown", b.transport.shutdown()).await;
    eventually("the loss is reported without anything being sent", || a.has_lost(&b) && !a.is_connected_to(&b)).await;
    let address = b.address.clone();
    let next = Process::start_at(factory, 3, &address).await;
    assert_eq!(next.address, address, "the address is free again");
    Verdict::Passed
}

pub(super) async fn the_end_does_not_wait_for_who_does_not_read(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(proxy) = Proxy::to(&b.address).await else { return Verdict::Skipped };
    a.knows_at(&b, vec![proxy.address.clone()]);
    a.reaches(&b).await;
    proxy.set(|settings| settings.is_stalled = true);
    let body = Body::Propose { nonce: 1, sequence: 1, commands: vec![pattern(1 << 20)] };
    for _ in 0..16 {
        a.send_body(b.node, body.clone());
    }
    ends("the shutdown of a process whose peer does not read", a.transport.shutdown()).await;
    Verdict::Passed
}
