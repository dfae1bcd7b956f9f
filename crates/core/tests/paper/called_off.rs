//! Changes of voters that do not go on have an end (C16; thesis §4.2.1).

use std::time::Duration;

use coracle_core::{
    Body, CallOff, CalledOff, Event, Input, MemberRole, MembershipChange, NodeId, NodeRecord, Outcome, ProposalId,
};

use super::membership::{elect, group, records, voters};
use crate::common::{Cluster, id};

/// Asks `leader` for `set`, and that `remove` go, and for nothing else.
fn ask(cluster: &mut Cluster, leader: NodeId, set: Vec<NodeRecord>, remove: &[NodeId]) {
    let number = ProposalId(1000 + cluster.nodes[&leader].outcomes.len() as u64);
    let change = MembershipChange { set, remove: remove.to_vec() };
    cluster.handle(leader, Input::ChangeMembership { id: number, change });
    cluster.run(Duration::from_millis(100));
    let outcome = cluster.nodes[&leader].outcomes[&number.0];
    assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
}

/// What `n` called off: why, and who stays what it was.
fn called_off(cluster: &Cluster, n: NodeId) -> Vec<(CallOff, Vec<NodeId>)> {
    let what = |event: &Event| match event {
        Event::ChangeCalledOff(CalledOff { reason, nodes, .. }) => Some((*reason, nodes.clone())),
        _ => None,
    };
    cluster.nodes[&n].events.iter().filter_map(what).collect()
}

fn role_of(cluster: &Cluster, leader: NodeId, n: NodeId) -> Option<MemberRole> {
    cluster.raft(leader).status().membership.node(n).map(|node| node.role)
}

/// Thesis §4.2.1: a learner that is not there does not hold up a change for ever; nobody leaves in its stead.
#[test]
fn c16_a_change_whose_learners_are_silent_is_called_off() {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    let leaving = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.down.push(id(4));
    let stay: Vec<u64> = (1..=4).filter(|n| id(*n) != leaving).collect();
    cluster.change_membership(leader, records(&stay, &[]));
    cluster.run(Duration::from_secs(29));
    assert_eq!(cluster.raft(leader).status().membership.node(leaving).unwrap().role, MemberRole::Retiring);
    cluster.run(Duration::from_secs(2));
    assert_eq!(called_off(&cluster, leader), [(CallOff::Silent { node: id(4) }, vec![leaving.min(id(4)), id(4)])]);
    let told: Vec<_> = cluster.raft(leader).status().called_off.into_iter().map(|it| it.reason).collect();
    assert_eq!(told, [CallOff::Silent { node: id(4) }]);
    assert_eq!(cluster.raft(leader).status().membership.nodes, records(&[1, 2, 3], &[4]));
}

/// A learner that was silent for long has the whole time again when it is to be promoted: it may just have come back.
#[test]
fn c16_a_learner_that_was_silent_before_is_waited_for_when_it_is_asked_for_again() {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    cluster.down.push(id(4));
    cluster.change_membership(leader, records(&[1, 2, 3, 4], &[]));
    cluster.run(Duration::from_secs(31));
    assert_eq!(cluster.raft(leader).status().membership.nodes, records(&[1, 2, 3], &[4]));
    cluster.change_membership(leader, records(&[1, 2, 3, 4], &[]));
    cluster.run(Duration::from_secs(29));
    assert_eq!(cluster.raft(leader).status().membership.node(id(4)).unwrap().role, MemberRole::Promotable);
    cluster.down.clear();
    cluster.run(Duration::from_secs(2));
    assert_eq!(voters(&cluster, leader), [1, 2, 3, 4]);
}

/// Thesis §4.2.1: a learner that answers and never comes near has so many rounds.
#[test]
fn c16_a_change_whose_learners_do_not_catch_up_is_called_off() {
    let mut cluster = group(1, 2);
    let leader = elect(&mut cluster);
    cluster.node(id(2)).is_disk_fast = false;
    cluster.change_membership(leader, records(&[1, 2], &[]));
    let mut rounds = 0;
    while called_off(&cluster, leader).is_empty() {
        cluster.run(Duration::from_millis(600));
        // When the learner has what the log held, the log holds more.
        cluster.propose(leader, "load");
        cluster.sync(id(2));
        cluster.deliver();
        rounds += 1;
        assert!(rounds < 60, "it is never called off");
        assert_eq!(voters(&cluster, leader), [1]);
    }
    assert!(rounds >= 10, "it has had {rounds} rounds");
    assert_eq!(called_off(&cluster, leader), [(CallOff::TooSlow { node: id(2) }, vec![id(2)])]);
}

