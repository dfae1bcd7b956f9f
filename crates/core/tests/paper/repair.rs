//! Damaged entries are repaired from peers (C19).

use std::time::Duration;

use bytes::Bytes;
use coracle_core::{
    Base, Body, ConfigError, Entry, Event, Fatal, Index, Input, Membership, NodeId, Outcome, Raft, Role, Run, Runs,
    Term, Time,
};

use crate::common::{Cluster, Disk, config, id};

pub(super) fn three() -> Membership {
    Membership::of_voters([id(1), id(2), id(3)])
}

/// A disk that holds entries of these terms after the founding entry, and has lost the data of some.
pub(super) fn damaged(terms: &[u64], lost: &[u64]) -> Disk {
    let mut disk = Disk::with_terms(&three(), terms);
    for index in lost {
        disk.damage(Index(*index));
    }
    disk
}

fn events(cluster: &Cluster, n: u64) -> Vec<&Event> {
    let is_of_repair = |event: &&Event| matches!(event, Event::Damaged { .. } | Event::Repaired);
    cluster.nodes[&id(n)].events.iter().filter(is_of_repair).collect()
}

fn missing(cluster: &Cluster, n: u64) -> usize {
    cluster.raft(id(n)).status().damaged_entries
}

/// What node 1 asked of anybody.
fn questions(cluster: &Cluster) -> Vec<(NodeId, u64, u64, u64)> {
    let question = |message: &coracle_core::Message| match message.body {
        Body::FetchEntries { first, last, entry_term } => Some((message.to, first.0, last.0, entry_term.0)),
        _ => None,
    };
    cluster.network.iter().filter_map(question).collect()
}

fn run(first: u64, term: u64, count: u64) -> Run {
    let entries: Vec<Entry> = (first..first + count).map(|i| Entry::command(format!("{i}@{term}"))).collect();
    Run::new(Index(first), Term(term), entries)
}

fn answer(cluster: &mut Cluster, from: u64, first: u64, entries: Vec<Run>) {
    let body = Body::FetchEntriesResponse { first: Index(first), entries, base: None };
    let input = cluster.message(id(from), id(1), 1, body);
    cluster.handle(id(1), input);
}

/// h36: what A and B have committed survives although B's copy is damaged and A is down: B keeps its place in the log, and C is not elected without it.
#[test]
fn h36_a_damaged_copy_of_a_committed_entry_elects_nobody_who_lacks_it() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1], &[]));
    cluster.start(id(2), damaged(&[1, 1], &[3]));
    cluster.start(id(3), damaged(&[1], &[]));
    cluster.down = vec![id(1)];
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.leader(), None, "the entry at 3 may be committed, and neither of the two has it");
    assert_eq!(cluster.raft(id(2)).status().last_index, Index(3), "what is damaged is not cut off");
    cluster.down.clear();
    let leader = cluster.elect();
    assert_eq!(cluster.raft(leader).term_at(Index(3)), Some(Term(1)));
    cluster.run(Duration::from_secs(1));
    assert_eq!(missing(&cluster, 2), 0);
    assert!(cluster.nodes.values().all(|node| node.applied[2].2 == "3@1"));
}

/// h60: after a power cut of all, two nodes have damage at different entries: they repair each other without a leader, and then elect one.
#[test]
fn h60_two_nodes_with_damage_at_different_entries_repair_each_other() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 2, 2, 3], &[2, 3, 6]));
    cluster.start(id(2), damaged(&[1, 1, 2, 2, 3], &[4]));
    cluster.down = vec![id(3)];
    let leader = cluster.elect();
    assert_eq!([missing(&cluster, 1), missing(&cluster, 2)], [0, 0]);
    assert_eq!(events(&cluster, 1), [&Event::Damaged { at: Index(2) }, &Event::Repaired]);
    assert_eq!(events(&cluster, 2), [&Event::Damaged { at: Index(4) }, &Event::Repaired]);
    for n in [1, 2] {
        let disk = &cluster.nodes[&id(n)].disk;
        assert!(disk.damaged.is_empty() && !disk.hard_state.is_repairing, "{disk:?}");
    }
    let proposal = cluster.propose(leader, "x");
    cluster.run(Duration::from_secs(1));
    assert!(matches!(cluster.nodes[&leader].outcomes[&proposal], Outcome::Committed { .. }));
}

