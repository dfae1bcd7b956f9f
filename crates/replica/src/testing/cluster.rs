//! Replicas wired to each other in memory, on virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{Base, Body, Config, GroupId, Index, Membership, Message, NodeId, Persist, Rng, Time};

use coracle_storage::{LogBatch, LogStore};

use super::{Disk, List, MemoryLog, MemorySnapshots, list_of};
use crate::{
    Completion, Consistency, Effect, Input, LogWorker, NoSpace, Replica, ReplicaOptions, Reply, RequestError,
    RequestId, SnapshotWorker, StateWorker, Work, recover,
};

const GROUP: GroupId = GroupId(1);

/// What the network does to messages, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) dropped: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
}

/// A node: what survives a restart, and what does not.
struct Node {
    id: NodeId,
    log: Arc<MemoryLog>,
    snapshots: Arc<MemorySnapshots>,
    /// The flushed state of a durable state machine.
    disk: Option<Disk>,
    boots: u64,
    running: Option<Running>,
}

struct Running {
    replica: Replica,
    log: LogWorker,
    state: StateWorker,
    snapshots: SnapshotWorker,
    inbox: VecDeque<Input>,
    writes: Vec<Persist>,
    wake: Option<Time>,
    fatal: Option<String>,
    /// It was told that there is no space for what waits to be written.
    is_told_full: bool,
}

pub(crate) struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    membership: Membership,
    pub(crate) now: Time,
    rng: Rng,
    pub(crate) faults: Faults,
    /// Messages that get lost besides.
    pub(crate) lost: fn(&Message) -> bool,
    /// Directed links that carry nothing.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose disks have no space.
    pub(crate) full: BTreeSet<NodeId>,
    configure: fn(&mut ReplicaOptions),
    last_request: u64,
    /// Every reply; a second one to the same request is a failure.
    replies: BTreeMap<RequestId, Result<Reply, RequestError>>,
    /// The messages that were delivered, for tests that look at them.
    pub(crate) delivered: Vec<Message>,
}

