//! Raft §5.1, §5.2, §5.4.1; thesis §6.2, §9.6.

use std::time::Duration;

use coracle_core::{AppendResult, Body, Index, Input, Membership, NodeId, Role, Term};

use crate::common::{Cluster, Disk, id};

/// A cluster whose node 1 has just asked for pre-votes.
fn campaigning(count: u64) -> Cluster {
    let mut cluster = Cluster::new(count);
    cluster.time_out(id(1));
    cluster
}

fn grant(cluster: &mut Cluster, from: u64, term: u64) {
    let input = cluster.message(id(from), id(1), term, Body::RequestVoteResponse { granted: true });
    cluster.handle(id(1), input);
}

fn pre_grant(cluster: &mut Cluster, from: u64, term: u64) {
    let body = Body::PreVoteResponse { next_term: Term(term + 1), granted: true };
    let input = cluster.message(id(from), id(1), term, body);
    cluster.handle(id(1), input);
}

fn heartbeat(cluster: &mut Cluster, from: u64, to: u64, term: u64) {
    let input = cluster.message(id(from), id(to), term, Body::Heartbeat { round: 1, leader_commit: Index(0) });
    cluster.handle(id(to), input);
}

/// §5.1: servers start as followers.
#[test]
fn a_node_starts_as_follower() {
    let cluster = Cluster::new(3);
    assert!(cluster.nodes.values().all(|node| node.raft.role() == Role::Follower));
}

/// §5.1: a server with a smaller term updates its term to the larger value.
#[test]
fn a_larger_term_is_adopted() {
    let mut cluster = Cluster::new(3);
    heartbeat(&mut cluster, 2, 1, 7);
    assert_eq!(cluster.raft(id(1)).term(), Term(7));
    assert_eq!(cluster.raft(id(1)).leader(), Some(id(2)));
}

/// §5.1: a candidate or leader that discovers that its term is out of date reverts to follower.
#[test]
fn a_leader_that_sees_a_larger_term_follows() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let other = if leader == id(1) { id(2) } else { id(1) };
    let result = AppendResult::Matched { index: Index(1) };
    let input = cluster.message(other, leader, 9, Body::AppendEntriesResponse { result, needs_snapshot: false });
    cluster.handle(leader, input);
    assert_eq!(cluster.raft(leader).role(), Role::Follower);
    assert_eq!(cluster.raft(leader).term(), Term(9));
}

/// §5.1: a request with a stale term is refused, and its sender learns the term.
#[test]
fn a_stale_leader_is_told_the_term() {
    let mut cluster = Cluster::new(3);
    heartbeat(&mut cluster, 2, 1, 7);
    cluster.network.clear();
    heartbeat(&mut cluster, 3, 1, 6);
    assert_eq!(cluster.raft(id(1)).leader(), Some(id(2)));
    let answer = cluster.network.pop_front().unwrap();
    assert_eq!((answer.to, answer.term), (id(3), Term(7)));
}

/// §5.2: a follower that hears nothing for an election timeout campaigns.
#[test]
fn silence_starts_an_election() {
    let mut cluster = Cluster::new(3);
    cluster.down = vec![id(2), id(3)];
    cluster.run(Duration::from_millis(490));
    assert_eq!(cluster.raft(id(1)).role(), Role::Follower);
    cluster.run(Duration::from_millis(520));
    assert_eq!(cluster.raft(id(1)).role(), Role::PreCandidate);
}

/// §5.2: the election timeout is drawn anew from an interval, so that nodes differ and split votes are rare.
#[test]
fn timeouts_are_random_and_within_their_range() {
    let mut seen = std::collections::BTreeSet::new();
    for count in 0..50 {
        let mut cluster = Cluster::with_disks([]);
        let membership = Membership::of_voters([id(1), id(2), id(3)]);
        cluster.start_with(coracle_core::Config::new(id(1), count), Disk::founded(&membership));
        let start = cluster.now;
        while cluster.raft(id(1)).role() == Role::Follower {
            cluster.now = cluster.now.plus(Duration::from_millis(1));
            cluster.handle(id(1), Input::Time);
        }
        let waited = cluster.now.since(start);
        assert!(waited >= Duration::from_millis(500) && waited <= Duration::from_millis(1001), "{waited:?}");
        seen.insert(waited.as_millis());
    }
    assert!(seen.len() > 20, "only {} different timeouts", seen.len());
}

