//! Raft §5.3, §8; thesis §10.2.1.

use std::time::Duration;

use coracle_core::{
    AppendResult, Body, Config, Entry, EntryKind, Event, Index, Input, Membership, NodeId, Outcome, RejectReason, Run,
    Term,
};

use crate::common::{Cluster, Disk, id};

fn command(text: &str) -> Entry {
    Entry::command(text.to_owned())
}

fn append(prev: (u64, u64), commit: u64, entries: Vec<Run>) -> Body {
    Body::AppendEntries {
        prev_log_index: Index(prev.0),
        prev_log_term: Term(prev.1),
        leader_commit: Index(commit),
        entries: entries.into(),
    }
}

fn matched(index: u64) -> Body {
    Body::AppendEntriesResponse { result: AppendResult::Matched { index: Index(index) }, needs_snapshot: false }
}

/// A follower (node 1) whose log after the founding entry has these terms, in a group of three.
fn follower(terms: &[u64]) -> Cluster {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    Cluster::with_disks([(id(1), Disk::with_terms(&membership, terms))])
}

fn hand(cluster: &mut Cluster, term: u64, body: Body) -> Option<Body> {
    cluster.network.clear();
    let input = cluster.message(id(2), id(1), term, body);
    cluster.handle(id(1), input);
    cluster.network.pop_back().map(|message| message.body)
}

/// §5.3: the leader appends, replicates, commits when a majority holds it, and tells the followers, who apply.
#[test]
fn an_entry_is_committed_once_a_majority_holds_it() {
    let mut cluster = Cluster::new(5);
    let leader = cluster.elect();
    let others: Vec<NodeId> = (1..=5).map(id).filter(|n| *n != leader).collect();
    cluster.down = others[1..].to_vec();
    let proposal = cluster.propose(leader, "a");
    cluster.deliver();
    assert_eq!(cluster.node(leader).outcomes.get(&proposal), None, "two of five are no majority");
    cluster.down.pop();
    cluster.run(Duration::from_millis(500));
    assert!(matches!(cluster.node(leader).outcomes[&proposal], Outcome::Committed { .. }));
}

/// §5.3: a follower without the entry before the new ones refuses them.
#[test]
fn entries_without_their_predecessor_are_refused() {
    let mut cluster = follower(&[2]);
    let run = Run::new(Index(4), Term(2), [command("x")]);
    let answer = hand(&mut cluster, 2, append((3, 2), 0, vec![run]));
    let expected = AppendResult::Rejected { prev_log_index: Index(3), hint_index: Index(2), hint_term: Term(2) };
    assert_eq!(answer, Some(Body::AppendEntriesResponse { result: expected, needs_snapshot: false }));
}

/// §5.3, Figure 7: whatever a follower lacks or has too much of, it ends with the leader's log, in few steps.
#[test]
fn figure_7_every_follower_is_brought_to_the_leaders_log() {
    let membership = Membership::of_voters((1..=7).map(id));
    let leader_terms = [1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1],
        &[1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 4, 4, 4, 4],
        &[1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    let mut disks = vec![(id(1), Disk::with_terms(&membership, &leader_terms))];
    disks.extend((2..).map(id).zip(followers.map(|terms| Disk::with_terms(&membership, terms))));
    let mut cluster = Cluster::with_disks(disks);
    // The leader of term 8 is elected by those whose logs are not longer.
    cluster.node(id(1)).disk.hard_state.term = Term(7);
    let disk = cluster.node(id(1)).disk.clone();
    cluster.start(id(1), disk);
    cluster.time_out(id(1));
    cluster.deliver();
    assert!(cluster.raft(id(1)).is_leader());
    cluster.run(Duration::from_secs(1));
    let expected = [&leader_terms[..], &[8]].concat();
    for n in 1..=7 {
        assert_eq!(cluster.nodes[&id(n)].disk.terms(), expected, "node {n}");
    }
}

/// h24: backtracking skips whole terms: a long divergence takes a few round trips, not one per entry.
#[test]
fn h24_backtracking_takes_one_step_per_term() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut leader_terms = vec![2; 500];
    leader_terms.extend([9; 500]);
    let mut other_terms = vec![2; 100];
    for term in 3..8 {
        other_terms.extend([term; 150]);
    }
    let long = Disk::with_terms(&membership, &leader_terms);
    let other = Disk::with_terms(&membership, &other_terms);
    let mut cluster = Cluster::with_disks([(id(1), long.clone()), (id(2), long), (id(3), other)]);
    cluster.time_out(id(1));
    let mut rejections = 0;
    while let Some(message) = cluster.network.pop_front() {
        let is_rejection =
            |body: &Body| matches!(body, Body::AppendEntriesResponse { result: AppendResult::Rejected { .. }, .. });
        rejections += usize::from(is_rejection(&message.body));
        cluster.handle(message.to, Input::Message(message));
    }
    assert_eq!(cluster.nodes[&id(3)].disk.terms(), cluster.nodes[&id(1)].disk.terms());
    assert!(rejections <= 3, "{rejections} rejections");
}

