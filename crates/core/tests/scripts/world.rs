//! Carries out the steps of a script.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use coracle_core::{
    Body, Config, Index, Input, InstallSnapshot, MemberRole, Membership, MembershipChange, Message, NodeId, Outcome,
    ProposalId, Term,
};

use crate::{
    common::{Cluster, Disk},
    expect,
    invariants::Invariants,
    step::{Change, Letters, Link, Step},
};

/// By which steps time passes.
const TICK: Duration = Duration::from_millis(10);
/// A cluster that sends more than this without time passing never comes to rest.
const MESSAGES_MAX: usize = 100_000;
/// Names of membership changes, apart from those of proposals.
const CHANGES: u64 = 1 << 40;

/// The cluster, and what the script calls things.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    limits: Vec<(String, u64)>,
    held: Vec<Link>,
    paused: Vec<NodeId>,
    lives: u64,
    proposals: BTreeMap<String, Request>,
    reads: BTreeMap<String, Request>,
    invariants: Invariants,
}

/// A proposal or read that was handed in.
struct Request {
    node: NodeId,
    id: u64,
    /// How it stood when its node crashed, which it does not outlive.
    ended: Option<String>,
}

impl Default for World {
    fn default() -> World {
        World {
            cluster: Cluster::with_disks([]),
            limits: Vec::new(),
            held: Vec::new(),
            paused: Vec::new(),
            lives: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            invariants: Invariants::default(),
        }
    }
}