/// C19: while an entry is damaged the node neither votes nor campaigns, and that it repairs is durable before anything else.
#[test]
fn c19_a_damaged_node_neither_votes_nor_campaigns() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1], &[3]));
    assert!(cluster.nodes[&id(1)].disk.hard_state.is_repairing);
    cluster.network.clear();
    let ask = Body::PreVote { next_term: Term(2), last_log_index: Index(9), last_log_term: Term(1) };
    let input = cluster.message(id(2), id(1), 1, ask);
    cluster.handle(id(1), input);
    let ask = Body::RequestVote { last_log_index: Index(9), last_log_term: Term(1), is_transfer: true };
    let input = cluster.message(id(2), id(1), 2, ask);
    cluster.handle(id(1), input);
    let refusals =
        [&Body::PreVoteResponse { next_term: Term(2), granted: false }, &Body::RequestVoteResponse { granted: false }];
    assert_eq!(cluster.between(id(1), id(2)), refusals);
    cluster.run(Duration::from_secs(10));
    assert_eq!((cluster.raft(id(1)).role(), cluster.raft(id(1)).term()), (Role::Follower, Term(2)));
    let input = cluster.message(id(2), id(1), 2, Body::Heartbeat { round: 1, leader_commit: Index(0) });
    cluster.handle(id(1), input);
    let input = cluster.message(id(2), id(1), 2, Body::TimeoutNow);
    cluster.handle(id(1), input);
    assert_eq!(cluster.raft(id(1)).role(), Role::Follower);
}

/// C19, C4, C7: nothing from the damage on is acknowledged or applied, and everything is once it is repaired durably.
#[test]
fn c19_durable_is_below_the_damage() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1], &[3]));
    cluster.node(id(1)).is_disk_fast = false;
    cluster.network.clear();
    let append = |entries| Body::AppendEntries {
        prev_log_index: Index(4),
        prev_log_term: Term(1),
        leader_commit: Index(4),
        entries: Runs::from(entries),
    };
    let input = cluster.message(id(2), id(1), 1, append(vec![]));
    cluster.handle(id(1), input);
    assert_eq!(cluster.raft(id(1)).commit_index(), Index(4), "what is committed is known by its place");
    assert_eq!(cluster.raft(id(1)).status().durable_index, Index(2));
    assert_eq!(cluster.nodes[&id(1)].applied.len(), 2);
    answer(&mut cluster, 2, 3, vec![run(3, 1, 1)]);
    assert_eq!(missing(&cluster, 1), 1, "it is not on the disk yet");
    assert_eq!(cluster.nodes[&id(1)].applied.len(), 2);
    cluster.sync(id(1));
    assert_eq!((missing(&cluster, 1), cluster.nodes[&id(1)].applied.len()), (0, 4));
    assert!(!cluster.nodes[&id(1)].disk.hard_state.is_repairing, "the end is written with the last repair");
}

/// C19: consecutive entries of one term are asked for together, of one peer after another; what nobody has does not keep the rest waiting.
#[test]
fn c19_peers_are_asked_in_turn() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1, 2, 2], &[2, 3, 5, 6]));
    assert_eq!(questions(&cluster), [(id(2), 2, 3, 1)]);
    for expected in [(id(3), 2, 3, 1), (id(2), 5, 6, 2), (id(3), 5, 6, 2), (id(2), 2, 3, 1)] {
        cluster.network.clear();
        cluster.now = cluster.now.plus(Duration::from_millis(100));
        cluster.handle(id(1), Input::Time);
        assert_eq!(questions(&cluster), [expected]);
    }
    // Half of it: who had that is asked for what comes next.
    cluster.network.clear();
    answer(&mut cluster, 2, 2, vec![run(2, 1, 1)]);
    assert_eq!(questions(&cluster), [(id(2), 3, 3, 1)]);
}