/// §5.3: conflicting entries and all that follow them are removed, and nothing else.
#[test]
fn conflicting_entries_are_replaced() {
    let mut cluster = follower(&[2, 2, 3, 3]);
    let run = Run::new(Index(4), Term(5), [command("x")]);
    let answer = hand(&mut cluster, 5, append((3, 2), 0, vec![run]));
    assert_eq!(answer, Some(matched(4)));
    assert_eq!(cluster.node(id(1)).disk.terms(), [2, 2, 5]);
    let truncated = Event::Truncated { from: Index(4), last: Index(5) };
    assert!(cluster.node(id(1)).events.contains(&truncated));
}

/// h22: a shorter, delayed request cuts off nothing that follows it.
#[test]
fn h22_a_delayed_shorter_request_truncates_nothing() {
    let mut cluster = follower(&[2, 2, 2, 2]);
    let run = Run::new(Index(3), Term(2), [command("3@2")]);
    let answer = hand(&mut cluster, 2, append((2, 2), 0, vec![run]));
    assert_eq!(answer, Some(matched(3)));
    assert_eq!(cluster.node(id(1)).disk.terms(), [2, 2, 2, 2]);
    let answer = hand(&mut cluster, 2, append((1, 1), 0, vec![]));
    assert_eq!(answer, Some(matched(3)), "what is verified stays verified");
    assert_eq!(cluster.node(id(1)).disk.terms(), [2, 2, 2, 2]);
}

/// §5.3: a follower commits no further than its log is known to equal the leader's.
#[test]
fn the_commit_index_stops_at_the_last_verified_entry() {
    let mut cluster = follower(&[2, 2, 2]);
    hand(&mut cluster, 3, append((2, 2), 4, vec![]));
    assert_eq!(cluster.raft(id(1)).commit_index(), Index(2), "what follows may be another leader's");
    hand(&mut cluster, 3, append((3, 2), 4, vec![]));
    assert_eq!(cluster.raft(id(1)).commit_index(), Index(3));
}

/// h20: a commit index beyond the log neither commits nor crashes.
#[test]
fn h20_a_commit_index_beyond_the_log_is_clamped() {
    let mut cluster = follower(&[2]);
    hand(&mut cluster, 2, append((2, 2), 1000, vec![]));
    assert_eq!(cluster.raft(id(1)).commit_index(), Index(2));
}

/// h23: entries that begin below the commit index, even below the log's start, are no conflict.
#[test]
fn h23_a_request_from_below_the_commit_index_is_no_conflict() {
    let mut cluster = follower(&[2, 2, 2]);
    hand(&mut cluster, 2, append((4, 2), 4, vec![]));
    let applied = cluster.raft(id(1)).status().applied_index;
    cluster.handle(id(1), Input::Applied { applied, flushed: applied });
    cluster.handle(id(1), Input::Compact { up_to: Index(3) });
    assert_eq!(cluster.raft(id(1)).status().base_index, Index(3));
    let entries = vec![Run::new(Index(2), Term(2), [command("2@2"), command("3@2"), command("4@2"), command("new")])];
    let answer = hand(&mut cluster, 2, append((1, 1), 4, entries));
    assert_eq!(answer, Some(matched(5)));
    assert_eq!(cluster.raft(id(1)).status().last_index, Index(5));
}

