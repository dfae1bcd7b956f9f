//! Replicas wired to each other in memory.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use coracle_core::{Body, Forwarded, Index, Message, NodeId, RejectReason, Term};

use crate::{
    Completion, Consistency, Input, ReplicaOptions, RequestError, RequestId,
    testing::{Cluster, Faults},
};

mod damaged_snapshots;
mod forward;
mod reads;

const SECOND: Duration = Duration::from_secs(1);

fn defaults(_: &mut ReplicaOptions) {}

fn small_log(options: &mut ReplicaOptions) {
    options.log_entries_max = 20;
    options.log_entries_kept = 5;
    options.snapshot_chunk_bytes = 64;
}

fn few_requests(options: &mut ReplicaOptions) {
    options.requests_max = 10;
}

impl Cluster {
    fn all_answered(&self, requests: &[RequestId]) -> bool {
        requests.iter().all(|request| self.reply(*request).is_some())
    }

    fn wait_for(&mut self, requests: &[RequestId]) {
        assert!(self.run_until(30 * SECOND, |cluster| cluster.all_answered(requests)), "all are answered");
    }

    fn other_than(&self, leader: NodeId) -> NodeId {
        if leader == NodeId(1) { NodeId(2) } else { NodeId(1) }
    }

    fn is_idle(&self, id: NodeId) -> bool {
        let replica = self.replica(id);
        replica.clients.count() == 0 && replica.clients.bytes() == 0
    }

    /// Commands are on their way when this returns: nobody has taken a turn since.
    fn propose_many(&mut self, id: NodeId, count: usize) -> Vec<RequestId> {
        (0..count).map(|_| self.propose(id)).collect()
    }
}

#[test]
fn a_single_voter_answers_commands_and_queries() {
    let mut cluster = Cluster::new(1, false, 1, defaults);
    let id = cluster.elect();
    let writes = cluster.propose_many(id, 3);
    cluster.wait_for(&writes);
    let indexes: Vec<Index> =
        writes.iter().map(|write| cluster.reply(*write).unwrap().as_ref().unwrap().index).collect();
    assert_eq!(indexes, [Index(3), Index(4), Index(5)]);
    let reads = [cluster.query(id, Consistency::Linearizable), cluster.query(id, Consistency::Stale)];
    cluster.wait_for(&reads);
    for read in reads {
        let reply = cluster.reply(read).unwrap().as_ref().unwrap();
        assert_eq!(crate::testing::list_of(&reply.data), [1, 2, 3]);
        assert_eq!(reply.index, Index(5));
    }
    assert!(cluster.is_idle(id));
}

#[test]
fn every_node_takes_commands_and_linearizable_queries() {
    let mut cluster = Cluster::new(3, false, 2, defaults);
    cluster.elect();
    for round in 1..=5 {
        let writes: Vec<RequestId> = (1..=3).flat_map(|id| cluster.propose_many(NodeId(id), 10)).collect();
        cluster.wait_for(&writes);
        assert!(writes.iter().all(|write| cluster.reply(*write).unwrap().is_ok()));
        let reads: Vec<RequestId> = (1..=3).map(|id| cluster.query(NodeId(id), Consistency::Linearizable)).collect();
        cluster.wait_for(&reads);
        for read in reads {
            let reply = cluster.reply(read).unwrap().as_ref().unwrap();
            assert_eq!(crate::testing::list_of(&reply.data).len(), round * 30);
        }
    }
    assert!((1..=3).all(|id| cluster.is_idle(NodeId(id))));
}

#[test]
fn a_cancelled_request_gets_no_reply() {
    let mut cluster = Cluster::new(1, false, 10, defaults);
    let id = cluster.elect();
    let (cancelled, kept) = (cluster.propose(id), cluster.propose(id));
    let read = cluster.query(id, Consistency::Linearizable);
    for request in [cancelled, read, RequestId(999)] {
        cluster.input(id, Input::Cancel { request });
    }
    cluster.wait_for(&[kept]);
    cluster.run_for(5 * SECOND);
    assert_eq!((cluster.reply(cancelled), cluster.reply(read)), (None, None));
    assert!(cluster.is_idle(id));
}

