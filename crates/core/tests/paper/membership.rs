//! Raft §6, thesis §4, and C16.

use std::time::Duration;

use coracle_core::{
    Body, Entry, EntryKind, Event, Index, Input, MemberRole, Membership, NodeId, NodeRecord, Outcome, RejectReason,
    Role, Run, Term,
};

use crate::common::{Cluster, Disk, id};

/// Nodes 1 to `members` in a group, and the next ones up to `all` waiting to be joined.
pub(super) fn group(members: u64, all: u64) -> Cluster {
    let membership = Membership::of_voters((1..=members).map(id));
    let disk = |n| if n <= members { Disk::founded(&membership) } else { Disk::outsider() };
    Cluster::with_disks((1..=all).map(|n| (id(n), disk(n))))
}

pub(super) fn records(voters: &[u64], learners: &[u64]) -> Vec<NodeRecord> {
    let mut nodes = Membership::of_voters(voters.iter().chain(learners).map(|n| id(*n))).nodes;
    for node in nodes.iter_mut().filter(|node| learners.contains(&node.id.0)) {
        node.role = MemberRole::Learner;
    }
    nodes
}

pub(super) fn voters(cluster: &Cluster, n: NodeId) -> Vec<u64> {
    cluster.raft(n).status().membership.voters().map(|id| id.0).collect()
}

/// Elects a leader among those that are members.
pub(super) fn elect(cluster: &mut Cluster) -> NodeId {
    for _ in 0..500 {
        cluster.run(Duration::from_millis(20));
        if let Some(leader) = cluster.leader()
            && cluster.raft(leader).status().commit_index == cluster.raft(leader).status().last_index
        {
            return leader;
        }
    }
    panic!("nobody is elected");
}

/// A group grows from one to three: the new voters are learners first, and everything before is theirs too.
#[test]
fn c16_a_group_grows_and_new_voters_catch_up_first() {
    let mut cluster = group(1, 3);
    let leader = elect(&mut cluster);
    cluster.propose(leader, "before");
    cluster.down = vec![id(3)];
    cluster.change_membership(leader, records(&[1, 2, 3], &[]));
    cluster.run(Duration::from_secs(1));
    assert_eq!(voters(&cluster, leader), [1], "one of them is not there: nothing changes who decides");
    let proposal = cluster.propose(leader, "meanwhile");
    cluster.deliver();
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
    cluster.down.clear();
    cluster.run(Duration::from_secs(2));
    for n in 1..=3 {
        assert_eq!(voters(&cluster, id(n)), [1, 2, 3]);
        assert!(!cluster.raft(id(n)).status().membership.is_joint());
        assert!(cluster.nodes[&id(n)].applied.iter().any(|(_, _, data)| data.as_ref() == b"before"));
    }
}

/// Several voters are replaced in one change, through one joint configuration.
#[test]
fn c16_several_voters_are_replaced_at_once() {
    let mut cluster = group(3, 5);
    let leader = elect(&mut cluster);
    let stays = leader.0;
    cluster.change_membership(leader, records(&[stays, 4, 5], &[]));
    cluster.run(Duration::from_secs(2));
    let expected: Vec<u64> = [vec![stays], vec![4, 5]].concat();
    for n in &expected {
        assert_eq!(voters(&cluster, id(*n)), expected);
    }
    let of_events = |event: &&Event| matches!(event, Event::Membership { .. });
    assert_eq!(cluster.node(leader).events.iter().filter(of_events).count(), 3, "intent, joint, left");
}

/// C16, h7: a leader that is removed goes on until the change is committed, does not count itself, and hands over.
#[test]
fn h07_a_leader_that_is_removed_hands_over() {
    let mut cluster = group(3, 3);
    let leader = elect(&mut cluster);
    let others: Vec<u64> = (1..=3).filter(|n| id(*n) != leader).collect();
    cluster.change_membership(leader, records(&others, &[]));
    cluster.run(Duration::from_millis(300));
    assert_eq!(cluster.raft(leader).role(), Role::Follower);
    let next = elect(&mut cluster);
    assert!(others.contains(&next.0));
    assert_eq!(voters(&cluster, next), others);
    let proposal = cluster.propose(next, "on");
    cluster.down.push(leader);
    cluster.run(Duration::from_millis(300));
    assert!(matches!(cluster.node(next).outcomes[&proposal], Outcome::Committed { .. }));
}

