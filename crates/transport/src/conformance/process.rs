//! A process of the suite: a transport and a host that remembers what it was told.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{Body, GroupId, Incarnation, Message, NodeId, Term};
use tokio::time::Instant;

use super::Factory;
use crate::{Address, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Peer, Refusal, Sent, Transport};

/// The group of checks that need one only.
pub(super) const GROUP: GroupId = GroupId(1);

/// Far longer than anything takes on a machine that is merely busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub(super) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "this did not come true within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for what a transport should end by itself.
pub(super) async fn ends<T>(what: &str, work: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(PATIENCE, work).await;
    ended.unwrap_or_else(|_| panic!("this did not end within {PATIENCE:?}: {what}"))
}

/// What a host says of itself, and what it was told.
pub(super) struct Recorded {
    pub(super) hello: Hello,
    /// Whom it does not admit, and why.
    pub(super) refuses: HashMap<(GroupId, NodeId), Refusal>,
    pub(super) received: Vec<Frame>,
    pub(super) lost: Vec<(GroupId, NodeId)>,
    pub(super) refusals: Vec<(GroupId, NodeId, Refusal)>,
}

/// A host that remembers.
pub(super) struct Recorder(Mutex<Recorded>);

impl Recorder {
    fn new(groups: Vec<GroupHello>) -> Recorder {
        let hello = Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 1, groups };
        let (refuses, received, lost, refusals) = Default::default();
        Recorder(Mutex::new(Recorded { hello, refuses, received, lost, refusals }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Recorder {
    fn hello(&self) -> Hello {
        self.state().hello.clone()
    }

    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        self.state().hello.groups.iter().find(|hosted| hosted.group == group).map(|hosted| hosted.node)
    }

    fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
        let state = self.state();
        if let Some(refusal) = state.refuses.get(&(theirs.group, theirs.node)) {
            return Err(refusal.clone());
        }
        match state.hello.groups.iter().any(|ours| ours.group == theirs.group) {
            true => Ok(()),
            false => Err(Refusal::NoGroup),
        }
    }

    fn receive(&self, frames: Vec<Frame>) {
        self.state().received.extend(frames);
    }

    fn unreachable(&self, group: GroupId, peer: NodeId) {
        self.state().lost.push((group, peer));
    }

    fn refused(&self, group: GroupId, peer: NodeId, refusal: &Refusal) {
        self.state().refusals.push((group, peer, refusal.clone()));
    }

    /// A number is answered with as many bytes, all else with itself.
    fn answer(&self, question: Bytes) -> Bytes {
        let len = std::str::from_utf8(&question).ok().and_then(|text| text.parse().ok());
        len.map_or(question, |len: usize| vec![7; len].into())
    }
}

/// A transport that listens, and its host.
pub(super) struct Process {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) host: Arc<Recorder>,
    pub(super) address: Address,
    pub(super) node: NodeId,
}

/// What a process says of a group.
pub(super) fn hosting(group: GroupId, node: NodeId) -> GroupHello {
    let incarnation = Incarnation(node.0 + 100);
    GroupHello { group, cluster_name: "conformance".to_owned(), cluster: None, node, incarnation }
}

impl Process {
    /// A process with one node, in [`GROUP`], on an address of its own.
    pub(super) async fn start(factory: &dyn Factory, node: u64) -> Process {
        Process::start_at(factory, node, &factory.bind()).await
    }

    pub(super) async fn start_at(factory: &dyn Factory, node: u64, bind: &Address) -> Process {
        Process::hosting(factory, node, bind, vec![hosting(GROUP, NodeId(node))]).await
    }

    pub(super) async fn hosting(factory: &dyn Factory, node: u64, bind: &Address, groups: Vec<GroupHello>) -> Process {
        let (transport, host) = (factory.transport(), Arc::new(Recorder::new(groups)));
        let address = match ends("listen", transport.listen(bind, host.clone())).await {
            Ok(address) => address,
            Err(error) => panic!("it cannot listen on {bind}: {error}"),
        };
        Process { transport, host, address, node: NodeId(node) }
    }

