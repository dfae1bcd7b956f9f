//! What a client does when operators ask something of the cluster.

mod common;

use std::time::Duration;

use common::{Node, follower, leader};
use coracle_client::{Client, ClientOptions, ClusterError, Refusal, RefusalKind, pb, status};
use coracle_level::Error;
use tonic::Status;

fn options() -> ClientOptions {
    let mut options = ClientOptions::default().with_deadline(Duration::from_secs(5));
    options.attempt = Duration::from_millis(500);
    options.status = Duration::from_millis(500);
    options
}

fn impatient() -> ClientOptions {
    options().with_deadline(Duration::from_millis(600))
}

fn refusal(kind: RefusalKind) -> Refusal {
    Refusal::new(kind, "because")
}

fn not_leader() -> Status {
    status::from_error(&Error::NotLeader { leader: None })
}

/// A follower, which refuses what only a leader does, and the leader, which is asked once it is found.
async fn pair(options: ClientOptions) -> (Node, Node, Client) {
    let (follows, leads) = (Node::start(), Node::start());
    follows.says(pb::StatusResponse { node_id: 1, ..follower(3, 1, &leads.address()) });
    leads.says(pb::StatusResponse { node_id: 2, ..leader(3, 1) });
    let client = Client::connect([follows.address()], options).await.unwrap();
    (follows, leads, client)
}

#[tokio::test]
async fn operations_go_to_the_leader() {
    let (follows, leads, client) = pair(options()).await;
    leads.has_members([(1, follows.address()), (2, leads.address())]);
    assert_eq!(client.members().await.unwrap().node_id, 2);
    assert_eq!(client.join("12345", false).await.unwrap(), 5);
    client.leave(1).await.unwrap();
    assert_eq!(client.transfer(None).await.unwrap(), 9);
    assert_eq!(client.transfer(Some(4)).await.unwrap(), 4);
    assert_eq!(client.take_snapshot(None).await.unwrap(), 77);
    assert_eq!((follows.operations(), leads.operations()), (0, 5));
}

#[tokio::test]
async fn one_that_does_not_lead_any_more_is_passed_over() {
    let (one, other) = (Node::start(), Node::start());
    one.says(leader(3, 1));
    let client = Client::connect([one.address(), other.address()], options()).await.unwrap();
    one.refuses([not_leader()]);
    assert_eq!(client.join("123", true).await.unwrap(), 3);
    assert_eq!((one.operations(), other.operations()), (1, 1));
}

#[tokio::test]
async fn a_refusal_is_told_as_it_is_and_not_repeated() {
    let (_, leads, client) = pair(options()).await;
    for kind in [RefusalKind::NotMember, RefusalKind::Refused, RefusalKind::Unreachable, RefusalKind::NotTakenOver] {
        leads.refuses([refusal(kind).to_status()]);
        let before = leads.operations();
        assert_eq!(client.join("a", false).await, Err(ClusterError::Refused(refusal(kind))));
        assert_eq!(leads.operations(), before + 1);
    }
}

#[tokio::test]
async fn a_change_that_is_in_the_way_is_waited_for() {
    let in_progress = || refusal(RefusalKind::ChangeInProgress).to_status();
    let (_, leads, client) = pair(options()).await;
    leads.refuses([in_progress(), in_progress()]);
    assert_eq!(client.join("a", false).await, Ok(1));
    assert_eq!(leads.operations(), 3);
    let (_, leads, client) = pair(impatient()).await;
    leads.refuses((0..100).map(|_| in_progress()));
    let ended = client.join("a", false).await;
    assert_eq!(ended, Err(ClusterError::Refused(refusal(RefusalKind::ChangeInProgress))));
}

#[tokio::test]
async fn to_leave_twice_is_no_error_only_if_the_first_time_may_have_been_ours() {
    let (_, leads, client) = pair(options()).await;
    leads.has_members([(1, String::new()), (2, String::new())]);
    // The answer gets lost, and the second attempt finds nobody.
    leads.refuses([Status::unavailable("the connection broke")]);
    client.leave(1).await.unwrap();
    assert_eq!(leads.operations(), 2);
    let gone = client.leave(1).await;
    assert_eq!(gone, Err(ClusterError::Refused(Refusal::new(RefusalKind::NotMember, "gone"))));
    // A leader that was replaced surely did nothing.
    leads.refuses([not_leader(), not_leader()]);
    assert!(matches!(client.leave(1).await, Err(ClusterError::Refused(_))));
}

#[tokio::test]
async fn c15_a_handover_to_anybody_is_not_repeated_when_its_end_is_unknown() {
    let broken = || Status::unavailable("the connection broke");
    let (_, leads, client) = pair(options()).await;
    leads.refuses([broken()]);
    assert!(matches!(client.transfer(None).await, Err(ClusterError::Call(Error::Unknown(_)))));
    assert_eq!(leads.operations(), 1);
    leads.refuses([broken()]);
    assert_eq!(client.transfer(Some(4)).await, Ok(4));
    assert_eq!(leads.operations(), 3);
}

#[tokio::test]
async fn what_is_for_one_node_goes_to_it_wherever_it_is() {
    let (follows, leads, client) = pair(options()).await;
    let third = Node::start();
    third.says(pb::StatusResponse { node_id: 3, ..follower(3, 1, &leads.address()) });
    leads.has_members([(1, follows.address()), (2, leads.address()), (3, third.address()), (4, third.address())]);
    client.weaken(1, Duration::from_secs(1)).await.unwrap();
    client.weaken(3, Duration::from_secs(1)).await.unwrap();
    assert_eq!(client.take_snapshot(Some(3)).await.unwrap(), 77);
    assert_eq!((follows.operations(), leads.operations(), third.operations()), (1, 0, 2));
    // Somebody else answers where the membership has node 4, and nobody has heard of node 5.
    for (id, kind) in [(4, RefusalKind::Unreachable), (5, RefusalKind::NotMember)] {
        let error = client.weaken(id, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(&error, ClusterError::Refused(refusal) if refusal.kind == kind), "{error:?}");
        assert!(error.to_string().contains(&format!("000000000000000{id}")), "{error}");
    }
    assert_eq!(third.operations(), 2);
}