/// C19: a node answers with what its log holds of exactly this term, whole, committed or not, from memory or from the disk.
#[test]
fn c19_an_answer_holds_what_was_asked_for_and_nothing_else() {
    let mut cluster = Cluster::with_disks([]);
    let config = coracle_core::Config { tail_bytes_max: 1, ..config(id(1), 1) };
    cluster.start_with(config, damaged(&[1, 1, 2, 2, 2], &[6]));
    for (first, last, term, expected) in [
        (2, 3, 1, vec![(2, 3)]),
        (2, 9, 1, vec![(2, 3)]),
        (3, 4, 2, vec![]),
        (4, 6, 2, vec![(4, 5)]),
        (6, 6, 2, vec![]),
        (7, 9, 2, vec![]),
        (2, 3, 2, vec![]),
    ] {
        cluster.network.clear();
        let body = Body::FetchEntries { first: Index(first), last: Index(last), entry_term: Term(term) };
        // Whatever the asker's term is: nobody follows it.
        let input = cluster.message(id(3), id(1), 77, body);
        cluster.handle(id(1), input);
        let answers = cluster.between(id(1), id(3));
        let [Body::FetchEntriesResponse { entries, base: None, .. }] = answers[..] else { panic!("{answers:?}") };
        let found: Vec<(Index, Entry)> =
            entries.iter().flat_map(|run| run.iter().map(|(index, entry)| (index, entry.clone()))).collect();
        let wanted: Vec<(Index, Entry)> = expected
            .iter()
            .flat_map(|(from, to)| (*from..=*to).map(|i| (Index(i), Entry::command(format!("{i}@{term}")))))
            .collect();
        assert_eq!(found, wanted, "{first}..={last}@{term}");
    }
    assert_eq!(cluster.raft(id(1)).term(), Term(2));
}

/// C19, C20: answers that cannot be change nothing. (The data of another command under the right index and term cannot be told: peers are trusted not to lie.)
#[test]
fn c19_an_answer_of_another_term_or_place_changes_nothing() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1], &[3]));
    let broken = Entry { kind: coracle_core::EntryKind::Membership, data: Bytes::from_static(b"?") };
    for entries in [
        vec![run(3, 2, 1)],
        vec![run(2, 1, 1)],
        vec![run(4, 1, 9)],
        vec![],
        vec![Run::new(Index(3), Term(1), [broken])],
    ] {
        answer(&mut cluster, 2, 3, entries);
        assert_eq!(missing(&cluster, 1), 1);
    }
    let mut base = Disk::founded(&three()).base;
    (base.index, base.term) = (Index(9), Term(1));
    let body = Body::FetchEntriesResponse { first: Index(3), entries: vec![], base: Some(base.into()) };
    let input = cluster.message(id(2), id(1), 1, body);
    cluster.handle(id(1), input);
    assert_eq!((missing(&cluster, 1), cluster.raft(id(1)).status().base_index), (1, Index(0)), "a base of nobody");
    let many = Body::FetchEntries { first: Index(1), last: Index(1 << 40), entry_term: Term(1) };
    cluster.network.clear();
    let input = cluster.message(id(2), id(1), 1, many);
    cluster.handle(id(1), input);
    assert_eq!(cluster.between(id(1), id(2)), Vec::<&Body>::new());
    let faults = cluster.nodes[&id(1)].events.iter().filter(|event| matches!(event, Event::PeerFault { .. }));
    assert_eq!(faults.count(), 3);
}

/// C19: a crash in the middle of a repair leaves what is repaired, and the rest is asked for again.
#[test]
fn c19_a_crash_in_the_middle_of_a_repair_loses_nothing() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1, 1], &[2, 4]));
    cluster.node(id(1)).is_disk_fast = false;
    answer(&mut cluster, 2, 2, vec![run(2, 1, 1)]);
    let before_the_write = cluster.nodes[&id(1)].disk.clone();
    cluster.sync(id(1));
    let after_the_write = cluster.nodes[&id(1)].disk.clone();
    for (disk, left) in [(before_the_write, 2), (after_the_write, 1)] {
        assert!(disk.hard_state.is_repairing);
        let mut cluster = Cluster::with_disks([(id(1), disk), (id(2), damaged(&[1, 1, 1, 1], &[]))]);
        assert_eq!(missing(&cluster, 1), left);
        cluster.down = vec![id(3)];
        cluster.elect();
        assert_eq!(missing(&cluster, 1), 0);
    }
}

