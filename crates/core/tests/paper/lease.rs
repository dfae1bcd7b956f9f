//! Thesis §6.4.1 and C13: reads without a round, and what voters promise for them; C15: preferring that others lead.

use std::time::Duration;

use coracle_core::{
    Body, Config, ConfigError, Index, Input, Membership, NodeId, Outcome, ReadId, RejectReason, Role, Term,
};

use crate::common::{Cluster, Disk, config, id};

const LEASE: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_millis(100);

fn leasing(n: NodeId) -> Config {
    Config { lease_duration: LEASE, ..config(n, n.0) }
}

/// Nodes 1 to 3, each of which promises leaders half a second.
fn cluster() -> Cluster {
    let membership = Membership::of_voters((1..=3).map(id));
    let mut cluster = Cluster::with_disks([]);
    for n in (1..=3).map(id) {
        cluster.start_with(leasing(n), Disk::founded(&membership));
    }
    cluster
}

fn lease_read(cluster: &mut Cluster, n: NodeId, name: u64) -> Option<Index> {
    cluster.handle(n, Input::Read { first: ReadId(name), count: 1, is_lease: true });
    cluster.node(n).ready.get(&name).copied()
}

fn others(leader: NodeId) -> [NodeId; 2] {
    let others: Vec<NodeId> = (1..=3).map(id).filter(|n| *n != leader).collect();
    [others[0], others[1]]
}

/// Lets one heartbeat leave, answered after `delay`; returns with the answers delivered.
fn heartbeat(cluster: &mut Cluster, leader: NodeId, delay: Duration) {
    cluster.network.clear();
    cluster.now = cluster.now.plus(HEARTBEAT);
    cluster.handle(leader, Input::Time);
    assert!(!cluster.network.is_empty(), "a round was sent");
    cluster.now = cluster.now.plus(delay);
    cluster.deliver();
}

#[test]
fn c13_a_lease_answers_at_once_and_asks_nobody() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    cluster.run(HEARTBEAT * 3);
    cluster.network.clear();
    let commit_index = cluster.raft(leader).commit_index();
    assert_eq!(lease_read(&mut cluster, leader, 100), Some(commit_index));
    assert!(cluster.network.is_empty(), "nobody is asked");
    let follower = others(leader)[0];
    assert_eq!(lease_read(&mut cluster, follower, 100), None, "a follower asks");
    cluster.deliver();
    assert_eq!(cluster.node(follower).ready[&100], commit_index);
}

#[test]
fn c13_without_promises_there_is_no_lease() {
    let membership = Membership::of_voters((1..=3).map(id));
    let mut cluster = Cluster::with_disks([]);
    cluster.start_with(leasing(id(1)), Disk::founded(&membership));
    for n in [2, 3].map(id) {
        cluster.start_with(config(n, n.0), Disk::founded(&membership));
    }
    cluster.run(Duration::from_secs(1));
    cluster.time_out(id(1));
    cluster.run(Duration::from_secs(3));
    let Some(leader) = cluster.leader() else { panic!("somebody leads") };
    assert_eq!(lease_read(&mut cluster, leader, 100), None);
    cluster.run(HEARTBEAT);
    assert!(cluster.node(leader).ready.contains_key(&100), "a round answers it");
}

/// h16: a lease counts from when its round was sent, less what clocks may drift, not from when the answers came.
#[test]
fn h16_a_lease_counts_from_when_the_round_was_sent() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    cluster.run(LEASE);
    // The lease of earlier rounds ends: nothing arrives for so long, and no timer fires.
    cluster.now = cluster.now.plus(LEASE);
    heartbeat(&mut cluster, leader, Duration::from_millis(300));
    assert!(lease_read(&mut cluster, leader, 100).is_some());
    cluster.now = cluster.now.plus(Duration::from_millis(140));
    assert!(lease_read(&mut cluster, leader, 101).is_some(), "440 of 450 ms");
    cluster.now = cluster.now.plus(Duration::from_millis(20));
    assert_eq!(lease_read(&mut cluster, leader, 102), None, "460 of 450 ms");
}

