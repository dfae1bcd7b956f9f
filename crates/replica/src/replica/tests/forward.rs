//! What becomes of commands that are forwarded while leadership changes.

use super::*;

/// Two nodes that take each other for the leader do not send a command round and round: a forward is answered, never forwarded.
#[test]
fn h51_a_forward_goes_no_further() {
    let mut cluster = Cluster::new(3, false, 22, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    let third = (1..=3).map(NodeId).find(|id| ![leader, follower].contains(id)).unwrap();
    let term = cluster.replica(leader).status().term;
    assert_eq!(cluster.replica(follower).status().leader, Some(leader), "it knows whom to forward to");
    assert_eq!(answers_to_forward(&mut cluster, third, follower, term), [Forwarded::NotLeader]);
    let forwards = cluster.delivered.iter().filter(|message| matches!(message.body, Body::Propose { .. }));
    assert_eq!(forwards.count(), 0);
    assert!(cluster.list(leader).is_empty());
    // The control: what its own client asks of it is forwarded.
    let own = cluster.propose(follower);
    cluster.wait_for(&[own]);
    let forwards = cluster.delivered.iter().filter(|message| matches!(message.body, Body::Propose { .. }));
    assert_eq!(forwards.count(), 1);
}

/// A command that a leader took before it was deposed is not handed to its successor as well: whether or not anybody has it by then, its outcome is unknown.
#[test]
fn h50_what_a_deposed_leader_took_is_not_forwarded_to_the_next() {
    let answers_lost: fn(&Message) -> bool = |message| matches!(message.body, Body::ProposeResponse { .. });
    let all_lost: fn(&Message) -> bool =
        |message| matches!(message.body, Body::ProposeResponse { .. } | Body::AppendEntries { .. });
    for (lost, times) in [(answers_lost, 1), (all_lost, 0)] {
        let mut cluster = Cluster::new(3, false, 23, defaults);
        let old = cluster.elect();
        let follower = cluster.other_than(old);
        cluster.lost = lost;
        let command = cluster.propose(follower);
        cluster.run_until(Duration::ZERO, |_| false);
        assert_eq!(cluster.replica(old).status().last_index, Index(3), "the leader took it");
        cluster.isolate(old);
        cluster.lost = |_| false;
        cluster.wait_for(&[command]);
        assert_eq!(cluster.reply(command), Some(&Err(RequestError::Unknown)));
        let next = cluster.elect();
        assert_ne!(next, old);
        cluster.cut.clear();
        cluster.run_for(5 * SECOND);
        assert_eq!(cluster.list(next).len(), times);
        assert_eq!(cluster.list(old).len(), times);
    }
}