/// C19: damage at the tail that nobody else has is overwritten by the next leader, who is elected without this node.
#[test]
fn c19_a_damaged_tail_is_overwritten_by_a_new_leader() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 2, 2], &[4, 5]));
    cluster.start(id(2), damaged(&[1, 1], &[]));
    cluster.start(id(3), damaged(&[1, 1], &[]));
    let leader = cluster.elect();
    assert_ne!(leader, id(1));
    cluster.run(Duration::from_secs(1));
    assert_eq!(missing(&cluster, 1), 0);
    assert_eq!(events(&cluster, 1), [&Event::Damaged { at: Index(4) }, &Event::Repaired]);
    assert_eq!(cluster.raft(id(1)).status().durable_index, cluster.raft(leader).status().last_index);
    assert!(!cluster.nodes[&id(1)].disk.hard_state.is_repairing);
}

/// C19: a leader's `AppendEntries` over damaged entries repairs them.
#[test]
fn c19_a_leaders_append_brings_the_data() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1], &[2, 3]));
    let append = Body::AppendEntries {
        prev_log_index: Index(1),
        prev_log_term: Term(1),
        leader_commit: Index(0),
        entries: run(2, 1, 3).into(),
    };
    let input = cluster.message(id(2), id(1), 1, append);
    cluster.handle(id(1), input);
    assert_eq!((missing(&cluster, 1), cluster.nodes[&id(1)].disk.terms()), (0, vec![1, 1, 1]));
}

/// C19: what the state machine has flushed is compacted away, if the damage cannot hide a membership; otherwise it is fetched.
#[test]
fn c19_damage_below_flushed_is_compacted_away() {
    for (knows_kinds, base) in [(true, 3), (false, 0)] {
        let mut disk = damaged(&[1, 1, 1, 1], &[2, 3]);
        (disk.flushed, disk.knows_kinds) = (Index(4), knows_kinds);
        let cluster = Cluster::with_disks([(id(1), disk)]);
        assert_eq!(cluster.raft(id(1)).status().base_index, Index(base));
        assert_eq!(questions(&cluster).is_empty(), knows_kinds);
        assert_eq!(missing(&cluster, 1), if knows_kinds { 0 } else { 2 });
        assert_eq!(cluster.nodes[&id(1)].disk.base.index, Index(base));
    }
}

/// C19: a sole voter compacts away what it has flushed, and stops for what it has not.
#[test]
fn c19_a_sole_voter_cannot_repair() {
    for (flushed, fatal) in [(3, None), (2, Some(Fatal::Damaged { at: Index(3) }))] {
        let mut disk = Disk::with_terms(&Membership::of_voters([id(1)]), &[1, 1, 1]);
        disk.damage(Index(3));
        (disk.flushed, disk.knows_kinds) = (Index(flushed), true);
        let mut cluster = Cluster::with_disks([(id(1), disk)]);
        assert_eq!(cluster.nodes[&id(1)].fatal, fatal);
        cluster.run(Duration::from_secs(3));
        assert_eq!(cluster.leader().is_some(), fatal.is_none());
    }
}

/// C19: a peer that has compacted the entry away says where its log begins: a state that has flushed that needs nothing more.
#[test]
fn c19_a_peers_base_stands_for_what_is_flushed() {
    let mut disk = damaged(&[1, 1, 1, 1], &[2]);
    disk.flushed = Index(4);
    let mut cluster = Cluster::with_disks([(id(1), disk)]);
    let mut other = damaged(&[1, 1, 1, 1], &[]);
    other.flushed = Index(4);
    cluster.start(id(2), other);
    cluster.network.retain(|message| message.from == id(1));
    cluster.handle(id(2), Input::Compact { up_to: Index(3) });
    cluster.deliver();
    let status = cluster.raft(id(1)).status();
    assert_eq!((status.base_index, status.last_index, status.damaged_entries), (Index(3), Index(5), 0));
    assert_eq!(status.membership, three());
}

