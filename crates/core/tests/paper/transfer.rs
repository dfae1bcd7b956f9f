//! Thesis §3.10, and C14.

use std::time::Duration;

use coracle_core::{Body, Event, Index, Input, NodeId, Outcome, RejectReason, Role, Term};

use crate::common::{Cluster, id};

fn followers(leader: NodeId) -> Vec<NodeId> {
    (1..=3).map(id).filter(|n| *n != leader).collect()
}

/// The target leads after one round trip, in the next term, although everybody hears the old leader.
#[test]
fn c14_leadership_moves_to_the_target_at_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let target = followers(leader)[1];
    cluster.propose(leader, "a");
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    cluster.deliver();
    assert!(cluster.raft(target).is_leader());
    assert_eq!(cluster.raft(target).term(), Term(3));
    assert_eq!(cluster.raft(leader).role(), Role::Follower);
    assert!(cluster.nodes[&target].applied.iter().any(|(_, _, data)| data.as_ref() == b"a"));
}

/// Without a wish, the voter whose log is furthest takes over.
#[test]
fn c14_the_voter_whose_log_is_furthest_takes_over() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let others = followers(leader);
    cluster.node(others[0]).is_disk_fast = false;
    cluster.propose(leader, "a");
    cluster.deliver();
    cluster.handle(leader, Input::Transfer { to: None });
    cluster.deliver();
    assert!(cluster.raft(others[1]).is_leader());
}

/// C14, h52: meanwhile proposals are refused, as surely without effect.
#[test]
fn h52_proposals_are_refused_while_leadership_moves() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let target = followers(leader)[0];
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    let proposal = cluster.propose(leader, "late");
    let expected = Outcome::Rejected(RejectReason::NotLeader { leader: None });
    assert_eq!(cluster.node(leader).outcomes[&proposal], expected);
}

/// h15: a transfer to a node that does not take it is given up, and the leader goes on.
#[test]
fn h15_a_transfer_that_fails_is_given_up() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let target = followers(leader)[0];
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    cluster.down.push(target);
    cluster.run(Duration::from_millis(1500));
    assert!(cluster.raft(leader).is_leader() && !cluster.raft(leader).is_transferring());
    assert!(cluster.node(leader).events.contains(&Event::TransferAborted { to: Some(target) }));
    let proposal = cluster.propose(leader, "on");
    cluster.deliver();
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    assert!(cluster.node(leader).events.contains(&Event::TransferAborted { to: Some(target) }), "it is not there");
    assert!(!cluster.raft(leader).is_transferring());
}

/// C14: only the leader of the current term makes a node campaign.
#[test]
fn c14_timeout_now_from_anybody_else_is_ignored() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let others = followers(leader);
    let term = cluster.raft(leader).term().0;
    for (from, term) in [(others[1], term), (leader, term - 1)] {
        let input = cluster.message(from, others[0], term, Body::TimeoutNow);
        cluster.handle(others[0], input);
        assert_eq!(cluster.raft(others[0]).role(), Role::Follower);
    }
}

/// A target that lacks entries gets them first.
#[test]
fn c14_a_target_that_lags_catches_up_first() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let target = followers(leader)[0];
    for i in 0..10 {
        cluster.propose(leader, &format!("{i}"));
    }
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    assert!(!cluster.between(leader, target).contains(&&Body::TimeoutNow));
    cluster.deliver();
    assert!(cluster.raft(target).is_leader());
    assert!(cluster.raft(target).status().last_index > Index(12));
}
