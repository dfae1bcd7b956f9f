//! Raft §7, and C7, C8.

use std::time::Duration;

use bytes::Bytes;
use coracle_core::{Body, Index, Input, InstallSnapshot, Membership, NodeId, Role, Runs, Term};

use crate::common::{Cluster, Disk, id};

/// A leader of three that has compacted its log while one node was down; (cluster, leader, the node that was down).
fn compacted() -> (Cluster, NodeId, NodeId) {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let behind = (1..=3).map(id).find(|n| *n != leader).unwrap();
    cluster.down.push(behind);
    for i in 0..20 {
        cluster.propose(leader, &format!("{i}"));
        cluster.deliver();
    }
    let applied = cluster.raft(leader).status().applied_index;
    cluster.handle(leader, Input::Applied { applied, flushed: applied });
    cluster.handle(leader, Input::Compact { up_to: Index(15) });
    cluster.down.clear();
    (cluster, leader, behind)
}

fn send_snapshot(cluster: &mut Cluster, leader: NodeId, to: NodeId, index: Index) {
    let meta = cluster.snapshot_of(leader, index);
    cluster.handle(leader, Input::SnapshotSending { peer: to, index });
    let piece = InstallSnapshot { meta, offset: 0, data: Bytes::new() };
    let term = cluster.raft(leader).term().0;
    let input = cluster.message(leader, to, term, Body::InstallSnapshot(piece.into()));
    cluster.handle(to, input);
}

/// §7: a follower that needs what the leader has compacted gets a snapshot, and then the rest of the log.
#[test]
fn a_follower_behind_the_log_gets_a_snapshot() {
    let (mut cluster, leader, behind) = compacted();
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.node(leader).snapshots_wanted, [behind]);
    send_snapshot(&mut cluster, leader, behind, Index(18));
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.raft(behind).status().base_index, Index(18));
    assert_eq!(cluster.raft(behind).commit_index(), cluster.raft(leader).commit_index());
    assert_eq!(cluster.raft(behind).membership_at(Index(18)).0, Index(1), "the membership came with it");
}

/// C7: compaction leaves what a snapshot in transfer is continued by.
#[test]
fn h70_compaction_does_not_overtake_a_snapshot_in_transfer() {
    let (mut cluster, leader, behind) = compacted();
    cluster.run(Duration::from_millis(500));
    cluster.handle(leader, Input::SnapshotSending { peer: behind, index: Index(17) });
    cluster.handle(leader, Input::Compact { up_to: Index(22) });
    assert_eq!(cluster.raft(leader).status().base_index, Index(17));
}

/// C8, h62: a late snapshot over a longer log leaves the log alone.
#[test]
fn h62_a_snapshot_that_the_log_covers_leaves_the_log_untouched() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).map(id).find(|n| *n != leader).unwrap();
    for i in 0..10 {
        cluster.propose(leader, &format!("{i}"));
        cluster.deliver();
    }
    let before = cluster.raft(follower).status();
    send_snapshot(&mut cluster, leader, follower, Index(6));
    let after = cluster.raft(follower).status();
    assert_eq!((after.last_index, after.base_index), (before.last_index, before.base_index));
    let done = cluster.between(follower, leader);
    assert!(done.iter().any(|body| matches!(body, Body::InstallSnapshotResponse { done: true, .. })));
}

/// C8: entries of another history make way for the snapshot, on disk as well.
#[test]
fn c08_a_snapshot_replaces_another_history() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut cluster = Cluster::with_disks([(id(1), Disk::with_terms(&membership, &[2, 2, 2, 2, 2]))]);
    let meta = coracle_core::SnapshotMeta {
        content: 1,
        last_included_index: Index(4),
        last_included_term: Term(3),
        membership_index: Index(1),
        membership,
        size: 0,
        checksum: 0,
    };
    let piece = InstallSnapshot { meta, offset: 0, data: Bytes::new() };
    let input = cluster.message(id(2), id(1), 4, Body::InstallSnapshot(piece.into()));
    cluster.handle(id(1), input);
    let node = cluster.node(id(1));
    assert_eq!((node.disk.base.index, node.disk.base.term, node.disk.last_index()), (Index(4), Term(3), Index(4)));
    assert_eq!(node.raft.status().applied_index, Index(4));
    assert_eq!(node.raft.commit_index(), Index(4));
}