#[test]
fn more_requests_than_the_limit_are_busy() {
    let mut cluster = Cluster::new(3, false, 11, few_requests);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    for id in [leader, follower] {
        let requests = cluster.propose_many(id, 25);
        cluster.wait_for(&requests);
        let busy = Err(RequestError::Rejected(RejectReason::Busy));
        let (served, refused) = requests.split_at(10);
        assert!(served.iter().all(|request| cluster.reply(*request).unwrap().is_ok()));
        assert!(refused.iter().all(|request| *cluster.reply(*request).unwrap() == busy));
    }
}

#[test]
fn a_command_that_no_frame_could_carry_is_refused_everywhere() {
    let mut cluster = Cluster::new(3, false, 21, |options| options.command_bytes_max = 8);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    for (node, request) in [(leader, RequestId(901)), (follower, RequestId(902))] {
        cluster.input(node, Input::Propose { request, command: Bytes::from_static(b"123456789") });
        let fits = cluster.propose(node);
        cluster.wait_for(&[request, fits]);
        assert_eq!(cluster.reply(request), Some(&Err(RequestError::TooLarge { max: 8, got: 9 })));
        assert!(cluster.reply(fits).unwrap().is_ok());
    }
    let term = cluster.replica(leader).status().term;
    let body = Body::Propose { nonce: 7, sequence: 1, commands: vec![Bytes::from_static(b"123456789")] };
    cluster.delivered.clear();
    cluster.input(leader, Input::Message(Message { from: follower, to: leader, term, body }));
    cluster.run_for(SECOND);
    let is_refused = |message: &Message| match &message.body {
        Body::ProposeResponse { outcomes, .. } => outcomes == &[Forwarded::Busy],
        _ => false,
    };
    assert!(cluster.delivered.iter().any(is_refused));
    assert_eq!(cluster.list(leader).len(), 2);
    assert!(cluster.is_idle(leader) && cluster.is_idle(follower));
}

#[test]
fn c18_without_space_and_a_leader_a_command_is_refused_while_somebody_listens() {
    let mut cluster = Cluster::new(3, false, 13, defaults);
    cluster.elect();
    cluster.full = (1..=3).map(NodeId).collect();
    for id in 1..=3 {
        cluster.propose(NodeId(id));
    }
    assert!(cluster.run_until(60 * SECOND, |cluster| {
        (1..=3).all(|id| {
            let raft = cluster.replica(NodeId(id)).raft();
            raft.is_full() && raft.leader().is_none()
        })
    }));
    let begun = cluster.now;
    let refused: Vec<RequestId> = (1..=3).map(|id| cluster.propose(NodeId(id))).collect();
    cluster.wait_for(&refused);
    for request in refused {
        assert_eq!(cluster.reply(request), Some(&Err(RequestError::Rejected(RejectReason::NoSpace))));
    }
    assert!(cluster.now.since(begun) < 2 * SECOND, "{:?}", cluster.now.since(begun));
    cluster.full.clear();
    cluster.elect();
    let write = cluster.propose(NodeId(1));
    cluster.wait_for(&[write]);
    assert!(cluster.reply(write).unwrap().is_ok());
}

#[test]
fn c20_every_request_is_answered_when_the_log_fails() {
    let mut cluster = Cluster::new(3, false, 12, defaults);
    let leader = cluster.elect();
    cluster.log(leader).fail();
    let writes = cluster.propose_many(leader, 5);
    let reads = [cluster.query(leader, Consistency::Linearizable), cluster.query(leader, Consistency::Stale)];
    cluster.wait_for(&[&writes[..], &reads[..]].concat());
    assert!(writes.iter().all(|write| cluster.reply(*write) == Some(&Err(RequestError::Unknown))));
    assert!(cluster.fatal(leader).is_some());
    let late = cluster.propose(leader);
    cluster.wait_for(&[late]);
    let stopped = Err(RequestError::Rejected(RejectReason::Stopped));
    assert_eq!(*cluster.reply(late).unwrap(), stopped);
}

