//! Stored snapshots that are damaged: they are neither believed nor sent for ever (P7).

use super::*;

/// The log of the leader is cut while a follower is away; returns the follower.
fn behind(cluster: &mut Cluster, leader: NodeId) -> NodeId {
    let behind = cluster.other_than(leader);
    cluster.stop(behind);
    write_and_compact(cluster, leader, 50);
    behind
}

#[test]
fn p07_a_leader_whose_snapshot_is_damaged_takes_another() {
    for is_durable in [false, true] {
        let mut cluster = Cluster::new(3, is_durable, 41, small_log);
        let leader = cluster.elect();
        let behind = behind(&mut cluster, leader);
        if is_durable {
            // Its state is in its own store: a snapshot is only taken when it is asked for.
            let request = RequestId(900);
            cluster.input(leader, Input::TakeSnapshot { request });
            cluster.wait_for(&[request]);
        }
        let stored = cluster.replica(leader).compaction.newest.clone().unwrap();
        cluster.damage_snapshots(leader);
        cluster.delivered.clear();
        cluster.start(behind);
        assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 50));
        assert_eq!(cluster.leader(), Some(leader), "it leads on");
        let sent = |content: Option<u64>| {
            let pieces = cluster.delivered.iter().filter_map(|message| match &message.body {
                Body::InstallSnapshot(piece) if content.is_none_or(|it| it == piece.meta.content) => Some(&piece.data),
                _ => None,
            });
            pieces.map(|data| data.len() as u64).sum::<u64>()
        };
        // The damage is met when the last piece is read, which is not sent; then the new one goes its way.
        assert!(sent(None) <= stored.size + 2 * 400, "{} bytes were sent of {}", sent(None), stored.size);
        assert!(sent(Some(stored.content)) >= stored.size / 2, "what was damaged was on its way");
    }
}

/// Where nobody waits for the snapshot any more when its damage is found, the log alone would not bring the state back.
#[test]
fn p07_a_damaged_snapshot_is_replaced_although_its_receiver_is_gone() {
    let mut cluster = Cluster::new(3, false, 43, small_log);
    let leader = cluster.elect();
    write_and_compact(&mut cluster, leader, 50);
    let stored = cluster.replica(leader).compaction.newest.clone().unwrap();
    let what = "on purpose".into();
    cluster.input(leader, Input::Done(Completion::SnapshotDamaged { content: stored.content, what }));
    assert!(cluster.run_until(60 * SECOND, |cluster| {
        let newest = &cluster.replica(leader).compaction.newest;
        newest.as_ref().is_some_and(|newest| newest.content != stored.content)
    }));
}

#[test]
fn c07_a_node_whose_only_snapshot_is_damaged_gets_the_leaders() {
    let mut cluster = Cluster::new(3, false, 42, small_log);
    let leader = cluster.elect();
    let damaged = cluster.other_than(leader);
    write_and_compact(&mut cluster, damaged, 50);
    write_and_compact(&mut cluster, leader, 1);
    cluster.stop(damaged);
    cluster.damage_snapshots(damaged);
    // It has the log's end, and nobody to ask: it does not lead, and answers nothing.
    cluster.stop(leader);
    cluster.start(damaged);
    assert!(cluster.replica(damaged).is_behind_log());
    let third = NodeId(6 - leader.0 - damaged.0);
    let read = cluster.query(damaged, Consistency::Stale);
    cluster.wait_for(&[read]);
    assert!(cluster.reply(read).unwrap().is_err());
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(damaged).len() == 51), "from the third");
    assert_eq!(cluster.leader(), Some(third), "its vote elected who is whole");
}