/// C19, C7: when all others have compacted away what this state has not flushed, the log begins where theirs does, this node votes, and the state comes as a snapshot.
#[test]
fn c19_what_all_others_compacted_comes_as_a_snapshot() {
    let mut cluster = Cluster::with_disks([(id(1), damaged(&[1, 1, 1, 1], &[2]))]);
    let mut other = damaged(&[1, 1, 1, 1, 1], &[]);
    other.flushed = Index(4);
    cluster.start(id(2), other);
    cluster.handle(id(2), Input::Compact { up_to: Index(3) });
    cluster.down = vec![id(3)];
    let leader = cluster.elect_among_connected(id(3));
    assert_eq!(leader, id(2), "a state behind its log does not lead");
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(3));
    let index = cluster.raft(id(2)).status().applied_index;
    cluster.run(Duration::from_millis(300));
    assert!(cluster.nodes[&id(2)].snapshots_wanted.contains(&id(1)));
    let meta = cluster.snapshot_of(id(2), index);
    cluster.handle(id(2), Input::SnapshotSending { peer: id(1), index });
    let piece = coracle_core::InstallSnapshot { meta, offset: 0, data: Bytes::new() };
    let term = cluster.raft(id(2)).term().0;
    let input = cluster.message(id(2), id(1), term, Body::InstallSnapshot(piece.into()));
    cluster.handle(id(1), input);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.raft(id(1)).status().applied_index, cluster.raft(id(2)).status().last_index);
}

/// C19: what no other member holds, and no leader can overwrite, is told; it is over when the entry is there after all.
#[test]
fn c19_a_damaged_entry_that_nobody_else_holds_is_told() {
    let two = Membership::of_voters([id(1), id(2)]);
    let mut disk = Disk::with_terms(&two, &[1, 1, 1, 1]);
    disk.damage(Index(5));
    let mut cluster = Cluster::with_disks([(id(1), disk)]);
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.raft(id(1)).status().lost_entry, None, "who is silent may hold it");
    cluster.start(id(2), Disk::with_terms(&two, &[1, 1, 1]));
    cluster.run(Duration::from_secs(20));
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.raft(id(1)).status().lost_entry, Some(Index(5)));
    let told = cluster.nodes[&id(1)].events.iter().filter(|event| matches!(event, Event::Irreparable { .. }));
    assert_eq!(told.collect::<Vec<_>>(), [&Event::Irreparable { at: Index(5) }]);
    answer(&mut cluster, 2, 5, vec![run(5, 1, 1)]);
    cluster.run(Duration::from_secs(10));
    assert_eq!((cluster.raft(id(1)).status().lost_entry, missing(&cluster, 1)), (None, 0));
    assert_eq!(cluster.leader(), Some(id(1)));
}

/// C19: the others overwrite what only a damaged copy was left of.
#[test]
fn c19_a_majority_goes_on_without_an_entry_that_only_a_damaged_copy_is_left_of() {
    let mut cluster = Cluster::with_disks([]);
    cluster.start(id(1), damaged(&[1, 1, 1, 1], &[5]));
    cluster.start(id(2), damaged(&[1, 1, 1], &[]));
    cluster.start(id(3), damaged(&[1, 1, 1], &[]));
    let leader = cluster.elect();
    cluster.run(Duration::from_secs(1));
    assert_eq!((cluster.raft(id(1)).status().lost_entry, missing(&cluster, 1)), (None, 0));
    assert_eq!(cluster.raft(id(1)).term_at(Index(5)), Some(cluster.raft(leader).term()));
}

/// C19: a membership in a damaged entry takes effect as soon as its data are there; until then the last known one tells whom to ask.
#[test]
fn c19_a_damaged_membership_counts_again_once_it_is_repaired() {
    let five = Membership::of_voters((1..=5).map(id));
    let entry = Entry { kind: coracle_core::EntryKind::Membership, data: five.encode() };
    let mut disk = damaged(&[1, 1], &[]);
    disk.runs.push(Run::new(Index(4), Term(1), [entry.clone()]));
    disk.damage(Index(4));
    disk.flushed = Index(4);
    disk.hard_state.commit_index = Index(4);
    let mut cluster = Cluster::with_disks([(id(1), disk)]);
    assert_eq!(cluster.raft(id(1)).status().membership, three());
    cluster.handle(id(1), Input::Compact { up_to: Index(4) });
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(3), "nothing is compacted past what may be a membership");
    answer(&mut cluster, 2, 4, vec![Run::new(Index(4), Term(1), [entry])]);
    let status = cluster.raft(id(1)).status();
    assert_eq!((status.membership, status.membership_index, status.damaged_entries), (five, Index(4), 0));
}

