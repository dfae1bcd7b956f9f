//! Bytes as what happens to a cluster, with the invariants of `docs/hazards.md` checked at each step.

#[path = "../../core/tests/common/mod.rs"]
mod common;
#[path = "../../core/tests/common/ghost.rs"]
mod ghost;

use std::time::Duration;

use bytes::Bytes;
use coracle_core::{
    AppendResult, Base, Body, Config, Entry, EntryKind, Forwarded, Index, Input, InstallSnapshot, MemberRole,
    Membership, MembershipChange, Message, NodeId, ProposalId, Run, SnapshotMeta, Term,
};

use self::{
    common::{Cluster, Disk},
    ghost::Ghost,
};
use crate::source::Source;

const VOTERS: u64 = 3;
/// More steps only make an input slow.
const STEPS_MAX: usize = 600;
/// More messages on their way are not told apart by a byte anyway.
const MESSAGES_MAX: usize = 256;

struct Walk<'a> {
    cluster: Cluster,
    source: Source<'a>,
    ghost: Ghost,
    lease: Duration,
    lives: u64,
    changes: u64,
}

/// Three voters and a node that waits to be joined.
pub(crate) fn cluster(data: &[u8]) {
    let mut source = Source::new(data);
    let lease = if source.byte() & 1 == 1 { Duration::from_millis(500) } else { Duration::ZERO };
    let cluster = Cluster::with_disks([]);
    let mut walk = Walk { cluster, source, ghost: Ghost::default(), lease, lives: 0, changes: 0 };
    let membership = Membership::of_voters((1..=VOTERS).map(NodeId));
    for n in 1..=VOTERS {
        walk.start(NodeId(n), Disk::founded(&membership));
    }
    walk.start(NodeId(VOTERS + 1), Disk::outsider());
    for _ in 0..STEPS_MAX {
        if walk.source.is_empty() {
            break;
        }
        walk.step();
        walk.ghost.check(&walk.cluster);
    }
}

