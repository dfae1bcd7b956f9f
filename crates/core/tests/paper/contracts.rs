//! The contracts that a driver and a disk could break: each test names its rule.

use std::time::Duration;

use bytes::Bytes;
use coracle_core::{
    AppendResult, Body, Config, Entry, Event, Fatal, Index, Input, InstallSnapshot, LogRead, Membership, NodeId,
    Outcome, Output, ProposalId, Raft, Recovered, RejectReason, Role, Run, SnapshotMeta, Term, Time,
};

use super::repair::a_leader_that_reads_its_log;
use crate::common::{Cluster, Disk, id};

fn append(prev: (u64, u64), entries: Vec<Run>) -> Body {
    let (prev_log_index, prev_log_term) = (Index(prev.0), Term(prev.1));
    Body::AppendEntries { prev_log_index, prev_log_term, leader_commit: Index(0), entries: entries.into() }
}

fn run(first: u64, term: u64, count: u64) -> Run {
    let entries: Vec<Entry> = (0..count).map(|i| Entry::command(format!("{}@{term}", first + i))).collect();
    Run::new(Index(first), Term(term), entries)
}

/// A follower (node 1) with a slow disk.
fn slow_follower() -> Cluster {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut cluster = Cluster::with_disks([]);
    let config = Config { disk_write_max: Duration::from_secs(3600), ..Config::new(id(1), 1) };
    cluster.start_with(config, Disk::founded(&membership));
    cluster.node(id(1)).is_disk_fast = false;
    cluster
}

fn acks(cluster: &mut Cluster, to: NodeId) -> Vec<u64> {
    let acks = cluster.between(id(1), to).into_iter().filter_map(|body| match body {
        Body::AppendEntriesResponse { result: AppendResult::Matched { index }, .. } => Some(index.0),
        _ => None,
    });
    let acks = acks.collect();
    cluster.network.clear();
    acks
}

fn hand(cluster: &mut Cluster, from: u64, term: u64, body: Body) {
    let input = cluster.message(id(from), id(1), term, body);
    cluster.handle(id(1), input);
}

/// C4: nothing is acknowledged before it is durable, and then as far as it is.
#[test]
fn c04_acknowledgements_wait_for_the_disk() {
    let mut cluster = slow_follower();
    hand(&mut cluster, 2, 2, append((1, 1), vec![run(2, 2, 1)]));
    cluster.sync_one(id(1));
    cluster.pump(id(1));
    assert_eq!(acks(&mut cluster, id(2)).last(), Some(&2));
    hand(&mut cluster, 2, 2, append((2, 2), vec![run(3, 2, 3)]));
    hand(&mut cluster, 2, 2, append((5, 2), vec![run(6, 2, 1)]));
    assert_eq!(acks(&mut cluster, id(2)), []);
    cluster.sync_one(id(1));
    cluster.pump(id(1));
    assert_eq!(acks(&mut cluster, id(2)), [5], "the first write is durable, the second is not");
    cluster.sync(id(1));
    assert_eq!(acks(&mut cluster, id(2)), [6]);
}

/// C4, h31, h57: after a truncation, the older copy's ticket acknowledges nothing of what took its place.
#[test]
fn h57_a_ticket_of_an_overwritten_copy_acknowledges_nothing() {
    let mut cluster = slow_follower();
    hand(&mut cluster, 2, 2, append((1, 1), vec![run(2, 2, 3)]));
    // On its way to the disk: 2..=4 of term 2. A later leader rewrites 3..=4.
    hand(&mut cluster, 3, 3, append((1, 1), vec![run(2, 2, 1), run(3, 3, 2)]));
    cluster.sync_one(id(1));
    cluster.pump(id(1));
    assert!(acks(&mut cluster, id(3)).iter().all(|ack| *ack <= 2), "3 and 4 of term 3 are not on disk");
    cluster.sync(id(1));
    assert_eq!(acks(&mut cluster, id(3)).last(), Some(&4));
    assert_eq!(cluster.node(id(1)).disk.terms(), [2, 3, 3]);
}

/// C4: what an earlier leader sent is not acknowledged to a later one before that one has proven it.
#[test]
fn c04_a_new_leader_must_prove_the_log_anew() {
    let mut cluster = slow_follower();
    hand(&mut cluster, 2, 2, append((1, 1), vec![run(2, 2, 5)]));
    cluster.sync(id(1));
    acks(&mut cluster, id(2));
    hand(&mut cluster, 3, 3, append((1, 1), vec![]));
    cluster.sync(id(1));
    assert_eq!(acks(&mut cluster, id(3)), [1]);
}