impl Cluster {
    /// Nodes 1 to `count`, all voters.
    pub(crate) fn new(count: u64, is_durable: bool, seed: u64, configure: fn(&mut ReplicaOptions)) -> Cluster {
        let membership = Membership::of_voters((1..=count).map(NodeId));
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            membership,
            now: Time::ZERO,
            rng: Rng::new(seed),
            faults: Faults::default(),
            lost: |_| false,
            cut: BTreeSet::new(),
            full: BTreeSet::new(),
            configure,
            last_request: 0,
            replies: BTreeMap::new(),
            delivered: Vec::new(),
        };
        for id in (1..=count).map(NodeId) {
            let log = Arc::new(MemoryLog::founded(&cluster.membership));
            let snapshots = Arc::new(MemorySnapshots::default());
            let disk = is_durable.then(Disk::default);
            cluster.nodes.insert(id, Node { id, log, snapshots, disk, boots: 0, running: None });
            cluster.start(id);
        }
        cluster
    }

    pub(crate) fn start(&mut self, id: NodeId) {
        let seed = self.rng.next_u64();
        let node = self.nodes.get_mut(&id).unwrap();
        node.boots += 1;
        let mut options = ReplicaOptions::new(Config::new(id, seed), id.0 * 1000 + node.boots);
        (self.configure)(&mut options);
        // A state that was not flushed is lost.
        let mut machine = List::new(node.disk.clone());
        let start = recover(&*node.log, &*node.snapshots, &mut machine, GROUP, 1 << 20).unwrap().unwrap();
        node.running = Some(Running {
            replica: Replica::new(options, start, self.now).unwrap(),
            log: LogWorker::new(node.log.clone(), GROUP),
            state: StateWorker::new(Box::new(machine), node.snapshots.clone()),
            snapshots: SnapshotWorker::new(node.snapshots.clone()),
            inbox: VecDeque::new(),
            writes: Vec::new(),
            wake: Some(self.now),
            fatal: None,
            is_told_full: false,
        });
    }

    pub(crate) fn stop(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).unwrap().running = None;
    }

    /// What a node that is stopped has of snapshots is gone.
    pub(crate) fn lose_snapshots(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).unwrap().snapshots = Arc::default();
    }

    /// A byte of each whole snapshot that a node has rots.
    pub(crate) fn damage_snapshots(&mut self, id: NodeId) {
        self.nodes[&id].snapshots.damage(0);
    }

    /// What a node that is stopped has of its state is gone, and of its log what is up to `index`.
    pub(crate) fn lose_state(&mut self, id: NodeId, index: Index) {
        self.lose_snapshots(id);
        let node = self.nodes.get_mut(&id).unwrap();
        node.disk = node.disk.take().map(|_| Disk::default());
        let found = node.log.recover(GROUP, 1 << 20).unwrap();
        let term = found.terms.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term).unwrap();
        let membership = Some(self.membership.clone());
        let base = Base { index, term, membership_index: Index(1), membership };
        let batch = LogBatch { base: Some(base), ..LogBatch::append(GROUP, vec![]) };
        node.log.write(&[batch]).unwrap();
    }

    pub(crate) fn is_running(&self, id: NodeId) -> bool {
        self.nodes[&id].running.is_some()
    }

    pub(crate) fn replica(&self, id: NodeId) -> &Replica {
        &self.nodes[&id].running.as_ref().unwrap().replica
    }

    pub(crate) fn fatal(&self, id: NodeId) -> Option<&str> {
        self.nodes[&id].running.as_ref().unwrap().fatal.as_deref()
    }

    pub(crate) fn log(&self, id: NodeId) -> &Arc<MemoryLog> {
        &self.nodes[&id].log
    }

    pub(crate) fn list(&mut self, id: NodeId) -> Vec<u64> {
        let running = self.nodes.get_mut(&id).unwrap().running.as_mut().unwrap();
        list_of(&running.state.machine().query(&[]).unwrap())
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        if let Some(running) = &mut self.nodes.get_mut(&id).unwrap().running {
            running.inbox.push_back(input);
        }
    }

    /// Proposes the request's own number as the command.
    pub(crate) fn propose(&mut self, id: NodeId) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let command = Bytes::copy_from_slice(&self.last_request.to_be_bytes());
        self.input(id, Input::Propose { request, command });
        request
    }

    pub(crate) fn query(&mut self, id: NodeId, consistency: Consistency) -> RequestId {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        self.input(id, Input::Query { request, query: Bytes::new(), consistency });
        request
    }

    pub(crate) fn reply(&self, request: RequestId) -> Option<&Result<Reply, RequestError>> {
        self.replies.get(&request)
    }

    pub(crate) fn replies(&self) -> &BTreeMap<RequestId, Result<Reply, RequestError>> {
        &self.replies
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leaders = self.nodes.values().filter_map(|node| {
            let status = node.running.as_ref()?.replica.status();
            let is_isolated = self.nodes.len() > 1
                && self.cut.iter().filter(|(from, _)| *from == node.id).count() + 1 >= self.nodes.len();
            (status.role == coracle_core::Role::Leader && !is_isolated).then_some((status.term, node.id))
        });
        leaders.max().map(|(_, id)| id)
    }

    /// Cuts a node off in both directions.
    pub(crate) fn isolate(&mut self, id: NodeId) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    /// Runs until `is_done` or for `limit` of virtual time; says whether it was done.
    pub(crate) fn run_until(&mut self, limit: Duration, mut is_done: impl FnMut(&mut Cluster) -> bool) -> bool {
        let end = self.now.plus(limit);
        loop {
            self.settle();
            if is_done(self) {
                return true;
            }
            let next = self.nodes.values().filter_map(|node| node.running.as_ref()?.wake).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return false;
            };
            // Time passes by at least a little, whatever is due.
            self.now = next.max(self.now.plus(Duration::from_micros(100)));
            self.pass_time();
        }
    }

    pub(crate) fn run_for(&mut self, limit: Duration) {
        self.run_until(limit, |_| false);
    }

    /// Until a leader has committed in its term.
    pub(crate) fn elect(&mut self) -> NodeId {
        assert!(self.run_until(Duration::from_secs(30), |cluster| {
            cluster.leader().is_some_and(|id| cluster.replica(id).status().commit_index > Index(1))
        }));
        self.leader().unwrap()
    }

    fn pass_time(&mut self) {
        for node in self.nodes.values_mut() {
            if let Some(running) = node.running.as_mut().filter(|it| it.wake.is_some_and(|at| at <= self.now)) {
                running.inbox.push_back(Input::Time);
            }
        }
    }

    /// Lets every node do what it can at this moment.
    fn settle(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for _ in 0..10_000 {
            let mut is_quiet = true;
            for id in &ids {
                is_quiet &= !self.turn(*id);
            }
            if is_quiet {
                return;
            }
        }
        panic!("the replicas never come to rest");
    }

    /// One node takes its inputs and carries out its effects; says whether there was anything.
    fn turn(&mut self, id: NodeId) -> bool {
        let Some(running) = &mut self.nodes.get_mut(&id).unwrap().running else { return false };
        if running.inbox.is_empty() {
            return false;
        }
        for input in std::mem::take(&mut running.inbox) {
            running.replica.handle(self.now, input);
        }
        let mut sent = Vec::new();
        let mut polled = 0;
        loop {
            polled += 1;
            assert!(polled < 1_000_000, "the replica never comes to rest");
            match running.replica.poll() {
                Effect::Wake { at } => {
                    running.wake = at;
                    break;
                }
                Effect::Send(message) => sent.push(message),
                Effect::Reply { request, result } => {
                    let again = self.replies.insert(request, result);
                    assert!(again.is_none(), "{request:?} was answered twice");
                }
                effect => running.carry_out(effect),
            }
        }
        if !running.writes.is_empty() && self.full.contains(&id) {
            if !std::mem::replace(&mut running.is_told_full, true) {
                let no_space = NoSpace { place: "a disk".into(), needed: 1 };
                running.inbox.push_back(Input::Done(Completion::NoSpace(no_space)));
            }
        } else if !running.writes.is_empty() {
            running.is_told_full = false;
            let writes = std::mem::take(&mut running.writes);
            running.inbox.push_back(Input::Done(running.log.write(writes)));
        }
        sent.into_iter().for_each(|message| self.deliver(message));
        true
    }

    fn deliver(&mut self, message: Message) {
        let is_cut = self.cut.contains(&(message.from, message.to));
        let Some(node) = self.nodes.get_mut(&message.to) else { return };
        let Some(running) = &mut node.running else { return };
        if is_cut || (self.lost)(&message) || self.rng.below(100) < self.faults.dropped {
            return;
        }
        let copies = if self.rng.below(100) < self.faults.repeated { 2 } else { 1 };
        for _ in 0..copies {
            if !matches!(message.body, Body::Heartbeat { .. } | Body::HeartbeatResponse { .. }) {
                self.delivered.push(message.clone());
            }
            let input = Input::Message(message.clone());
            if self.rng.below(100) < self.faults.reordered {
                running.inbox.push_front(input);
            } else {
                running.inbox.push_back(input);
            }
        }
    }
}

impl Running {
    fn carry_out(&mut self, effect: Effect) {
        let completion = match effect {
            Effect::Write(write) => return self.writes.push(write),
            Effect::ReadLog { request, from, to, bytes_max } => self.log.read(request, from, to, bytes_max),
            Effect::State(effect) => match self.state.run(effect) {
                Work::Done(completion) => completion,
                Work::Snapshot(job) => job.run(),
            },
            Effect::ReadSnapshot { peer, content, offset, len } => self.snapshots.read(peer, content, offset, len),
            Effect::StoreSnapshot { from, term, piece } => self.snapshots.store(from, term, *piece),
            Effect::Fatal { what, .. } => {
                self.fatal = Some(what);
                return;
            }
            Effect::Event(_) | Effect::Send(_) | Effect::Reply { .. } | Effect::Wake { .. } => return,
        };
        if let Completion::Failed { .. } = &completion {
            assert!(self.fatal.is_none(), "nothing is asked for after the end");
        }
        self.inbox.push_back(Input::Done(completion));
    }
}