/// Three nodes that keep nothing in memory, their leader, and one of the others that lacks three entries.
pub(super) fn a_leader_that_reads_its_log() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::with_disks([]);
    for n in 1..=3 {
        let config = coracle_core::Config { tail_bytes_max: 1, ..config(id(n), n) };
        cluster.start_with(config, damaged(&[1, 1, 1], &[]));
    }
    let leader = cluster.elect();
    let far = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.isolate(far);
    for command in ["a", "b", "c"] {
        cluster.propose(leader, command);
        cluster.run(Duration::from_millis(100));
    }
    (cluster, leader, far)
}

/// C19, C9: damage that a leader meets while it reads makes it step down; it is repaired by the others, and what it applies goes on.
#[test]
fn c19_a_leader_that_finds_damage_steps_down_and_is_repaired() {
    let (mut cluster, leader, _) = a_leader_that_reads_its_log();
    let at = cluster.raft(leader).status().last_index.prev();
    cluster.node(leader).disk.damage(at);
    cluster.heal();
    cluster.run(Duration::from_millis(400));
    let found = |event: &Event| *event == Event::Damaged { at };
    assert!(cluster.nodes[&leader].events.iter().any(found));
    let next = cluster.elect();
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.raft(leader).status().damaged_entries, 0);
    assert!(cluster.nodes[&leader].disk.damaged.is_empty());
    let last = cluster.raft(next).status().last_index;
    assert!(cluster.nodes.values().all(|node| node.raft.status().applied_index == last));
}

/// C19: what a leader finds damaged and has flushed is compacted away; it goes on leading, and who needs it gets a snapshot.
#[test]
fn c19_a_leader_compacts_away_damage_that_it_has_flushed() {
    let (mut cluster, leader, far) = a_leader_that_reads_its_log();
    let applied = cluster.raft(leader).status().applied_index;
    cluster.handle(leader, Input::Applied { applied, flushed: applied });
    cluster.node(leader).disk.damage(applied.prev());
    cluster.heal();
    cluster.run(Duration::from_millis(400));
    assert!(cluster.raft(leader).is_leader());
    assert_eq!(cluster.raft(leader).status().base_index, applied.prev());
    assert!(cluster.nodes[&leader].snapshots_wanted.contains(&far));
}

/// C20, h68: a base of a term that its sender has not reached is no base, however long a node has been without another.
#[test]
fn h68_a_base_of_a_later_term_than_its_senders_changes_nothing() {
    let mut cluster = Cluster::with_disks([(id(1), damaged(&[1, 1, 1, 1], &[2]))]);
    cluster.down = vec![id(2), id(3)];
    cluster.run(Duration::from_secs(10));
    cluster.network.clear();
    while questions(&cluster).is_empty() {
        cluster.now = cluster.now.plus(Duration::from_millis(10));
        cluster.handle(id(1), Input::Time);
    }
    let (asked, first, ..) = questions(&cluster)[0];
    let base = Base { index: Index(9), term: Term(1 << 33), membership_index: Index(1), membership: Some(three()) };
    let body = Body::FetchEntriesResponse { first: Index(first), entries: Vec::new(), base: Some(base.into()) };
    let input = cluster.message(asked, id(1), 1, body);
    cluster.handle(id(1), input);
    let status = cluster.raft(id(1)).status();
    assert_eq!((status.term, status.base_index, status.last_index), (Term(1), Index(0), Index(5)));
    assert!(cluster.nodes[&id(1)].events.iter().any(|event| matches!(event, Event::PeerFault { .. })));
}

/// C19: a store that speaks of damage outside of its log is refused.
#[test]
fn damage_outside_of_the_log_is_refused() {
    for damaged in [vec![Index(3), Index(2)], vec![Index(2), Index(2)], vec![Index(0)], vec![Index(9)], vec![Index(4)]]
    {
        let mut recovered = Disk::with_terms(&three(), &[1, 1, 1]).recovered();
        recovered.damaged = damaged;
        let refused = Raft::new(config(id(1), 1), recovered, Time::ZERO);
        assert!(matches!(refused, Err(ConfigError::Recovered { .. })));
    }
}
