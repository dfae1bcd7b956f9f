//! A cluster of cores on one thread, whose network, disks and clock are the test's.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, reason = "shared by the test files that include it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{
    Base, Body, Config, Entry, EntryKind, Event, Fatal, HardState, Index, Input, LogRead, Membership, MembershipChange,
    Message, NodeId, NodeRecord, Outcome, Output, Persist, ProposalId, Raft, ReadId, Recovered, Role, Run, Runs,
    SnapshotMeta, Term, Ticket, Time,
};

/// What a node's disk holds.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub base: Base,
    pub runs: Vec<Run>,
    /// What the state machine would recover to.
    pub flushed: Index,
    /// Entries whose data are gone; `runs` still has them, for the test to compare.
    pub damaged: BTreeSet<Index>,
    /// Whether the disk can tell that no damaged entry is a membership.
    pub knows_kinds: bool,
}

impl Disk {
    pub fn founded(membership: &Membership) -> Disk {
        let recovered = Recovered::founded(membership.clone());
        Disk { hard_state: recovered.hard_state, base: recovered.base, runs: recovered.tail, ..Disk::default() }
    }

    /// A node that nobody has told anything yet: it waits to be joined.
    pub fn outsider() -> Disk {
        let nobody = Membership::of_voters([]);
        Disk { base: Base { membership: Some(nobody), ..Base::default() }, ..Disk::default() }
    }

    /// A log with one command per term given, after the founding entry.
    pub fn with_terms(membership: &Membership, terms: &[u64]) -> Disk {
        let mut disk = Disk::founded(membership);
        for (i, term) in terms.iter().enumerate() {
            let entry = coracle_core::Entry::command(format!("{}@{term}", i + 2));
            disk.runs.push(Run::new(Index(i as u64 + 2), Term(*term), [entry]));
        }
        disk.hard_state.term = Term(terms.last().copied().unwrap_or(1));
        disk
    }

    pub fn apply(&mut self, persist: &Persist) {
        if let Some(from) = persist.truncate_from {
            self.runs = self.runs.iter().filter_map(|run| run.slice(Index(1), from.prev())).collect();
            self.damaged.split_off(&from);
        }
        for (index, term, entry) in persist.repaired.iter().flat_map(entries_of) {
            assert_eq!(self.entry_at(index), Some((term, entry)), "what is repaired is what was there");
            self.damaged.remove(&index);
        }
        self.runs.extend(persist.entries.iter().cloned());
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(base) = &persist.base {
            self.base = (**base).clone();
            self.runs = self.runs.iter().filter_map(|run| run.slice(base.index.next(), Index(u64::MAX))).collect();
            self.damaged = self.damaged.split_off(&base.index.next());
        }
        for pair in self.runs.windows(2) {
            assert!(pair[1].follows(&pair[0]), "the log on disk has no gaps");
        }
        if let Some(first) = self.runs.first() {
            assert_eq!(first.first(), self.base.index.next(), "the log on disk follows its base");
        }
    }

    /// Loses the data of an entry.
    pub fn damage(&mut self, index: Index) {
        assert!(self.term_at(index).is_some(), "{index} is in the log");
        self.damaged.insert(index);
    }

    fn entry_at(&self, index: Index) -> Option<(Term, Entry)> {
        let entries = self.runs.iter().flat_map(entries_of);
        entries.filter(|(at, ..)| *at == index).map(|(_, term, entry)| (term, entry)).next()
    }

    pub fn last_index(&self) -> Index {
        self.runs.last().map_or(self.base.index, Run::last)
    }

    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.runs.iter().find(|run| run.first() <= index && index <= run.last()).map(Run::term)
    }

    /// The terms of the log after the founding entry.
    pub fn terms(&self) -> Vec<u64> {
        let entries = self.runs.iter().flat_map(|run| run.iter().map(|(index, _)| (index, run.term())));
        entries.filter(|(index, _)| *index > Index(1)).map(|(_, term)| term.0).collect()
    }

    pub fn recovered(&self) -> Recovered {
        let mut terms: Vec<(Index, Term)> = Vec::new();
        let mut memberships = Vec::new();
        for run in &self.runs {
            if terms.last().is_none_or(|(_, term)| *term != run.term()) {
                terms.push((run.first(), run.term()));
            }
            for (index, entry) in run.iter().filter(|(_, entry)| entry.kind == EntryKind::Membership) {
                if !self.damaged.contains(&index) {
                    memberships.push((index, Membership::decode(entry.data.clone()).unwrap()));
                }
            }
        }
        let kind_of = |index: &Index| self.entry_at(*index).map(|(_, entry)| entry.kind);
        let is_membership_damaged =
            self.damaged.iter().any(|index| !self.knows_kinds || kind_of(index) == Some(EntryKind::Membership));
        let after_damage = self.damaged.last().map_or(Index(1), |last| last.next());
        let mut hard_state = self.hard_state;
        hard_state.commit_index = hard_state.commit_index.min(self.last_index());
        Recovered {
            hard_state,
            base: self.base.clone(),
            terms,
            memberships,
            last_index: self.last_index(),
            tail: self.runs.iter().filter_map(|run| run.slice(after_damage, Index(u64::MAX))).collect(),
            damaged: self.damaged.iter().copied().collect(),
            is_membership_damaged,
            applied: self.flushed,
        }
    }

    pub fn read(&self, from: Index, to: Index) -> LogRead {
        if from <= self.base.index {
            return LogRead::Compacted;
        }
        match self.damaged.range(from..=to).next() {
            Some(at) if *at == from => LogRead::Damaged { at: from },
            Some(at) => self.read(from, at.prev()),
            None => LogRead::Entries(self.runs.iter().filter_map(|run| run.slice(from, to)).collect()),
        }
    }
}