/// C5: a vote leaves only after it is durable, and dies with its term.
#[test]
fn c05_a_vote_waits_for_the_disk_and_dies_with_its_term() {
    let mut cluster = slow_follower();
    let ask = Body::RequestVote { last_log_index: Index(1), last_log_term: Term(1), is_transfer: false };
    hand(&mut cluster, 2, 5, ask.clone());
    assert!(cluster.network.is_empty());
    hand(&mut cluster, 3, 6, ask);
    cluster.sync(id(1));
    assert_eq!(cluster.between(id(1), id(2)), Vec::<&Body>::new(), "the vote of term 5 is void");
    assert_eq!(cluster.between(id(1), id(3)), [&Body::RequestVoteResponse { granted: true }]);
    assert_eq!(cluster.node(id(1)).disk.hard_state.voted_for, Some(id(3)));
}

/// C5, h58: a candidate asks for votes only once its term, its own vote and the log that it claims are durable.
#[test]
fn h58_a_vote_request_waits_for_the_log_that_it_claims() {
    let mut cluster = slow_follower();
    hand(&mut cluster, 2, 2, append((1, 1), vec![run(2, 2, 3)]));
    cluster.network.clear();
    cluster.time_out(id(1));
    for voter in [2, 3] {
        hand(&mut cluster, voter, 2, Body::PreVoteResponse { next_term: Term(3), granted: true });
    }
    assert_eq!(cluster.raft(id(1)).role(), Role::Candidate);
    let requests = |cluster: &Cluster| {
        cluster.network.iter().filter(|message| matches!(message.body, Body::RequestVote { .. })).count()
    };
    assert_eq!(requests(&cluster), 0);
    cluster.sync(id(1));
    assert_eq!(requests(&cluster), 2);
    assert!(cluster.node(id(1)).disk.last_index() >= Index(4));
}

/// C5: the leader's own match counts only what is durable; its sends do not wait for its disk (h30 for a single voter).
#[test]
fn c05_the_leaders_own_copy_counts_when_durable_and_its_sends_do_not_wait() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.network.clear();
    cluster.node(leader).is_disk_fast = false;
    let others: Vec<NodeId> = (1..=3).map(id).filter(|n| *n != leader).collect();
    let proposal = cluster.propose(leader, "a");
    assert_eq!(cluster.network.len(), 2, "sent before the leader's own write is durable");
    cluster.down = vec![others[0]];
    cluster.deliver();
    assert_eq!(cluster.node(leader).outcomes.get(&proposal), None, "one durable copy of three");
    cluster.sync(leader);
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
}

/// h30: a single voter commits after its write is durable, not before.
#[test]
fn h30_a_single_voter_commits_after_its_write() {
    let mut cluster = Cluster::new(1);
    cluster.handle(id(1), Input::Time);
    cluster.node(id(1)).is_disk_fast = false;
    let proposal = cluster.propose(id(1), "a");
    assert_eq!(cluster.node(id(1)).outcomes.get(&proposal), None);
    cluster.sync(id(1));
    assert!(matches!(cluster.node(id(1)).outcomes[&proposal], Outcome::Committed { .. }));
}

/// C5: echoes of rounds assert the term only, and do not wait for entries: a slow disk deposes no leader.
#[test]
fn c05_echoes_do_not_wait_for_entries() {
    let mut cluster = slow_follower();
    hand(&mut cluster, 2, 2, append((1, 1), vec![run(2, 2, 1)]));
    cluster.sync(id(1));
    hand(&mut cluster, 2, 2, append((2, 2), vec![run(3, 2, 1)]));
    cluster.network.clear();
    hand(&mut cluster, 2, 2, Body::Heartbeat { round: 7, leader_commit: Index(0) });
    assert_eq!(cluster.between(id(1), id(2)), [&Body::HeartbeatResponse { round: 7, promise: 0 }]);
}