/// Thesis §9.6: a pre-vote raises nobody's term and persists nothing.
#[test]
fn a_pre_vote_changes_no_term_and_writes_nothing() {
    let mut cluster = campaigning(3);
    assert_eq!(cluster.raft(id(1)).term(), Term(1));
    cluster.deliver_pre_votes_only();
    assert_eq!(cluster.raft(id(2)).term(), Term(1));
    assert_eq!(cluster.node(id(2)).disk.hard_state.voted_for, None);
}

/// §5.2: a candidate wins with votes from a majority, and not with less.
#[test]
fn a_majority_of_votes_wins() {
    let mut cluster = campaigning(5);
    pre_grant(&mut cluster, 2, 1);
    assert_eq!(cluster.raft(id(1)).role(), Role::PreCandidate);
    pre_grant(&mut cluster, 3, 1);
    assert_eq!(cluster.raft(id(1)).role(), Role::Candidate);
    grant(&mut cluster, 2, 2);
    assert_eq!(cluster.raft(id(1)).role(), Role::Candidate);
    grant(&mut cluster, 3, 2);
    assert_eq!(cluster.raft(id(1)).role(), Role::Leader);
}

/// h25: a vote that arrives twice, or from somebody who has none, counts once or not at all.
#[test]
fn h25_duplicate_and_foreign_votes_do_not_count() {
    let mut cluster = campaigning(5);
    pre_grant(&mut cluster, 2, 1);
    pre_grant(&mut cluster, 2, 1);
    pre_grant(&mut cluster, 77, 1);
    assert_eq!(cluster.raft(id(1)).role(), Role::PreCandidate);
    pre_grant(&mut cluster, 3, 1);
    grant(&mut cluster, 2, 2);
    grant(&mut cluster, 2, 2);
    grant(&mut cluster, 77, 2);
    assert_eq!(cluster.raft(id(1)).role(), Role::Candidate);
}

/// §5.2: each server votes for at most one candidate in a term, also after a restart.
#[test]
fn one_vote_per_term_also_after_a_restart() {
    let mut cluster = Cluster::new(3);
    let ask = |cluster: &Cluster, from: u64| {
        let body = Body::RequestVote { last_log_index: Index(1), last_log_term: Term(1), is_transfer: false };
        cluster.message(id(from), id(1), 5, body)
    };
    let input = ask(&cluster, 2);
    cluster.handle(id(1), input);
    cluster.restart(id(1));
    cluster.network.clear();
    let input = ask(&cluster, 3);
    cluster.handle(id(1), input);
    assert_eq!(cluster.between(id(1), id(3)), [&Body::RequestVoteResponse { granted: false }]);
    let input = ask(&cluster, 2);
    cluster.handle(id(1), input);
    assert_eq!(cluster.between(id(1), id(2)), [&Body::RequestVoteResponse { granted: true }]);
}

/// §5.2: a candidate that hears from a leader of its term follows it.
#[test]
fn a_candidate_follows_the_leader_of_its_term() {
    let mut cluster = campaigning(3);
    pre_grant(&mut cluster, 2, 1);
    assert_eq!(cluster.raft(id(1)).role(), Role::Candidate);
    heartbeat(&mut cluster, 3, 1, 2);
    assert_eq!((cluster.raft(id(1)).role(), cluster.raft(id(1)).leader()), (Role::Follower, Some(id(3))));
}

/// §5.4.1: a vote is refused to a candidate whose log is less up-to-date: by last term first, then by length.
#[test]
fn votes_go_only_to_logs_that_are_as_up_to_date() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    for (last_log_term, last_log_index, expected) in
        [(3, 3, true), (3, 4, true), (4, 2, true), (3, 2, false), (2, 9, false), (1, 100, false)]
    {
        let mut cluster = Cluster::with_disks([(id(1), Disk::with_terms(&membership, &[2, 3]))]);
        let body = Body::RequestVote {
            last_log_index: Index(last_log_index),
            last_log_term: Term(last_log_term),
            is_transfer: false,
        };
        let input = cluster.message(id(2), id(1), 5, body);
        cluster.handle(id(1), input);
        let answer = &cluster.network.pop_front().unwrap().body;
        assert_eq!(answer, &Body::RequestVoteResponse { granted: expected }, "{last_log_term} {last_log_index}");
    }
}