fn entries_of(run: &Run) -> impl Iterator<Item = (Index, Term, Entry)> {
    run.iter().map(|(index, entry)| (index, run.term(), entry.clone()))
}

/// A node: its core, its disk, and what its core asked for.
pub struct Node {
    pub raft: Raft,
    pub disk: Disk,
    /// Issued and not yet durable.
    pub writes: VecDeque<Persist>,
    /// While false, writes wait for `sync`.
    pub is_disk_fast: bool,
    pub applied: Vec<(Index, Term, Bytes)>,
    pub outcomes: BTreeMap<u64, Outcome>,
    pub ready: BTreeMap<u64, Index>,
    pub failed_reads: Vec<u64>,
    pub events: Vec<Event>,
    pub fatal: Option<Fatal>,
    pub snapshots_wanted: Vec<NodeId>,
    /// While false, questions to the log wait in `questions`.
    pub is_reading: bool,
    pub questions: Vec<(u64, Index, Index)>,
    /// While false, nothing is applied, and what is handed out waits in `unapplied`.
    pub is_applying: bool,
    pub unapplied: Vec<Runs>,
}

/// The cluster.
pub struct Cluster {
    pub now: Time,
    pub nodes: BTreeMap<NodeId, Node>,
    /// What was sent and not delivered.
    pub network: VecDeque<Message>,
    /// Directed links that drop everything.
    pub cut: Vec<(NodeId, NodeId)>,
    pub down: Vec<NodeId>,
    next_id: u64,
    seed: u64,
}

pub fn id(n: u64) -> NodeId {
    NodeId(n)
}

pub fn config(n: NodeId, seed: u64) -> Config {
    Config::new(n, seed)
}

impl Cluster {
    /// Nodes 1 to `count`, founded, at rest.
    pub fn new(count: u64) -> Cluster {
        let membership = Membership::of_voters((1..=count).map(NodeId));
        Cluster::with_disks((1..=count).map(|n| (NodeId(n), Disk::founded(&membership))))
    }

    pub fn with_disks(disks: impl IntoIterator<Item = (NodeId, Disk)>) -> Cluster {
        let mut cluster = Cluster {
            now: Time(1_000_000_000),
            nodes: BTreeMap::new(),
            network: VecDeque::new(),
            cut: Vec::new(),
            down: Vec::new(),
            next_id: 1,
            seed: 1,
        };
        for (n, disk) in disks {
            cluster.start(n, disk);
        }
        cluster
    }

    pub fn start(&mut self, n: NodeId, disk: Disk) {
        self.start_with(config(n, self.seed), disk);
    }

    pub fn start_with(&mut self, config: Config, disk: Disk) {
        self.seed += 1;
        let id = config.id;
        let raft = Raft::new(config, disk.recovered(), self.now).unwrap();
        let node = Node {
            raft,
            disk,
            writes: VecDeque::new(),
            is_disk_fast: true,
            applied: Vec::new(),
            outcomes: BTreeMap::new(),
            ready: BTreeMap::new(),
            failed_reads: Vec::new(),
            events: Vec::new(),
            fatal: None,
            snapshots_wanted: Vec::new(),
            is_reading: true,
            questions: Vec::new(),
            is_applying: true,
            unapplied: Vec::new(),
        };
        self.nodes.insert(id, node);
        self.down.retain(|n| *n != id);
        self.pump(id);
    }

    /// Loses what was not synced, and starts again.
    pub fn restart(&mut self, n: NodeId) {
        let disk = self.nodes[&n].disk.clone();
        self.network.retain(|message| message.from != n);
        self.start(n, disk);
    }

