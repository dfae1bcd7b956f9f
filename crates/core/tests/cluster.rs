//! Whole clusters of cores: what a user sees.

mod common;

use std::time::Duration;

use common::{Cluster, id};
use coracle_core::{Index, Outcome, RejectReason, Role};

#[test]
fn three_nodes_elect_one_leader_and_commit_its_noop() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    assert_eq!(cluster.raft(leader).commit_index(), Index(2));
    assert_eq!(cluster.nodes.values().filter(|node| node.raft.role() == Role::Leader).count(), 1);
}

#[test]
fn a_sole_voter_leads_at_once_and_commits_alone() {
    let mut cluster = Cluster::new(1);
    cluster.handle(id(1), coracle_core::Input::Time);
    assert!(cluster.raft(id(1)).is_leader());
    let proposal = cluster.propose(id(1), "a");
    assert_eq!(cluster.node(id(1)).outcomes[&proposal], Outcome::Committed { first_index: Index(3) });
    let read = cluster.read(id(1));
    assert_eq!(cluster.node(id(1)).ready[&read], Index(3));
}

#[test]
fn proposals_are_applied_on_every_node_in_order() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let proposals: Vec<u64> = (0..100).map(|i| cluster.propose(leader, &format!("c{i}"))).collect();
    cluster.deliver();
    for (i, proposal) in proposals.iter().enumerate() {
        let first_index = Index(3 + i as u64);
        assert_eq!(cluster.node(leader).outcomes[proposal], Outcome::Committed { first_index });
    }
    cluster.run(Duration::from_millis(200));
    let expected = cluster.nodes[&leader].applied.clone();
    assert_eq!(expected.len(), 102);
    for node in cluster.nodes.values() {
        assert_eq!(node.applied, expected);
    }
}

#[test]
fn a_follower_rejects_proposals_and_names_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.nodes.keys().copied().find(|n| *n != leader).unwrap();
    let proposal = cluster.propose(follower, "a");
    let expected = Outcome::Rejected(RejectReason::NotLeader { leader: Some(leader) });
    assert_eq!(cluster.node(follower).outcomes[&proposal], expected);
}

#[test]
fn reads_are_served_on_leader_and_followers_without_entries() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    cluster.deliver();
    for n in [id(1), id(2), id(3)] {
        let last = cluster.raft(leader).status().last_index;
        let read = cluster.read(n);
        cluster.deliver();
        assert_eq!(cluster.node(n).ready[&read], Index(3));
        assert_eq!(cluster.raft(leader).status().last_index, last);
    }
}

#[test]
fn a_new_leader_takes_over_when_the_old_one_is_gone() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.propose(old, "a");
    cluster.deliver();
    cluster.down.push(old);
    let new = cluster.elect();
    assert_ne!(old, new);
    cluster.propose(new, "b");
    cluster.deliver();
    cluster.restart(old);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.raft(old).leader(), Some(new));
    assert_eq!(cluster.raft(old).commit_index(), cluster.raft(new).commit_index());
}

#[test]
fn a_leader_without_a_majority_steps_down_and_its_proposals_are_unknown() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.isolate(leader);
    let proposal = cluster.propose(leader, "a");
    cluster.run(Duration::from_secs(3));
    assert!(!cluster.raft(leader).is_leader());
    assert_eq!(cluster.node(leader).outcomes[&proposal], Outcome::Unknown);
}
