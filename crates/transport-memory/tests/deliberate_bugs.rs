//! The suite finds what is wrong with a transport: each of these bugs, by the check that is for it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_transport::{
    Address, Frame, GroupHello, Hello, Host, Peer, PeerStats, Refusal, Sent, Transport, TransportError,
    conformance::{self, Factory},
};
use coracle_transport_memory::{MemoryNetwork, MemoryTransport};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    Repeats,
    Loses,
    KeepsCounters,
    HidesRefusals,
    AdmitsAll,
    NeverForgets,
    AnswersOthers,
    AnswersAfterTheEnd,
    QueuesAfterTheEnd,
    CallsAllUnreachable,
}

struct Buggy {
    bug: Bug,
    inner: MemoryTransport,
    frames: AtomicU64,
    is_closed: AtomicBool,
}

/// The host as the broken transport sees it.
struct Between {
    bug: Bug,
    host: Arc<dyn Host>,
}

impl Host for Between {
    fn hello(&self) -> Hello {
        self.host.hello()
    }
    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        self.host.hosts(group)
    }
    fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
        if self.bug == Bug::AdmitsAll { Ok(()) } else { self.host.admit(theirs) }
    }
    fn receive(&self, frames: Vec<Frame>) {
        self.host.receive(frames);
    }
    fn unreachable(&self, group: GroupId, peer: NodeId) {
        self.host.unreachable(group, peer);
    }
    fn refused(&self, group: GroupId, peer: NodeId, refusal: &Refusal) {
        if self.bug != Bug::HidesRefusals {
            self.host.refused(group, peer, refusal);
        }
    }
    fn answer(&self, question: Bytes) -> Bytes {
        if self.bug == Bug::AnswersOthers { Bytes::from_static(b"no") } else { self.host.answer(question) }
    }
}

#[async_trait]
impl Transport for Buggy {
    async fn listen(&self, bind: &Address, host: Arc<dyn Host>) -> Result<Address, TransportError> {
        self.inner.listen(bind, Arc::new(Between { bug: self.bug, host })).await
    }
    fn set_peer(&self, peer: Peer) {
        self.inner.set_peer(peer);
    }
    fn remove_peer(&self, group: GroupId, id: NodeId) {
        if self.bug != Bug::NeverForgets {
            self.inner.remove_peer(group, id);
        }
    }
    fn send(&self, frame: Frame) -> Sent {
        let nth = self.frames.fetch_add(1, Ordering::Relaxed);
        if self.bug == Bug::Loses && nth % 10 == 9 {
            return Sent::Queued;
        }
        if self.bug == Bug::Repeats && nth % 10 == 9 {
            self.inner.send(frame.clone());
        }
        let sent = self.inner.send(frame);
        match self.bug {
            Bug::QueuesAfterTheEnd if self.is_closed.load(Ordering::Relaxed) => Sent::Queued,
            Bug::CallsAllUnreachable => Sent::Unreachable,
            _ => sent,
        }
    }
    async fn ask(&self, address: &Address, question: Bytes) -> Result<Bytes, TransportError> {
        match self.inner.ask(address, question).await {
            Err(TransportError::Closed) if self.bug == Bug::AnswersAfterTheEnd => Ok(Bytes::new()),
            other => other,
        }
    }
    fn stats(&self, group: GroupId, peer: NodeId) -> PeerStats {
        let stats = self.inner.stats(group, peer);
        if self.bug == Bug::KeepsCounters { PeerStats { frames_sent: 0, ..stats } } else { stats }
    }
    async fn shutdown(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.inner.shutdown().await;
    }
}

struct Broken(Bug, MemoryNetwork);

impl Factory for Broken {
    fn transport(&self) -> Arc<dyn Transport> {
        let (frames, is_closed) = Default::default();
        Arc::new(Buggy { bug: self.0, inner: self.1.transport(), frames, is_closed })
    }
    fn bind(&self) -> Address {
        Address::memory(0)
    }
    fn frame_bytes_max(&self) -> Option<usize> {
        None
    }
}

/// What the suite says of a transport with this bug.
async fn verdict(bug: Bug) -> String {
    let suite = tokio::spawn(conformance::transport(Broken(bug, MemoryNetwork::new())));
    let Err(error) = suite.await else { return "passed".to_owned() };
    error.into_panic().downcast_ref::<String>().cloned().unwrap_or_default()
}

// With a clock that stands still unless all wait, deadlines are over at once.
#[tokio::test(start_paused = true)]
async fn each_bug_fails_the_check_that_is_for_it() {
    for (bug, check) in [
        (Bug::Repeats, "frames::in_order_both_ways"),
        (Bug::Loses, "frames::in_order_both_ways"),
        (Bug::KeepsCounters, "frames::what_was_sent_is_counted"),
        (Bug::HidesRefusals, "handshake::every_refusal_reaches_the_refused"),
        (Bug::AdmitsAll, "handshake::every_refusal_reaches_the_refused"),
        (Bug::NeverForgets, "addresses::a_peer_that_is_removed"),
        (Bug::AnswersOthers, "questions::answers_come_without_admission"),
        (Bug::AnswersAfterTheEnd, "closing::after_the_end_nothing_goes"),
        (Bug::QueuesAfterTheEnd, "closing::after_the_end_nothing_goes"),
        (Bug::CallsAllUnreachable, "frames::in_order_both_ways"),
    ] {
        let verdict = verdict(bug).await;
        assert!(verdict.starts_with(&format!("the transport fails {check}: ")), "{bug:?}: {verdict}");
    }
}