/// C6: the commit hint on disk never exceeds what the same write makes durable.
#[test]
fn c06_the_commit_hint_is_in_the_log_that_goes_with_it() {
    let mut cluster = slow_follower();
    let mut body = append((1, 1), vec![run(2, 2, 4)]);
    if let Body::AppendEntries { leader_commit, .. } = &mut body {
        *leader_commit = Index(99);
    }
    hand(&mut cluster, 2, 2, body);
    while let Some(write) = cluster.node(id(1)).writes.front().cloned() {
        let last = write.entries.last().map_or(cluster.nodes[&id(1)].disk.last_index(), Run::last);
        assert!(write.hard_state.unwrap().commit_index <= last);
        cluster.sync_one(id(1));
        cluster.pump(id(1));
    }
}

/// C7, h43: nothing is applied before it is both committed and durable here.
#[test]
fn h43_nothing_is_applied_before_it_is_durable_here() {
    let mut cluster = slow_follower();
    let mut body = append((1, 1), vec![run(2, 2, 2)]);
    if let Body::AppendEntries { leader_commit, .. } = &mut body {
        *leader_commit = Index(3);
    }
    hand(&mut cluster, 2, 2, body);
    assert_eq!(cluster.raft(id(1)).commit_index(), Index(3));
    let applied: Vec<Index> = cluster.node(id(1)).applied.iter().map(|(index, ..)| *index).collect();
    assert!(applied.iter().all(|index| *index <= Index(1)), "{applied:?}");
    cluster.sync(id(1));
    assert_eq!(cluster.node(id(1)).applied.last().unwrap().0, Index(3));
}

/// C7, h63: the log is compacted only below what the state machine has flushed.
#[test]
fn h63_compaction_stops_at_what_is_flushed() {
    let mut cluster = Cluster::new(1);
    cluster.handle(id(1), Input::Time);
    for i in 0..10 {
        cluster.propose(id(1), &format!("{i}"));
    }
    let applied = cluster.raft(id(1)).status().applied_index;
    cluster.handle(id(1), Input::Compact { up_to: applied });
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(0), "nothing is flushed");
    cluster.handle(id(1), Input::Applied { applied, flushed: Index(5) });
    cluster.handle(id(1), Input::Compact { up_to: applied });
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(5));
    assert_eq!(cluster.node(id(1)).disk.base.index, Index(5));
    cluster.node(id(1)).disk.flushed = Index(5);
    cluster.restart(id(1));
    assert_eq!(cluster.raft(id(1)).membership_at(Index(5)).0, Index(1), "h56: the membership below the base is kept");
}

/// C9, h61: entries read for a peer are dropped when the range was rewritten meanwhile.
#[test]
fn h61_entries_read_before_a_rewrite_are_not_sent() {
    let (mut cluster, leader, far) = a_leader_that_reads_its_log();
    cluster.node(leader).is_reading = false;
    cluster.heal();
    while cluster.nodes[&leader].questions.is_empty() {
        cluster.run(Duration::from_millis(10));
    }
    let sent = |cluster: &Cluster| {
        let is_full = |body: &&Body| matches!(body, Body::AppendEntries { entries, .. } if !entries.is_empty());
        cluster.between(leader, far).into_iter().filter(is_full).count()
    };
    // In these places the log has entries of another term by now.
    let (request, from, to) = cluster.node(leader).questions.remove(0);
    let rewritten = LogRead::Entries(vec![run(from.0, 999, to.0 - from.0 + 1)]);
    cluster.handle(leader, Input::EntriesRead { request, result: rewritten });
    assert_eq!(sent(&cluster), 0);
    while cluster.nodes[&leader].questions.is_empty() {
        cluster.run(Duration::from_millis(10));
    }
    let (request, from, to) = cluster.node(leader).questions.remove(0);
    let result = cluster.nodes[&leader].disk.read(from, to);
    cluster.handle(leader, Input::EntriesRead { request, result });
    assert_eq!(sent(&cluster), 1, "what the log holds is sent");
}

/// C11, h67: a process that was paused reads its queue before its timers fire.
#[test]
fn h67_time_comes_last() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let term = cluster.raft(leader).term();
    cluster.now = cluster.now.plus(Duration::from_secs(30));
    let now = cluster.now;
    let heartbeat = cluster.message(leader, follower, term.0, Body::Heartbeat { round: 1, leader_commit: Index(0) });
    cluster.node(follower).raft.handle(now, heartbeat);
    cluster.node(follower).raft.handle(now, Input::Time);
    cluster.pump(follower);
    assert_eq!((cluster.raft(follower).role(), cluster.raft(follower).leader()), (Role::Follower, Some(leader)));
}