    /// Tells this one where all nodes of the other are.
    pub(super) fn knows(&self, other: &Process) {
        self.knows_at(other, vec![other.address.clone()]);
    }

    pub(super) fn knows_at(&self, other: &Process, addresses: Vec<Address>) {
        let hello = other.host.hello();
        for GroupHello { group, node: id, incarnation, .. } in hello.groups {
            self.transport.set_peer(Peer { group, id, incarnation, addresses: addresses.clone() });
        }
    }

    /// Sends a small frame to a node of [`GROUP`].
    pub(super) fn send(&self, to: NodeId, round: u64) -> Sent {
        self.send_body(to, Body::HeartbeatResponse { round, promise: 0 })
    }

    pub(super) fn send_body(&self, to: NodeId, body: Body) -> Sent {
        self.transport.send(frame(GROUP, self.node, to, body))
    }

    /// Sends until one of the frames sent here arrives at `other`: as Raft does, which repairs what was lost.
    pub(super) async fn reaches(&self, other: &Process) {
        self.reaches_in(GROUP, self.node, other, other.node).await;
    }

    pub(super) async fn reaches_in(&self, group: GroupId, from: NodeId, other: &Process, to: NodeId) {
        let first = next_round();
        eventually("a frame arrives", || {
            let body = Body::HeartbeatResponse { round: next_round(), promise: 0 };
            self.transport.send(frame(group, from, to, body));
            other.rounds_in(group, from).into_iter().any(|round| round > first)
        })
        .await;
    }

    /// The rounds of the small frames that arrived from a node.
    pub(super) fn rounds_in(&self, group: GroupId, from: NodeId) -> Vec<u64> {
        let state = self.host.state();
        let ours = state.received.iter().filter(|frame| (frame.group, frame.message.from) == (group, from));
        ours.filter_map(|frame| match frame.message.body {
            Body::HeartbeatResponse { round, .. } => Some(round),
            _ => None,
        })
        .collect()
    }

    pub(super) fn rounds_from(&self, other: &Process) -> Vec<u64> {
        self.rounds_in(GROUP, other.node)
    }

    pub(super) fn has_received_nothing(&self) -> bool {
        self.host.state().received.is_empty()
    }

    pub(super) fn has_lost(&self, other: &Process) -> bool {
        self.host.state().lost.contains(&(GROUP, other.node))
    }

    pub(super) fn forgets_what_it_was_told(&self) {
        let mut state = self.host.state();
        state.received.clear();
        state.lost.clear();
        state.refusals.clear();
    }

    pub(super) fn is_connected_to(&self, other: &Process) -> bool {
        self.transport.stats(GROUP, other.node).is_connected
    }
}

/// Two processes that know each other.
pub(super) async fn pair(factory: &dyn Factory) -> (Process, Process) {
    let (a, b) = (Process::start(factory, 1).await, Process::start(factory, 2).await);
    a.knows(&b);
    b.knows(&a);
    (a, b)
}

pub(super) fn frame(group: GroupId, from: NodeId, to: NodeId, body: Body) -> Frame {
    Frame { group, message: Message { from, to, term: Term(9), body } }
}

/// Rises from frame to frame, whoever sends it: so order and repetition show, over restarts too.
pub(super) fn next_round() -> u64 {
    static ROUND: AtomicU64 = AtomicU64::new(1 << 32);
    ROUND.fetch_add(1, Ordering::Relaxed)
}

/// Checks that nothing came twice or overtook another: gaps are allowed, since frames may be dropped.
pub(super) fn assert_rising(rounds: &[u64]) {
    for pair in rounds.windows(2) {
        assert!(
            pair[0] < pair[1],
            "frame {} arrived after frame {}, which was sent later or is the same",
            pair[1],
            pair[0]
        );
    }
}