/// Thesis §4.2.1: rounds that took longer count no more once a learner has caught up: it may have to wait for another one.
#[test]
fn c16_a_learner_that_has_caught_up_may_fall_behind_now_and_then() {
    let mut cluster = group(1, 3);
    let leader = elect(&mut cluster);
    ask(&mut cluster, leader, records(&[], &[2]), &[]);
    let applied = cluster.raft(leader).status().applied_index;
    cluster.handle(leader, Input::Applied { applied, flushed: applied });
    cluster.handle(leader, Input::Compact { up_to: applied });
    ask(&mut cluster, leader, records(&[2, 3], &[]), &[]);
    cluster.handle(leader, Input::SnapshotSending { peer: id(3), index: applied });
    for round in 0..40 {
        // Node 3 gets its snapshot piece by piece, and node 2 is slow every other time.
        let term = cluster.raft(leader).term().0;
        let body = Body::InstallSnapshotResponse { content: 7, offset: 1 + round, done: false };
        let input = cluster.message(id(3), leader, term, body);
        cluster.handle(leader, input);
        cluster.node(id(2)).is_disk_fast = round % 2 != 0;
        cluster.propose(leader, "load");
        cluster.run(Duration::from_millis(700));
        cluster.sync(id(2));
        cluster.deliver();
        assert_eq!(called_off(&cluster, leader), [], "round {round}");
        assert_eq!(role_of(&cluster, leader, id(2)), Some(MemberRole::Promotable));
    }
}

/// A group of three and a learner, 4, that has stopped to write, answers, and is to vote.
fn a_learner_that_writes_no_more() -> (Cluster, NodeId) {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    ask(&mut cluster, leader, records(&[], &[4]), &[]);
    cluster.run(Duration::from_millis(500));
    cluster.node(id(4)).is_disk_fast = false;
    cluster.propose(leader, "x");
    ask(&mut cluster, leader, records(&[4], &[]), &[]);
    (cluster, leader)
}

/// Thesis §4.2.1: a learner that answers and takes nothing in does not hold up a change for ever.
#[test]
fn c16_a_change_whose_learners_answer_and_take_nothing_in_is_called_off() {
    let (mut cluster, leader) = a_learner_that_writes_no_more();
    cluster.run(Duration::from_secs(29));
    let peers = cluster.raft(leader).status().peers;
    assert!(peers.iter().all(|peer| peer.is_active), "it answers");
    assert_eq!(role_of(&cluster, leader, id(4)), Some(MemberRole::Promotable));
    cluster.run(Duration::from_secs(2));
    assert_eq!(called_off(&cluster, leader), [(CallOff::Stalled { node: id(4) }, vec![id(4)])]);
    assert_eq!(cluster.raft(leader).status().membership.nodes, records(&[1, 2, 3], &[4]));
}

/// A learner that takes in something every now and then is waited for.
#[test]
fn c16_a_learner_that_comes_nearer_slowly_is_waited_for() {
    let (mut cluster, leader) = a_learner_that_writes_no_more();
    for _ in 0..5 {
        cluster.run(Duration::from_secs(20));
        cluster.propose(leader, "load");
        cluster.sync_one(id(4)).unwrap();
        cluster.pump(id(4));
    }
    assert_eq!((called_off(&cluster, leader), voters(&cluster, leader)), (vec![], vec![1, 2, 3]));
    cluster.node(id(4)).is_disk_fast = true;
    cluster.sync(id(4));
    cluster.run(Duration::from_secs(2));
    assert_eq!(voters(&cluster, leader), [1, 2, 3, 4]);
}

/// A snapshot that arrives piece by piece is progress, and one that does not is none.
#[test]
fn c16_a_learner_is_waited_for_while_pieces_of_a_snapshot_arrive() {
    let mut cluster = group(1, 2);
    let leader = elect(&mut cluster);
    cluster.propose(leader, "x");
    let applied = cluster.raft(leader).status().applied_index;
    cluster.handle(leader, Input::Applied { applied, flushed: applied });
    cluster.handle(leader, Input::Compact { up_to: applied });
    ask(&mut cluster, leader, records(&[2], &[]), &[]);
    assert_eq!(cluster.node(leader).snapshots_wanted, [id(2)]);
    cluster.run(Duration::from_secs(40));
    assert_eq!(role_of(&cluster, leader, id(2)), Some(MemberRole::Promotable), "the snapshot is still being taken");
    cluster.handle(leader, Input::SnapshotSending { peer: id(2), index: applied });
    for piece in 1..=5 {
        cluster.run(Duration::from_secs(20));
        let term = cluster.raft(leader).term().0;
        let body = Body::InstallSnapshotResponse { content: 7, offset: piece * 100, done: false };
        let input = cluster.message(id(2), leader, term, body);
        cluster.handle(leader, input);
        assert_eq!(role_of(&cluster, leader, id(2)), Some(MemberRole::Promotable));
    }
    cluster.run(Duration::from_secs(31));
    assert_eq!(called_off(&cluster, leader), [(CallOff::Stalled { node: id(2) }, vec![id(2)])]);
}