/// Thesis §4.2.3: who hears a leader neither votes nor adopts the term of one who asks.
#[test]
fn c15_a_node_that_hears_a_leader_ignores_campaigns_except_its_own() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.raft(leader).term();
    let [follower, other] = [1, 2, 3].map(id).into_iter().filter(|n| *n != leader).collect::<Vec<_>>()[..] else {
        panic!("three nodes")
    };
    let body = Body::RequestVote { last_log_index: Index(99), last_log_term: term, is_transfer: false };
    for to in [leader, follower] {
        let input = cluster.message(other, to, term.0 + 5, body.clone());
        cluster.handle(to, input);
        assert_eq!(cluster.raft(to).term(), term);
    }
    // C15: the leader itself is never refused for that reason.
    let input = cluster.message(leader, follower, term.0 + 5, body);
    cluster.handle(follower, input);
    assert_eq!(cluster.raft(follower).term(), Term(term.0 + 5));
}

/// Thesis §6.2: a leader that does not hear from a majority steps down (h13: also when it can send and not receive).
#[test]
fn h13_a_leader_that_hears_no_majority_steps_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for other in [1, 2, 3].map(id).into_iter().filter(|n| *n != leader) {
        cluster.cut.push((other, leader));
    }
    cluster.run(Duration::from_millis(2100));
    let new = cluster.leader();
    assert!(!cluster.raft(leader).is_leader());
    assert!(new.is_some() && new != Some(leader), "the others elect one of them: {new:?}");
}

/// h8, h12: a node that was cut off comes back and disturbs nobody.
#[test]
fn h08_a_node_that_returns_does_not_depose_the_leader() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let term = cluster.raft(leader).term();
    let lonely = if leader == id(1) { id(2) } else { id(1) };
    cluster.isolate(lonely);
    cluster.run(Duration::from_secs(10));
    assert_eq!(cluster.raft(lonely).term(), term, "a pre-candidate raises no term");
    cluster.heal();
    cluster.run(Duration::from_secs(3));
    assert_eq!((cluster.leader(), cluster.raft(leader).term()), (Some(leader), term));
    assert_eq!(cluster.raft(lonely).leader(), Some(leader));
}

/// h12: a node that is in a later term than everybody else, with an older log, does not block elections.
#[test]
fn h12_a_stuck_candidate_with_a_later_term_is_freed() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut ahead = Disk::founded(&membership);
    ahead.hard_state.term = Term(9);
    let long = Disk::with_terms(&membership, &[2, 2]);
    let mut cluster = Cluster::with_disks([(id(1), ahead), (id(2), long.clone()), (id(3), long)]);
    cluster.down.push(id(1));
    cluster.elect();
    cluster.down.clear();
    let leader = cluster.elect();
    assert_ne!(leader, id(1));
    assert!(cluster.raft(leader).term() > Term(9));
}

/// Whether some node can talk both ways with a majority: only such a node can be elected, and stay.
fn can_be_led(cluster: &Cluster) -> bool {
    let nodes: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    let both_ways = |a: NodeId, b: NodeId| a == b || !cluster.is_cut(a, b) && !cluster.is_cut(b, a);
    let reached = |a: NodeId| nodes.iter().filter(|b| both_ways(a, **b)).count();
    nodes.iter().any(|a| 2 * reached(*a) > nodes.len())
}

/// Runs until there is a leader and everybody has its log: whoever lacks a committed entry could not lead.
fn settle(cluster: &mut Cluster) {
    for _ in 0..100 {
        let leader = cluster.elect();
        let last_index = cluster.raft(leader).status().last_index;
        if cluster.nodes.values().all(|node| node.raft.status().last_index == last_index) {
            return;
        }
    }
    panic!("logs stay apart");
}

/// Cuts some links of a group that is settled: exactly if somebody reaches a majority both ways, somebody leads soon, for good, and commits. Then everything is healed. Says whether somebody led.
fn converges(cluster: &mut Cluster, cut: Vec<(NodeId, NodeId)>) -> bool {
    cluster.cut = cut;
    let is_led = can_be_led(cluster);
    if is_led {
        let leader = stable_leader(cluster);
        let proposal = cluster.propose(leader, "x");
        cluster.run(Duration::from_secs(1));
        let outcome = cluster.node(leader).outcomes.get(&proposal).copied();
        let is_committed = matches!(outcome, Some(coracle_core::Outcome::Committed { .. }));
        assert!(is_committed, "{outcome:?} with {:?} cut", cluster.cut);
    } else {
        cluster.run(Duration::from_millis(2500));
        assert_eq!(cluster.leader(), None, "with {:?} cut", cluster.cut);
    }
    cluster.heal();
    settle(cluster);
    is_led
}

/// Who leads after a while, and two seconds later still.
fn stable_leader(cluster: &mut Cluster) -> NodeId {
    for _ in 0..10 {
        cluster.run(Duration::from_secs(1));
        if let Some(leader) = cluster.leader() {
            let term = cluster.raft(leader).term();
            cluster.run(Duration::from_secs(2));
            if cluster.raft(leader).is_leader() && cluster.raft(leader).term() == term {
                return leader;
            }
        }
    }
    panic!("nobody leads for good with {:?} cut", cluster.cut);
}

