//! What may happen next.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{Body, Index, Input, MemberRole, Membership, MembershipChange, NodeId, ProposalId, ReadId, Term};
use stateright::{Model, Property};

use crate::{
    Settings,
    node::Node,
    properties,
    world::{Left, World},
};

/// Something that may happen. Nodes and messages are meant by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message arrives.
    Deliver(usize),
    /// A message is lost.
    Lose(usize),
    /// A message arrives, and is still on its way.
    Duplicate(usize),
    /// All timers of a node that does not lead run out.
    TimeOut(usize),
    /// A leader has heard nobody for too long.
    Resign(usize),
    /// A leader's heartbeat is due.
    Heartbeat(usize),
    /// The write of a node is durable.
    Written(usize),
    /// A node crashes and starts again.
    Crash {
        /// Which.
        at: usize,
        /// Whether the write that was under way has reached the disk.
        is_write_kept: bool,
    },
    /// A leader is given a command.
    Propose(usize),
    /// A node is asked for a read.
    Read(usize),
    /// A leader is asked to hand over.
    Transfer(usize),
    /// A leader is asked to make a voter of a node that waits.
    Join {
        /// The leader.
        at: usize,
        /// The node.
        id: NodeId,
    },
    /// A leader is asked to remove a voter.
    Remove {
        /// The leader.
        at: usize,
        /// The voter.
        id: NodeId,
    },
    /// A node flushes its state machine, and compacts its log.
    Compact(usize),
}