impl Walk<'_> {
    fn start(&mut self, id: NodeId, disk: Disk) {
        // A boot nonce is never used twice (C24).
        self.lives += 1;
        let limits = self.source.byte();
        let config = Config { lease_duration: self.lease, ..small(id, self.lives, limits) };
        self.cluster.start_with(config, disk);
    }

    fn node(&mut self) -> NodeId {
        NodeId(1 + self.source.below(VOTERS as usize + 1) as u64)
    }

    fn step(&mut self) {
        match self.source.below(16) {
            0..4 => self.deliver(),
            4 => self.pass_time(),
            5 => {
                // Everybody loses patience sooner or later; here at once.
                let n = self.node();
                self.cluster.time_out(n);
            }
            6 => {
                let n = self.node();
                self.cluster.sync_one(n);
                self.cluster.pump(n);
            }
            7 => {
                let n = self.node();
                self.cluster.propose(n, "command");
            }
            8 => self.read(),
            9 => self.crash(),
            10 => self.compact(),
            11 => self.send_snapshots(),
            12 => {
                let n = self.node();
                self.cluster.node(n).is_disk_fast ^= true;
            }
            13 => self.cut_or_heal(),
            14 => self.hand_over(),
            _ => self.change_membership(),
        }
    }

    /// Some message next: delivered, delivered and kept, or lost.
    fn deliver(&mut self) {
        let how = self.source.byte();
        let network = &mut self.cluster.network;
        network.truncate(MESSAGES_MAX);
        let Some(at) = usize::from(how >> 2).checked_rem(network.len()) else { return };
        let Some(message) = network.remove(at) else { return };
        if how & 3 == 1 || self.cluster.is_cut(message.from, message.to) {
            return;
        }
        if how & 3 == 2 {
            self.cluster.network.push_back(message.clone());
        }
        self.cluster.handle(message.to, Input::Message(message));
    }

    fn pass_time(&mut self) {
        let (n, pass) = (self.node(), u64::from(self.source.byte()));
        self.cluster.now = self.cluster.now.plus(Duration::from_millis(pass));
        self.cluster.handle(n, Input::Time);
    }

    fn read(&mut self) {
        let (n, is_lease) = (self.node(), self.source.byte() & 1 == 1);
        let begun = self.ghost.acknowledged;
        let read = self.cluster.read_by(n, is_lease);
        self.ghost.reads.insert(read, begun);
    }

    /// Any prefix of the writes on their way may have reached the disk.
    fn crash(&mut self) {
        let n = self.node();
        let kept = self.source.below(8);
        let node = self.cluster.node(n);
        for persist in node.writes.drain(..).take(kept).collect::<Vec<_>>() {
            node.disk.apply(&persist);
        }
        let disk = node.disk.clone();
        self.start(n, disk);
    }

    fn compact(&mut self) {
        let (n, back) = (self.node(), u64::from(self.source.byte()));
        let applied = self.cluster.raft(n).status().applied_index;
        self.cluster.node(n).disk.flushed = applied;
        self.cluster.handle(n, Input::Applied { applied, flushed: applied });
        self.cluster.handle(n, Input::Compact { up_to: Index(applied.0.saturating_sub(back % 4)) });
    }

    /// Sends what a leader was asked for, as one piece, or gives it up.
    fn send_snapshots(&mut self) {
        let (n, fails) = (self.node(), self.source.byte() & 7 == 0);
        let wanted = std::mem::take(&mut self.cluster.node(n).snapshots_wanted);
        let is_leader = self.cluster.raft(n).is_leader();
        for peer in wanted.into_iter().filter(|_| is_leader) {
            let index = self.cluster.raft(n).status().applied_index;
            if fails || index == Index::ZERO || self.cluster.raft(n).term_at(index).is_none() {
                self.cluster.handle(n, Input::SnapshotSendFailed { peer });
                continue;
            }
            let meta = self.cluster.snapshot_of(n, index);
            self.cluster.handle(n, Input::SnapshotSending { peer, index });
            let body = Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset: 0, data: Bytes::new() }));
            let term = self.cluster.raft(n).term();
            self.cluster.network.push_back(Message { from: n, to: peer, term, body });
        }
    }

    fn cut_or_heal(&mut self) {
        let (from, to) = (self.node(), self.node());
        if from == to {
            self.cluster.heal();
        } else {
            self.cluster.cut.push((from, to));
            self.cluster.handle(from, Input::Unreachable { peer: to });
        }
    }

    fn hand_over(&mut self) {
        let (n, how) = (self.node(), self.source.byte());
        let to = (how & 8 == 0).then(|| NodeId(1 + u64::from(how & 3)));
        let duration = Duration::from_millis(u64::from(how) * 8);
        let input = if how & 4 == 0 { Input::Transfer { to } } else { Input::Weaken { duration } };
        self.cluster.handle(n, input);
    }

    /// Any of the four are to be voters, some of the others learners.
    fn change_membership(&mut self) {
        let which = self.source.byte();
        let Some(leader) = self.cluster.leader() else { return };
        let ids = (1..=VOTERS + 1).filter(|n| which >> n & 1 == 1);
        let mut nodes = Membership::of_voters(ids.map(NodeId)).nodes;
        if which & 0x40 != 0
            && let Some(node) = nodes.last_mut()
        {
            node.role = MemberRole::Learner;
        }
        let members = self.cluster.raft(leader).status().membership.nodes.into_iter().map(|node| node.id);
        let remove = members.filter(|id| nodes.iter().all(|node| node.id != *id)).collect();
        self.changes += 1;
        let id = ProposalId((1 << 40) + self.changes);
        self.cluster.handle(leader, Input::ChangeMembership { id, change: MembershipChange { set: nodes, remove } });
    }
}

/// Limits that are reached.
fn small(id: NodeId, seed: u64, limits: u8) -> Config {
    let limit = |shift: u8, most: usize| 1 + (usize::from(limits >> shift & 3) * most) / 3;
    Config {
        append_bytes_max: limit(0, 64),
        inflight_messages_max: limit(2, 4),
        inflight_bytes_max: limit(4, 128),
        apply_bytes_max: limit(6, 64),
        tail_bytes_max: limit(1, 256),
        uncommitted_bytes_max: limit(3, 1024),
        ..Config::new(id, seed)
    }
}

