//! All nodes, what is on its way between them, and what has ever happened.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use coracle_core::{Body, Index, Input, Membership, Message, NodeId, Term};

use crate::{
    Settings,
    disk::Disk,
    ghost::{Fault, Ghost},
    network::Network,
    node::{Node, Outbox},
    scope::Scope,
};

/// All nodes, what is on its way between them, and what has ever happened.
#[derive(Clone, Debug)]
pub struct World {
    /// By id, from 1 on.
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) network: Network,
    pub(crate) ghost: Ghost,
    pub(crate) left: Left,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) commands: u8,
    pub(crate) reads: u8,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) duplicates: u8,
    pub(crate) heartbeats: u8,
    pub(crate) resignations: u8,
    pub(crate) transfers: u8,
    pub(crate) joins: u8,
    pub(crate) removals: u8,
    pub(crate) compactions: u8,
    /// Founders are alike at first: they lose patience for the first time in the order of their ids. This one is the next.
    pub(crate) next_to_wake: u64,
}

impl Left {
    fn of(scope: &Scope) -> Left {
        Left {
            commands: scope.commands,
            reads: scope.reads,
            crashes: scope.crashes,
            losses: scope.losses,
            duplicates: scope.duplicates,
            heartbeats: scope.heartbeats,
            resignations: scope.resignations,
            transfers: scope.transfers,
            joins: scope.joins,
            removals: scope.removals,
            compactions: scope.compactions,
            next_to_wake: 1,
        }
    }
}

impl World {
    pub(crate) fn new(settings: &Settings) -> World {
        let scope = &settings.scope;
        let disk = |id| if id <= scope.founders { Disk::founded(scope.founders) } else { Disk::joining() };
        let mut ghost = Ghost::default();
        ghost.committed.push(Term(1));
        let mut world = World {
            nodes: (1..=scope.nodes).map(|id| Arc::new(Node::new(NodeId(id), disk(id)))).collect(),
            network: Network::new(scope.is_ordered),
            ghost,
            left: Left::of(scope),
        };
        for at in 0..world.nodes.len() {
            world.step(at, |_| Vec::new(), settings);
        }
        world
    }

    /// One node's step, and what follows from it at once.
    pub(crate) fn step(&mut self, at: usize, act: impl FnOnce(&mut Node) -> Vec<Input>, settings: &Settings) {
        let node = Arc::make_mut(&mut self.nodes[at]);
        let inputs = act(node);
        let outbox = node.step(inputs, settings, &mut self.ghost);
        self.take(at, outbox, settings);
    }

    fn take(&mut self, at: usize, outbox: Outbox, settings: &Settings) {
        if outbox.is_commit_moved {
            self.note_commit(at, outbox.membership_before);
        }
        for message in outbox.messages {
            self.send(message, settings);
        }
    }

    fn send(&mut self, message: Arc<Message>, settings: &Settings) {
        let Some(at) = self.nodes.iter().position(|node| node.id == message.to) else { return };
        let is_pre_vote = matches!(message.body, Body::PreVote { .. } | Body::PreVoteResponse { .. });
        if is_pre_vote && !settings.scope.is_pre_vote_slow {
            return self.step(at, |_| vec![Input::Message(Message::clone(&message))], settings);
        }
        let nodes = &self.nodes;
        self.network.insert(message, &|leader, term, round| is_awaited(nodes, leader, term, round));
    }

    /// A node takes more for committed than before: it is right, and only a leader knows first.
    fn note_commit(&mut self, at: usize, membership_before: Index) {
        let node = &self.nodes[at];
        let commit_index = node.raft.commit_index();
        let first_new = self.ghost.commit_index().next();
        for index in (first_new.0..=commit_index.0).map(Index) {
            let Some(term) = node.raft.term_at(index) else { return self.ghost.blame(Fault::Recommitted) };
            let membership = node.raft.membership_at(membership_before).1;
            if !node.raft.is_leader() || !self.is_held_by_majority(membership, index, term) {
                self.ghost.blame(Fault::CommittedTooEarly);
            }
            self.ghost.committed.push(term);
        }
        if commit_index >= first_new && node.raft.term_at(commit_index) != Some(node.raft.term()) {
            self.ghost.blame(Fault::CommittedByCounting);
        }
        let (membership_index, membership) = node.raft.membership_at(commit_index);
        // It was founded with the entry at 1; any later membership that is no intent and not joint ended a change.
        let is_settled = !membership.is_joint() && membership.nodes.len() as u64 == membership.voters().count() as u64;
        self.ghost.reached.is_joint_left |= membership_index > Index(1) && is_settled;
    }

    /// Whether a majority of each half has the entry on disk.
    fn is_held_by_majority(&self, membership: &Membership, index: Index, term: Term) -> bool {
        let holds = |id: &NodeId| self.nodes.iter().any(|node| node.id == *id && node.disk.holds(index, term));
        let is_majority =
            |ids: Vec<NodeId>| ids.is_empty() || 2 * ids.iter().filter(|id| holds(id)).count() > ids.len();
        is_majority(membership.voters().collect()) && is_majority(membership.outgoing.clone())
    }

    /// The nodes that lead, or believe so.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(Arc::as_ref).filter(|node| node.raft.is_leader())
    }

    fn form(&self) -> (Vec<u64>, Vec<u64>) {
        let nodes = self.nodes.iter().map(|node| node.fingerprint).collect();
        let is_awaited = |leader, term, round| is_awaited(&self.nodes, leader, term, round);
        (nodes, self.network.form(&is_awaited))
    }
}

fn is_awaited(nodes: &[Arc<Node>], leader: NodeId, term: Term, round: u64) -> bool {
    nodes.iter().any(|node| node.id == leader && node.raft.is_round_awaited(term, round))
}

impl PartialEq for World {
    fn eq(&self, other: &World) -> bool {
        self.form() == other.form() && self.ghost == other.ghost && self.left == other.left
    }
}

impl Hash for World {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.form().hash(hasher);
        self.ghost.hash(hasher);
        self.left.hash(hasher);
    }
}
