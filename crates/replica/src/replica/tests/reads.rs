//! Requests that wait for a leader, and reads.

use super::*;

#[test]
fn a_command_waits_for_a_leader_and_then_no_longer() {
    let mut cluster = Cluster::new(3, false, 6, defaults);
    // Before anybody leads.
    let early = cluster.propose(NodeId(1));
    let early_read = cluster.query(NodeId(2), Consistency::Linearizable);
    cluster.wait_for(&[early, early_read]);
    assert!(cluster.reply(early).unwrap().is_ok() && cluster.reply(early_read).unwrap().is_ok());
    cluster.stop(NodeId(2));
    cluster.stop(NodeId(3));
    cluster.run_for(3 * SECOND);
    let (write, read) = (cluster.propose(NodeId(1)), cluster.query(NodeId(1), Consistency::Linearizable));
    let begun = cluster.now;
    cluster.wait_for(&[write, read]);
    assert!(cluster.now.since(begun) < 3 * SECOND);
    for request in [write, read] {
        let refused = RequestError::Rejected(RejectReason::NoQuorum);
        assert_eq!(cluster.reply(request), Some(&Err(refused)));
    }
    let stale = cluster.query(NodeId(1), Consistency::Stale);
    cluster.wait_for(&[stale]);
    assert!(cluster.reply(stale).unwrap().is_ok());
}

#[test]
fn c21_a_read_whose_entries_never_come_ends_without_a_leader() {
    let mut cluster = Cluster::new(3, false, 12, defaults);
    while cluster.elect() == NodeId(3) {
        cluster.input(NodeId(3), Input::Transfer { to: None });
        cluster.run_for(SECOND);
    }
    let leader = cluster.elect();
    cluster.lost = |message| message.to == NodeId(3) && matches!(message.body, Body::AppendEntries { .. });
    let write = cluster.propose(leader);
    cluster.wait_for(&[write]);
    // The leader tells which index the read needs, and then nothing more, as it does to who is not a member any more.
    let read = cluster.query(NodeId(3), Consistency::Linearizable);
    cluster.run_for(SECOND / 2);
    assert!(
        cluster.delivered.iter().any(|message| matches!(message.body, Body::ReadIndexResponse { index: Some(_), .. }))
    );
    assert_eq!(cluster.reply(read), None);
    cluster.isolate(NodeId(3));
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.reply(read).is_some()));
    assert_eq!(cluster.reply(read), Some(&Err(RequestError::Rejected(RejectReason::NoQuorum))));
}

#[test]
fn a_leader_that_is_cut_off_says_unknown_and_serves_no_reads() {
    let mut cluster = Cluster::new(3, false, 9, defaults);
    let leader = cluster.elect();
    cluster.isolate(leader);
    let requests = [cluster.propose(leader), cluster.query(leader, Consistency::Linearizable)];
    cluster.wait_for(&requests);
    assert_eq!(cluster.reply(requests[0]), Some(&Err(RequestError::Unknown)));
    assert!(matches!(cluster.reply(requests[1]), Some(Err(RequestError::Rejected(_)))));
}

#[test]
fn a_state_that_is_behind_the_log_answers_nothing() {
    let mut cluster = Cluster::new(3, false, 19, small_log);
    let leader = cluster.elect();
    let behind = cluster.other_than(leader);
    cluster.stop(behind);
    write_and_compact(&mut cluster, leader, 100);
    cluster.start(behind);
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 100));
    // The log goes on after the snapshot; the state does without its own.
    cluster.stop(behind);
    cluster.lose_snapshots(behind);
    cluster.lost = |message| matches!(message.body, Body::InstallSnapshot(_));
    cluster.start(behind);
    cluster.input(leader, Input::Unreachable { peer: behind });
    cluster.run_for(2 * SECOND);
    let stale = cluster.query(behind, Consistency::Stale);
    cluster.wait_for(&[stale]);
    let refused = matches!(cluster.reply(stale), Some(Err(RequestError::Rejected(RejectReason::NotLeader { .. }))));
    assert!(refused, "{:?}", cluster.reply(stale));
    let read = cluster.query(behind, Consistency::Linearizable);
    cluster.run_for(SECOND);
    cluster.lost = |_| false;
    cluster.wait_for(&[read]);
    let reply = cluster.reply(read).unwrap().as_ref().unwrap();
    assert_eq!(crate::testing::list_of(&reply.data).len(), 100);
}
