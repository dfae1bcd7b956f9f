//! Who is in the group: an operator changes it while everything else goes wrong (C16), and machines lose their disks (C1).

use std::{collections::BTreeSet, mem, time::Duration};

use bytes::Bytes;
use coracle_core::{
    Incarnation, MemberRole, Membership, MembershipChange, NodeId, NodeRecord, Raft, Recovered, Rng, Time,
};
use coracle_replica::{Input, Reply, RequestError, RequestId};

use super::{Event, Step, World, node::Node};
use crate::{Invariant, Violation, coverage::Milestone, disk::LogState, overlap::Brief};

/// The operator's requests are numbered from here on; those of clients do not come that far.
const FIRST_REQUEST: u64 = 1 << 60;
/// How long a node that lost its disk goes on under its old name, at most, when somebody made that mistake.
const IMPOSTOR_MAX: Duration = Duration::from_secs(20);

/// For how long a leader may go on taking a node for alive that is no more: as long as it may be paused, and a little.
const NEWS: Duration = Duration::from_secs(15);

/// The operator, and what is known of nodes that are no more.
#[derive(Debug)]
pub(super) struct Operator {
    next_request: u64,
    next_id: u64,
    next_key: usize,
    /// When a machine last lost its disk.
    last_wipe: Option<Time>,
    /// Nodes whose disk is lost.
    pub(super) gone: Vec<Lost>,
}

/// A node whose disk is lost.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) id: NodeId,
    /// What checkers called it.
    pub(super) key: usize,
    /// What was on the disk.
    pub(super) log: LogState,
}

impl Operator {
    pub(super) fn new(nodes: usize) -> Operator {
        Operator {
            next_request: FIRST_REQUEST,
            next_id: nodes as u64 + 1,
            next_key: nodes,
            last_wipe: None,
            gone: Vec::new(),
        }
    }

    /// Whether a request is the operator's.
    pub(super) fn has_asked(request: RequestId) -> bool {
        request.0 >= FIRST_REQUEST
    }

    pub(super) fn is_gone(&self, id: NodeId) -> bool {
        self.gone.iter().any(|lost| lost.id == id)
    }
}

