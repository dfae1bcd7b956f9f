//! Random schedules of everything that can happen to a cluster, with the invariants of `docs/hazards.md` checked on the way.

mod common;
#[path = "common/ghost.rs"]
mod ghost;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use common::{Cluster, Disk};
use coracle_core::{
    Body, Config, Index, Input, InstallSnapshot, MemberRole, Membership, MembershipChange, Message, NodeId, Outcome,
    ProposalId, Rng, Term,
};
use ghost::Ghost;

fn small(id: NodeId, seed: u64, lease_duration: Duration, rng: &mut Rng) -> Config {
    Config {
        lease_duration,
        append_bytes_max: 1 + rng.below(64) as usize,
        inflight_messages_max: 1 + rng.below(4) as usize,
        inflight_bytes_max: 1 + rng.below(128) as usize,
        apply_bytes_max: 1 + rng.below(64) as usize,
        tail_bytes_max: 1 + rng.below(256) as usize,
        uncommitted_bytes_max: 1 + rng.below(1024) as usize,
        ..Config::new(id, seed)
    }
}

struct Walk {
    cluster: Cluster,
    ghost: Ghost,
    rng: Rng,
    commands: u64,
    /// Transfers that a driver has begun: which leader's, of which term, and to whom.
    transfers: BTreeSet<(NodeId, Term, NodeId)>,
    /// Leaders that were seen without their state.
    stood_in: usize,
    /// What voters promise in this walk, if anything.
    lease: Duration,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut rng = Rng::new(seed);
        let count = [1, 2, 3, 3, 5][rng.below(5) as usize];
        let lease = if rng.chance(0.5) { Duration::from_millis(500) } else { Duration::ZERO };
        let membership = Membership::of_voters((1..=count).map(NodeId));
        let mut cluster = Cluster::with_disks([]);
        for n in 1..=count {
            let config = small(NodeId(n), seed, lease, &mut rng);
            cluster.start_with(config, Disk::founded(&membership));
        }
        // Two more wait to be joined.
        for n in count + 1..=count + 2 {
            let config = small(NodeId(n), seed, lease, &mut rng);
            cluster.start_with(config, Disk::outsider());
        }
        Walk { cluster, ghost: Ghost::default(), rng, commands: 0, transfers: BTreeSet::new(), stood_in: 0, lease }
    }

    fn some_node(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self.cluster.nodes.keys().copied().collect();
        nodes[self.rng.below(nodes.len() as u64) as usize]
    }

    fn step(&mut self) {
        let n = self.some_node();
        match self.rng.below(100) {
            0..40 => self.deliver_one(),
            40..50 => {
                let pass = self.rng.duration(Duration::ZERO, Duration::from_millis(200));
                self.cluster.now = self.cluster.now.plus(pass);
                self.cluster.handle(n, Input::Time);
            }
            50..64 => {
                self.cluster.sync_one(n);
                self.cluster.pump(n);
            }
            64..78 => {
                self.commands += 1;
                let command = format!("c{}", self.commands);
                self.cluster.propose(n, &command);
            }
            78..84 => {
                let begun = self.ghost.acknowledged;
                let is_lease = self.rng.chance(0.5);
                let read = self.cluster.read_by(n, is_lease);
                self.ghost.reads.insert(read, begun);
            }
            84..87 => self.crash(n),
            87..90 => {
                let applied = self.cluster.raft(n).status().applied_index;
                self.cluster.node(n).disk.flushed = applied;
                self.cluster.handle(n, Input::Applied { applied, flushed: applied });
                let up_to = Index(self.rng.below(applied.0 + 1));
                self.cluster.handle(n, Input::Compact { up_to });
            }
            90..95 => self.send_snapshots(n),
            95 if self.rng.chance(0.5) => self.damage(n),
            95 => self.change_membership(),
            96 => self.cluster.node(n).is_disk_fast = self.rng.chance(0.5),
            97 => {
                let other = self.some_node();
                if other != n {
                    self.cluster.cut.push((n, other));
                }
            }
            98 => {
                self.cluster.heal();
                let is_weak = self.rng.chance(0.3);
                let duration = self.rng.duration(Duration::ZERO, Duration::from_secs(3));
                let input = if is_weak { Input::Weaken { duration } } else { Input::Transfer { to: None } };
                self.cluster.handle(n, input);
            }
            _ => {
                let peer = self.some_node();
                self.cluster.handle(n, Input::Unreachable { peer });
            }
        }
        self.ghost.check(&self.cluster);
        self.ask_old_leaders();
    }

    /// A leader that does not know yet that another one was elected is asked for a read by its lease: it must not have one.
    fn ask_old_leaders(&mut self) {
        let leads = |(id, node): (&NodeId, &common::Node)| node.raft.is_leader().then(|| (node.raft.term(), *id));
        let mut leaders: Vec<(Term, NodeId)> = self.cluster.nodes.iter().filter_map(leads).collect();
        leaders.sort();
        leaders.pop();
        for (_, old) in leaders {
            let begun = self.ghost.acknowledged;
            let read = self.cluster.read_by(old, true);
            self.ghost.reads.insert(read, begun);
            self.ghost.check(&self.cluster);
        }
    }

    /// Some of all nodes are to be the voters, some of the others learners.
    fn change_membership(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let mut nodes = Membership::of_voters(self.cluster.nodes.keys().copied()).nodes;
        nodes.retain(|_| self.rng.chance(0.7));
        for node in &mut nodes {
            if self.rng.chance(0.2) {
                node.role = MemberRole::Learner;
            }
        }
        self.commands += 1;
        let id = ProposalId((1 << 40) + self.commands);
        let members = self.cluster.raft(leader).status().membership.nodes.into_iter().map(|node| node.id);
        let remove = members.filter(|id| nodes.iter().all(|node| node.id != *id)).collect();
        let change = MembershipChange { set: nodes, remove };
        self.cluster.handle(leader, Input::ChangeMembership { id, change });
    }

    /// Any message next: dropped, delivered, or delivered and kept for later.
    fn deliver_one(&mut self) {
        if self.cluster.network.is_empty() {
            return;
        }
        let at = self.rng.below(self.cluster.network.len().min(8) as u64) as usize;
        let Some(message) = self.cluster.network.remove(at) else { return };
        let luck = self.rng.below(20);
        if luck == 0 || self.cluster.is_cut(message.from, message.to) {
            return;
        }
        if luck == 1 {
            self.cluster.network.push_back(message.clone());
        }
        self.cluster.handle(message.to, Input::Message(message));
    }

    fn crash(&mut self, n: NodeId) {
        // Any prefix of the writes on their way may have reached the disk.
        let kept = self.rng.below(self.cluster.node(n).writes.len() as u64 + 1);
        for _ in 0..kept {
            let node = self.cluster.node(n);
            if let Some(persist) = node.writes.pop_front() {
                node.disk.apply(&persist);
            }
        }
        let disk = self.cluster.node(n).disk.clone();
        // A boot nonce is never used twice (C24).
        let nonce = self.rng.next_u64();
        let config = small(n, nonce, self.lease, &mut self.rng);
        self.cluster.start_with(config, disk);
    }

    /// An entry rots, of which another voter has a whole copy, or the state that it led to; then the node restarts, or finds out later.
    fn damage(&mut self, n: NodeId) {
        let disk = &self.cluster.nodes[&n].disk;
        let (base, last) = (disk.base.index.0, disk.last_index().0);
        // Without its founding entry a log may be left without any membership, and then is refused.
        let base = if disk.base.membership.is_some() { base } else { base.max(1) };
        if base >= last {
            return;
        }
        let index = Index(base + 1 + self.rng.below(last - base));
        let mut damaged = disk.clone();
        damaged.damage(index);
        damaged.knows_kinds = self.rng.chance(0.5);
        let recovered = damaged.recovered();
        let known =
            recovered.memberships.last().map(|(_, membership)| membership).or(recovered.base.membership.as_ref());
        let Some(known) = known else { return };
        let term = damaged.term_at(index);
        let others = || self.cluster.nodes.iter().filter(|(id, _)| **id != n).map(|(id, node)| (*id, &node.disk));
        let is_first = !others().any(|(_, disk)| disk.damaged.contains(&index) && disk.term_at(index) == term);
        let has_copy = others().any(|(id, disk)| {
            let is_compacted = disk.base.index >= index && disk.flushed >= disk.base.index;
            known.voters().any(|voter| voter == id) && (is_compacted || disk.term_at(index) == term)
        });
        if is_first && has_copy {
            self.cluster.node(n).disk = damaged;
            if self.rng.chance(0.7) {
                self.crash(n);
            }
        }
    }

    /// Sends what a leader was asked for, as one piece.
    fn send_snapshots(&mut self, n: NodeId) {
        let wanted = std::mem::take(&mut self.cluster.node(n).snapshots_wanted);
        let is_leader = self.cluster.raft(n).is_leader();
        for peer in wanted.into_iter().filter(|_| is_leader) {
            if self.rng.chance(0.2) {
                self.cluster.handle(n, Input::SnapshotSendFailed { peer });
                continue;
            }
            let index = self.cluster.raft(n).status().applied_index;
            if self.cluster.raft(n).term_at(index).is_none() || index == Index::ZERO {
                self.cluster.handle(n, Input::SnapshotSendFailed { peer });
                continue;
            }
            let meta = self.cluster.snapshot_of(n, index);
            self.cluster.handle(n, Input::SnapshotSending { peer, index });
            let body = Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset: 0, data: Bytes::new() }));
            let term = self.cluster.raft(n).term();
            self.transfers.insert((n, term, peer));
            self.cluster.network.push_back(Message { from: n, to: peer, term, body });
        }
    }

    /// Whether no change is under way, and every member has committed and applied all that the leader's log holds.
    fn is_settled(&self, leader: NodeId) -> bool {
        let status = self.cluster.raft(leader).status();
        let is_member = |role| matches!(role, MemberRole::Voter | MemberRole::Learner);
        !status.membership.is_joint()
            && status.membership.is_voter(leader)
            && status.membership.nodes.iter().all(|node| {
                let other = self.cluster.raft(node.id).status();
                is_member(node.role)
                    && other.damaged_entries == 0
                    && [other.commit_index, other.last_index, other.applied_index] == [status.last_index; 3]
            })
    }

    /// A driver gives a transfer up that gets no answer; of one that it was not asked for it knows nothing.
    fn give_up_transfers(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        for peer in self.cluster.raft(leader).status().peers {
            let term = self.cluster.raft(leader).term();
            if peer.is_installing && self.transfers.contains(&(leader, term, peer.id)) {
                self.cluster.handle(leader, Input::SnapshotSendFailed { peer: peer.id });
            }
        }
    }

    /// Everything heals: one leader, equal logs, a new write commits (I13).
    fn converge(&mut self) {
        self.cluster.heal();
        for n in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
            self.cluster.node(n).is_disk_fast = true;
            self.cluster.sync(n);
        }
        for round in 0..400 {
            self.cluster.run(Duration::from_millis(100));
            if round % 10 == 9 {
                self.give_up_transfers();
            }
            for n in self.cluster.nodes.keys().copied().collect::<Vec<_>>() {
                self.send_snapshots(n);
            }
            self.ghost.check(&self.cluster);
            self.stood_in += self.cluster.nodes.values().filter(|node| node.raft.is_standing_in()).count();
            if let Some(leader) = self.cluster.leader()
                && !self.cluster.raft(leader).is_transferring()
                && self.is_settled(leader)
            {
                let proposal = self.cluster.propose(leader, "last");
                self.cluster.run(Duration::from_secs(1));
                let outcome = self.cluster.node(leader).outcomes.get(&proposal);
                assert!(matches!(outcome, Some(Outcome::Committed { .. })), "{outcome:?}");
                return;
            }
        }
        let states: Vec<_> = self.cluster.nodes.values().map(|node| node.raft.status()).collect();
        panic!("I13: no convergence: {states:#?}");
    }
}