/// h16: a leader that was paused finds its lease over, whatever the others did meanwhile; until then they elect nobody.
#[test]
fn h16_when_others_elect_a_leader_the_lease_is_over() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    cluster.run(HEARTBEAT * 3);
    cluster.isolate(leader);
    cluster.down.push(leader);
    let mut name = 100;
    loop {
        cluster.run(Duration::from_millis(10));
        let is_elected = others(leader).iter().any(|n| cluster.raft(*n).is_leader());
        name += 1;
        let answered = lease_read(&mut cluster, leader, name).is_some();
        cluster.network.clear();
        assert!(!(answered && is_elected), "two leaders answer");
        if is_elected {
            return;
        }
    }
}

/// h17 for leases: a new leader has none before it has committed an entry of its own term.
#[test]
fn c13_a_lease_needs_an_own_commit() {
    let mut cluster = cluster();
    cluster.run(LEASE);
    cluster.network.clear();
    cluster.time_out(id(1));
    while let Some(message) = cluster.network.pop_front() {
        if !matches!(message.body, Body::AppendEntries { .. }) {
            cluster.handle(message.to, Input::Message(message));
        }
    }
    assert!(cluster.raft(id(1)).is_leader());
    cluster.now = cluster.now.plus(HEARTBEAT);
    cluster.handle(id(1), Input::Time);
    while let Some(message) = cluster.network.pop_front() {
        if !matches!(message.body, Body::AppendEntries { .. }) {
            cluster.handle(message.to, Input::Message(message));
        }
    }
    assert_eq!(lease_read(&mut cluster, id(1), 100), None);
}

/// h59: a voter that restarts has forgotten what it promised, and keeps still for as long as that may last.
#[test]
fn h59_a_restarted_voter_keeps_the_promise_that_it_forgot() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    cluster.run(HEARTBEAT * 3);
    let [voter, asker] = others(leader);
    let disk = cluster.nodes[&voter].disk.clone();
    cluster.start_with(leasing(voter), disk);
    cluster.network.clear();
    let status = cluster.raft(asker).status();
    let ask =
        |term| Body::RequestVote { last_log_index: status.last_index, last_log_term: Term(term), is_transfer: false };
    let term = status.term.0;
    let input = cluster.message(asker, voter, term + 1, ask(term));
    cluster.handle(voter, input.clone());
    assert_eq!(cluster.raft(voter).term(), Term(term), "a vote that cannot be given changes nothing");
    let pre = Body::PreVote { next_term: Term(term + 1), last_log_index: Index(9), last_log_term: Term(term) };
    let pre = cluster.message(asker, voter, term, pre);
    cluster.handle(voter, pre);
    assert_eq!(cluster.between(voter, asker), [&Body::PreVoteResponse { next_term: Term(term + 1), granted: false }]);
    cluster.network.clear();
    cluster.now = cluster.now.plus(LEASE);
    cluster.handle(voter, input);
    assert_eq!(cluster.between(voter, asker), [&Body::RequestVoteResponse { granted: true }]);
}

/// h59: whoever finds itself the sole voter after a restart may have promised that to the leader which is on its way out, and which does not know yet that it is.
#[test]
fn h59_a_voter_that_restarts_as_the_last_one_keeps_its_promise_too() {
    let (last, leaving) = (id(1), id(2));
    let membership = Membership::of_voters([last, leaving]);
    let mut cluster = Cluster::with_disks([]);
    for n in [last, leaving] {
        cluster.start_with(leasing(n), Disk::founded(&membership));
    }
    cluster.run(LEASE);
    cluster.time_out(leaving);
    cluster.deliver();
    assert!(cluster.raft(leaving).is_leader());
    cluster.change_membership(leaving, Membership::of_voters([last]).nodes);
    let is_alone = |cluster: &Cluster| {
        let membership = cluster.raft(last).status().membership;
        !membership.is_joint() && membership.nodes.len() == 1
    };
    while let Some(message) = cluster.network.pop_front() {
        // The leader does not hear that its own removal is committed.
        if !(is_alone(&cluster) && matches!(message.body, Body::AppendEntriesResponse { .. })) {
            cluster.handle(message.to, Input::Message(message));
        }
    }
    assert!(is_alone(&cluster), "the last entry of the change has arrived");
    heartbeat(&mut cluster, leaving, Duration::ZERO);
    let disk = cluster.nodes[&last].disk.clone();
    cluster.start_with(leasing(last), disk);
    for name in 100.. {
        cluster.handle(last, Input::Time);
        let answered = lease_read(&mut cluster, leaving, name).is_some();
        if cluster.raft(last).is_leader() {
            assert!(!answered, "two leaders answer");
            return;
        }
        assert!(name < 200, "it leads in the end");
        cluster.now = cluster.now.plus(Duration::from_millis(20));
    }
}