/// h8: a node that was removed while it was cut off keeps running and disturbs nobody.
#[test]
fn h08_a_removed_node_disturbs_nobody() {
    let mut cluster = group(3, 3);
    let leader = elect(&mut cluster);
    let removed = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.isolate(removed);
    let others: Vec<u64> = (1..=3).filter(|n| id(*n) != removed).collect();
    cluster.change_membership(leader, records(&others, &[]));
    cluster.run(Duration::from_secs(5));
    let term = cluster.raft(leader).term();
    cluster.heal();
    cluster.run(Duration::from_secs(5));
    assert_eq!((cluster.leader(), cluster.raft(leader).term()), (Some(leader), term));
}

/// C16: a removed node that is there learns that it is removed, and does not campaign again.
#[test]
fn c16_a_removed_node_learns_of_it() {
    let mut cluster = group(3, 3);
    let leader = elect(&mut cluster);
    let removed = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let others: Vec<u64> = (1..=3).filter(|n| id(*n) != removed).collect();
    cluster.change_membership(leader, records(&others, &[]));
    cluster.run(Duration::from_secs(3));
    assert_eq!(voters(&cluster, removed), others);
    assert_eq!(cluster.raft(removed).commit_index(), cluster.raft(removed).status().membership_index);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.raft(removed).role(), Role::Follower);
    assert!(cluster.raft(leader).status().peers.iter().all(|peer| peer.id != removed), "it is served no more");
}

/// C16, h2: at most one uncommitted change, and none before an entry of the leader's own term is committed.
#[test]
fn h02_one_change_at_a_time_and_none_before_an_own_commit() {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    cluster.change_membership(leader, records(&[1, 2, 3], &[4]));
    let second = cluster.change_membership(leader, records(&[1, 2], &[]));
    let refused = Outcome::Rejected(RejectReason::ChangeInProgress);
    assert_eq!(cluster.node(leader).outcomes[&second], refused);
    cluster.run(Duration::from_secs(1));
    // A fresh leader that has committed nothing of its own.
    let target = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    while let Some(message) = cluster.network.pop_front() {
        let is_own_noop = message.from == target && matches!(message.body, Body::AppendEntries { .. });
        if !is_own_noop {
            cluster.handle(message.to, Input::Message(message));
        }
    }
    assert!(cluster.raft(target).is_leader());
    let early = cluster.change_membership(target, records(&[1, 2], &[]));
    assert_eq!(cluster.node(target).outcomes[&early], refused);
}

/// h3: two nodes that were removed while they lagged cannot elect one of themselves by the old majority.
#[test]
fn h03_lagging_removed_nodes_elect_nobody() {
    let mut cluster = group(5, 5);
    let leader = elect(&mut cluster);
    let [a, b] = (1..=5).map(id).filter(|n| *n != leader).collect::<Vec<_>>()[..2] else { panic!("five") };
    for lagging in [a, b] {
        cluster.isolate(lagging);
        let stay: Vec<u64> = voters(&cluster, leader).into_iter().filter(|n| id(*n) != lagging).collect();
        cluster.change_membership(leader, records(&stay, &[]));
        cluster.run(Duration::from_secs(1));
    }
    // The two reach each other and one of the others, not the leader: three of the old five.
    cluster.heal();
    let third = (1..=5).map(id).find(|n| ![leader, a, b].contains(n)).unwrap();
    for n in (1..=5).map(id).filter(|n| ![a, b, third].contains(n)) {
        for m in [a, b, third] {
            cluster.cut.extend([(n, m), (m, n)]);
        }
    }
    cluster.run(Duration::from_secs(6));
    for n in [a, b] {
        assert!(!cluster.raft(n).is_leader());
    }
}

/// C16, h4: an uncommitted change is rolled back with the entry that holds it.
#[test]
fn h04_a_truncated_change_is_rolled_back() {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    cluster.isolate(leader);
    cluster.change_membership(leader, records(&[1, 2, 3], &[4]));
    assert!(cluster.raft(leader).status().membership.node(id(4)).is_some(), "in force when appended");
    let next = cluster.elect_among_connected(leader);
    cluster.propose(next, "other");
    cluster.heal();
    cluster.run(Duration::from_secs(2));
    assert!(cluster.raft(leader).status().membership.node(id(4)).is_none());
    assert_eq!(cluster.raft(leader).status().membership_index, Index(1));
}

