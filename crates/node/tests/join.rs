//! Nodes that join a running cluster, and members that leave it.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{DEADLINE, DiskStore, Mode, cluster, options, start, stores, wait_until};
use coracle_core::{CallOff, Event, GroupId, Incarnation, MembershipChange, NodeId, Recovered, RejectReason};
use coracle_node::{
    FoundingMode, JoinError, JoinRefusal, JoinRole, Node, NodeEvent, NodeOptions, PromotionError, RequestError,
    StartError,
};
use coracle_replica::{Answer, AnswerState, Inquiry, Question, Wire};
use coracle_storage::{Identity, LogBatch, StorageError, Store};
use coracle_transport::{Address, Transport};
use coracle_transport_memory::MemoryNetwork;
use tokio::task::JoinHandle;

fn founding(at: u64, mode: FoundingMode) -> NodeOptions {
    NodeOptions { founding: mode, ..options(at, 1) }
}

fn standby(at: u64) -> NodeOptions {
    founding(at, FoundingMode::Standby)
}

fn joiner(at: u64, members: &[u64]) -> NodeOptions {
    founding(at, FoundingMode::Join(members.iter().copied().map(Address::memory).collect()))
}

/// Starts a node that may have to wait for others.
fn starting(
    network: &MemoryNetwork,
    store: &Arc<DiskStore>,
    options: NodeOptions,
) -> JoinHandle<Result<Node, StartError>> {
    let (network, store) = (network.clone(), store.clone());
    tokio::spawn(async move { start(&network, &store, options).await })
}

async fn leader(nodes: &[Node]) -> Node {
    let mut leader = None;
    wait_until("somebody leads", || {
        leader = nodes.iter().find(|node| node.status().role == "leader").cloned();
        leader.is_some()
    })
    .await;
    leader.unwrap()
}