fn links(count: u64) -> Vec<(NodeId, NodeId)> {
    let pairs = (1..=count).flat_map(|a| (1..=count).map(move |b| (id(a), id(b))));
    pairs.filter(|(a, b)| a != b).collect()
}

/// The links whose bit is set.
fn chosen(links: &[(NodeId, NodeId)], pattern: u64) -> Vec<(NodeId, NodeId)> {
    links.iter().enumerate().filter(|(bit, _)| pattern >> bit & 1 == 1).map(|(_, link)| *link).collect()
}

/// h13 (Cloudflare, 2020): a cut between two of three nodes leaves a leader that the third reaches. All 64 cuts.
#[test]
fn h13_every_cut_of_directed_links_between_three_nodes_converges() {
    let links = links(3);
    let mut led = 0;
    for pattern in 0..1 << links.len() {
        let mut cluster = Cluster::new(3);
        settle(&mut cluster);
        led += usize::from(converges(&mut cluster, chosen(&links, pattern)));
    }
    assert_eq!(led, 64 - 27, "a pair is whole in all but 3 * 3 * 3 patterns");
}

/// h13: of the 2^20 cuts between five nodes, 2,000 that a fixed seed draws, with few and with many links cut.
#[test]
fn h13_two_thousand_cuts_of_directed_links_between_five_nodes_converge() {
    let links = links(5);
    let mut rng = coracle_core::Rng::new(13);
    let mut led = 0;
    let mut cluster = Cluster::new(5);
    settle(&mut cluster);
    for count in 0..2000 {
        let (a, b) = (rng.next_u64(), rng.next_u64());
        // A half, a quarter, or three quarters of the links.
        let pattern = [a, a & b, a | b][count % 3];
        let cut = chosen(&links, pattern & ((1 << links.len()) - 1));
        led += usize::from(converges(&mut cluster, cut));
    }
    assert!((500..1500).contains(&led), "{led} of 2,000 can be led: both kinds are wanted");
}

/// A leader that restarts within its term and lacks what it had sent cannot be elected; its old messages do not hold the others back.
#[test]
fn late_messages_of_a_leader_that_resigned_start_no_new_wait() {
    let mut cluster = Cluster::new(3);
    heartbeat(&mut cluster, 2, 1, 7);
    let body = Body::PreVote { next_term: Term(8), last_log_index: Index(0), last_log_term: Term(0) };
    let input = cluster.message(id(2), id(1), 7, body);
    cluster.handle(id(1), input);
    assert_eq!(cluster.raft(id(1)).leader(), None);
    for _ in 0..20 {
        heartbeat(&mut cluster, 2, 1, 7);
        cluster.run(Duration::from_millis(100));
    }
    assert!(cluster.raft(id(1)).term() > Term(7), "it campaigned");
}

/// §5.2: a candidate that neither wins nor loses tries again in a later term.
#[test]
fn a_split_vote_is_followed_by_another_election() {
    let mut cluster = Cluster::new(4);
    cluster.time_out(id(1));
    let now = cluster.now;
    cluster.node(id(2)).raft.handle(now, Input::Time);
    cluster.pump(id(2));
    for n in [1, 2] {
        for voter in (1..=4).filter(|voter| *voter != n) {
            let body = Body::PreVoteResponse { next_term: Term(2), granted: true };
            let input = cluster.message(id(voter), id(n), 1, body);
            cluster.handle(id(n), input);
        }
    }
    assert_eq!(cluster.raft(id(1)).role(), Role::Candidate);
    assert_eq!(cluster.raft(id(2)).role(), Role::Candidate);
    let leader = cluster.elect();
    assert!(cluster.raft(leader).term() >= Term(2));
}

/// C24: equal seeds do not make two nodes campaign at the same time for ever: the id is mixed in.
#[test]
fn c24_equal_seeds_give_different_timeouts_to_different_nodes() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut cluster = Cluster::with_disks([]);
    let mut wakes = std::collections::BTreeSet::new();
    for n in 1..=3 {
        cluster.start_with(coracle_core::Config::new(id(n), 7), Disk::founded(&membership));
        let coracle_core::Output::Wake { at } = cluster.node(id(n)).raft.poll() else { panic!("at rest") };
        wakes.insert(at);
    }
    assert_eq!(wakes.len(), 3);
}