/// C13: a promise outlives the term in which it was given; whoever it was given to may campaign all the same (C15).
#[test]
fn c13_a_promise_outlives_its_term() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    cluster.run(HEARTBEAT * 3);
    let [voter, asker] = others(leader);
    cluster.network.clear();
    let term = cluster.raft(voter).term().0;
    let status = cluster.raft(voter).status();
    let later = cluster.message(asker, voter, term + 1, Body::RequestVoteResponse { granted: false });
    cluster.handle(voter, later);
    assert_eq!((cluster.raft(voter).term(), cluster.raft(voter).leader()), (Term(term + 1), None));
    let ask =
        |is_transfer| Body::RequestVote { last_log_index: status.last_index, last_log_term: Term(term), is_transfer };
    let of_asker = cluster.message(asker, voter, term + 1, ask(false));
    cluster.handle(voter, of_asker);
    assert_eq!(cluster.between(voter, asker), [&Body::RequestVoteResponse { granted: false }]);
    let of_leader = cluster.message(leader, voter, term + 1, ask(false));
    cluster.handle(voter, of_leader);
    assert_eq!(cluster.between(voter, leader), [&Body::RequestVoteResponse { granted: true }]);
}

/// C14, h15, h59: once a target was told to campaign there is no lease for the rest of the term: it may do so late.
#[test]
fn h15_after_a_handover_that_failed_there_is_no_lease() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    cluster.run(HEARTBEAT * 3);
    assert!(lease_read(&mut cluster, leader, 100).is_some());
    let target = others(leader)[0];
    cluster.handle(leader, Input::Transfer { to: Some(target) });
    cluster.network.retain(|message| message.body != Body::TimeoutNow);
    assert_eq!(lease_read(&mut cluster, leader, 101), None, "while it is under way");
    cluster.run(Duration::from_millis(1500));
    assert!(cluster.raft(leader).is_leader() && !cluster.raft(leader).is_transferring());
    assert!(cluster.node(leader).ready.contains_key(&101), "by a round");
    assert_eq!(lease_read(&mut cluster, leader, 102), None, "and after it");
    cluster.deliver();
    assert!(cluster.node(leader).ready.contains_key(&102));
}

/// Joint consensus: the promises of a majority of one half are no lease.
#[test]
fn h10_a_lease_needs_both_halves() {
    assert_eq!(lease_with_half_of_a_joint_group(|_| [4, 5].map(id)), None, "the old half answers");
    assert_eq!(lease_with_half_of_a_joint_group(others), None, "the new half answers");
}

/// What a lease read gives where the group moves from 1, 2 and 3 to the leader, 4 and 5, and two are silent.
fn lease_with_half_of_a_joint_group(silent: impl Fn(NodeId) -> [NodeId; 2]) -> Option<Index> {
    let membership = Membership::of_voters((1..=3).map(id));
    let mut cluster = Cluster::with_disks([]);
    for n in (1..=5).map(id) {
        let disk = if n.0 <= 3 { Disk::founded(&membership) } else { Disk::outsider() };
        cluster.start_with(leasing(n), disk);
    }
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().unwrap();
    let nodes = Membership::of_voters([leader, id(4), id(5)]).nodes;
    cluster.change_membership(leader, nodes);
    while !cluster.raft(leader).status().membership.is_joint() {
        let Some(message) = cluster.network.pop_front() else {
            cluster.now = cluster.now.plus(HEARTBEAT);
            cluster.handle(leader, Input::Time);
            continue;
        };
        cluster.handle(message.to, Input::Message(message));
    }
    // Only one half answers from here on.
    for n in silent(leader) {
        cluster.cut.extend([(n, leader), (leader, n)]);
    }
    cluster.now = cluster.now.plus(LEASE);
    cluster.network.clear();
    heartbeat(&mut cluster, leader, Duration::ZERO);
    assert!(cluster.raft(leader).status().membership.is_joint());
    lease_read(&mut cluster, leader, 100)
}