#[test]
fn a_state_machine_that_fails_stops_the_replica() {
    let mut cluster = Cluster::new(1, false, 13, defaults);
    let id = cluster.elect();
    let request = RequestId(77);
    cluster.input(id, Input::Propose { request, command: Bytes::from_static(b"broken!!") });
    cluster.wait_for(&[request]);
    assert_eq!(cluster.reply(request), Some(&Err(RequestError::Unknown)));
    assert!(cluster.fatal(id).is_some_and(|what| what.contains("by the test")));
    cluster.input(id, Input::Done(Completion::Failed { what: "again".into(), is_log: false, is_damage: false }));
    cluster.run_for(SECOND);
}

fn write_and_compact(cluster: &mut Cluster, leader: NodeId, count: usize) {
    for _ in 0..count {
        let write = cluster.propose(leader);
        cluster.wait_for(&[write]);
    }
}

#[test]
fn c07_the_log_is_compacted_below_what_a_restart_has() {
    for is_durable in [false, true] {
        let mut cluster = Cluster::new(1, is_durable, 14, small_log);
        let id = cluster.elect();
        write_and_compact(&mut cluster, id, 200);
        let base = cluster.log(id).base();
        assert!(base.index >= Index(170) && base.index <= Index(197), "{}", base.index);
        let before = cluster.list(id);
        cluster.stop(id);
        cluster.start(id);
        cluster.elect();
        assert!(cluster.run_until(SECOND, |cluster| cluster.list(NodeId(1)) == before));
    }
}

#[test]
fn c08_a_peer_that_fell_behind_gets_a_snapshot_piece_by_piece() {
    for is_durable in [false, true] {
        for faults in [Faults::default(), Faults { dropped: 20, repeated: 10, reordered: 10 }] {
            let mut cluster = Cluster::new(3, is_durable, 15, small_log);
            let leader = cluster.elect();
            let behind = cluster.other_than(leader);
            cluster.stop(behind);
            write_and_compact(&mut cluster, leader, 200);
            cluster.faults = faults;
            cluster.start(behind);
            let reached = cluster.run_until(120 * SECOND, |cluster| cluster.list(behind).len() == 200);
            assert!(reached, "the peer catches up");
            cluster.faults = Faults::default();
            let leader = cluster.elect();
            let pieces = cluster.delivered.iter().filter(|it| matches!(it.body, Body::InstallSnapshot(_))).count();
            assert!(pieces > 10, "it took {pieces} pieces");
            assert_eq!(cluster.list(behind), cluster.list(leader));
            assert!(cluster.run_until(60 * SECOND, |cluster| cluster.replica(leader).sending.transfers().is_empty()
                || cluster.leader() != Some(leader)));
        }
    }
}

#[test]
fn a_transfer_without_answers_is_given_up_and_tried_again() {
    let mut cluster = Cluster::new(3, false, 16, small_log);
    let leader = cluster.elect();
    let behind = cluster.other_than(leader);
    cluster.stop(behind);
    write_and_compact(&mut cluster, leader, 100);
    cluster.lost = |message| matches!(message.body, Body::InstallSnapshotResponse { .. });
    cluster.start(behind);
    assert!(cluster.run_until(30 * SECOND, |cluster| !cluster.replica(leader).sending.transfers().is_empty()));
    cluster.stop(behind);
    assert!(cluster.run_until(15 * SECOND, |cluster| cluster.replica(leader).sending.transfers().is_empty()));
    cluster.start(behind);
    assert!(cluster.run_until(30 * SECOND, |cluster| !cluster.replica(leader).sending.transfers().is_empty()));
    cluster.input(leader, Input::Unreachable { peer: behind });
    cluster.run_until(Duration::ZERO, |_| false);
    cluster.lost = |_| false;
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 100));
}