pub(crate) fn cluster_seeds() -> Vec<Vec<u8>> {
    // The lease and the limits, then node 1 asks for votes and hears what comes of it.
    let election = [0, 0x55, 0x55, 0x55, 0x55, 5, 0];
    let deliveries = [0_u8, 0].repeat(40);
    let with = |steps: &[u8]| [&election[..], &deliveries, steps, &deliveries].concat();
    vec![
        with(&[7, 0, 7, 1, 8, 0, 0]),
        with(&[7, 0, 9, 0, 2, 5, 1]),
        with(&[12, 1, 7, 0, 0, 0, 9, 1, 1, 5, 2]),
        with(&[13, 0, 1, 13, 0, 2, 7, 0, 5, 1, 13, 3, 3]),
        with(&[15, 0x1e, 15, 0x0e, 14, 0, 0]),
        with(&[7, 0, 13, 0, 2, 10, 0, 0, 7, 0, 10, 0, 0, 13, 1, 1, 4, 0, 200, 11, 0, 1]),
    ]
}

/// One node that hears anything at all from its peers, and from strangers: it goes on.
pub(crate) fn hostile(data: &[u8]) {
    let membership = Membership::of_voters((1..=VOTERS).map(NodeId));
    let mut cluster = Cluster::with_disks([]);
    let mut source = Source::new(data);
    let limits = source.byte();
    let disk = Disk::with_terms(&membership, &[1, 2, 2, 4]);
    cluster.start_with(small(NodeId(1), 1, limits), disk);
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        cluster.network.clear();
        match source.below(8) {
            0 => cluster.time_out(NodeId(1)),
            1 => drop(cluster.propose(NodeId(1), "command")),
            2 => drop(cluster.read(NodeId(1))),
            _ => {
                let message = some_message(&mut source);
                cluster.handle(NodeId(1), Input::Message(message));
            }
        }
        if cluster.node(NodeId(1)).fatal.is_some() {
            break;
        }
    }
}

/// A small number, one of the node's log, or one at an edge.
fn number(source: &mut Source<'_>) -> u64 {
    match source.byte() {
        small @ 0..0xf0 => u64::from(small & 0x0f),
        0xf0 => Index::MAX.0,
        0xf1 => Index::MAX.0 - 1,
        0xf2 => Index::MAX.0 + 1,
        0xf3 => u64::MAX,
        0xf4 => u64::MAX - 1,
        other => u64::from(other) << 32,
    }
}

fn some_message(source: &mut Source<'_>) -> Message {
    let from = NodeId([2, 3, 4, 1][source.below(4)]);
    let term = Term(number(source));
    Message { from, to: NodeId(1), term, body: some_body(source) }
}

