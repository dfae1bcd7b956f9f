//! Commands that are forwarded to the leader (C21).

use super::*;

#[test]
fn c10_what_is_forwarded_together_is_one_message() {
    let mut cluster = Cluster::new(3, false, 3, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    cluster.delivered.clear();
    let writes = cluster.propose_many(follower, 256);
    cluster.wait_for(&writes);
    let count = |is: fn(&Body) -> bool| cluster.delivered.iter().filter(|message| is(&message.body)).count();
    assert_eq!(count(|body| matches!(body, Body::Propose { .. })), 1);
    assert_eq!(count(|body| matches!(body, Body::ProposeResponse { .. })), 1);
    let appends = cluster.delivered.iter().filter(|message| match &message.body {
        Body::AppendEntries { entries, .. } => !entries.is_empty(),
        _ => false,
    });
    assert_eq!(appends.count(), 2);
}

#[test]
fn c21_a_forward_that_arrives_twice_is_appended_once() {
    let mut cluster = Cluster::new(3, false, 4, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    cluster.faults = Faults { repeated: 100, ..Faults::default() };
    let writes = cluster.propose_many(follower, 5);
    cluster.wait_for(&writes);
    assert_eq!(cluster.list(leader), [1, 2, 3, 4, 5]);
}

/// What a node says to a forwarded command, in the order of the answers.
fn answers_to_forward(cluster: &mut Cluster, from: NodeId, to: NodeId, term: Term) -> Vec<Forwarded> {
    cluster.delivered.clear();
    let body = Body::Propose { nonce: 7, sequence: 1, commands: vec![Bytes::from_static(b"12345678")] };
    cluster.input(to, Input::Message(Message { from, to, term, body }));
    cluster.run_for(SECOND / 10);
    let answers = cluster.delivered.iter().filter_map(|message| match &message.body {
        Body::ProposeResponse { outcomes, .. } => Some(outcomes.clone()),
        _ => None,
    });
    answers.flatten().collect()
}

#[test]
fn c21_a_forward_to_a_node_that_does_not_lead_is_refused() {
    let mut cluster = Cluster::new(3, false, 5, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    let term = cluster.replica(leader).status().term;
    assert_eq!(answers_to_forward(&mut cluster, leader, follower, term), [Forwarded::NotLeader]);
    assert!(cluster.list(leader).is_empty());
}

#[test]
fn c21_a_forward_that_may_have_been_appended_is_never_refused() {
    let mut cluster = Cluster::new(3, false, 5, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    let term = cluster.replica(leader).status().term;
    let first = answers_to_forward(&mut cluster, follower, leader, term);
    assert!(matches!(first[..], [Forwarded::Applied { .. }]), "{first:?}");
    // It leads no more when a copy of the message arrives: the answer is under way already.
    let heartbeat = Body::Heartbeat { round: 1, leader_commit: Index(0) };
    let later = Message { from: follower, to: leader, term: Term(term.0 + 1), body: heartbeat };
    cluster.input(leader, Input::Message(later));
    cluster.run_until(Duration::ZERO, |_| false);
    assert_eq!(answers_to_forward(&mut cluster, follower, leader, term), []);
    // Another life does not know what this one has appended.
    cluster.stop(leader);
    cluster.start(leader);
    assert_eq!(answers_to_forward(&mut cluster, follower, leader, term), [Forwarded::Unknown]);
    assert_eq!(cluster.list(follower).len(), 1);
}

#[test]
fn c21_forwards_to_a_leader_that_is_gone_have_an_unknown_outcome() {
    let mut cluster = Cluster::new(3, false, 7, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    cluster.stop(leader);
    let lost = cluster.propose(follower);
    cluster.wait_for(&[lost]);
    assert_eq!(cluster.reply(lost), Some(&Err(RequestError::Unknown)));
    cluster.elect();
    let later = cluster.propose(follower);
    cluster.wait_for(&[later]);
    assert!(cluster.reply(later).unwrap().is_ok());
}

#[test]
fn an_unreachable_leader_ends_forwards_at_once_and_nothing_more_is_sent_to_it() {
    let mut cluster = Cluster::new(3, false, 8, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    cluster.stop(leader);
    let lost = cluster.propose(follower);
    cluster.run_until(Duration::ZERO, |_| false);
    cluster.input(follower, Input::Unreachable { peer: leader });
    cluster.run_until(Duration::ZERO, |_| false);
    assert_eq!(cluster.reply(lost), Some(&Err(RequestError::Unknown)));
    // Waits for the next leader instead of getting lost.
    let next = cluster.propose(follower);
    cluster.wait_for(&[next]);
    assert!(cluster.reply(next).unwrap().is_ok());
}

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