/// C18, h14: a leader whose disk hangs steps down, and does not campaign until the write is durable.
#[test]
fn h14_a_leader_with_a_hung_disk_steps_down() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.node(leader).is_disk_fast = false;
    cluster.propose(leader, "a");
    cluster.run(Duration::from_millis(4500));
    assert!(!cluster.raft(leader).is_leader());
    assert!(cluster.node(leader).events.contains(&Event::DiskSlow));
    let new = cluster.leader().unwrap();
    cluster.down.push(new);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.raft(leader).role(), Role::Follower, "no campaign with a hung disk");
    cluster.down.clear();
    cluster.sync(leader);
    cluster.node(leader).is_disk_fast = true;
    cluster.sync(leader);
    assert!(cluster.node(leader).events.contains(&Event::DiskRecovered));
    cluster.elect();
}

/// C18: a leader without space refuses what is proposed and answers reads, hands over when that lasts, and does not campaign until it has space.
#[test]
fn c18_a_leader_without_space_refuses_proposals_and_answers_reads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.node(leader).is_disk_fast = false;
    cluster.handle(leader, Input::NoSpace);
    assert!(!cluster.raft(leader).is_full(), "no write is on its way that could wait for space");
    let pending = cluster.propose(leader, "a");
    for _ in 0..3 {
        cluster.handle(leader, Input::NoSpace);
    }
    let last_index = cluster.raft(leader).status().last_index;
    let refused = cluster.propose(leader, "b");
    assert_eq!(cluster.node(leader).outcomes[&refused], Outcome::Rejected(RejectReason::NoSpace));
    assert_eq!(cluster.raft(leader).status().last_index, last_index, "surely not appended");
    cluster.deliver();
    // The others have space: what was appended before is committed by them.
    assert!(matches!(cluster.node(leader).outcomes[&pending], Outcome::Committed { .. }));
    let read = cluster.read(leader);
    cluster.run(Duration::from_millis(200));
    assert!(cluster.node(leader).ready.contains_key(&read), "{:?}", cluster.node(leader).failed_reads);
    let count = |cluster: &mut Cluster, event| cluster.node(leader).events.iter().filter(|it| **it == event).count();
    assert_eq!((count(&mut cluster, Event::DiskFull), count(&mut cluster, Event::SpaceFound)), (1, 0));

    cluster.run(Duration::from_millis(4500));
    assert!(!cluster.raft(leader).is_leader(), "it hands over");
    let new = cluster.leader().unwrap();
    cluster.down.push(new);
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.raft(leader).role(), Role::Follower, "no campaign without space");
    cluster.down.clear();
    cluster.node(leader).is_disk_fast = true;
    cluster.sync(leader);
    assert!(!cluster.raft(leader).is_full());
    assert_eq!(count(&mut cluster, Event::SpaceFound), 1);
    cluster.elect();
}

/// C18: a voter alone that has no space goes on leading, since nobody could take over: reads are answered, and everything goes on by itself.
#[test]
fn c18_a_sole_voter_without_space_goes_on_answering_reads() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    cluster.node(leader).is_disk_fast = false;
    let pending = cluster.propose(leader, "a");
    cluster.handle(leader, Input::NoSpace);
    cluster.run(Duration::from_secs(60));
    assert!(cluster.raft(leader).is_leader() && cluster.raft(leader).is_disk_slow());
    let read = cluster.read(leader);
    let refused = cluster.propose(leader, "b");
    assert!(cluster.node(leader).ready.contains_key(&read));
    assert_eq!(cluster.node(leader).outcomes[&refused], Outcome::Rejected(RejectReason::NoSpace));
    assert!(!cluster.node(leader).outcomes.contains_key(&pending));
    cluster.node(leader).is_disk_fast = true;
    cluster.sync(leader);
    assert!(matches!(cluster.node(leader).outcomes[&pending], Outcome::Committed { .. }));
    let after = cluster.propose(leader, "c");
    assert!(matches!(cluster.node(leader).outcomes[&after], Outcome::Committed { .. }));
}