    pub fn node(&mut self, n: NodeId) -> &mut Node {
        self.nodes.get_mut(&n).unwrap()
    }

    pub fn raft(&self, n: NodeId) -> &Raft {
        &self.nodes[&n].raft
    }

    pub fn handle(&mut self, n: NodeId, input: Input) {
        let now = self.now;
        self.node(n).raft.handle(now, input);
        self.pump(n);
    }

    /// Takes a node's outputs until it is at rest.
    pub fn pump(&mut self, n: NodeId) {
        loop {
            let now = self.now;
            let node = self.nodes.get_mut(&n).unwrap();
            match node.raft.poll() {
                Output::Wake { .. } => return,
                Output::Send(message) => {
                    assert_eq!(message.from, n);
                    self.network.push_back(message);
                }
                Output::Persist(persist) => {
                    node.writes.push_back(persist);
                    if node.is_disk_fast {
                        self.sync_one(n);
                    }
                }
                Output::Done { first, count, outcome } => {
                    for i in 0..u64::from(count) {
                        let outcome = match outcome {
                            Outcome::Committed { first_index } => {
                                Outcome::Committed { first_index: first_index.plus(i) }
                            }
                            other => other,
                        };
                        let earlier = node.outcomes.insert(first.0 + i, outcome);
                        assert_eq!(earlier, None, "a proposal has one outcome");
                    }
                }
                Output::ReadReady { first, count, index } => {
                    for i in 0..u64::from(count) {
                        assert_eq!(node.ready.insert(first.0 + i, index), None, "a read ends once");
                    }
                }
                Output::ReadFailed { first, count, .. } => {
                    node.failed_reads.extend(first.0..first.0 + u64::from(count));
                }
                Output::Apply { entries } => {
                    node.unapplied.push(entries);
                    if node.is_applying {
                        self.apply(n);
                    }
                }
                Output::ReadEntries { request, from, to, .. } if !node.is_reading => {
                    node.questions.push((request, from, to));
                }
                Output::ReadEntries { request, from, to, .. } => {
                    let result = node.disk.read(from, to);
                    node.raft.handle(now, Input::EntriesRead { request, result });
                }
                Output::SendSnapshot { peer } => node.snapshots_wanted.push(peer),
                Output::InstallSnapshot { meta } => {
                    let index = meta.last_included_index;
                    assert!(node.disk.last_index() >= index, "the log reaches the snapshot durably first (C8)");
                    node.disk.flushed = index;
                    node.raft.handle(now, Input::SnapshotInstalled { index });
                }
                Output::Event(event) => node.events.push(event),
                Output::Fatal(fatal) => node.fatal = Some(fatal),
                Output::StopSnapshot { .. } => {}
                Output::StoreSnapshot { from, term, piece } => {
                    // The state travels outside of these tests: every snapshot is whole with its first piece.
                    let meta = piece.meta;
                    let (content, offset) = (meta.content, meta.size);
                    node.raft.handle(now, Input::SnapshotStored { from, term, content, offset, done: true });
                    node.raft.handle(now, Input::SnapshotReceived { meta: meta.into() });
                }
            }
        }
    }

    /// Applies what was handed out.
    pub fn apply(&mut self, n: NodeId) {
        let now = self.now;
        let node = self.node(n);
        for entries in std::mem::take(&mut node.unapplied) {
            for run in &entries {
                node.applied.extend(run.iter().map(|(index, entry)| (index, run.term(), entry.data.clone())));
            }
            let applied = entries.last().unwrap().last();
            let flushed = node.disk.flushed;
            node.raft.handle(now, Input::Applied { applied, flushed });
        }
    }

    /// Makes the oldest write of a node durable.
    pub fn sync_one(&mut self, n: NodeId) -> Option<Ticket> {
        let now = self.now;
        let node = self.node(n);
        let persist = node.writes.pop_front()?;
        node.disk.apply(&persist);
        node.raft.handle(now, Input::Persisted { ticket: persist.ticket });
        Some(persist.ticket)
    }