impl Model for Settings {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.ghost.fault.is_some() {
            // It went wrong already: what comes of it is of no interest.
            return;
        }
        self.of_network(world, actions);
        for (at, node) in world.nodes.iter().enumerate() {
            self.of_node(world, at, node, actions);
            if node.raft.is_leader() {
                self.of_leader(world, at, node, actions);
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Deliver(message) => self.deliver(&mut world, message, true),
            Action::Duplicate(message) => {
                world.left.duplicates -= 1;
                self.deliver(&mut world, message, false);
            }
            Action::Lose(message) => {
                world.left.losses -= 1;
                world.network.remove(message);
            }
            Action::TimeOut(at) => {
                world.left.next_to_wake = world.left.next_to_wake.max(world.nodes[at].id.0 + 1);
                world.step(at, |node| vec![node.time_out()], self);
            }
            Action::Resign(at) => {
                world.left.resignations -= 1;
                world.step(at, |node| vec![node.time_out()], self);
            }
            Action::Heartbeat(at) => {
                world.left.heartbeats -= 1;
                world.step(at, |node| vec![node.beat()], self);
            }
            Action::Written(at) => world.step(at, |node| node.finish_write().into_iter().collect(), self),
            Action::Crash { at, is_write_kept } => {
                world.left.crashes -= 1;
                world.step(
                    at,
                    |node| {
                        node.crash(is_write_kept, self);
                        Vec::new()
                    },
                    self,
                );
            }
            Action::Compact(at) => {
                world.left.compactions -= 1;
                world.step(at, |node| node.flush().to_vec(), self);
            }
            asked => self.ask(&mut world, asked),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Settings>> {
        properties::of(&self.scope)
    }
}

impl Settings {
    fn of_network(&self, world: &World, actions: &mut Vec<Action>) {
        let Left { losses, duplicates, .. } = world.left;
        for message in (0..world.network.len()).filter(|message| world.network.may_arrive(*message)) {
            actions.push(Action::Deliver(message));
            if losses > 0 {
                actions.push(Action::Lose(message));
            }
            if duplicates > 0 {
                actions.push(Action::Duplicate(message));
            }
        }
    }

    fn of_node(&self, world: &World, at: usize, node: &Node, actions: &mut Vec<Action>) {
        let left = &world.left;
        let is_writing = node.writing.is_some();
        if is_writing {
            actions.push(Action::Written(at));
        }
        let is_founder = node.id.0 <= self.scope.founders;
        let may_wake = !is_founder || node.id.0 <= left.next_to_wake;
        // The group is founded in term 1.
        let is_term_left = node.raft.term() < Term(1 + self.scope.terms);
        if !node.raft.is_leader() && may_wake && is_term_left {
            actions.push(Action::TimeOut(at));
        }
        if left.crashes > 0 {
            actions.push(Action::Crash { at, is_write_kept: false });
            if is_writing {
                actions.push(Action::Crash { at, is_write_kept: true });
            }
        }
        if left.compactions > 0 && node.machine.applied > node.disk.base.index {
            actions.push(Action::Compact(at));
        }
        if left.reads > 0 && node.raft.leader().is_some() {
            actions.push(Action::Read(at));
        }
    }

    fn of_leader(&self, world: &World, at: usize, node: &Node, actions: &mut Vec<Action>) {
        let left = &world.left;
        if left.commands > 0 {
            actions.push(Action::Propose(at));
        }
        if left.heartbeats > 0 {
            actions.push(Action::Heartbeat(at));
        }
        if left.resignations > 0 {
            actions.push(Action::Resign(at));
        }
        if left.transfers > 0 {
            actions.push(Action::Transfer(at));
        }
        let membership = node.raft.membership_at(Index::MAX).1;
        for id in (1..=self.scope.nodes).map(NodeId) {
            if left.joins > 0 && !membership.is_voter(id) {
                actions.push(Action::Join { at, id });
            }
            if left.removals > 0 && membership.is_voter(id) && membership.voters().count() > 2 {
                actions.push(Action::Remove { at, id });
            }
        }
    }

    fn deliver(&self, world: &mut World, message: usize, is_last: bool) {
        let arrived = Arc::clone(world.network.message(message));
        if is_last {
            world.network.remove(message);
        }
        let Some(at) = world.nodes.iter().position(|node| node.id == arrived.to) else { return };
        world.step(at, |_| vec![Input::Message((*arrived).clone())], self);
    }

    /// What a client or an operator asks of a node.
    fn ask(&self, world: &mut World, action: Action) {
        let (at, input) = match action {
            Action::Propose(at) => {
                world.left.commands -= 1;
                let number = self.scope.commands - world.left.commands;
                let commands = vec![Bytes::copy_from_slice(&[number])];
                (at, Input::Propose { first: ProposalId(u64::from(number)), commands })
            }
            Action::Read(at) => {
                world.left.reads -= 1;
                let first = ReadId(u64::from(self.scope.reads - world.left.reads));
                world.ghost.reads.push((first, world.ghost.commit_index()));
                (at, Input::Read { first, count: 1, is_lease: false })
            }
            Action::Transfer(at) => {
                world.left.transfers -= 1;
                (at, Input::Transfer { to: None })
            }
            Action::Join { at, id } => {
                world.left.joins -= 1;
                let set = Membership::of_voters([id]).nodes;
                debug_assert!(set.iter().all(|node| node.role == MemberRole::Voter));
                (at, Input::ChangeMembership { id: ProposalId(100), change: MembershipChange { set, remove: vec![] } })
            }
            Action::Remove { at, id } => {
                world.left.removals -= 1;
                let change = MembershipChange { set: vec![], remove: vec![id] };
                (at, Input::ChangeMembership { id: ProposalId(101), change })
            }
            _ => return,
        };
        world.step(at, |_| vec![input], self);
    }

    /// A message in words, for a path that leads to a failure.
    pub(crate) fn describe(&self, world: &World, action: Action) -> String {
        let name = |at: usize| format!("node {}", world.nodes[at].id.0);
        let message = |at: usize| {
            let message = world.network.message(at);
            let body = match &message.body {
                Body::InstallSnapshot(piece) => format!("InstallSnapshot {}", piece.meta.last_included_index),
                body => format!("{body:?}"),
            };
            format!("{} to {} in term {}: {body}", message.from.0, message.to.0, message.term)
        };
        match action {
            Action::Deliver(at) => format!("arrives: {}", message(at)),
            Action::Lose(at) => format!("is lost: {}", message(at)),
            Action::Duplicate(at) => format!("arrives, and will again: {}", message(at)),
            Action::TimeOut(at) => format!("{} loses patience", name(at)),
            Action::Resign(at) => format!("{} has heard nobody for too long", name(at)),
            Action::Heartbeat(at) => format!("the heartbeat of {} is due", name(at)),
            Action::Written(at) => format!("the write of {} is durable", name(at)),
            Action::Crash { at, is_write_kept } => {
                let write = match (world.nodes[at].writing.is_some(), is_write_kept) {
                    (false, _) => "",
                    (true, true) => ", its write on the disk",
                    (true, false) => ", its write lost",
                };
                format!("{} crashes and starts again{write}", name(at))
            }
            Action::Propose(at) => format!("{} is given a command", name(at)),
            Action::Read(at) => format!("{} is asked for a read", name(at)),
            Action::Transfer(at) => format!("{} is asked to hand over", name(at)),
            Action::Join { at, id } => format!("{} is asked to make a voter of node {}", name(at), id.0),
            Action::Remove { at, id } => format!("{} is asked to remove node {}", name(at), id.0),
            Action::Compact(at) => format!("{} compacts its log", name(at)),
        }
    }
}