/// C8: what makes way is what lies on the disk, where a compaction may still wait for its turn.
#[test]
fn c08_a_snapshot_replaces_a_log_whose_compaction_is_not_written() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = (1..=3).map(id).find(|n| *n != leader).unwrap();
    for i in 0..20 {
        cluster.propose(leader, &format!("{i}"));
        cluster.deliver();
    }
    cluster.node(follower).is_disk_fast = false;
    cluster.propose(leader, "under way");
    cluster.deliver();
    let applied = cluster.raft(follower).status().applied_index;
    cluster.handle(follower, Input::Applied { applied, flushed: applied });
    cluster.handle(follower, Input::Compact { up_to: Index(15) });
    assert_eq!(cluster.node(follower).disk.base.index, Index::ZERO, "the compaction waits");
    let meta = coracle_core::SnapshotMeta { last_included_index: Index(40), ..cluster.snapshot_of(leader, Index(18)) };
    let piece = InstallSnapshot { meta, offset: 0, data: Bytes::new() };
    let input = cluster.message(leader, follower, cluster.raft(leader).term().0, Body::InstallSnapshot(piece.into()));
    cluster.handle(follower, input);
    cluster.sync_one(follower);
    cluster.pump(follower);
    let write = cluster.node(follower).writes.back().cloned().unwrap();
    assert_eq!(write.base.map(|base| base.index), Some(Index(40)));
    assert_eq!(write.truncate_from, Some(Index(1)), "nothing stays before a gap");
}

/// C8: the snapshot is acknowledged, and handed to the state machine, after the log's base is durable.
#[test]
fn c08_the_base_is_durable_before_the_state_is_replaced() {
    let (mut cluster, leader, behind) = compacted();
    cluster.run(Duration::from_millis(500));
    cluster.node(behind).is_disk_fast = false;
    send_snapshot(&mut cluster, leader, behind, Index(18));
    assert_eq!(cluster.raft(behind).status().applied_index, Index(2), "not before the base is durable");
    let acknowledged = |cluster: &Cluster| {
        cluster.between(behind, leader).into_iter().any(|body| {
            matches!(body, Body::AppendEntriesResponse { result: coracle_core::AppendResult::Matched { index }, .. } if *index >= Index(18))
        })
    };
    assert!(!acknowledged(&cluster));
    cluster.sync(behind);
    assert_eq!(cluster.raft(behind).status().applied_index, Index(18));
    assert!(acknowledged(&cluster));
}

/// C7: a node whose state is behind its log's start votes, does not campaign, and asks for a snapshot.
#[test]
fn c07_a_state_behind_the_log_votes_and_does_not_campaign() {
    let membership = Membership::of_voters([id(1), id(2), id(3)]);
    let mut disk = Disk::with_terms(&membership, &[2, 2, 2]);
    disk.base =
        coracle_core::Base { index: Index(3), term: Term(2), membership_index: Index(1), membership: Some(membership) };
    disk.runs.retain(|run| run.first() > Index(3));
    disk.hard_state.commit_index = Index(3);
    let mut cluster = Cluster::with_disks([(id(1), disk)]);
    cluster.time_out(id(1));
    assert_eq!(cluster.raft(id(1)).role(), Role::Follower);
    let ask = Body::RequestVote { last_log_index: Index(9), last_log_term: Term(2), is_transfer: false };
    let input = cluster.message(id(2), id(1), 3, ask);
    cluster.handle(id(1), input);
    assert_eq!(cluster.between(id(1), id(2)), [&Body::RequestVoteResponse { granted: true }]);
    let body = Body::AppendEntries {
        prev_log_index: Index(4),
        prev_log_term: Term(2),
        leader_commit: Index(4),
        entries: Runs::new(),
    };
    let input = cluster.message(id(2), id(1), 3, body);
    cluster.handle(id(1), input);
    let asks = |body: &&Body| matches!(body, Body::AppendEntriesResponse { needs_snapshot: true, .. });
    assert!(cluster.between(id(1), id(2)).iter().any(asks));
}

/// C7: such a node asks also when there is nothing to append, and its leader does not take its log for enough.
#[test]
fn c07_a_state_behind_the_log_asks_at_a_heartbeat() {
    let (mut cluster, leader, behind) = compacted();
    cluster.run(Duration::from_millis(500));
    send_snapshot(&mut cluster, leader, behind, Index(18));
    cluster.run(Duration::from_millis(500));
    // Its state is lost, its log is not.
    cluster.node(behind).disk.flushed = Index(0);
    cluster.restart(behind);
    cluster.node(leader).snapshots_wanted.clear();
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.node(leader).snapshots_wanted, [behind], "asked for once, and still in transfer");
}

/// h41: a transfer that failed is tried again; one that ends exactly at the last index lets replication go on.
#[test]
fn h41_a_failed_transfer_is_tried_again_and_an_exact_one_goes_on() {
    let (mut cluster, leader, behind) = compacted();
    cluster.run(Duration::from_millis(500));
    cluster.node(leader).snapshots_wanted.clear();
    cluster.handle(leader, Input::SnapshotSendFailed { peer: behind });
    cluster.run(Duration::from_millis(700));
    assert_eq!(cluster.node(leader).snapshots_wanted, [behind]);
    let last = cluster.raft(leader).status().last_index;
    send_snapshot(&mut cluster, leader, behind, last);
    cluster.run(Duration::from_millis(500));
    cluster.propose(leader, "after");
    cluster.run(Duration::from_millis(500));
    assert_eq!(cluster.raft(behind).commit_index(), last.next());
}