fn some_body(source: &mut Source<'_>) -> Body {
    let kind = source.below(20);
    let mut index = || Index(number(source));
    let (a, b, c) = (index(), index(), index());
    let flag = source.byte() & 1 == 1;
    match kind {
        0 => Body::PreVote { next_term: Term(a.0), last_log_index: b, last_log_term: Term(c.0) },
        1 => Body::PreVoteResponse { next_term: Term(a.0), granted: flag },
        2 => Body::RequestVote { last_log_index: a, last_log_term: Term(b.0), is_transfer: flag },
        3 => Body::RequestVoteResponse { granted: flag },
        4..8 => Body::AppendEntries {
            prev_log_index: a,
            prev_log_term: Term(b.0),
            leader_commit: c,
            entries: some_runs(source).into(),
        },
        8 => Body::AppendEntriesResponse { result: AppendResult::Matched { index: a }, needs_snapshot: flag },
        9 => {
            let result = AppendResult::Rejected { prev_log_index: a, hint_index: b, hint_term: Term(c.0) };
            Body::AppendEntriesResponse { result, needs_snapshot: flag }
        }
        10 => Body::Heartbeat { round: a.0, leader_commit: b },
        11 => Body::HeartbeatResponse { round: a.0, promise: b.0 },
        12 => Body::ReadIndex { nonce: a.0, sequence: b.0 },
        13 => Body::ReadIndexResponse { nonce: a.0, sequence: b.0, index: flag.then_some(c) },
        14 => Body::TimeoutNow,
        15 => Body::InstallSnapshot(Box::new(some_piece(a, b, c, source))),
        16 => Body::InstallSnapshotResponse { content: a.0, offset: b.0, done: flag },
        17 => Body::FetchEntries { first: a, last: b, entry_term: Term(c.0) },
        18 => Body::FetchEntriesResponse { first: a, entries: some_runs(source), base: flag.then(Box::default) },
        _ if flag => Body::Propose { nonce: a.0, sequence: b.0, commands: vec![Bytes::new()] },
        _ => Body::ProposeResponse { nonce: a.0, sequence: b.0, outcomes: vec![Forwarded::Unknown] },
    }
}

/// Runs as decoders let them pass: in order, and none beyond the limits.
fn some_runs(source: &mut Source<'_>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for _ in 0..source.below(4) {
        let (first, term, kind) = (Index(number(source)), Term(number(source)), source.byte());
        if first == Index::ZERO || first > Index::MAX || term == Term(0) || term > Term::MAX {
            continue;
        }
        let run = Run::new(first, term, vec![some_entry(kind); usize::from(kind >> 5) + 1]);
        if runs.last().is_none_or(|earlier| run.follows(earlier)) {
            runs.push(run);
        }
    }
    runs
}

fn some_entry(kind: u8) -> Entry {
    match kind & 7 {
        0 => Entry::noop(),
        1 => Entry { kind: EntryKind::Membership, data: Bytes::from_static(b"none") },
        2 => Entry { kind: EntryKind::Membership, data: Membership::of_voters([NodeId(1)]).encode() },
        3 => Entry { kind: EntryKind::Membership, data: Membership::of_voters([NodeId(2), NodeId(3)]).encode() },
        _ => Entry::command("x"),
    }
}

fn some_piece(index: Index, term: Index, membership_index: Index, source: &mut Source<'_>) -> InstallSnapshot {
    let base = Base::default();
    let ids = [1, 2, 3].into_iter().filter(|n| source.byte() >> n & 1 == 1);
    let meta = SnapshotMeta {
        content: index.0,
        last_included_index: index,
        last_included_term: Term(term.0),
        membership_index,
        membership: base.membership.unwrap_or(Membership::of_voters(ids.map(NodeId))),
        size: number(source),
        checksum: 0,
    };
    InstallSnapshot { meta, offset: number(source), data: source.bytes() }
}

pub(crate) fn hostile_seeds() -> Vec<Vec<u8>> {
    vec![
        // A leader of term 5 sends an entry, then a heartbeat.
        vec![0x55, 3, 0, 5, 4, 5, 4, 5, 0, 1, 6, 5, 4, 3, 0, 5, 10, 1, 6, 0],
        // It campaigns, and both vote.
        vec![0x55, 0, 3, 0, 4, 1, 5, 0, 0, 1, 3, 1, 4, 1, 5, 0, 0, 1, 3, 0, 5, 3, 0, 0, 0, 1, 1, 2],
        // A snapshot of a leader.
        vec![0x55, 3, 0, 5, 15, 9, 5, 1, 0, 14, 14, 14, 1, 0, 1, 7],
        // A question for damaged entries, an answer to none.
        vec![0x55, 3, 0, 4, 17, 2, 4, 2, 0, 3, 0, 4, 18, 2, 4, 2, 1, 1, 2, 2, 6],
        // Numbers at the edges.
        vec![0x55, 3, 0, 0xf0, 4, 0xf0, 0xf0, 0xf0, 0, 3, 0, 0xf2, 10, 0xf3, 0xf3, 0],
    ]
}
