//! Thesis §6.4: linearizable reads (C12).

use std::time::Duration;

use coracle_core::{Body, Index};

use crate::common::{Cluster, id};

/// A leader of three that has not yet committed anything in its own term.
fn fresh_leader() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.time_out(id(1));
    while let Some(message) = cluster.network.pop_front() {
        if !matches!(message.body, Body::AppendEntries { .. }) {
            cluster.handle(message.to, coracle_core::Input::Message(message));
        }
    }
    assert!(cluster.raft(id(1)).is_leader());
    cluster
}

/// h17: a fresh leader answers no read before it has committed an entry of its own term.
#[test]
fn h17_read_index_before_own_term_commit() {
    let mut cluster = fresh_leader();
    let read = cluster.read(id(1));
    for peer in [2, 3] {
        let input = cluster.message(id(peer), id(1), 2, Body::HeartbeatResponse { round: 1, promise: 0 });
        cluster.handle(id(1), input);
    }
    assert_eq!(cluster.node(id(1)).ready.get(&read), None);
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.node(id(1)).ready[&read], Index(2));
}

/// h18: an echo of an earlier round confirms no later read.
#[test]
fn h18_echoes_of_earlier_rounds_do_not_confirm() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let other = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let term = cluster.raft(leader).term().0;
    cluster.network.clear();
    let read = cluster.read(leader);
    let round = cluster.between(leader, other).into_iter().find_map(|body| match body {
        Body::Heartbeat { round, .. } => Some(*round),
        _ => None,
    });
    let round = round.unwrap();
    let late = cluster.message(other, leader, term, Body::HeartbeatResponse { round: round - 1, promise: 0 });
    cluster.handle(leader, late);
    assert_eq!(cluster.node(leader).ready.get(&read), None);
    let echo = cluster.message(other, leader, term, Body::HeartbeatResponse { round, promise: 0 });
    cluster.handle(leader, echo);
    assert!(cluster.node(leader).ready.contains_key(&read));
}

/// A round that was never opened confirms nothing.
#[test]
fn a_round_from_the_future_does_not_confirm() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let other = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let term = cluster.raft(leader).term().0;
    let forged = cluster.message(other, leader, term, Body::HeartbeatResponse { round: u64::MAX, promise: 0 });
    cluster.handle(leader, forged);
    cluster.network.clear();
    let read = cluster.read(leader);
    assert_eq!(cluster.node(leader).ready.get(&read), None);
}

/// C12: a deposed leader answers no read.
#[test]
fn c12_a_leader_without_a_majority_answers_no_read() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    let read = cluster.read(leader);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.node(leader).ready.get(&read), None);
    assert_eq!(cluster.node(leader).failed_reads, [read]);
}

/// A follower's read sees what was acknowledged before it was asked.
#[test]
fn a_follower_reads_at_the_leaders_commit_index() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.propose(leader, "a");
    cluster.deliver();
    let read = cluster.read(follower);
    cluster.deliver();
    assert_eq!(cluster.node(follower).ready[&read], Index(3));
}

/// C12: the answer to a question of an earlier life of the follower answers nothing.
#[test]
fn c12_answers_to_an_earlier_life_are_ignored() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let term = cluster.raft(leader).term().0;
    let read = cluster.read(follower);
    let (nonce, sequence) = cluster
        .between(follower, leader)
        .into_iter()
        .find_map(|body| match body {
            Body::ReadIndex { nonce, sequence } => Some((*nonce, *sequence)),
            _ => None,
        })
        .unwrap();
    let body = Body::ReadIndexResponse { nonce: nonce ^ 1, sequence, index: Some(Index(1)) };
    let input = cluster.message(leader, follower, term, body);
    cluster.handle(follower, input);
    assert_eq!(cluster.node(follower).ready.get(&read), None);
}

/// A lost question is put again; without a leader it fails.
#[test]
fn a_lost_question_is_put_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let read = cluster.read(follower);
    cluster.network.clear();
    cluster.run(Duration::from_millis(400));
    assert!(cluster.node(follower).ready.contains_key(&read));
    cluster.down.push(leader);
    let lost = cluster.read(follower);
    cluster.run(Duration::from_secs(3));
    assert!(cluster.node(follower).failed_reads.contains(&lost));
}