/// A transfer that begins anew each time has an end, too.
#[test]
fn c16_a_learner_whose_snapshot_begins_anew_each_time_is_called_off() {
    let mut cluster = group(1, 2);
    let leader = elect(&mut cluster);
    cluster.propose(leader, "x");
    let applied = cluster.raft(leader).status().applied_index;
    cluster.handle(leader, Input::Applied { applied, flushed: applied });
    cluster.handle(leader, Input::Compact { up_to: applied });
    ask(&mut cluster, leader, records(&[2], &[]), &[]);
    for transfer in 0..12 {
        assert_eq!(called_off(&cluster, leader).is_empty(), transfer < 11);
        cluster.handle(leader, Input::SnapshotSending { peer: id(2), index: applied.plus(transfer % 2) });
        cluster.run(Duration::from_secs(5));
        cluster.handle(leader, Input::SnapshotSendFailed { peer: id(2) });
        cluster.run(Duration::from_secs(5));
    }
    assert_eq!(called_off(&cluster, leader), [(CallOff::TooSlow { node: id(2) }, vec![id(2)])]);
}

/// A removal that would leave no majority does not wait for ever.
#[test]
fn c16_a_removal_whose_new_majority_is_dead_is_called_off() {
    let mut cluster = group(3, 3);
    let leader = elect(&mut cluster);
    let [alive, dead] = (1..=3).map(id).filter(|n| *n != leader).collect::<Vec<_>>()[..] else { panic!("two") };
    cluster.down.push(dead);
    cluster.run(Duration::from_secs(1));
    ask(&mut cluster, leader, vec![], &[alive]);
    cluster.run(Duration::from_secs(29));
    assert_eq!(role_of(&cluster, leader, alive), Some(MemberRole::Retiring));
    cluster.run(Duration::from_secs(2));
    assert_eq!(called_off(&cluster, leader), [(CallOff::NoMajority, vec![alive])]);
    assert_eq!(cluster.raft(leader).status().membership.nodes, records(&[1, 2, 3], &[]));
    // The one that is dead may go, and then the other, too.
    for gone in [dead, alive] {
        ask(&mut cluster, leader, vec![], &[gone]);
        cluster.run(Duration::from_secs(1));
    }
    assert_eq!(voters(&cluster, leader), [leader.0]);
}

/// What others asked for does not end with a joiner that never comes, also not when a new leader calls that off.
#[test]
fn c16_a_silent_joiner_ends_alone() {
    for moves in [false, true] {
        let mut cluster = group(3, 5);
        let mut leader = elect(&mut cluster);
        let [next, leaving] = (1..=3).map(id).filter(|n| *n != leader).collect::<Vec<_>>()[..] else { panic!("two") };
        cluster.down.push(id(4));
        ask(&mut cluster, leader, records(&[4], &[]), &[]);
        ask(&mut cluster, leader, records(&[5], &[]), &[leaving]);
        if moves {
            cluster.handle(leader, Input::Transfer { to: Some(next) });
            cluster.run(Duration::from_secs(1));
            leader = next;
        }
        cluster.run(Duration::from_secs(28));
        assert_eq!(role_of(&cluster, leader, leaving), Some(MemberRole::Retiring));
        cluster.run(Duration::from_secs(4));
        assert_eq!(called_off(&cluster, leader), [(CallOff::Silent { node: id(4) }, vec![id(4)])]);
        let stay: Vec<u64> = (1..=3).filter(|n| id(*n) != leaving).chain([5]).collect();
        assert_eq!(cluster.raft(leader).status().membership.nodes, {
            let mut nodes = records(&stay, &[4]);
            nodes.sort_by_key(|node| node.id);
            nodes
        });
    }
}

/// Who asks again for what is under way does not tear apart what was asked for together, and puts its end off for nobody.
#[test]
fn c16_requests_that_follow_put_no_end_off() {
    let mut cluster = group(3, 5);
    let leader = elect(&mut cluster);
    let leaving = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.down.push(id(4));
    ask(&mut cluster, leader, records(&[4], &[]), &[leaving]);
    for n in 0..6 {
        cluster.run(Duration::from_millis(4_500));
        let mut learner = records(&[], &[5]);
        learner[0].client_address = n.to_string();
        ask(&mut cluster, leader, learner, &[]);
        ask(&mut cluster, leader, records(&[4], &[]), &[]);
    }
    assert_eq!(role_of(&cluster, leader, leaving), Some(MemberRole::Retiring));
    cluster.run(Duration::from_secs(3));
    let mut stay = vec![leaving, id(4)];
    stay.sort();
    assert_eq!(called_off(&cluster, leader), [(CallOff::Silent { node: id(4) }, stay)]);
    assert_eq!(voters(&cluster, leader), [1, 2, 3]);
}