/// Takes the node at `at` in, as an operator does: asks again as long as it makes sense.
async fn join(nodes: &[Node], at: u64, role: JoinRole) -> Result<NodeId, JoinError> {
    let start = Instant::now();
    loop {
        let result = leader(nodes).await.join(&Address::memory(at), role).await;
        let is_passing = matches!(
            result,
            Err(JoinError::NotLeader { .. } | JoinError::ChangeInProgress | JoinError::Unreachable { .. })
        );
        if !is_passing {
            return result;
        }
        assert!(start.elapsed() < DEADLINE, "{result:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn leave(nodes: &[Node], id: NodeId) {
    let start = Instant::now();
    loop {
        match leader(nodes).await.leave(id).await {
            Ok(_) => return,
            Err(RequestError::Rejected(RejectReason::NotLeader { .. } | RejectReason::ChangeInProgress)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_for_roles(node: &Node, expected: &[&str]) {
    let roles = || {
        let members = node.status().members;
        let mut roles: Vec<String> = members.into_iter().map(|member| member.role).collect();
        roles.sort();
        roles
    };
    wait_until(&format!("the members are {expected:?}"), || roles() == expected).await;
}

async fn wait_for_role(node: &Node, role: &str) {
    wait_until(&format!("it is {role}"), || node.status().role == role).await;
}

async fn propose(node: &Node, count: u64) {
    for _ in 0..count {
        node.propose("x").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_standby_is_invited_and_promoted() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let nodes = cluster(&network, &stores[..1]).await;
    let waiting = starting(&network, &stores[1], standby(2));
    propose(&nodes[0], 5).await;
    let id = join(&nodes, 2, JoinRole::Voter).await.unwrap();
    let second = waiting.await.unwrap().unwrap();
    assert_eq!(second.id(), id);
    leader(&nodes).await.wait_until_voter(id, DEADLINE).await.unwrap();
    wait_for_role(&second, "follower").await;
    assert_eq!(second.status().cluster, nodes[0].status().cluster);
    // Both are needed from here on.
    second.propose("x").await.unwrap();
    assert_eq!(join(&nodes, 2, JoinRole::Voter).await, Ok(id), "it is a member already");
    assert_eq!(join(&nodes, 2, JoinRole::Learner).await, Ok(id), "a voter does not lose its vote by joining");
    wait_for_roles(&nodes[0], &["voter", "voter"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_joiner_that_asks_a_follower_is_sent_to_the_leader() {
    let (network, stores) = (MemoryNetwork::new(), stores(4));
    let nodes = cluster(&network, &stores[..3]).await;
    let leading = leader(&nodes).await.id();
    let follower = (1..).zip(&nodes).find(|(_, node)| node.id() != leading).unwrap().0;
    let fourth = starting(&network, &stores[3], joiner(4, &[follower])).await.unwrap().unwrap();
    wait_for_role(&fourth, "follower").await;
    wait_for_roles(&nodes[0], &["voter"; 4]).await;
    // It is asked again by nobody: its store belongs to the cluster, and the list is ignored.
    fourth.shutdown().await;
    let fourth = start(&network, &stores[3], joiner(4, &[9])).await.unwrap();
    fourth.propose("x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_joined_node_is_founded_but_not_by_a_list() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let nodes = cluster(&network, &stores[..1]).await;
    let second = starting(&network, &stores[1], joiner(2, &[1])).await.unwrap().unwrap();
    wait_for_role(&second, "follower").await;
    let question = Question {
        group: GroupId(1),
        at: "/memory/2".to_owned(),
        id: NodeId(1),
        incarnation: Incarnation(2),
        cluster_name: "test".to_owned(),
        addresses: vec!["/memory/9".to_owned()],
    };
    let inquiry = Inquiry::Founding(question).encode();
    let answer = network.transport().ask(&Address::memory(2), inquiry).await.unwrap();
    let cluster = nodes[0].status().cluster.unwrap();
    assert_eq!(Answer::decode(&answer).unwrap().state, AnswerState::Joined { cluster });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_join_at_once() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster(&network, &stores[..1]).await;
    let joining = [2, 3].map(|at| starting(&network, &stores[at as usize - 1], joiner(at, &[1])));
    let mut joined = Vec::new();
    for node in joining {
        joined.push(node.await.unwrap().unwrap());
    }
    for node in &joined {
        wait_for_role(node, "follower").await;
    }
    wait_for_roles(&nodes[0], &["voter"; 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_joins_and_is_promoted_by_joining_again() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let nodes = cluster(&network, &stores[..1]).await;
    let mut learner = joiner(2, &[1]);
    learner.join_role = JoinRole::Learner;
    let second = starting(&network, &stores[1], learner).await.unwrap().unwrap();
    wait_for_role(&second, "learner").await;
    assert_eq!(nodes[0].wait_until_voter(second.id(), DEADLINE).await, Err(PromotionError::Learner));
    assert_eq!(join(&nodes, 2, JoinRole::Voter).await, Ok(second.id()));
    nodes[0].wait_until_voter(second.id(), DEADLINE).await.unwrap();
    wait_for_role(&second, "follower").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_catches_up_by_snapshot() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let mut small = options(1, 1);
    small.replica.log_entries_max = 20;
    small.replica.log_entries_kept = 0;
    let first = start(&network, &stores[0], small).await.unwrap();
    propose(&first, 100).await;
    wait_until("the log is compacted", || first.status().base_index.0 > 1).await;
    let second = starting(&network, &stores[1], joiner(2, &[1])).await.unwrap().unwrap();
    wait_for_role(&second, "follower").await;
    assert!(second.status().base_index.0 > 1, "it begins with a snapshot");
    second.propose("x").await.unwrap();
    // What it knows of its cluster is in no entry of its log; it is a member all the same.
    second.shutdown().await;
    let second = start(&network, &stores[1], joiner(2, &[1])).await.unwrap();
    wait_for_role(&second, "follower").await;
    assert_eq!(second.propose("x").await.unwrap().data, "102");
}

#[tokio::test(flavor = "multi_thread")]
async fn c01_a_wiped_node_is_told_who_has_its_address_and_comes_back_by_leave_and_join() {
    let (network, mut stores) = (MemoryNetwork::new(), stores(3));
    let mut nodes = cluster(&network, &stores).await;
    let wiped = nodes.remove(2);
    let member = wiped.id();
    wiped.shutdown().await;
    stores[2] = Arc::new(DiskStore::new());
    let refused = start(&network, &stores[2], joiner(3, &[1, 2])).await.unwrap_err();
    assert!(
        matches!(&refused, StartError::NotTakenIn(JoinRefusal::Wiped { member: at }) if *at == member),
        "{refused}"
    );
    assert!(refused.to_string().contains(&format!("`coracle leave {member}`, then `join`")), "{refused}");

    let waiting = starting(&network, &stores[2], standby(3));
    let refused = join(&nodes, 3, JoinRole::Voter).await.unwrap_err();
    let JoinError::Refused { refusal: JoinRefusal::Wiped { member: at }, .. } = refused else { panic!("{refused}") };
    assert_eq!(at, member);
    leave(&nodes, member).await;
    let id = join(&nodes, 3, JoinRole::Voter).await.unwrap();
    assert_ne!(id, member);
    let back = waiting.await.unwrap().unwrap();
    wait_for_role(&back, "follower").await;
    wait_for_roles(&nodes[0], &["voter"; 3]).await;
    back.propose("x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_nodes_of_other_clusters_do_not_join() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let first = start(&network, &stores[0], options(1, 1)).await.unwrap();
    let second =
        start(&network, &stores[1], NodeOptions { founding: FoundingMode::Alone, ..options(2, 1) }).await.unwrap();
    first.wait_for_leader(DEADLINE).await.unwrap();
    let refused = join(std::slice::from_ref(&first), 2, JoinRole::Voter).await.unwrap_err();
    let JoinError::Refused { refusal: JoinRefusal::OtherCluster { cluster }, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(Some(cluster), second.status().cluster);
    let other = NodeOptions { cluster_name: "other".to_owned(), ..joiner(3, &[1]) };
    let refused = start(&network, &stores[2], other).await.unwrap_err();
    assert!(matches!(refused, StartError::NotTakenIn(JoinRefusal::ClusterName { .. })), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_a_follower_nor_a_node_that_founds() {
    let (network, stores) = (MemoryNetwork::new(), stores(4));
    let nodes = cluster(&network, &stores[..3]).await;
    let leading = leader(&nodes).await;
    let follower = nodes.iter().find(|node| node.id() != leading.id()).unwrap();
    follower.wait_for_leader(DEADLINE).await.unwrap();
    let refused = follower.join(&Address::memory(4), JoinRole::Voter).await.unwrap_err();
    assert!(matches!(refused, JoinError::NotLeader { .. }), "{refused}");
    let refused = leading.join(&Address::memory(9), JoinRole::Voter).await.unwrap_err();
    assert!(matches!(refused, JoinError::Unreachable { .. }), "{refused}");
    let founds = founding(4, FoundingMode::Peers(vec![Address::memory(9)]));
    let waiting = starting(&network, &stores[3], founds);
    let refused = join(&nodes, 4, JoinRole::Voter).await.unwrap_err();
    assert!(matches!(refused, JoinError::Refused { refusal: JoinRefusal::Founding, .. }), "{refused}");
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn h08_a_removed_node_learns_it_and_disturbs_nobody() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster(&network, &stores).await;
    let leading = leader(&nodes).await;
    let removed = nodes.iter().find(|node| node.id() != leading.id()).unwrap();
    let mut events = removed.events();
    leading.leave(removed.id()).await.unwrap();
    wait_for_role(removed, "removed").await;
    let told = async { while !matches!(events.recv().await, Ok(NodeEvent::Removed)) {} };
    tokio::time::timeout(DEADLINE, told).await.expect("it is told");
    let term = leading.status().term;
    // For longer than it would take to be elected.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        propose(&leading, 10).await;
    }
    assert_eq!((leading.status().term, leading.status().role.as_str()), (term, "leader"));
    assert!(removed.is_running());
    assert!(removed.propose("x").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_a_leader_that_is_removed_hands_over_and_learns_it() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster(&network, &stores).await;
    let first = leader(&nodes).await;
    let others: Vec<Node> = nodes.iter().filter(|node| node.id() != first.id()).cloned().collect();
    first.leave(first.id()).await.unwrap();
    wait_for_role(&first, "removed").await;
    let next = leader(&others).await;
    next.propose("x").await.unwrap();
    wait_for_roles(&next, &["voter", "voter"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h08_one_who_was_removed_while_it_was_down_is_told_by_refusals() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster(&network, &stores).await;
    let leading = leader(&nodes).await;
    let at = nodes.iter().position(|node| node.id() != leading.id()).unwrap();
    nodes[at].shutdown().await;
    leading.leave(nodes[at].id()).await.unwrap();
    wait_for_roles(&leading, &["voter", "voter"]).await;
    let back = start(&network, &stores[at], options(at as u64 + 1, 3)).await.unwrap();
    wait_for_role(&back, "removed").await;
    assert!(back.is_running());
    // Whoever was removed may come back, on the same store.
    let others: Vec<Node> = nodes.iter().filter(|node| node.id() != back.id()).cloned().collect();
    assert_eq!(join(&others, at as u64 + 1, JoinRole::Voter).await, Ok(back.id()));
    wait_for_role(&back, "follower").await;
    back.propose("x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_never_comes_up_is_called_off_and_leaves() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let mut hasty = options(1, 1);
    hasty.replica.raft.promotion_timeout = Duration::from_millis(500);
    let first = start(&network, &stores[0], hasty).await.unwrap();
    first.wait_for_leader(DEADLINE).await.unwrap();
    let mut events = first.events();
    // It answers, and its disk never lets it start.
    stores[1].disk.set(Mode::Hangs);
    let waiting = starting(&network, &stores[1], standby(2));
    let id = join(std::slice::from_ref(&first), 2, JoinRole::Voter).await.unwrap();
    let reason = CallOff::Silent { node: id };
    assert_eq!(first.wait_until_voter(id, DEADLINE).await, Err(PromotionError::CalledOff { reason }));
    let told_of: Vec<_> = first.status().called_off.into_iter().map(|it| (it.reason, it.nodes)).collect();
    assert_eq!(told_of, [(reason, vec![id])]);
    let told = async { while !matches!(events.recv().await, Ok(NodeEvent::Replica(Event::ChangeCalledOff { .. }))) {} };
    tokio::time::timeout(DEADLINE, told).await.expect("it is told");
    wait_for_roles(&first, &["learner", "voter"]).await;
    leave(std::slice::from_ref(&first), id).await;
    wait_for_roles(&first, &["voter"]).await;
    first.propose("x").await.unwrap();
    stores[1].disk.set(Mode::Works);
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_crash_between_base_and_identity_is_repaired_from_the_log() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let nodes = cluster(&network, &stores[..1]).await;
    let identity = Identity {
        node: NodeId(7),
        incarnation: Incarnation(8),
        engine: "memory".to_owned(),
        cluster_name: "test".to_owned(),
        clusters: BTreeMap::new(),
    };
    let cluster = nodes[0].status().cluster.unwrap();
    let base = Recovered::joining(cluster).base;
    let group = GroupId(1);
    let batch = LogBatch { base: Some(base), ..LogBatch::append(group, Vec::new()) };
    stores[1].set_identity(&identity).unwrap();
    stores[1].log().write(&[batch]).unwrap();
    // It goes on with what it had begun, instead of standing by for any cluster.
    let second = start(&network, &stores[1], standby(2)).await.unwrap();
    assert_eq!(
        stores[1].identity().unwrap().unwrap(),
        Identity { clusters: BTreeMap::from([(group, cluster)]), ..identity }
    );
    assert_eq!((second.status().role.as_str(), second.id()), ("joining", NodeId(7)));
    second.shutdown().await;
    let second = start(&network, &stores[1], joiner(2, &[1])).await.unwrap();
    wait_for_role(&second, "follower").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c02_a_store_that_is_to_join_and_lost_its_log_does_not_start_anew() {
    let (network, stores) = (MemoryNetwork::new(), stores(2));
    let nodes = cluster(&network, &stores[..1]).await;
    let second = starting(&network, &stores[1], joiner(2, &[1])).await.unwrap().unwrap();
    second.shutdown().await;
    let empty = Arc::new(DiskStore::new());
    empty.set_identity(&stores[1].identity().unwrap().unwrap()).unwrap();
    let error = start(&network, &empty, joiner(2, &[1])).await.unwrap_err();
    assert!(matches!(error, StartError::Storage(StorageError::Damaged { .. })), "{error}");
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_that_stops_in_the_middle_goes_on() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster(&network, &stores[..2]).await;
    for attempt in 0..3 {
        let third = starting(&network, &stores[2], joiner(3, &[1, 2])).await.unwrap().unwrap();
        if attempt == 2 {
            wait_for_role(&third, "follower").await;
            third.propose("x").await.unwrap();
        }
        // As soon as it runs, whether it has heard anybody or not.
        third.shutdown().await;
    }
    wait_for_roles(&leader(&nodes).await, &["voter"; 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_missed_who_its_members_are_is_found_by_the_leader() {
    let (network, stores) = (MemoryNetwork::new(), stores(5));
    let mut nodes = cluster(&network, &stores[..3]).await;
    // One sleeps while two others come, and one of those leads in the end.
    let asleep = nodes.remove(2);
    asleep.shutdown().await;
    for at in [4, 5] {
        nodes.push(starting(&network, &stores[at as usize - 1], joiner(at, &[1, 2])).await.unwrap().unwrap());
        let id = nodes.last().unwrap().id();
        leader(&nodes).await.wait_until_voter(id, DEADLINE).await.unwrap();
    }
    let last = nodes.last().unwrap().clone();
    wait_for_role(&last, "follower").await;
    leader(&nodes).await.transfer(Some(last.id())).await.unwrap();
    let back = start(&network, &stores[2], options(3, 3)).await.unwrap();
    wait_until("it follows a leader that it has never heard of", || {
        let status = back.status();
        status.leader == Some(last.id()) && status.members.len() == 5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_has_moved_joins_again_with_its_address() {
    let (network, stores) = (MemoryNetwork::new(), stores(3));
    let nodes = cluster(&network, &stores).await;
    let leading = leader(&nodes).await;
    let at = nodes.iter().position(|node| node.id() != leading.id()).unwrap();
    nodes[at].shutdown().await;
    let moved = start(&network, &stores[at], NodeOptions { addresses: vec![Address::memory(9)], ..options(9, 3) });
    let moved = moved.await.unwrap();
    let others: Vec<Node> = nodes.iter().filter(|node| node.id() != moved.id()).cloned().collect();
    assert_eq!(join(&others, 9, JoinRole::Voter).await, Ok(moved.id()));
    wait_until("it is reached at its new address", || {
        let members = moved.status().members;
        let own = members.iter().find(|member| member.is_self).unwrap();
        own.addresses == ["/memory/9"] && moved.status().leader.is_some()
    })
    .await;
    moved.propose("x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_nobody_is_refused() {
    let error = start(&MemoryNetwork::new(), &stores(1)[0], joiner(1, &[])).await.unwrap_err();
    assert!(matches!(error, StartError::Configuration(_)), "{error}");
    let nodes = cluster(&MemoryNetwork::new(), &stores(1)).await;
    leader(&nodes).await;
    let nobody = nodes[0].change_membership(MembershipChange { set: vec![], remove: vec![NodeId(9)] }).await;
    assert!(matches!(nobody, Err(RequestError::Rejected(RejectReason::Membership { .. }))), "{nobody:?}");
}