    /// Makes everything durable that a node has issued, also what follows from that.
    pub fn sync(&mut self, n: NodeId) {
        while self.sync_one(n).is_some() {
            self.pump(n);
        }
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from, to))
            || self.down.contains(&from)
            || self.down.contains(&to)
            || !self.nodes.contains_key(&to)
    }

    /// Cuts both directions between a node and all others.
    pub fn isolate(&mut self, n: NodeId) {
        for other in self.nodes.keys().copied().filter(|other| *other != n).collect::<Vec<_>>() {
            self.cut.push((n, other));
            self.cut.push((other, n));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Delivers what is on its way, and what follows from that, until the network is empty.
    pub fn deliver(&mut self) {
        for _ in 0..100_000 {
            let Some(message) = self.network.pop_front() else { return };
            if !self.is_cut(message.from, message.to) {
                self.handle(message.to, Input::Message(message));
            }
        }
        panic!("the network never comes to rest");
    }

    /// Delivers pre-votes and nothing else; the answers stay on their way.
    pub fn deliver_pre_votes_only(&mut self) {
        let (pre_votes, others) =
            std::mem::take(&mut self.network).into_iter().partition(|m| matches!(m.body, Body::PreVote { .. }));
        self.network = others;
        let pre_votes: VecDeque<Message> = pre_votes;
        for message in pre_votes {
            self.handle(message.to, Input::Message(message));
        }
    }

    /// Runs until somebody other than the isolated node leads.
    pub fn elect_among_connected(&mut self, isolated: NodeId) -> NodeId {
        for _ in 0..1000 {
            self.run(Duration::from_millis(20));
            let leads = |(n, node): (&NodeId, &Node)| (*n != isolated && node.raft.is_leader()).then_some(*n);
            if let Some(leader) = self.nodes.iter().find_map(leads) {
                return leader;
            }
        }
        panic!("nobody is elected");
    }

    /// Lets time pass in small steps, delivering everything at once.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now.plus(duration);
        while self.now < end {
            self.now = self.now.plus(Duration::from_millis(10));
            for n in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !self.down.contains(&n) {
                    self.handle(n, Input::Time);
                }
            }
            self.deliver();
        }
    }

    /// Lets a node's election timer fire, as if it had been quiet for long; messages wait.
    pub fn time_out(&mut self, n: NodeId) {
        let far = self.now.plus(Duration::from_secs(2));
        self.node(n).raft.handle(far, Input::Time);
        self.now = far;
        self.pump(n);
    }

    /// Runs until there is one leader that everybody up follows.
    pub fn elect(&mut self) -> NodeId {
        for _ in 0..1000 {
            self.run(Duration::from_millis(20));
            let up: Vec<NodeId> = self.nodes.keys().copied().filter(|n| !self.down.contains(n)).collect();
            let leaders: Vec<NodeId> = up.iter().copied().filter(|n| self.raft(*n).is_leader()).collect();
            if let [leader] = leaders[..]
                && up.iter().all(|n| self.raft(*n).leader() == Some(leader))
                && self.raft(leader).status().commit_index == self.raft(leader).status().last_index
            {
                return leader;
            }
        }
        panic!("nobody is elected");
    }

    pub fn propose(&mut self, n: NodeId, command: &str) -> u64 {
        let first = self.next_id;
        self.next_id += 1;
        let commands = vec![Bytes::copy_from_slice(command.as_bytes())];
        self.handle(n, Input::Propose { first: ProposalId(first), commands });
        first
    }

    /// Makes `nodes` everybody who is in the group.
    pub fn change_membership(&mut self, n: NodeId, nodes: Vec<NodeRecord>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let members = self.raft(n).status().membership.nodes.into_iter().map(|node| node.id);
        let remove = members.filter(|id| nodes.iter().all(|node| node.id != *id)).collect();
        let change = MembershipChange { set: nodes, remove };
        self.handle(n, Input::ChangeMembership { id: ProposalId(id), change });
        id
    }

    pub fn read(&mut self, n: NodeId) -> u64 {
        self.read_by(n, false)
    }

    pub fn read_by(&mut self, n: NodeId, is_lease: bool) -> u64 {
        let first = self.next_id;
        self.next_id += 1;
        self.handle(n, Input::Read { first: ReadId(first), count: 1, is_lease });
        first
    }

    pub fn leader(&self) -> Option<NodeId> {
        self.nodes.iter().find(|(_, node)| node.raft.role() == Role::Leader).map(|(n, _)| *n)
    }

    pub fn message(&self, from: NodeId, to: NodeId, term: u64, body: Body) -> Input {
        Input::Message(Message { from, to, term: Term(term), body })
    }

    /// What is on its way from one node to another.
    pub fn between(&self, from: NodeId, to: NodeId) -> Vec<&Body> {
        self.network.iter().filter(|m| m.from == from && m.to == to).map(|m| &m.body).collect()
    }

    pub fn snapshot_of(&self, n: NodeId, index: Index) -> SnapshotMeta {
        let raft = self.raft(n);
        let (membership_index, membership) = raft.membership_at(index);
        SnapshotMeta {
            content: index.0,
            last_included_index: index,
            last_included_term: raft.term_at(index).unwrap(),
            membership_index,
            membership: membership.clone(),
            size: 0,
            checksum: 0,
        }
    }
}