/// C20: entries that contradict what is committed are a fault of the peer, and change nothing.
#[test]
fn c20_entries_that_contradict_committed_ones_are_ignored() {
    let mut cluster = follower(&[2, 2]);
    hand(&mut cluster, 2, append((3, 2), 3, vec![]));
    let run = Run::new(Index(3), Term(3), [command("x")]);
    let answer = hand(&mut cluster, 3, append((2, 2), 3, vec![run]));
    assert_eq!(answer, None);
    assert_eq!(cluster.raft(id(1)).status().last_index, Index(3));
    assert!(cluster.node(id(1)).events.iter().any(|event| matches!(event, Event::PeerFault { .. })));
    assert_eq!(cluster.node(id(1)).fatal, None);
}

/// C20, h68: terms and indexes near the maximum, gaps and falling terms come from no correct peer.
#[test]
fn h68_forged_frames_change_nothing() {
    let gap = Run::new(Index(9), Term(2), [command("x")]);
    let forged = [
        (u64::MAX, append((1, 1), 0, vec![])),
        (Term::MAX.0, append((1, 1), 0, vec![])),
        (0, append((1, 1), 0, vec![])),
        (2, append((u64::MAX, 2), 0, vec![])),
        (2, append((1, 1), u64::MAX, vec![])),
        (2, append((3, 2), 0, vec![gap])),
        (2, append((1, 1), 0, vec![Run::new(Index(2), Term(9), [command("x")])])),
        (2, Body::Heartbeat { round: 1, leader_commit: Index(u64::MAX) }),
        (2, Body::RequestVote { last_log_index: Index(u64::MAX), last_log_term: Term(2), is_transfer: false }),
    ];
    for (term, body) in forged {
        let mut cluster = follower(&[2, 2]);
        let answer = hand(&mut cluster, term, body.clone());
        assert_eq!(answer, None, "{body:?}");
        assert_eq!(cluster.raft(id(1)).status().last_index, Index(3));
        assert_eq!(cluster.raft(id(1)).term(), Term(2), "{body:?}");
        assert_eq!(cluster.node(id(1)).fatal, None, "{body:?}");
    }
}

/// A membership that does not decode is refused with its frame.
#[test]
fn a_membership_that_does_not_decode_is_a_fault() {
    let mut cluster = follower(&[2]);
    let entry = Entry { kind: EntryKind::Membership, data: "nonsense".into() };
    let answer = hand(&mut cluster, 2, append((2, 2), 0, vec![Run::new(Index(3), Term(2), [entry])]));
    assert_eq!(answer, None);
    assert_eq!(cluster.raft(id(1)).status().last_index, Index(2));
}

/// Thesis §10.2.1: the leader does not wait for answers, up to its limits in messages and bytes.
#[test]
fn replication_is_pipelined_within_its_window() {
    let mut cluster = Cluster::with_disks([]);
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    for n in 1..=3 {
        let config = Config { inflight_messages_max: 4, append_bytes_max: 20, ..Config::new(id(n), n) };
        cluster.start_with(config, Disk::founded(&membership));
    }
    let leader = cluster.elect();
    let peer = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.network.clear();
    for i in 0..10 {
        cluster.propose(leader, &format!("command {i}"));
    }
    assert_eq!(cluster.between(leader, peer).len(), 4);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.raft(peer).commit_index(), cluster.raft(leader).status().last_index);
}

/// C10: proposals handed in together make one message per peer and one write.
#[test]
fn c10_256_proposals_make_one_message_per_peer_and_one_write() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.network.clear();
    cluster.node(leader).is_disk_fast = false;
    let now = cluster.now;
    for first in 0..256 {
        let commands = vec![bytes::Bytes::from_static(b"command")];
        let first = coracle_core::ProposalId(1000 + first);
        cluster.node(leader).raft.handle(now, Input::Propose { first, commands });
    }
    cluster.pump(leader);
    assert_eq!(cluster.network.len(), 2);
    assert_eq!(cluster.node(leader).writes.len(), 1);
    let count: usize = cluster.node(leader).writes[0].entries.iter().map(Run::len).sum();
    assert_eq!(count, 256);
}