/// h9, h64: the end of the joint configuration is derived from the log: a new leader goes on with it.
#[test]
fn h09_a_new_leader_ends_the_joint_configuration() {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    let target = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let gone = (1..=3).map(id).find(|n| *n != leader && *n != target).unwrap();
    cluster.change_membership(leader, records(&[leader.0, target.0, 4], &[]));
    for _ in 0..200 {
        cluster.run(Duration::from_millis(10));
        if cluster.nodes.values().any(|node| node.raft.status().membership.is_joint()) {
            break;
        }
        // Step by step, so that the joint configuration is met.
        let is_joint = cluster.raft(leader).status().membership.is_joint();
        assert!(!is_joint || !cluster.network.is_empty());
    }
    cluster.down.push(leader);
    cluster.run(Duration::from_secs(4));
    cluster.down.clear();
    cluster.run(Duration::from_secs(4));
    let end = cluster.leader().unwrap();
    assert_eq!(voters(&cluster, end).len(), 3);
    assert!(!voters(&cluster, end).contains(&gone.0));
    assert!(!cluster.raft(end).status().membership.is_joint());
}

/// h6: a learner that is asked to vote votes: it may have become a voter without knowing.
#[test]
fn h06_a_learner_votes_when_asked() {
    let mut cluster = group(3, 4);
    let leader = elect(&mut cluster);
    cluster.change_membership(leader, records(&[1, 2, 3], &[4]));
    cluster.run(Duration::from_secs(1));
    let status = cluster.raft(id(4)).status();
    assert_eq!(status.commit_index, cluster.raft(leader).commit_index(), "a learner gets the log");
    cluster.now = cluster.now.plus(Duration::from_secs(2));
    let ask = Body::RequestVote {
        last_log_index: status.last_index,
        last_log_term: cluster.raft(id(4)).term_at(status.last_index).unwrap(),
        is_transfer: false,
    };
    let asker = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let input = cluster.message(asker, id(4), status.term.0 + 1, ask);
    cluster.network.clear();
    cluster.handle(id(4), input);
    assert_eq!(cluster.between(id(4), asker), [&Body::RequestVoteResponse { granted: true }]);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.raft(id(4)).role(), Role::Follower, "it never campaigns");
}

/// Memberships that cannot be are refused with the reason, and a change that waits for learners can be called off.
#[test]
fn c16_what_cannot_be_is_refused_and_what_waits_can_be_called_off() {
    let mut cluster = group(3, 3);
    let leader = elect(&mut cluster);
    let mut other_life = records(&[1, 2, 3], &[]);
    other_life[0].incarnation.0 += 1;
    let twice = [records(&[1, 2, 3], &[]), records(&[1], &[])].concat();
    for (nodes, part) in [(records(&[], &[1, 2]), "vote"), (other_life, "incarnation"), (twice, "twice")] {
        let id = cluster.change_membership(leader, nodes);
        let Outcome::Rejected(RejectReason::Membership { why }) = cluster.node(leader).outcomes[&id] else {
            panic!("refused")
        };
        assert!(why.contains(part), "{why}");
    }
    cluster.change_membership(leader, records(&[1, 2, 9], &[]));
    cluster.run(Duration::from_secs(1));
    assert_eq!(voters(&cluster, leader), [1, 2, 3], "node 9 is not there");
    cluster.change_membership(leader, records(&[1, 2, 3], &[]));
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.raft(leader).status().membership.nodes, records(&[1, 2, 3], &[]));
}

/// I11: a membership that takes the place of another at the same index is in force at once.
#[test]
fn h04_a_change_replaced_at_the_same_index_is_noticed() {
    let mut cluster = group(3, 3);
    let plain = Membership::of_voters((1..=3).map(id));
    let mut joint = Membership::of_voters((1..=5).map(id));
    for node in &mut joint.nodes[..2] {
        node.role = MemberRole::Retiring;
    }
    joint.outgoing = (1..=3).map(id).collect();
    for (from, term, membership) in [(2, 2, &plain), (3, 3, &joint)] {
        let entry = Entry { kind: EntryKind::Membership, data: membership.encode() };
        let body = Body::AppendEntries {
            prev_log_index: Index(1),
            prev_log_term: Term(1),
            leader_commit: Index(1),
            entries: Run::new(Index(2), Term(term), [Entry::noop(), entry]).into(),
        };
        let input = cluster.message(id(from), id(1), term, body);
        cluster.handle(id(1), input);
    }
    assert!(cluster.raft(id(1)).status().membership.is_joint());
    cluster.time_out(id(1));
    let granted = Body::PreVoteResponse { next_term: Term(4), granted: true };
    let input = cluster.message(id(2), id(1), 3, granted);
    cluster.handle(id(1), input);
    assert_eq!(cluster.raft(id(1)).role(), Role::PreCandidate, "1 and 2 are no majority of 3, 4 and 5");
}