#[test]
fn c08_a_transfer_goes_on_where_the_receiver_is() {
    let mut cluster = Cluster::new(3, false, 17, small_log);
    let leader = cluster.elect();
    let behind = cluster.other_than(leader);
    cluster.stop(behind);
    write_and_compact(&mut cluster, leader, 200);
    // Only the first half arrives.
    cluster.lost = |message| matches!(&message.body, Body::InstallSnapshot(piece) if piece.offset >= 640);
    cluster.start(behind);
    cluster.run_for(2 * SECOND);
    cluster.stop(behind);
    cluster.lost = |_| false;
    cluster.delivered.clear();
    cluster.start(behind);
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 200));
    let first = cluster.delivered.iter().filter_map(|message| match &message.body {
        Body::InstallSnapshot(piece) if !piece.data.is_empty() => Some(piece.offset),
        _ => None,
    });
    assert_eq!(first.min(), Some(640));
}

#[test]
fn h69_a_command_that_a_snapshot_swallows_has_an_unknown_outcome() {
    let mut cluster = Cluster::new(3, false, 18, small_log);
    let leader = cluster.elect();
    cluster.isolate(leader);
    // Appended here, never replicated, and then overwritten by what the others commit and compact.
    let swallowed = cluster.propose_many(leader, 3);
    cluster.run_until(Duration::ZERO, |_| false);
    let other = cluster.elect();
    write_and_compact(&mut cluster, other, 100);
    cluster.cut.clear();
    cluster.wait_for(&swallowed);
    for request in swallowed {
        assert_eq!(cluster.reply(request), Some(&Err(RequestError::Unknown)));
    }
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(leader).len() == 100));
}

#[test]
fn a_snapshot_from_before_the_receivers_log_is_followed_by_a_newer_one() {
    let mut cluster = Cluster::new(3, true, 20, small_log);
    let leader = cluster.elect();
    let behind = cluster.other_than(leader);
    cluster.stop(behind);
    write_and_compact(&mut cluster, leader, 50);
    cluster.start(behind);
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 50));
    // The follower's log goes on and is cut beyond the leader's stored snapshot, which the leader's own log still continues.
    write_and_compact(&mut cluster, leader, 10);
    cluster.run_for(SECOND);
    cluster.stop(behind);
    cluster.lose_state(behind, Index(60));
    let compaction = &cluster.replica(leader).compaction;
    assert!(compaction.usable_snapshot().is_some_and(|meta| meta.last_included_index < Index(60)));
    cluster.start(behind);
    cluster.input(leader, Input::Unreachable { peer: behind });
    assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 60));
}

/// What is known of each command when a random run is over.
fn check_history(cluster: &mut Cluster, proposed: &[RequestId]) {
    let list = cluster.list(NodeId(1));
    for id in [NodeId(2), NodeId(3)] {
        assert_eq!(cluster.list(id), list, "all replicas agree");
    }
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    list.iter().for_each(|command| *times.entry(*command).or_default() += 1);
    for request in proposed {
        let times = times.get(&request.0).copied().unwrap_or(0);
        match cluster.reply(*request) {
            Some(Ok(_)) => assert_eq!(times, 1, "{request:?} was acknowledged"),
            Some(Err(RequestError::Rejected(_))) => assert_eq!(times, 0, "{request:?} was rejected"),
            // Unanswered ones were with a node when it stopped.
            Some(Err(_)) | None => assert!(times <= 1, "{request:?} took effect {times} times"),
        }
    }
}