impl World {
    /// The machine on which `id` runs, in whichever life.
    pub(super) fn slot_of(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Whom the newest committed membership names, as far as their machines are known.
    pub(super) fn members(&self) -> Vec<usize> {
        let ids = self.ghost.membership().nodes.iter().map(|node| node.id);
        ids.filter_map(|id| self.slot_of(id)).filter(|slot| !self.nodes[*slot].is_impostor).collect()
    }

    /// C1: whether the two would talk to each other. Whoever knows a node knows it by its incarnation, and no membership ever names that of an impostor.
    pub(super) fn would_talk(&self, from: usize, to: usize) -> bool {
        !self.nodes[from].is_impostor && !self.nodes[to].is_impostor
    }

    /// One or two requests at once, mostly to the leader, else to whoever thinks that it leads, or to anybody.
    pub(super) fn change_members(&mut self, rng: &mut Rng) -> bool {
        let requests = if rng.chance(0.2) { 2 } else { 1 };
        let mut has_asked = false;
        for _ in 0..requests {
            let Some(change) = self.draw_change(rng) else { continue };
            let any = rng.below(self.nodes.len() as u64) as usize;
            let leads = |node: &usize| {
                self.nodes[*node].running.as_ref().is_some_and(|running| running.replica.raft().is_leader())
            };
            let leaders: Vec<usize> = (0..self.nodes.len()).filter(leads).collect();
            let node = match leaders.len() {
                0 => any,
                count if rng.chance(0.9) => leaders[rng.below(count as u64) as usize],
                _ => any,
            };
            self.ask_for_change(node, change);
            has_asked = true;
        }
        has_asked
    }

    fn ask_for_change(&mut self, node: usize, change: MembershipChange) {
        let request = RequestId(self.operator.next_request);
        self.operator.next_request += 1;
        self.trace.line(self.now, || {
            let set: Vec<_> = change.set.iter().map(|node| (node.id, node.role)).collect();
            format!("n{node} is asked to set {set:?} and to remove {:?}", change.remove)
        });
        if let Some(running) = &mut self.nodes[node].running {
            running.waiting.insert(request);
            self.input(node, Input::ChangeMembership { request, change });
        }
    }

    /// What the operator was told: what is said to be committed is (C21).
    pub(super) fn operator_answered(
        &mut self,
        node: usize,
        request: RequestId,
        result: &Result<Reply, RequestError>,
    ) -> Step {
        let Ok(reply) = result else { return Ok(()) };
        self.report.membership_changes += 1;
        let raft = self.nodes[node].running.as_ref().map(|running| running.replica.raft());
        let is_there =
            |raft: &Raft| raft.membership_at(reply.index).0 == reply.index && raft.commit_index() >= reply.index;
        if raft.is_some_and(is_there) {
            return Ok(());
        }
        let what = format!("request {} is answered: committed at {}, where no membership is", request.0, reply.index);
        Err(Violation::new(Invariant::ConfigOverlap, what))
    }

    fn draw_change(&self, rng: &mut Rng) -> Option<MembershipChange> {
        let membership = self.ghost.membership();
        let is_damaged =
            |id: &NodeId| self.slot_of(*id).is_some_and(|slot| !self.nodes[slot].disk.log.damaged().is_empty());
        let mut ids = membership.nodes.iter().map(|node| node.id);
        // Nobody can know of damage that is not found: the group is not to be made so small meanwhile that it cannot do without that node.
        let is_urgent = ids.clone().any(|id| is_damaged(&id));
        if let Some(id) = ids.find(|id| self.operator.is_gone(*id) || is_damaged(id))
            && (is_urgent || rng.chance(0.7) || self.operator.last_wipe.is_some_and(|at| self.now.since(at) < NEWS))
        {
            let set = self.spares(membership).into_iter().take(1).map(|slot| self.record(slot, MemberRole::Voter));
            return Some(MembershipChange { set: set.collect(), remove: vec![id] });
        }
        let voters: Vec<NodeId> = membership.voters().collect();
        let change = match rng.below(8) {
            0 => self.enlist(rng, membership, 1, MemberRole::Learner),
            1 => self.enlist(rng, membership, 1, MemberRole::Voter),
            2 => self.promote(rng, membership),
            3 => self.demote(rng, membership),
            4 => self.dismiss(rng, &voters),
            5 => self.replace(rng, membership, &voters),
            _ => self.resize(rng, membership, &voters),
        };
        (!change.set.is_empty() || !change.remove.is_empty()).then_some(change)
    }

    /// Nodes that could join.
    fn spares(&self, membership: &Membership) -> Vec<usize> {
        let is_spare = |slot: &usize| {
            let node = &self.nodes[*slot];
            membership.node(node.id).is_none() && !node.is_impostor && node.disk.log.damaged().is_empty()
        };
        (0..self.nodes.len()).filter(is_spare).collect()
    }

    fn record(&self, slot: usize, role: MemberRole) -> NodeRecord {
        let Node { id, incarnation, .. } = self.nodes[slot];
        NodeRecord {
            id,
            incarnation,
            addresses: Vec::new(),
            client_address: String::new(),
            role,
            metadata: Bytes::new(),
        }
    }

    fn enlist(&self, rng: &mut Rng, membership: &Membership, count: usize, role: MemberRole) -> MembershipChange {
        let mut spares = self.spares(membership);
        shuffle(rng, &mut spares);
        let set = spares.into_iter().take(count).map(|slot| self.record(slot, role)).collect();
        MembershipChange { set, remove: Vec::new() }
    }

    fn promote(&self, rng: &mut Rng, membership: &Membership) -> MembershipChange {
        let learners: Vec<&NodeRecord> =
            membership.nodes.iter().filter(|node| node.role == MemberRole::Learner).collect();
        let set = pick(rng, &learners).map(|node| NodeRecord { role: MemberRole::Voter, ..(**node).clone() });
        MembershipChange { set: set.into_iter().collect(), remove: Vec::new() }
    }

    fn demote(&self, rng: &mut Rng, membership: &Membership) -> MembershipChange {
        let voters: Vec<&NodeRecord> = membership.nodes.iter().filter(|node| node.role == MemberRole::Voter).collect();
        let set = pick(rng, &voters).map(|node| NodeRecord { role: MemberRole::Learner, ..(**node).clone() });
        MembershipChange { set: set.into_iter().collect(), remove: Vec::new() }
    }

    /// Anybody, or the leader.
    fn dismiss(&self, rng: &mut Rng, voters: &[NodeId]) -> MembershipChange {
        let leader = self.leader().map(|leader| self.nodes[leader].id);
        let leader = leader.filter(|leader| voters.contains(leader) && rng.chance(0.4));
        let id = leader.or_else(|| pick(rng, voters).copied());
        MembershipChange { set: Vec::new(), remove: id.into_iter().collect() }
    }

    /// Some voters go, as many others come.
    fn replace(&self, rng: &mut Rng, membership: &Membership, voters: &[NodeId]) -> MembershipChange {
        let count = 1 + rng.below(voters.len() as u64) as usize;
        let change = self.enlist(rng, membership, count, MemberRole::Voter);
        let mut voters = voters.to_vec();
        shuffle(rng, &mut voters);
        voters.truncate(change.set.len());
        MembershipChange { remove: voters, ..change }
    }

    /// To one, three or five voters.
    fn resize(&self, rng: &mut Rng, membership: &Membership, voters: &[NodeId]) -> MembershipChange {
        let wanted = [1, 3, 5][rng.below(3) as usize];
        if wanted >= voters.len() {
            return self.enlist(rng, membership, wanted - voters.len(), MemberRole::Voter);
        }
        let mut voters = voters.to_vec();
        shuffle(rng, &mut voters);
        MembershipChange { set: Vec::new(), remove: voters.split_off(wanted) }
    }

    /// A machine loses its disk, and comes back as a new node; by mistake, now and then, under its old name, where nobody may listen to it.
    pub(super) fn wipe(&mut self, rng: &mut Rng, slot: usize) -> Result<bool, Violation> {
        if !self.may_lose(slot) {
            return Ok(false);
        }
        self.crash(slot)?;
        let is_member = self.ghost.membership().node(self.nodes[slot].id).is_some();
        let is_impostor = is_member && rng.chance(0.3);
        let lasts = rng.duration(Duration::ZERO, IMPOSTOR_MAX);
        self.renew(slot, is_impostor);
        if is_impostor {
            self.schedule(lasts, Event::Unmask { node: slot });
        }
        Ok(true)
    }

    /// Something on the disk of a machine does not match its checksum any more: at most on so many machines that the others have everything.
    pub(super) fn rot(&mut self, rng: &mut Rng, slot: usize) -> bool {
        if !self.may_lose(slot) {
            return false;
        }
        let at = self.nodes[slot].disk.log.rot(rng);
        self.trace.line(self.now, || format!("the log of n{slot} is damaged at {at:?}"));
        at.is_some()
    }

    /// A node that cannot repair its log, since it alone decides, does not start on it: its machine begins anew.
    pub(super) fn replace_damaged(&mut self, slot: usize) -> Step {
        let damaged = self.nodes[slot].disk.log.damaged();
        self.trace.line(self.now, || format!("n{slot} finds damage: {damaged:?}"));
        self.power_off(slot)?;
        self.renew(slot, false);
        Ok(())
    }

    /// The mistake is noticed: the machine gets a name of its own.
    pub(super) fn unmask(&mut self, slot: usize) -> Step {
        if !mem::take(&mut self.nodes[slot].is_impostor) {
            return Ok(());
        }
        let last = self.nodes[slot].issued.last();
        if last > coracle_core::Index::ZERO {
            let what =
                format!("n{slot} lost its disk, came back under its old name, and was sent entries up to {last}");
            return Err(Violation::new(Invariant::AckDurability, what));
        }
        self.power_off(slot)?;
        self.renew(slot, false);
        Ok(())
    }

    /// An empty disk in place of the old one.
    fn renew(&mut self, slot: usize, is_impostor: bool) {
        let operator = &mut self.operator;
        let node = &mut self.nodes[slot];
        let old = mem::replace(&mut node.key, operator.next_key);
        operator.next_key += 1;
        if !operator.is_gone(node.id) {
            operator.gone.push(Lost { id: node.id, key: old, log: node.disk.log.durable(LogState::clone) });
        }
        operator.last_wipe = Some(self.now);
        node.incarnation = Incarnation(node.incarnation.0 + 1);
        node.is_impostor = is_impostor;
        node.promised = None;
        if !is_impostor {
            node.id = NodeId(operator.next_id);
            operator.next_id += 1;
        }
        node.begin_with(&Recovered::joining(self.ghost.membership().cluster));
        let (id, key) = (node.id, node.key);
        self.trace
            .line(self.now, || format!("n{old} has lost its disk: n{slot} is now {id:?}, called n{key} by checkers"));
    }

    /// Whether the group stays whole without the disk of `slot`: in each half of each membership that may count, a majority has its disk and keeps it.
    fn may_lose(&self, slot: usize) -> bool {
        let id = self.nodes[slot].id;
        let is_whole = |node: &Node| node.disk.log.damaged().is_empty();
        let has_disk = |voter: &NodeId| {
            *voter != id
                && self.slot_of(*voter).is_some_and(|slot| is_whole(&self.nodes[slot]))
                && !self.operator.is_gone(*voter)
        };
        let stays_whole = |half: &[NodeId]| {
            !half.contains(&id) || 2 * half.iter().filter(|voter| has_disk(voter)).count() > half.len()
        };
        let newest = self.ghost.membership_index();
        let logs = self.nodes.iter().flat_map(|node| {
            let durable = node.disk.log.durable(|log| log.memberships_from(newest));
            durable.into_iter().chain(node.issued.memberships_from(newest))
        });
        let mut memberships = logs.chain([self.ghost.membership().clone()]);
        // Where a change that nobody knows of yet may begin, no node that counts may go at the same time.
        let is_asked = |node: &Node| {
            node.running
                .as_ref()
                .is_some_and(|running| running.waiting.iter().any(|request| Operator::has_asked(*request)))
        };
        let voters_of = |membership: &Membership| membership.voters().collect::<Vec<NodeId>>();
        !self.nodes[slot].is_impostor
            && !self.nodes.iter().any(is_asked)
            && memberships.all(|membership| {
                [voters_of(&membership), membership.outgoing.clone(), intended(&membership)]
                    .iter()
                    .all(|half| stays_whole(half))
            })
    }

    /// Once faults have stopped: whoever is no more leaves the group. Says what is still to be done.
    pub(super) fn tidy_up(&mut self) -> Option<String> {
        let Some(leader) = self.leader() else { return Some("there is no leader".into()) };
        let membership = self.nodes[leader].membership()?.clone();
        let gone: BTreeSet<NodeId> =
            membership.nodes.iter().map(|node| node.id).filter(|id| self.operator.is_gone(*id)).collect();
        if !gone.is_empty() && !membership.is_joint() {
            // A change that waits for who is no more does not go on without this: whoever was to leave for it stays.
            let is_leaving = |node: &&NodeRecord| {
                matches!(node.role, MemberRole::Retiring | MemberRole::Demoting) && !gone.contains(&node.id)
            };
            let stays = |node: &NodeRecord| NodeRecord { role: MemberRole::Voter, ..node.clone() };
            let set = membership.nodes.iter().filter(is_leaving).map(stays).collect();
            let change = MembershipChange { set, remove: gone.iter().copied().collect() };
            self.ask_for_change(leader, change);
        }
        let is_changing = |node: &NodeRecord| !matches!(node.role, MemberRole::Voter | MemberRole::Learner);
        let is_settled = gone.is_empty() && !membership.is_joint() && !membership.nodes.iter().any(is_changing);
        (!is_settled).then(|| format!("n{leader} has not ended a change of the membership: {}", Brief(&membership)))
    }

    /// What a change of roles means for the milestones.
    pub(super) fn note_role(&mut self, node: usize, leads: bool) {
        let this = &mut self.nodes[node];
        let Some(running) = &mut this.running else { return };
        let led = mem::replace(&mut running.leads, leads);
        let Some(membership) = this.membership() else { return };
        if leads && !led && membership.is_joint() {
            self.report.milestones.count(Milestone::LeaderInJoint.name());
        }
        if led && !leads && !membership.is_voter(this.id) {
            self.report.milestones.count(Milestone::RemovedLeader.name());
        }
    }
}

/// Who votes once the change that a membership states is carried out.
fn intended(membership: &Membership) -> Vec<NodeId> {
    let votes = |node: &&NodeRecord| matches!(node.role, MemberRole::Voter | MemberRole::Promotable);
    membership.nodes.iter().filter(votes).map(|node| node.id).collect()
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> Option<&'a T> {
    let at = rng.below(from.len() as u64) as usize;
    from.get(at)
}

fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last as u64 + 1) as usize);
    }
}