/// C1, h34: a node that comes back with another life and an empty disk is told everything from the start.
#[test]
fn h34_another_incarnation_of_a_removed_node_starts_with_nothing() {
    let mut cluster = group(3, 3);
    let leader = elect(&mut cluster);
    for _ in 0..5 {
        cluster.propose(leader, "x");
    }
    cluster.run(Duration::from_millis(300));
    let gone = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.down.push(gone);
    let stay: Vec<u64> = (1..=3).filter(|n| id(*n) != gone).collect();
    cluster.change_membership(leader, records(&stay, &[]));
    cluster.run(Duration::from_millis(200));
    cluster.start(gone, Disk::outsider());
    let mut again = records(&[1, 2, 3], &[]);
    again.iter_mut().find(|node| node.id == gone).unwrap().incarnation.0 = 7;
    cluster.change_membership(leader, again);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.node(gone).fatal, None);
    assert_eq!(voters(&cluster, leader), [1, 2, 3]);
}

/// C14, C16: a handover in the middle of a change finds its successor at once, wherever it begins.
#[test]
fn c14_a_handover_during_a_change_does_not_wait_for_an_election() {
    for steps in 0..60 {
        let mut cluster = group(3, 5);
        let leader = elect(&mut cluster);
        cluster.change_membership(leader, records(&[leader.0, 4, 5], &[]));
        for _ in 0..steps {
            let Some(message) = cluster.network.pop_front() else { break };
            cluster.handle(message.to, Input::Message(message));
        }
        cluster.handle(leader, Input::Transfer { to: None });
        cluster.run(Duration::from_millis(100));
        assert!(cluster.leader().is_some(), "nobody leads after {steps} messages");
    }
}

/// A membership is bounded: it goes past the other limits.
#[test]
fn c16_a_membership_that_is_too_large_is_refused() {
    let mut cluster = group(1, 1);
    let leader = elect(&mut cluster);
    let mut nodes = records(&[1], &[]);
    nodes[0].metadata = vec![0; 300_000].into();
    let change = cluster.change_membership(leader, nodes);
    let outcome = cluster.node(leader).outcomes[&change];
    assert!(matches!(outcome, Outcome::Rejected(RejectReason::Membership { .. })), "{outcome:?}");
}

/// Two changes that come one after the other add up, also while the first still waits for its learner.
#[test]
fn c16_changes_are_relative_to_what_is_under_way() {
    let mut cluster = group(1, 3);
    let leader = elect(&mut cluster);
    cluster.down = vec![id(2)];
    for n in [2, 3] {
        let set = records(&[n], &[]);
        let change = coracle_core::MembershipChange { set, remove: Vec::new() };
        cluster.handle(leader, Input::ChangeMembership { id: coracle_core::ProposalId(1000 + n), change });
        cluster.run(Duration::from_millis(100));
    }
    cluster.down.clear();
    cluster.run(Duration::from_secs(3));
    assert_eq!(voters(&cluster, leader), [1, 2, 3]);
}

/// C16, h7: who is removed is served until the membership without it is committed and a while longer, also by a new leader.
#[test]
fn c16_a_new_leader_serves_whom_its_predecessor_removed() {
    let mut cluster = group(4, 4);
    let leader = elect(&mut cluster);
    let removed = (1..=4).map(id).find(|n| *n != leader).unwrap();
    cluster.change_membership(leader, records(&(1..=4).filter(|n| id(*n) != removed).collect::<Vec<_>>(), &[]));
    // Its end is appended everywhere and committed nowhere but at the leader, which fails.
    while voters(&cluster, leader).contains(&removed.0) || cluster.raft(leader).status().membership.is_joint() {
        let Some(message) = cluster.network.pop_front() else { break };
        cluster.handle(message.to, Input::Message(message));
    }
    let appends: Vec<_> = cluster.network.drain(..).filter(|m| matches!(m.body, Body::AppendEntries { .. })).collect();
    for message in appends {
        cluster.handle(message.to, Input::Message(message));
    }
    cluster.network.clear();
    cluster.down.push(leader);
    cluster.run(Duration::from_secs(4));
    let next = cluster.leader().unwrap();
    assert_ne!(next, leader);
    let status = cluster.raft(removed).status();
    assert!(status.commit_index >= status.membership_index, "it knows that it is removed");
    assert!(status.membership.node(removed).is_none());
}
