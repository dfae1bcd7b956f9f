//! Too much for the other side: what does not fit is dropped, and nobody waits.

use std::time::Duration;

use coracle_core::Body;

use super::{
    Factory, Verdict,
    messages::pattern,
    process::{GROUP, Process, eventually, frame, pair},
    proxy::Proxy,
};
use crate::Sent;

/// Who does not read holds at most so many bytes of this process's frames, in its queues and the system's.
const BYTES_MAX: usize = 512 << 20;

/// Sends until the queue is full, in a thread of its own: a transport that blocks would block this suite.
async fn fill(factory: &dyn Factory, a: &Process, b: &Process) {
    let (transport, from, to) = (a.transport.clone(), a.node, b.node);
    let bytes = factory.frame_bytes_max().unwrap_or(1 << 20).min(2 << 20) / 2;
    let filled = tokio::task::spawn_blocking(move || {
        let body = Body::Propose { nonce: 1, sequence: 1, commands: vec![pattern(bytes)] };
        let is_full = |_: &usize| match transport.send(frame(GROUP, from, to, body.clone())) {
            Sent::Queued => false,
            Sent::Full => true,
            // The queue is given time to be written by who has it.
            Sent::Unreachable => panic!("a peer that does not read is slow, not unreachable"),
        };
        (0..BYTES_MAX / bytes).find(is_full).is_some()
    });
    let filled = tokio::time::timeout(Duration::from_secs(20), filled).await;
    let filled = filled.unwrap_or_else(|_| panic!("send blocks when the other side does not read"));
    let filled = filled.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    assert!(filled, "{BYTES_MAX} bytes were queued for a process that does not read, and the queue is not full");
}

pub(super) async fn a_host_that_does_not_read_fills_the_queue(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(proxy) = Proxy::to(&b.address).await else { return Verdict::Skipped };
    a.knows_at(&b, vec![proxy.address.clone()]);
    a.reaches(&b).await;
    proxy.set(|settings| settings.is_stalled = true);
    let before = a.transport.stats(GROUP, b.node).frames_dropped;
    fill(factory, &a, &b).await;
    assert!(a.transport.stats(GROUP, b.node).frames_dropped > before, "a frame that found no room is not counted");
    proxy.set(|settings| settings.is_stalled = false);
    a.reaches(&b).await;
    eventually("there is room again", || a.send(b.node, 1) == Sent::Queued).await;
    Verdict::Passed
}

pub(super) async fn a_slow_reader_does_not_hold_up_others(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let c = Process::start(factory, 3).await;
    let Some(proxy) = Proxy::to(&b.address).await else { return Verdict::Skipped };
    a.knows_at(&b, vec![proxy.address.clone()]);
    a.knows(&c);
    a.reaches(&b).await;
    proxy.set(|settings| settings.is_stalled = true);
    fill(factory, &a, &b).await;
    for _ in 0..20 {
        a.reaches(&c).await;
    }
    let large = Body::Propose { nonce: 1, sequence: 1, commands: vec![pattern(1 << 20)] };
    assert_eq!(a.send_body(c.node, large.clone()), Sent::Queued, "another process has a queue of its own");
    let arrived = || c.host.state().received.iter().any(|frame| frame.message.body == large);
    eventually("a large frame for another process arrives", arrived).await;
    Verdict::Passed
}
