//! Leading without the state, only to hand over (C7, C19).

use std::time::Duration;

use bytes::Bytes;
use coracle_core::{Event, Index, Input, InstallSnapshot, Membership, Outcome, Role, Term};

use super::repair::damaged;
use crate::common::{Cluster, Disk, id};

/// Starts a node that has flushed the first four entries, and compacts its log up to the third.
fn start_compacted(cluster: &mut Cluster, n: u64, mut disk: Disk) {
    disk.flushed = Index(4);
    cluster.start(id(n), disk);
    cluster.handle(id(n), Input::Compact { up_to: Index(3) });
}

/// Node 1 has the longest log and misses an entry that 2, which has its state, has compacted away; 3 is down.
fn the_longest_log_lacks_its_state() -> Cluster {
    let mut cluster = Cluster::with_disks([(id(1), damaged(&[1, 1, 1, 1, 1, 1], &[2]))]);
    start_compacted(&mut cluster, 2, damaged(&[1, 1, 1, 1], &[]));
    cluster.down = vec![id(3)];
    cluster
}

/// C7, C19: where no majority can be made without a node whose state is behind its log's start, and its log is the longest, that node is elected, brings somebody who has the state up to date, and hands over; it serves nobody meanwhile.
#[test]
fn c19_a_node_without_its_state_leads_only_to_hand_over() {
    let mut cluster = the_longest_log_lacks_its_state();
    // For a while nobody takes over when asked to.
    cluster.handle(id(2), Input::Weaken { duration: Duration::from_secs(20) });
    let (mut terms, mut asked) = (std::collections::BTreeSet::new(), Vec::new());
    for _ in 0..1_000 {
        if cluster.leader() == Some(id(2)) {
            break;
        }
        cluster.run(Duration::from_millis(100));
        if cluster.raft(id(1)).is_leader() {
            assert!(cluster.raft(id(1)).is_standing_in() && cluster.raft(id(1)).status().is_state_behind);
            terms.insert(cluster.raft(id(1)).term());
            asked.push((cluster.propose(id(1), "x"), cluster.read_by(id(1), true)));
        }
    }
    assert_eq!(cluster.leader(), Some(id(2)), "somebody takes over");
    assert!(terms.len() == 1 && asked.len() > 1, "it gave up, and who has its log by then goes on: {terms:?}");
    for (proposal, read) in asked {
        assert!(matches!(cluster.nodes[&id(1)].outcomes[&proposal], Outcome::Rejected(_)));
        assert!(cluster.nodes[&id(1)].failed_reads.contains(&read));
    }
    assert_eq!(cluster.nodes[&id(1)].snapshots_wanted, [], "it has none to send");
    assert_eq!(cluster.raft(id(2)).term_at(Index(7)), Some(Term(1)), "what may be committed is kept");
    cluster.run(Duration::from_millis(300));
    assert!(cluster.nodes[&id(2)].snapshots_wanted.contains(&id(1)));
}

/// C7: whoever has its state leads at once, and nobody stands in for it.
#[test]
fn c07_nobody_stands_in_where_somebody_can_serve() {
    let mut cluster = Cluster::with_disks([(id(1), damaged(&[1, 1, 1, 1], &[2]))]);
    start_compacted(&mut cluster, 2, damaged(&[1, 1, 1, 1], &[]));
    start_compacted(&mut cluster, 3, damaged(&[1, 1, 1, 1], &[]));
    cluster.run(Duration::from_secs(30));
    assert!(cluster.raft(id(1)).status().is_state_behind, "nobody has sent it a snapshot");
    let led = |event: &Event| matches!(event, Event::Role { role: Role::Leader | Role::PreCandidate, .. });
    assert!(!cluster.nodes[&id(1)].events.iter().any(led));
    assert!(cluster.leader().is_some());
}