impl World {
    /// Takes one step, and checks the invariants.
    ///
    /// # Errors
    /// Why it cannot be taken, or what does not hold.
    pub(crate) fn act(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Expect(expectation) => expect::check(expectation, self)?,
            Step::Within(duration, expectation) => self.wait(*duration, expectation)?,
            Step::Limit(what, value) => self.limit(what, *value)?,
            Step::Nodes(ids) => self.found(ids),
            Step::Outsiders(ids) => ids.iter().for_each(|id| self.start(*id, Disk::outsider())),
            Step::Tick(Some(id), duration) => {
                self.is_up(*id)?;
                self.cluster.now = self.cluster.now.plus(*duration);
                self.cluster.handle(*id, Input::Time);
            }
            Step::Tick(None, duration) => self.tick(*duration),
            Step::Run(duration) => self.run(*duration)?,
            Step::DeliverAll => self.deliver_all(|_| true)?,
            Step::Exchange(ids) => {
                self.deliver_all(|message| ids.contains(&message.from) && ids.contains(&message.to))?;
            }
            Step::Deliver(letters) => self.deliver(letters)?,
            Step::Drop(letters) => drop(self.take(letters)?),
            Step::Duplicate(letters) => {
                for message in self.take(letters)? {
                    self.cluster.network.extend([message.clone(), message]);
                }
            }
            Step::Reverse(letters) => {
                let taken = self.take(letters)?;
                self.cluster.network.extend(taken.into_iter().rev());
            }
            Step::Hold(link) => self.held.push(*link),
            Step::Release(link) => self.held.retain(|held| link.is_some_and(|link| link != *held)),
            Step::Partition(groups) => self.partition(groups),
            Step::Cut(link) => self.cut(*link),
            Step::Heal => self.cluster.heal(),
            _ => self.act_on_node(step)?,
        }
        self.invariants.check(&self.cluster)
    }

    fn act_on_node(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Log(id, terms) => self.set_log(*id, terms)?,
            Step::Term(id, term) => {
                let mut disk = self.known(*id)?.disk.clone();
                disk.hard_state.term = Term(*term);
                self.start(*id, disk);
            }
            Step::Campaign(id) => {
                self.is_up(*id)?;
                self.cluster.time_out(*id);
            }
            Step::Elect(id) => self.elect(*id)?,
            Step::Pause(id) => {
                self.is_up(*id)?;
                self.paused.push(*id);
            }
            Step::Resume(id) => self.paused.retain(|paused| paused != id),
            Step::Propose(id, names) => self.propose(*id, names)?,
            Step::Read(id, name) => self.read(*id, name)?,
            Step::Transfer(id, to) => self.hand(*id, Input::Transfer { to: *to })?,
            Step::Change(id, name, changes) => self.change(*id, name, changes)?,
            Step::Crash(id) => self.crash(*id)?,
            Step::LoseState(id) => {
                self.is_down(*id)?;
                self.cluster.node(*id).disk.flushed = Index::ZERO;
            }
            Step::Restart(id) => {
                self.is_down(*id)?;
                let disk = self.known(*id)?.disk.clone();
                self.start(*id, disk);
            }
            Step::Compact(id, index) => {
                self.flush(*id)?;
                self.hand(*id, Input::Compact { up_to: Index(*index) })?;
            }
            Step::Flush(id) => self.flush(*id)?,
            Step::Snapshot(from, to, index) => self.send_snapshot(*from, *to, *index)?,
            Step::FailSnapshot(from, to) => self.hand(*from, Input::SnapshotSendFailed { peer: *to })?,
            _ => self.act_on_disk(step)?,
        }
        Ok(())
    }

    fn act_on_disk(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::HoldDisk(id) => self.node(*id)?.is_disk_fast = false,
            Step::ReleaseDisk(id) => {
                self.node(*id)?.is_disk_fast = true;
                self.cluster.sync(*id);
            }
            Step::Persist(id, None) => {
                self.is_up(*id)?;
                self.cluster.sync(*id);
            }
            Step::Persist(id, Some(count)) => {
                self.is_up(*id)?;
                for _ in 0..*count {
                    let written = self.cluster.sync_one(*id);
                    written.ok_or_else(|| format!("node {} has no write under way", id.0))?;
                    self.cluster.pump(*id);
                }
            }
            Step::FailDisk(id) => self.hand(*id, Input::PersistFailed)?,
            Step::HoldApply(id) => self.node(*id)?.is_applying = false,
            Step::ReleaseApply(id) => {
                self.node(*id)?.is_applying = true;
                self.cluster.apply(*id);
                self.cluster.pump(*id);
            }
            other => return Err(format!("{other:?} is carried out nowhere")),
        }
        Ok(())
    }

    /// The nodes that run.
    pub(crate) fn up(&self) -> impl Iterator<Item = NodeId> {
        self.cluster.nodes.keys().copied().filter(|id| !self.cluster.down.contains(id))
    }

    /// A node of the script.
    ///
    /// # Errors
    /// When there is none of this id.
    pub(crate) fn known(&self, id: NodeId) -> Result<&crate::common::Node, String> {
        self.cluster.nodes.get(&id).ok_or_else(|| format!("there is no node {}", id.0))
    }

    fn is_up(&self, id: NodeId) -> Result<(), String> {
        self.known(id)?;
        if self.cluster.down.contains(&id) { Err(format!("node {} is down", id.0)) } else { Ok(()) }
    }

    fn is_down(&self, id: NodeId) -> Result<(), String> {
        self.known(id)?;
        if self.cluster.down.contains(&id) { Ok(()) } else { Err(format!("node {} is up: crash it first", id.0)) }
    }

    fn node(&mut self, id: NodeId) -> Result<&mut crate::common::Node, String> {
        self.is_up(id)?;
        Ok(self.cluster.node(id))
    }

    fn hand(&mut self, id: NodeId, input: Input) -> Result<(), String> {
        self.is_up(id)?;
        self.cluster.handle(id, input);
        Ok(())
    }

    fn limit(&mut self, what: &str, value: u64) -> Result<(), String> {
        if !self.cluster.nodes.is_empty() {
            return Err("limits come before the nodes".to_owned());
        }
        apply_limit(&mut Config::new(NodeId(1), 1), what, value)?;
        self.limits.push((what.to_owned(), value));
        Ok(())
    }

    fn found(&mut self, ids: &[NodeId]) {
        let disk = Disk::founded(&Membership::of_voters(ids.iter().copied()));
        ids.iter().for_each(|id| self.start(*id, disk.clone()));
    }

    /// Begins a node's next life.
    fn start(&mut self, id: NodeId, disk: Disk) {
        self.lives += 1;
        let mut config = Config::new(id, self.lives);
        for (what, value) in &self.limits {
            // Each was tried when it was set.
            let _ = apply_limit(&mut config, what, *value);
        }
        self.cluster.start_with(config, disk);
    }

    /// The whole log, which begins with the founding entry of term 1.
    fn set_log(&mut self, id: NodeId, terms: &[u64]) -> Result<(), String> {
        let [1, terms @ ..] = terms else { return Err("a log begins with the founding entry, of term 1".to_owned()) };
        self.known(id)?;
        let membership = self.cluster.raft(id).membership_at(Index(1)).1.clone();
        self.start(id, Disk::with_terms(&membership, terms));
        Ok(())
    }

    fn wait(&mut self, duration: Duration, expectation: &expect::Expectation) -> Result<(), String> {
        let end = self.cluster.now.plus(duration);
        loop {
            match expect::check(expectation, self) {
                Ok(()) => return Ok(()),
                Err(why) if self.cluster.now >= end => return Err(format!("within {duration:?}: {why}")),
                Err(_) => self.run(TICK)?,
            }
        }
    }

    /// Lets time pass for everybody, while messages wait.
    fn tick(&mut self, duration: Duration) {
        self.cluster.now = self.cluster.now.plus(duration);
        let running: Vec<NodeId> = self.up().filter(|id| !self.paused.contains(id)).collect();
        running.into_iter().for_each(|id| self.cluster.handle(id, Input::Time));
    }

    /// Lets time pass by small steps, and delivers everything.
    fn run(&mut self, duration: Duration) -> Result<(), String> {
        let end = self.cluster.now.plus(duration);
        while self.cluster.now < end {
            self.tick(TICK);
            self.deliver_all(|_| true)?;
            self.invariants.check(&self.cluster)?;
        }
        Ok(())
    }

    fn is_held(&self, message: &Message) -> bool {
        self.paused.contains(&message.to) || self.held.iter().any(|link| link.holds(message.from, message.to))
    }

    fn deliver_all(&mut self, is_meant: impl Fn(&Message) -> bool) -> Result<(), String> {
        for _ in 0..MESSAGES_MAX {
            let next = self.cluster.network.iter().position(|message| is_meant(message) && !self.is_held(message));
            let Some(message) = next.and_then(|at| self.cluster.network.remove(at)) else { return Ok(()) };
            self.arrive(message);
        }
        Err("the network never comes to rest".to_owned())
    }

    fn arrive(&mut self, message: Message) {
        if !self.cluster.is_cut(message.from, message.to) {
            self.cluster.handle(message.to, Input::Message(message));
        }
    }

    fn deliver(&mut self, letters: &Letters) -> Result<(), String> {
        self.take(letters)?.into_iter().for_each(|message| self.arrive(message));
        Ok(())
    }

    /// Takes messages off the network.
    fn take(&mut self, letters: &Letters) -> Result<Vec<Message>, String> {
        let mut count = letters.count;
        let mut is_meant = |message: &Message| {
            let is_kind = letters.kind.as_deref().is_none_or(|kind| kind == expect::kind(&message.body));
            let is_meant = is_kind && letters.link.holds(message.from, message.to) && count > 0;
            count -= usize::from(is_meant);
            is_meant
        };
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cluster.network).into_iter().partition(&mut is_meant);
        self.cluster.network = left.into();
        if taken.is_empty() { Err("no such message is on its way".to_owned()) } else { Ok(taken) }
    }

    /// Cuts every link between nodes of different groups; a node that is in none is alone.
    fn partition(&mut self, groups: &[Vec<NodeId>]) {
        let ids: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        let together = |a: NodeId, b: NodeId| groups.iter().any(|group| group.contains(&a) && group.contains(&b));
        let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
        self.cluster.cut = pairs.filter(|(a, b)| a != b && !together(*a, *b)).collect();
    }

    fn cut(&mut self, link: Link) {
        let ids: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
        self.cluster.cut.extend(pairs.filter(|(a, b)| a != b && link.holds(*a, *b)));
    }

    fn elect(&mut self, id: NodeId) -> Result<(), String> {
        self.is_up(id)?;
        self.cluster.time_out(id);
        self.deliver_all(|_| true)?;
        let raft = self.cluster.raft(id);
        let is_done = raft.is_leader() && raft.commit_index() == raft.status().last_index;
        is_done.then_some(()).ok_or_else(|| format!("node {} is not elected with all that it needs to commit", id.0))
    }

    fn propose(&mut self, id: NodeId, names: &[String]) -> Result<(), String> {
        self.is_up(id)?;
        for name in names {
            self.is_free(name)?;
            let request = self.cluster.propose(id, name);
            self.proposals.insert(name.clone(), Request { node: id, id: request, ended: None });
        }
        Ok(())
    }

    fn read(&mut self, id: NodeId, name: &str) -> Result<(), String> {
        self.is_up(id)?;
        self.is_free(name)?;
        let request = self.cluster.read(id);
        self.reads.insert(name.to_owned(), Request { node: id, id: request, ended: None });
        Ok(())
    }

    fn is_free(&self, name: &str) -> Result<(), String> {
        let is_free = !self.proposals.contains_key(name) && !self.reads.contains_key(name);
        is_free.then_some(()).ok_or_else(|| format!("\"{name}\" is taken"))
    }

    fn change(&mut self, id: NodeId, name: &str, changes: &[Change]) -> Result<(), String> {
        self.is_up(id)?;
        self.is_free(name)?;
        let mut change = MembershipChange::default();
        for part in changes {
            let (of, role) = match part {
                Change::Voter(of) => (*of, MemberRole::Voter),
                Change::Learner(of) => (*of, MemberRole::Learner),
                Change::Remove(of) => {
                    change.remove.push(*of);
                    continue;
                }
            };
            let mut records = Membership::of_voters([of]).nodes;
            records[0].role = role;
            change.set.append(&mut records);
        }
        let request = CHANGES + self.proposals.len() as u64;
        self.proposals.insert(name.to_owned(), Request { node: id, id: request, ended: None });
        self.hand(id, Input::ChangeMembership { id: ProposalId(request), change })
    }

    /// Stops a node, with all that is not durable. Who asked it for something never hears of it.
    fn crash(&mut self, id: NodeId) -> Result<(), String> {
        self.is_up(id)?;
        let node = &self.cluster.nodes[&id];
        for request in self.proposals.values_mut().filter(|request| request.node == id && request.ended.is_none()) {
            let outcome = node.outcomes.get(&request.id).copied().unwrap_or(Outcome::Unknown);
            request.ended = Some(expect::render_outcome(Some(outcome)));
        }
        for request in self.reads.values_mut().filter(|request| request.node == id && request.ended.is_none()) {
            let index = node.ready.get(&request.id);
            request.ended = Some(index.map_or("failed".to_owned(), |index| format!("at {index}")));
        }
        self.paused.retain(|paused| *paused != id);
        self.cluster.down.push(id);
        Ok(())
    }

    /// What has come of a proposal or a change.
    ///
    /// # Errors
    /// When there is none of this name.
    pub(crate) fn outcome(&self, name: &str) -> Result<String, String> {
        let request = self.proposals.get(name).ok_or_else(|| format!("nobody proposed \"{name}\""))?;
        let of_node = || self.cluster.nodes[&request.node].outcomes.get(&request.id).copied();
        Ok(request.ended.clone().unwrap_or_else(|| expect::render_outcome(of_node())))
    }

    /// What has come of a read.
    ///
    /// # Errors
    /// When there is none of this name.
    pub(crate) fn read_outcome(&self, name: &str) -> Result<String, String> {
        let request = self.reads.get(name).ok_or_else(|| format!("nobody read \"{name}\""))?;
        let node = &self.cluster.nodes[&request.node];
        let of_node = || match node.ready.get(&request.id) {
            Some(index) => format!("at {index}"),
            None if node.failed_reads.contains(&request.id) => "failed".to_owned(),
            None => "open".to_owned(),
        };
        Ok(request.ended.clone().unwrap_or_else(of_node))
    }

    /// Makes what the state machine has applied survive a crash.
    fn flush(&mut self, id: NodeId) -> Result<(), String> {
        let applied = self.node(id)?.raft.status().applied_index;
        self.cluster.node(id).disk.flushed = applied;
        self.hand(id, Input::Applied { applied, flushed: applied })
    }

    /// Sends what a node has applied, whole, as a snapshot.
    fn send_snapshot(&mut self, from: NodeId, to: NodeId, index: Option<u64>) -> Result<(), String> {
        self.is_up(from)?;
        self.known(to)?;
        let status = self.cluster.raft(from).status();
        let index = index.map_or(status.applied_index, Index);
        if index > status.applied_index || self.cluster.raft(from).term_at(index).is_none() {
            return Err(format!("node {} has no snapshot at {index}: it applied {}", from.0, status.applied_index));
        }
        let meta = self.cluster.snapshot_of(from, index);
        self.cluster.node(from).snapshots_wanted.retain(|peer| *peer != to);
        self.hand(from, Input::SnapshotSending { peer: to, index })?;
        let body = Body::InstallSnapshot(InstallSnapshot { meta, offset: 0, data: Bytes::new() }.into());
        self.cluster.network.push_back(Message { from, to, term: status.term, body });
        Ok(())
    }
}

/// Sets one of the limits that scripts know, in bytes, pieces or milliseconds.
fn apply_limit(config: &mut Config, what: &str, value: u64) -> Result<(), String> {
    let count = value as usize;
    match what {
        "append-bytes" => config.append_bytes_max = count,
        "inflight-messages" => config.inflight_messages_max = count,
        "inflight-bytes" => config.inflight_bytes_max = count,
        "uncommitted-bytes" => config.uncommitted_bytes_max = count,
        "apply-bytes" => config.apply_bytes_max = count,
        "tail-bytes" => config.tail_bytes_max = count,
        "reads" => config.reads_max = count,
        "disk-write-ms" => config.disk_write_max = Duration::from_millis(value),
        "promotion-ms" => config.promotion_timeout = Duration::from_millis(value),
        _ => return Err(format!("there is no limit \"{what}\"")),
    }
    config.validate().map_err(|error| error.to_string())
}
