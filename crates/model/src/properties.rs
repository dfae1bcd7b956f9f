//! What must always hold, and what has to be reached.

use coracle_core::{Index, Term};
use stateright::Property;

use crate::{
    Settings,
    ghost::Fault,
    node::Node,
    scope::{Goal, Scope},
    world::World,
};

/// Those of a scope.
pub(crate) fn of(scope: &Scope) -> Vec<Property<Settings>> {
    let always = [
        ("one leader per term", one_leader_per_term as fn(&Settings, &World) -> bool),
        ("logs match", logs_match),
        ("a leader has all that is committed", leader_completeness),
        ("committed entries never change", committed_entries_stay),
        ("committed is durable at a majority", committed_is_durable),
        ("terms are committed by their leaders", committed_by_own_entries),
        ("nothing is said that is not durable", said_is_durable),
        ("machines apply the same", machines_agree),
        ("reads see what was committed", reads_are_linearizable),
        ("nobody stops, panics or is blamed", nobody_fails),
    ];
    let mut all: Vec<_> = always.into_iter().map(|(name, holds)| Property::always(name, holds)).collect();
    all.extend(scope.goals.iter().map(|goal| sometimes(*goal)));
    all
}

fn sometimes(goal: Goal) -> Property<Settings> {
    let (name, is_reached): (_, fn(&Settings, &World) -> bool) = match goal {
        Goal::Elected => ("a leader is elected", |_, world| !world.ghost.leaders.is_empty()),
        Goal::Committed => ("a command is acknowledged", |_, world| world.ghost.reached.is_acknowledged),
        Goal::Deposed => ("a leader is succeeded", |_, world| world.ghost.leaders.len() > 1),
        Goal::TwoLeaders => ("two believe to lead", |_, world| world.leaders().count() > 1),
        Goal::Overwritten => ("entries are overwritten", |_, world| world.ghost.reached.is_overwritten),
        Goal::Read => ("a read is answered", |_, world| world.ghost.reached.is_read),
        Goal::Installed => ("a snapshot is installed", |_, world| world.ghost.reached.is_installed),
        Goal::JointLeft => ("a joint configuration is left", |_, world| world.ghost.reached.is_joint_left),
    };
    Property::sometimes(name, is_reached)
}

fn one_leader_per_term(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::SecondLeader)
}

/// Where two logs have the same term at an index, they are equal up to there (Raft §5.3): in memory by their terms, on disk by their entries.
fn logs_match(_: &Settings, world: &World) -> bool {
    let pairs = || world.nodes.iter().enumerate().flat_map(|(at, a)| world.nodes[at + 1..].iter().map(move |b| (a, b)));
    pairs().all(|(a, b)| terms_match(a, b) && entries_match(a, b))
}

fn terms_match(a: &Node, b: &Node) -> bool {
    let last = last_index(a).min(last_index(b));
    let terms = |index| Some((a.raft.term_at(index)?, b.raft.term_at(index)?));
    let known: Vec<(Term, Term)> = (0..=last.0).rev().filter_map(|index| terms(Index(index))).collect();
    // From the end on: once equal, always equal.
    known.iter().skip_while(|(a, b)| a != b).all(|(a, b)| a == b)
}

fn entries_match(a: &Node, b: &Node) -> bool {
    let last = a.disk.last_index().min(b.disk.last_index());
    let entries = |index| Some((a.disk.entry(index)?, b.disk.entry(index)?));
    let known: Vec<_> = (0..=last.0).rev().filter_map(|index| entries(Index(index))).collect();
    known.iter().skip_while(|(a, b)| a.0 != b.0).all(|(a, b)| a == b)
}

/// The leader of the latest term has every entry that was ever committed (Raft §5.4).
fn leader_completeness(_: &Settings, world: &World) -> bool {
    let Some((latest, _)) = world.ghost.leaders.last() else { return true };
    let has_all = |leader: &Node| agrees(world, leader, world.ghost.commit_index());
    world.leaders().filter(|leader| leader.raft.term() == *latest).all(has_all)
}

fn committed_entries_stay(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::Recommitted)
        && world.nodes.iter().all(|node| {
            let commit_index = node.raft.commit_index();
            commit_index <= world.ghost.commit_index() && agrees(world, node, commit_index)
        })
}

/// Whether the log of `node` has what was committed, up to `index`, as far as it is not compacted.
fn agrees(world: &World, node: &Node, index: Index) -> bool {
    let terms = (1..=index.0).rev().map(|at| (node.raft.term_at(Index(at)), world.ghost.committed_at(Index(at))));
    let mut known = terms.enumerate().take_while(|(at, (here, _))| *at == 0 || here.is_some());
    known.all(|(_, (here, committed))| here == committed)
}

fn committed_is_durable(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::CommittedTooEarly)
}

fn committed_by_own_entries(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::CommittedByCounting)
}

fn said_is_durable(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::SaidTooEarly)
}

fn machines_agree(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::AppliedDifferently)
}

fn reads_are_linearizable(_: &Settings, world: &World) -> bool {
    world.ghost.fault != Some(Fault::StaleRead)
}

fn nobody_fails(_: &Settings, world: &World) -> bool {
    !matches!(world.ghost.fault, Some(Fault::Stopped | Fault::Blamed(_) | Fault::Panicked))
}

/// Where the log in memory ends.
fn last_index(node: &Node) -> Index {
    let mut last = node.raft.commit_index();
    while node.raft.term_at(last.next()).is_some() {
        last = last.next();
    }
    last
}