/// Crashes, cuts and lost messages; every command takes effect as its reply says.
fn random_run(seed: u64) {
    let mut cluster = Cluster::new(3, seed.is_multiple_of(2), seed, small_log);
    let mut rng = coracle_core::Rng::new(seed ^ 0x5eed);
    let mut proposed = Vec::new();
    cluster.faults = Faults { dropped: rng.below(15), repeated: rng.below(15), reordered: rng.below(15) };
    for _ in 0..120 {
        let id = NodeId(1 + rng.below(3));
        match rng.below(20) {
            0 if cluster.is_running(id) => cluster.stop(id),
            0..=3 if !cluster.is_running(id) => cluster.start(id),
            4 => cluster.isolate(id),
            5 => cluster.cut.clear(),
            6 => {
                cluster.query(id, Consistency::Linearizable);
            }
            _ if cluster.is_running(id) => proposed.extend(cluster.propose_many(id, rng.below(12) as usize)),
            _ => {}
        }
        cluster.run_for(Duration::from_millis(rng.below(400)));
    }
    cluster.faults = Faults::default();
    cluster.cut.clear();
    for id in (1..=3).map(NodeId) {
        if !cluster.is_running(id) {
            cluster.start(id);
        }
    }
    // Whatever was under way comes to its end.
    cluster.run_for(20 * SECOND);
    let last = cluster.propose(NodeId(1));
    cluster.wait_for(&[last]);
    cluster.run_for(SECOND);
    assert!(cluster.reply(last).unwrap().is_ok());
    check_history(&mut cluster, &proposed);
    assert!((1..=3).all(|id| cluster.is_idle(NodeId(id))), "nothing is held for anybody");
    assert!(cluster.replies().len() > proposed.len() / 3);
}

#[test]
fn c21_outcomes_tell_the_truth_whatever_happens() {
    for seed in 1..=30 {
        println!("seed {seed}");
        random_run(seed);
    }
}

fn small_kept(options: &mut ReplicaOptions) {
    options.log_entries_kept = 5;
}

/// What an operator asks for takes a snapshot at once, and cuts the log below what of it is durable.
#[test]
fn a_snapshot_on_demand_cuts_the_log() {
    for is_durable in [false, true] {
        let mut cluster = Cluster::new(1, is_durable, 31, small_kept);
        let id = cluster.elect();
        write_and_compact(&mut cluster, id, 50);
        assert_eq!(cluster.log(id).base().index, Index(0));
        let requests = [RequestId(501), RequestId(502)];
        for request in requests {
            cluster.input(id, Input::TakeSnapshot { request });
        }
        cluster.wait_for(&requests);
        let covered = cluster.reply(requests[0]).and_then(|reply| reply.as_ref().ok()).expect("it is taken").index;
        assert!(covered >= Index(50), "{covered}");
        assert!(cluster.run_until(SECOND, |cluster| cluster.log(NodeId(1)).base().index >= Index(45)));
    }
}

fn slow_snapshots(options: &mut ReplicaOptions) {
    small_log(options);
    options.snapshot_window = 1;
    options.snapshot_chunk_bytes = 50;
}

/// C8, h70: a transfer that is interrupted goes on with the same snapshot, although the log would have been cut meanwhile.
#[test]
fn c08_an_interrupted_transfer_goes_on_with_the_same_snapshot() {
    for is_durable in [false, true] {
        let mut cluster = Cluster::new(3, is_durable, 32, slow_snapshots);
        let leader = cluster.elect();
        let behind = cluster.other_than(leader);
        cluster.stop(behind);
        write_and_compact(&mut cluster, leader, 300);
        cluster.delivered.clear();
        cluster.lost = |message| is_piece_from(&message.body, 500);
        cluster.start(behind);
        let losses: [fn(&Message) -> bool; 3] =
            [|message| is_piece_from(&message.body, 1000), |message| is_piece_from(&message.body, 1500), |_| false];
        for loss in losses {
            cluster.run_for(SECOND);
            cluster.input(leader, Input::Unreachable { peer: behind });
            // Less than what the log may hold altogether while a snapshot is on its way.
            write_and_compact(&mut cluster, leader, 10);
            cluster.lost = loss;
        }
        assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 330));
        let content_of = |it: &Message| match &it.body {
            Body::InstallSnapshot(piece) => Some((piece.meta.content, piece.offset)),
            _ => None,
        };
        let pieces: Vec<(u64, u64)> = cluster.delivered.iter().filter_map(content_of).collect();
        let first = pieces.iter().take_while(|piece| piece.0 == pieces[0].0);
        assert!(
            first.map(|piece| piece.1).max() > Some(1500),
            "{is_durable}: it began with another snapshot: {pieces:?}"
        );
    }
}