fn walk(seed: u64) -> [usize; 5] {
    let mut walk = Walk::new(seed);
    for _ in 0..800 {
        walk.step();
    }
    walk.converge();
    let Walk { ghost, stood_in, .. } = walk;
    [ghost.installs, ghost.truncations, ghost.memberships, ghost.repairs, stood_in]
}

#[test]
fn random_schedules_keep_every_invariant_and_converge() {
    let first: u64 = std::env::var("CORACLE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("CORACLE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(150);
    let mut sums = [0; 5];
    for seed in first..first + count {
        let result = std::panic::catch_unwind(|| walk(seed));
        match result {
            Ok(counts) => sums = std::array::from_fn(|i| sums[i] + counts[i]),
            Err(panic) => {
                eprintln!("replay with CORACLE_SEED={seed} CORACLE_SEEDS=1");
                std::panic::resume_unwind(panic);
            }
        }
    }
    if count >= 100 {
        let [installs, truncations, memberships, repairs, stood_in] = sums;
        assert!(installs > 0, "no walk installed a snapshot");
        assert!(truncations > 0, "no walk truncated a log");
        assert!(memberships > 0, "no walk changed the membership");
        assert!(repairs > 0, "no walk repaired a log");
        assert!(stood_in > 0, "no node without its state ever led");
        eprintln!(
            "{installs} installs, {truncations} truncations, {memberships} memberships, {repairs} repairs, {stood_in} times a leader without its state"
        );
    }
}
