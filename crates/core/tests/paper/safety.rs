//! Raft §5.4: what is committed stays.

use std::time::Duration;

use coracle_core::{AppendResult, Body, Index, Membership, Outcome, Term};

use crate::common::{Cluster, Disk, id};

/// §5.4.2, Figure 8 (h1): an entry of an earlier term is not committed by counting its copies.
#[test]
fn h01_figure_8_an_old_entry_is_committed_only_with_one_of_the_current_term() {
    let membership = Membership::of_voters((1..=5).map(id));
    let disks = (1..=5).map(|n| {
        let terms: &[u64] = if n <= 3 { &[2] } else { &[] };
        (id(n), Disk::with_terms(&membership, terms))
    });
    let mut cluster = Cluster::with_disks(disks);
    for n in 1..=5 {
        cluster.node(id(n)).disk.hard_state.term = Term(3);
        let disk = cluster.nodes[&id(n)].disk.clone();
        cluster.start(id(n), disk);
    }
    cluster.down = vec![id(4), id(5)];
    cluster.time_out(id(1));
    // Elected by 2 and 3, who hold the entry of term 2 as well; its own no-op reaches nobody.
    while let Some(message) = cluster.network.pop_front() {
        let is_append = matches!(message.body, Body::AppendEntries { .. });
        if !is_append && !cluster.is_cut(message.from, message.to) {
            cluster.handle(message.to, coracle_core::Input::Message(message));
        }
    }
    assert!(cluster.raft(id(1)).is_leader());
    for peer in [2, 3] {
        let result = AppendResult::Matched { index: Index(2) };
        let body = Body::AppendEntriesResponse { result, needs_snapshot: false };
        let input = cluster.message(id(peer), id(1), 4, body);
        cluster.handle(id(1), input);
    }
    assert_eq!(cluster.raft(id(1)).commit_index(), Index(1), "on three of five, and not committed");
    cluster.run(Duration::from_secs(1));
    let leader = cluster.leader().unwrap();
    assert_eq!(cluster.raft(leader).commit_index(), cluster.raft(leader).status().last_index);
}

/// §8: a new leader commits a no-op, and with it everything before.
#[test]
fn a_new_leader_commits_what_it_inherited() {
    let membership = Membership::of_voters((1..=3).map(id));
    let disks = (1..=3).map(|n| (id(n), Disk::with_terms(&membership, &[2, 2])));
    let mut cluster = Cluster::with_disks(disks);
    let leader = cluster.elect();
    assert_eq!(cluster.raft(leader).commit_index(), Index(4));
}

/// §5.4.1: a node that lacks a committed entry is not elected.
#[test]
fn a_node_without_a_committed_entry_is_not_elected() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let behind = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.down.push(behind);
    let proposal = cluster.propose(leader, "a");
    cluster.deliver();
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
    cluster.down = vec![leader];
    let new = cluster.elect();
    assert_ne!(new, behind);
}

/// h26: what a new leader appends bears its own term, whatever is on its way from earlier.
#[test]
fn h26_entries_bear_the_term_of_the_leadership_that_appends_them() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let old_term = cluster.raft(old).term();
    cluster.isolate(old);
    cluster.propose(old, "lost");
    let new = cluster.elect_among_connected(old);
    cluster.propose(new, "kept");
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    let applied = &cluster.nodes[&old].applied;
    assert!(applied.iter().all(|(_, term, data)| data.as_ref() != b"kept" || *term > old_term));
    assert!(applied.iter().any(|(_, _, data)| data.as_ref() == b"kept"));
    assert!(applied.iter().all(|(_, _, data)| data.as_ref() != b"lost"));
}

/// h28, C21: proposals of a deposed leader end as unknown, once.
#[test]
fn h28_proposals_of_a_deposed_leader_are_unknown() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.isolate(old);
    let proposal = cluster.propose(old, "a");
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.node(old).outcomes[&proposal], Outcome::Unknown);
}

/// h27: a second leader in one term is noticed and ignored.
#[test]
fn h27_a_second_leader_in_one_term_is_a_fault() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [a, b] = (1..=3).map(id).filter(|n| *n != leader).collect::<Vec<_>>()[..] else { panic!("three nodes") };
    let term = cluster.raft(leader).term().0;
    let input = cluster.message(b, a, term, Body::Heartbeat { round: 1, leader_commit: Index(0) });
    cluster.handle(a, input);
    assert_eq!(cluster.raft(a).leader(), Some(leader));
    let is_fault = |event: &coracle_core::Event| matches!(event, coracle_core::Event::PeerFault { .. });
    assert!(cluster.node(a).events.iter().any(is_fault));
}