/// C7, h70: what has been sent is of use only as long as the log goes on from it. A peer that cannot be told so at once does not begin again.
#[test]
fn h70_the_log_after_a_snapshot_that_arrived_stays_for_a_while() {
    for is_durable in [false, true] {
        let mut cluster = Cluster::new(3, is_durable, 33, small_log);
        let leader = cluster.elect();
        let behind = cluster.other_than(leader);
        cluster.stop(behind);
        write_and_compact(&mut cluster, leader, 100);
        cluster.delivered.clear();
        cluster.start(behind);
        let is_done = |it: &Message| matches!(it.body, Body::InstallSnapshotResponse { done: true, .. });
        assert!(cluster.run_until(30 * SECOND, |cluster| cluster.delivered.iter().any(is_done)), "it has arrived");
        cluster.cut.insert((leader, behind));
        write_and_compact(&mut cluster, leader, 60);
        cluster.cut.clear();
        assert!(cluster.run_until(60 * SECOND, |cluster| cluster.list(behind).len() == 160), "the peer catches up");
        let content_of = |it: &Message| match &it.body {
            Body::InstallSnapshot(piece) => Some(piece.meta.content),
            _ => None,
        };
        let mut contents: Vec<u64> = cluster.delivered.iter().filter_map(content_of).collect();
        contents.dedup();
        assert_eq!(contents.len(), 1, "{is_durable}: another snapshot was sent");
        let is_question = |it: &&Message| matches!(&it.body, Body::InstallSnapshot(piece) if piece.data.is_empty());
        assert_eq!(cluster.delivered.iter().filter(is_question).count(), 1, "{is_durable}: it was begun again");
        // Not for ever.
        cluster.run_for(20 * SECOND);
        write_and_compact(&mut cluster, leader, 60);
        let base = |cluster: &mut Cluster| cluster.log(leader).base().index >= Index(170);
        assert!(cluster.run_until(SECOND, base), "{is_durable}: the log is cut again");
    }
}

fn is_piece_from(body: &Body, offset: u64) -> bool {
    matches!(body, Body::InstallSnapshot(piece) if piece.offset >= offset)
}

/// C12: a bounded read asks only when the last answer is too old, and fails rather than see what is older.
#[test]
fn c12_a_bounded_read_is_answered_alone_or_not_at_all() {
    let mut cluster = Cluster::new(3, false, 33, defaults);
    let leader = cluster.elect();
    let follower = cluster.other_than(leader);
    let bounded = Consistency::Bounded { max_age: SECOND };
    let first = cluster.query(follower, bounded);
    cluster.wait_for(&[first]);
    cluster.isolate(follower);
    let second = cluster.query(follower, bounded);
    assert!(cluster.run_until(SECOND / 10, |cluster| cluster.reply(second).is_some()), "it is fresh enough");
    assert!(cluster.reply(second).is_some_and(Result::is_ok));
    cluster.run_for(2 * SECOND);
    let (third, stale) = (cluster.query(follower, bounded), cluster.query(follower, Consistency::Stale));
    cluster.wait_for(&[third, stale]);
    assert!(cluster.reply(third).is_some_and(Result::is_err), "nobody can tell how old it is");
    assert!(cluster.reply(stale).is_some_and(Result::is_ok));
}

fn leases(options: &mut ReplicaOptions) {
    options.raft.lease_duration = Duration::from_millis(500);
}

/// C13: a leader answers by its lease without a message, and anybody else by a round.
#[test]
fn c13_lease_reads_are_answered_everywhere() {
    let mut cluster = Cluster::new(3, false, 34, leases);
    let leader = cluster.elect();
    cluster.run_for(SECOND / 2);
    let read = cluster.query(leader, Consistency::Lease);
    assert!(cluster.run_until(Duration::ZERO, |cluster| cluster.reply(read).is_some()));
    let reads: Vec<RequestId> = (1..=3).map(|id| cluster.query(NodeId(id), Consistency::Lease)).collect();
    cluster.wait_for(&reads);
    assert!(reads.iter().all(|read| cluster.reply(*read).is_some_and(Result::is_ok)));
}