/// Uncommitted entries are limited in bytes; what is over the limit is surely not appended.
#[test]
fn proposals_over_the_uncommitted_limit_are_busy() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut cluster = Cluster::with_disks([]);
    for n in 1..=3 {
        let config = Config { uncommitted_bytes_max: 50, ..Config::new(id(n), n) };
        cluster.start_with(config, Disk::founded(&membership));
    }
    let leader = cluster.elect();
    let first = cluster.propose(leader, "0123456789012345678901234567890");
    let second = cluster.propose(leader, "0123456789012345678901234567890");
    assert_eq!(cluster.node(leader).outcomes[&second], Outcome::Rejected(RejectReason::Busy));
    cluster.run(Duration::from_millis(300));
    assert!(matches!(cluster.node(leader).outcomes[&first], Outcome::Committed { .. }));
    let third = cluster.propose(leader, "0123456789012345678901234567890");
    cluster.deliver();
    assert!(matches!(cluster.node(leader).outcomes[&third], Outcome::Committed { .. }));
}

/// §5.3: followers learn of a commit without waiting for the next entry or heartbeat.
#[test]
fn an_idle_follower_learns_of_a_commit_at_once() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.propose(leader, "a");
    cluster.deliver();
    for node in cluster.nodes.values() {
        assert_eq!(node.raft.commit_index(), Index(3));
        assert_eq!(node.applied.last().unwrap().0, Index(3));
    }
}

/// A follower that lost messages is brought up again although nothing new is proposed.
#[test]
fn lost_messages_are_sent_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let peer = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.propose(leader, "a");
    cluster.network.retain(|message| message.to != peer);
    cluster.deliver();
    assert_eq!(cluster.raft(peer).status().last_index, Index(2));
    cluster.run(Duration::from_millis(600));
    assert_eq!(cluster.raft(peer).commit_index(), Index(3));
}

/// A peer that lags behind the entries in memory is served from the log.
#[test]
fn a_peer_far_behind_is_served_from_the_disk() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut cluster = Cluster::with_disks([]);
    for n in 1..=3 {
        let config = Config { tail_bytes_max: 1, append_bytes_max: 64, ..Config::new(id(n), n) };
        cluster.start_with(config, Disk::founded(&membership));
    }
    let leader = cluster.elect();
    let peer = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.down.push(peer);
    for i in 0..100 {
        cluster.propose(leader, &format!("c{i}"));
        cluster.deliver();
    }
    cluster.down.clear();
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.raft(peer).commit_index(), cluster.raft(leader).status().last_index);
    assert_eq!(cluster.nodes[&peer].applied, cluster.nodes[&leader].applied);
}

/// C9, h61: the answer to a question of an earlier leadership is not sent, for the range may have been rewritten since.
#[test]
fn c09_entries_read_in_an_earlier_leadership_are_not_sent() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut cluster = Cluster::with_disks([]);
    for n in 1..=3 {
        cluster.start_with(Config { tail_bytes_max: 1, ..Config::new(id(n), n) }, Disk::founded(&membership));
    }
    let leader = cluster.elect();
    let [behind, other] = (1..=3).map(id).filter(|n| *n != leader).collect::<Vec<_>>()[..] else { panic!("three") };
    cluster.down.push(behind);
    for i in 0..10 {
        cluster.propose(leader, &format!("{i}"));
        cluster.deliver();
    }
    cluster.node(leader).is_reading = false;
    cluster.down.clear();
    cluster.run(Duration::from_millis(600));
    let [(request, from, to)] = cluster.node(leader).questions[..] else { panic!("one question") };
    let stale = Run::new(from, Term(1), vec![command("stale"); (to.0 - from.0 + 1) as usize]);
    // Another term begins, in which the same node leads again.
    cluster.handle(leader, Input::Transfer { to: Some(other) });
    cluster.deliver();
    cluster.handle(other, Input::Transfer { to: Some(leader) });
    cluster.deliver();
    assert!(cluster.raft(leader).is_leader());
    cluster.network.clear();
    for entries in [vec![stale.clone()], vec![]] {
        let result = coracle_core::LogRead::Entries(entries);
        cluster.handle(leader, Input::EntriesRead { request, result });
    }
    let sent = cluster
        .network
        .iter()
        .filter(|m| matches!(&m.body, Body::AppendEntries { entries, .. } if entries.contains(&stale)));
    assert_eq!(sent.count(), 0);
    cluster.node(leader).is_reading = true;
    let questions = std::mem::take(&mut cluster.node(leader).questions);
    for (request, from, to) in questions {
        let result = cluster.node(leader).disk.read(from, to);
        cluster.handle(leader, Input::EntriesRead { request, result });
    }
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.nodes[&behind].disk.terms(), cluster.nodes[&leader].disk.terms());
}