#[test]
fn a_lease_longer_than_an_election_timeout_is_refused() {
    let lease_duration = Duration::from_millis(501);
    assert!(matches!(Config { lease_duration, ..config(id(1), 1) }.validate(), Err(ConfigError::Lease { .. })));
    assert!(matches!(Config { clock_drift_percent: 100, ..leasing(id(1)) }.validate(), Err(ConfigError::Lease { .. })));
    assert_eq!(leasing(id(1)).validate(), Ok(()));
}

/// C15: a leader that is weakened hands over at once, and declines to take over again until it is over.
#[test]
fn c15_a_weakened_leader_hands_over_and_declines() {
    let mut cluster = Cluster::new(3);
    let weak = cluster.elect();
    cluster.handle(weak, Input::Weaken { duration: Duration::from_secs(60) });
    cluster.deliver();
    let Some(leader) = cluster.leader() else { panic!("somebody took over at once") };
    assert_ne!(leader, weak);
    cluster.handle(leader, Input::Transfer { to: Some(weak) });
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.leader(), Some(leader), "it declines");
    cluster.handle(weak, Input::Weaken { duration: Duration::ZERO });
    cluster.handle(leader, Input::Transfer { to: Some(weak) });
    cluster.deliver();
    assert_eq!(cluster.leader(), Some(weak));
}

/// C15: a weakened node lets others campaign first, votes, and is there when nobody else can lead.
#[test]
fn c15_a_weakened_node_votes_and_campaigns_last() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [weak, other] = others(leader);
    cluster.handle(weak, Input::Weaken { duration: Duration::from_secs(60) });
    cluster.down.push(leader);
    cluster.run(Duration::from_millis(2500));
    assert!(cluster.raft(other).is_leader());
    // Only the weakened node's log is up to date: it campaigns late rather than never.
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [weak, other] = others(leader);
    cluster.isolate(other);
    let proposal = cluster.propose(leader, "only here and there");
    cluster.deliver();
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
    cluster.handle(weak, Input::Weaken { duration: Duration::from_secs(60) });
    cluster.down.push(leader);
    cluster.heal();
    cluster.run(Duration::from_secs(6));
    assert_eq!(cluster.raft(weak).role(), Role::Leader);
}

/// h14, P8: a state machine that lags makes proposals busy before the backlog grows without bound.
#[test]
fn a_state_machine_that_lags_makes_proposals_busy() {
    let membership = Membership::of_voters([id(1)]);
    let mut cluster = Cluster::with_disks([]);
    cluster.start_with(Config { unapplied_bytes_max: 100, ..config(id(1), 1) }, Disk::founded(&membership));
    cluster.run(Duration::from_secs(2));
    cluster.node(id(1)).is_applying = false;
    let mut taken = 0;
    let busy = loop {
        let proposal = cluster.propose(id(1), "0123456789");
        match cluster.node(id(1)).outcomes.get(&proposal) {
            Some(Outcome::Committed { .. }) => taken += 1,
            other => break other.copied(),
        }
        assert!(taken < 20, "there is no limit");
    };
    assert_eq!(busy, Some(Outcome::Rejected(RejectReason::Busy)));
    assert!(taken >= 5);
    let applied = cluster.raft(id(1)).commit_index();
    cluster.handle(id(1), Input::Applied { applied, flushed: Index(0) });
    let proposal = cluster.propose(id(1), "again");
    assert!(matches!(cluster.node(id(1)).outcomes[&proposal], Outcome::Committed { .. }));
}