/// C18: a failed write stops the group for good, and everything that waits gets its outcome.
#[test]
fn c18_a_failed_write_stops_the_group() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.node(leader).is_disk_fast = false;
    let proposal = cluster.propose(leader, "a");
    let read = cluster.read(leader);
    cluster.handle(leader, Input::PersistFailed);
    assert_eq!(cluster.node(leader).fatal, Some(Fatal::PersistFailed));
    assert_eq!(cluster.node(leader).outcomes[&proposal], Outcome::Unknown);
    assert_eq!(cluster.node(leader).failed_reads, [read]);
    cluster.network.clear();
    let late = cluster.propose(leader, "b");
    assert!(matches!(cluster.node(leader).outcomes[&late], Outcome::Rejected(_)));
    cluster.run(Duration::from_secs(3));
    assert!(!cluster.raft(leader).is_leader());
    assert_eq!(cluster.node(leader).disk.last_index(), Index(2));
}

/// C20: a leader of its own term shows a node that it acknowledged more than it holds: it stops; its peers go on.
#[test]
fn c20_a_lost_log_stops_the_node_that_lost_it() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for i in 0..5 {
        cluster.propose(leader, &format!("{i}"));
        cluster.deliver();
    }
    let victim = (1..=3).map(id).find(|n| *n != leader).unwrap();
    let mut disk = cluster.nodes[&victim].disk.clone();
    disk.runs.retain(|run| run.last() <= Index(3));
    disk.hard_state.commit_index = Index(3);
    cluster.start(victim, disk);
    cluster.run(Duration::from_millis(500));
    assert!(matches!(cluster.node(victim).fatal, Some(Fatal::LostLog { .. })));
    let proposal = cluster.propose(leader, "on");
    cluster.run(Duration::from_millis(500));
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
}

/// C10: inputs may be handed in between polls, and outputs keep their order.
#[test]
fn c10_sends_come_before_the_write_and_results_before_applying() {
    let mut cluster = Cluster::new(1);
    cluster.handle(id(1), Input::Time);
    let now = cluster.now;
    let node = cluster.node(id(1));
    let first = coracle_core::ProposalId(500);
    node.raft.handle(now, Input::Propose { first, commands: vec!["a".into()] });
    let coracle_core::Output::Persist(persist) = node.raft.poll() else { panic!("a write") };
    node.raft.handle(now, Input::Persisted { ticket: persist.ticket });
    assert!(matches!(node.raft.poll(), coracle_core::Output::Done { .. }));
    assert!(matches!(node.raft.poll(), coracle_core::Output::Apply { .. }));
}

/// Options that contradict each other are refused by name.
#[test]
fn contradicting_options_are_refused() {
    let membership = Membership::of_voters([id(1)]);
    let recovered = Disk::founded(&membership).recovered();
    let config = Config { election_timeout_min: Duration::from_millis(150), ..Config::new(id(1), 1) };
    let error = Raft::new(config, recovered.clone(), Time::ZERO).unwrap_err();
    assert!(error.to_string().contains("election_timeout_min"), "{error}");
    let config = Config { append_bytes_max: 0, ..Config::new(id(1), 1) };
    let error = Raft::new(config, recovered, Time::ZERO).unwrap_err();
    assert!(error.to_string().contains("append_bytes_max"), "{error}");
}

/// A follower whose log begins after index 4, which is of term 3 and committed.
fn compacted_follower() -> Cluster {
    let mut cluster = slow_follower();
    cluster.node(id(1)).is_disk_fast = true;
    let (prev_log_index, prev_log_term, leader_commit) = (Index(1), Term(1), Index(4));
    let entries = run(2, 3, 3).into();
    hand(&mut cluster, 2, 3, Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries });
    cluster.handle(id(1), Input::Applied { applied: Index(4), flushed: Index(4) });
    cluster.handle(id(1), Input::Compact { up_to: Index(4) });
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(4));
    cluster
}

fn faults(cluster: &mut Cluster) -> usize {
    cluster.node(id(1)).events.iter().filter(|event| matches!(event, Event::PeerFault { .. })).count()
}

/// C20, h68: entries that run across the log's start in a term that it does not have there are refused.
#[test]
fn h68_entries_that_contradict_the_logs_start_are_a_fault() {
    let mut cluster = compacted_follower();
    hand(&mut cluster, 2, 5, append((2, 1), vec![run(3, 1, 4)]));
    assert_eq!(faults(&mut cluster), 1);
    assert_eq!(cluster.raft(id(1)).status().last_index, Index(4));
    hand(&mut cluster, 2, 5, append((2, 3), vec![run(3, 3, 4)]));
    assert_eq!(faults(&mut cluster), 1);
    assert_eq!(cluster.raft(id(1)).status().last_index, Index(6));
}