/// C19: whoever lacks more than the log without a state holds gets no snapshot from it, and one from the leader that comes of it.
#[test]
fn c19_a_node_without_its_state_sends_no_snapshots_and_forgets_nobody() {
    let five = Membership::of_voters((1..=5).map(id));
    let mut long = Disk::with_terms(&five, &[1, 1, 1, 1, 1, 1]);
    long.damage(Index(2));
    let mut cluster = Cluster::with_disks([(id(1), long)]);
    start_compacted(&mut cluster, 2, Disk::with_terms(&five, &[1, 1, 1, 1]));
    cluster.down = (3..=5).map(id).collect();
    cluster.run(Duration::from_secs(10));
    assert!(cluster.raft(id(1)).status().is_state_behind, "its log begins where that of 2 does");
    cluster.start(id(3), Disk::founded(&five));
    cluster.handle(id(2), Input::Weaken { duration: Duration::from_secs(20) });
    let mut stood_in = 0;
    for _ in 0..1_000 {
        if cluster.leader() == Some(id(2)) {
            break;
        }
        cluster.run(Duration::from_millis(100));
        if cluster.raft(id(1)).is_standing_in() {
            stood_in += 1;
            let waits = cluster.raft(id(1)).status().peers.iter().any(|peer| peer.is_installing);
            assert!(!waits, "nobody waits for a snapshot that nobody sends");
        }
    }
    assert!(stood_in > 0);
    assert_eq!(cluster.leader(), Some(id(2)));
    assert_eq!(cluster.nodes[&id(1)].snapshots_wanted, []);
    cluster.run(Duration::from_millis(500));
    assert!([1, 3].map(id).iter().all(|n| cluster.nodes[&id(2)].snapshots_wanted.contains(n)));
}

/// C7: a state that arrives while its node asks for votes comes first.
#[test]
fn c07_a_candidate_whose_state_arrives_waits_for_it() {
    let mut cluster = the_longest_log_lacks_its_state();
    let meta = cluster.snapshot_of(id(2), Index(4));
    // Its write of the vote waits, so that it stays a candidate.
    while cluster.raft(id(1)).role() != Role::Candidate {
        cluster.run(Duration::from_millis(10));
        let is_behind = cluster.raft(id(1)).status().is_state_behind;
        cluster.node(id(1)).is_disk_fast = !is_behind;
        assert!(cluster.now < coracle_core::Time(60_000_000_000), "it campaigns");
    }
    cluster.handle(id(1), Input::SnapshotReceived { meta: meta.into() });
    assert_eq!(cluster.raft(id(1)).role(), Role::Follower);
    cluster.node(id(1)).is_disk_fast = true;
    cluster.sync(id(1));
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.raft(id(1)).status().applied_index, cluster.raft(id(1)).commit_index());
    assert!(!cluster.raft(id(1)).status().is_state_behind);
}

/// C20: a snapshot that contradicts what is committed here comes from no correct leader, and moves nothing.
#[test]
fn c20_a_snapshot_that_contradicts_a_committed_entry_is_a_fault() {
    let mut disk = damaged(&[1, 1, 1, 1], &[4]);
    disk.flushed = Index(5);
    disk.hard_state.commit_index = Index(5);
    disk.knows_kinds = false;
    let mut cluster = Cluster::with_disks([(id(1), disk)]);
    let mut meta = cluster.snapshot_of(id(1), Index(4));
    meta.last_included_term = Term(2);
    let piece = InstallSnapshot { meta: meta.clone(), offset: 0, data: Bytes::new() };
    let input = cluster.message(id(2), id(1), 2, coracle_core::Body::InstallSnapshot(piece.into()));
    cluster.handle(id(1), input);
    cluster.handle(id(1), Input::SnapshotReceived { meta: meta.into() });
    let status = cluster.raft(id(1)).status();
    assert_eq!((status.commit_index, status.applied_index, status.base_index), (Index(5), Index(5), Index(0)));
    assert!(cluster.nodes[&id(1)].events.iter().any(|event| matches!(event, Event::PeerFault { .. })));
}