/// C20, h68: no snapshot is of a later term than its sender, and none has a membership that a log entry could not have.
#[test]
fn h68_a_snapshot_that_cannot_be_is_a_fault() {
    let mut cluster = compacted_follower();
    let voters = |ids: [u64; 2]| {
        let mut membership = Membership::of_voters(ids.map(NodeId));
        membership.nodes.sort_by_key(|node| ids.iter().position(|n| *n == node.id.0));
        membership
    };
    for (term, membership, expected) in [(6, voters([1, 2]), 1), (5, voters([2, 1]), 2), (5, voters([1, 2]), 2)] {
        let meta = SnapshotMeta {
            content: 1,
            last_included_index: Index(9),
            last_included_term: Term(term),
            membership_index: Index(1),
            membership,
            size: 0,
            checksum: 0,
        };
        let piece = InstallSnapshot { meta, offset: 0, data: Bytes::new() };
        hand(&mut cluster, 2, 5, Body::InstallSnapshot(Box::new(piece)));
        assert_eq!(faults(&mut cluster), expected);
    }
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(9));
}

/// I14: what waits for a disk that hangs is bounded, and the newest of it is what counts.
#[test]
fn c05_what_is_withheld_is_bounded() {
    let mut cluster = slow_follower();
    for round in 1..=10_000 {
        hand(&mut cluster, 2, 5, Body::Heartbeat { round, leader_commit: Index(0) });
    }
    assert!(cluster.network.is_empty());
    cluster.sync(id(1));
    let sent = cluster.between(id(1), id(2));
    assert!(sent.len() <= 1024, "{} messages waited", sent.len());
    assert!(sent.contains(&&Body::HeartbeatResponse { round: 10_000, promise: 0 }));
}

/// I14, C7: entries that wait to be applied do not stay in memory beyond the tail's limit: they are read again.
#[test]
fn i14_what_a_slow_state_machine_has_not_applied_is_read_from_the_log() {
    let config =
        Config { tail_bytes_max: 500, uncommitted_bytes_max: 500, apply_bytes_max: 1000, ..Config::new(id(1), 1) };
    let mut raft = Raft::new(config, Recovered::founded(Membership::of_voters([id(1)])), Time::ZERO).unwrap();
    let now = Time(1_000_000_000_000);
    let outputs = |raft: &mut Raft| {
        let mut outputs = Vec::new();
        loop {
            match raft.poll() {
                Output::Wake { .. } => return outputs,
                Output::Persist(write) => raft.handle(now, Input::Persisted { ticket: write.ticket }),
                output => outputs.push(output),
            }
        }
    };
    raft.handle(now, Input::Time);
    outputs(&mut raft);
    assert!(raft.is_leader());
    for first in 0..1000 {
        raft.handle(now, Input::Propose { first: ProposalId(first), commands: vec![vec![0; 100].into()] });
        outputs(&mut raft);
    }
    // Nothing was said to be applied so far: what was handed out is at its limit.
    raft.handle(now, Input::Applied { applied: Index(5), flushed: Index(1) });
    let next = outputs(&mut raft);
    assert!(matches!(next[..], [Output::ReadEntries { .. }]), "{next:?}");
}

/// Many groups: heartbeats are due at multiples of the interval on the process's clock, so that those of all groups that lead leave in one write, whenever each was elected.
#[test]
fn heartbeats_of_all_groups_fall_together() {
    for offset in [0, 37, 61].map(Duration::from_millis) {
        let mut cluster = Cluster::new(3);
        cluster.now = cluster.now.plus(offset);
        let leader = cluster.elect();
        let mut sent_at = Vec::new();
        for _ in 0..1000 {
            cluster.now = cluster.now.plus(Duration::from_millis(1));
            cluster.handle(leader, Input::Time);
            if cluster.network.iter().any(|message| matches!(message.body, Body::Heartbeat { .. })) {
                sent_at.push(cluster.now.since(Time::ZERO).as_millis());
            }
            cluster.deliver();
        }
        assert_eq!(sent_at.len(), 10, "{sent_at:?}");
        assert!(sent_at.iter().all(|at| at % 100 == 0), "{sent_at:?}");
    }
}
