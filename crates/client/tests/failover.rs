//! What a client does when nodes fail, move on or fall silent.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Mode, Node, eventually, follower, leader, nobody, put};
use coracle_client::{Client, ClientOptions, ConnectError};
use coracle_level::{Error, Kv, Once, ReadAt, Revision, SessionId, Txn};

fn options() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.attempt = Duration::from_millis(500);
    options
}

fn impatient() -> ClientOptions {
    let mut options = options().with_deadline(Duration::from_millis(600));
    options.status = Duration::from_millis(200);
    options
}

fn txn() -> Txn {
    Txn { ops: vec![put("k", "v")] }
}

fn once() -> Option<Once> {
    Some(Once { session: SessionId(3), sequence: 1, floor: 0 })
}

async fn get(client: &Client, at: ReadAt) -> Result<Option<Bytes>, Error> {
    let read = client.get_many(at, vec![Bytes::from_static(b"k")]).await?;
    Ok(read.value.into_iter().next().flatten().map(|value| value.value))
}

#[tokio::test]
async fn a_node_that_is_down_is_passed_over() {
    let node = Node::start();
    let client = Client::connect_lazy([nobody(), node.address()], options()).unwrap();
    assert_eq!(client.commit(txn(), None).await.unwrap().revision, Revision(7));
    assert_eq!(get(&client, ReadAt::Linearizable).await.unwrap(), Some(Bytes::from_static(b"v")));
    assert_eq!(get(&client, ReadAt::Stale).await.unwrap(), Some(Bytes::from_static(b"v")));
}

#[tokio::test]
async fn a_bounded_read_goes_to_any_node_and_on_from_one_that_cannot_answer_it() {
    let (near, far) = (Node::start(), Node::start());
    near.says(leader(3, 1));
    let bounded = ReadAt::Bounded(Duration::from_millis(500));
    near.set(Mode::Fail(Error::NotLeader { leader: None }));
    let client = Client::connect([near.address(), far.address()], options()).await.unwrap();
    assert_eq!(get(&client, bounded).await.unwrap(), None);
    assert_eq!(get(&client, bounded).await.unwrap(), None);
    assert_eq!(far.reads(), 2, "it stays where there was an answer");
    far.set(Mode::Fail(Error::NotLeader { leader: None }));
    let client = Client::connect_lazy([near.address(), far.address()], impatient()).unwrap();
    assert!(matches!(get(&client, bounded).await, Err(Error::Unavailable(_))));
    assert!(near.reads() > 0);
}

#[tokio::test]
async fn requests_go_to_the_leader_of_the_newest_term() {
    let (old, new) = (Node::start(), Node::start());
    old.says(leader(3, 1));
    new.says(leader(4, 1));
    // Whichever of the two answers first.
    for _ in 0..30 {
        let client = Client::connect([old.address(), new.address()], options()).await.unwrap();
        client.commit(txn(), None).await.unwrap();
    }
    assert_eq!((old.commits(), new.commits()), (0, 30));
}

#[tokio::test]
async fn a_leader_that_was_not_given_is_found_if_it_belongs_to_the_cluster() {
    let (given, ours, foreign) = (Node::start(), Node::start(), Node::start());
    ours.says(leader(4, 1));
    foreign.says(leader(4, 2));
    given.says(follower(4, 1, &foreign.address()));
    let client = Client::connect([given.address()], options()).await.unwrap();
    client.commit(txn(), None).await.unwrap();
    assert_eq!((given.commits(), foreign.commits()), (1, 0));
    given.says(follower(4, 1, &ours.address()));
    let client = Client::connect([given.address()], options()).await.unwrap();
    client.commit(txn(), None).await.unwrap();
    assert_eq!((given.commits(), ours.commits()), (1, 1));
    assert_eq!(client.endpoints(), [given.address()]);
}

#[tokio::test]
async fn a_node_that_does_not_lead_is_passed_over_even_without_a_session() {
    let (first, second) = (Node::start(), Node::start());
    first.set(Mode::Fail(Error::NotLeader { leader: None }));
    let client = Client::connect_lazy([first.address(), second.address()], options()).unwrap();
    client.commit(txn(), None).await.unwrap();
    assert_eq!((first.commits(), second.commits()), (1, 1));
}

#[tokio::test]
async fn c21_a_commit_without_a_session_is_unknown_when_the_connection_breaks() {
    let (mut first, second) = (Node::start(), Node::start());
    first.set(Mode::Hang);
    first.says(leader(4, 1));
    let client = Client::connect([first.address(), second.address()], options()).await.unwrap();
    let commit = tokio::spawn(async move { client.commit(txn(), None).await });
    eventually("the commit has arrived", async || first.commits() == 1).await;
    first.kill();
    let error = commit.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    assert_eq!(second.commits(), 0);
}

#[tokio::test]
async fn c22_a_commit_with_a_session_is_repeated_when_the_connection_breaks() {
    let (mut first, second) = (Node::start(), Node::start());
    first.set(Mode::Hang);
    first.says(leader(4, 1));
    let client = Client::connect([first.address(), second.address()], options()).await.unwrap();
    let commit = tokio::spawn(async move { client.commit(txn(), once()).await });
    eventually("the commit has arrived", async || first.commits() == 1).await;
    first.kill();
    assert_eq!(commit.await.unwrap().unwrap().revision, Revision(7));
    assert_eq!(second.commits(), 1);
}

#[tokio::test]
async fn c21_a_repeated_commit_that_never_gets_an_answer_is_unknown() {
    let node = Node::start();
    node.set(Mode::Hang);
    let client = Client::connect_lazy([node.address()], impatient()).unwrap();
    let error = client.commit(txn(), once()).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
}

#[tokio::test]
async fn c21_a_refusal_elsewhere_does_not_speak_for_an_attempt_that_broke() {
    for refusal in [
        Error::Protocol("the server does not know the call".to_owned()),
        Error::LimitExceeded { limit: "value_bytes_max".to_owned(), max: 1, got: 2 },
    ] {
        let (mut first, second) = (Node::start(), Node::start());
        first.set(Mode::Hang);
        first.says(leader(4, 1));
        second.set(Mode::Fail(refusal));
        let client = Client::connect([first.address(), second.address()], options()).await.unwrap();
        let commit = tokio::spawn(async move { client.commit(txn(), once()).await });
        eventually("the commit has arrived", async || first.commits() == 1).await;
        first.kill();
        let error = commit.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    }
}

#[tokio::test]
async fn durations_beyond_the_clock_are_as_good_as_none() {
    let node = Node::start();
    let client = Client::connect_lazy([node.address()], options().with_deadline(Duration::MAX)).unwrap();
    client.commit(txn(), None).await.unwrap();
    assert_eq!(client.snapshot(Duration::MAX).await.unwrap(), Revision(7));
    assert_eq!(get(&client, ReadAt::Revision(Revision(7))).await.unwrap(), Some(Bytes::from_static(b"v")));
}

#[tokio::test]
async fn c21_an_unknown_outcome_that_a_node_reports_is_passed_on_as_it_is() {
    let node = Node::start();
    let told = Error::Unknown("it stepped down".to_owned());
    node.set(Mode::Fail(told.clone()));
    let client = Client::connect_lazy([node.address()], impatient()).unwrap();
    assert_eq!(client.commit(txn(), None).await, Err(told));
    assert_eq!(node.commits(), 1);
}

#[tokio::test]
async fn errors_of_the_caller_are_not_retried() {
    let node = Node::start();
    let told = Error::NotAnInteger { key: "k".to_owned() };
    node.set(Mode::Fail(told.clone()));
    let client = Client::connect_lazy([node.address()], options()).unwrap();
    assert_eq!(client.commit(txn(), once()).await, Err(told));
    assert_eq!(node.commits(), 1);
}

#[tokio::test]
async fn a_busy_node_is_asked_again_when_it_said() {
    let node = Node::start();
    node.set(Mode::Fail(Error::Busy { retry_after: Duration::from_millis(20) }));
    let client = Client::connect_lazy([node.address()], options()).unwrap();
    let commit = tokio::spawn(async move { client.commit(txn(), None).await });
    eventually("it was asked again", async || node.commits() > 1).await;
    node.set(Mode::Serve);
    commit.await.unwrap().unwrap();
}

#[tokio::test]
async fn c18_a_node_without_space_is_asked_again_until_the_deadline() {
    let node = Node::start();
    let lacks = "no space in /data: 4096 bytes are needed";
    node.set(Mode::Fail(Error::NoSpace(lacks.to_owned())));
    let client = Client::connect_lazy([node.address()], options()).unwrap();
    let commit = tokio::spawn(async move { client.commit(txn(), None).await });
    eventually("it was asked again", async || node.commits() > 1).await;
    node.set(Mode::Serve);
    commit.await.unwrap().unwrap();

    node.set(Mode::Fail(Error::NoSpace(lacks.to_owned())));
    let hasty = options().with_deadline(Duration::from_millis(200));
    let client = Client::connect_lazy([node.address()], hasty).unwrap();
    let error = client.commit(txn(), None).await.unwrap_err();
    assert!(matches!(&error, Error::NoSpace(told) if told.contains(lacks)), "{error}");
}

/// Where all disks are full nobody leads: one says so, another is silent or knows no leader.
#[tokio::test]
async fn c18_what_a_node_lacks_is_told_whoever_was_asked_last() {
    let lacks = "no space in /data: 4096 bytes are needed";
    let no_leader = || Mode::Fail(Error::NotLeader { leader: None });
    for other in [no_leader(), Mode::Fail(Error::Unavailable("no majority".to_owned())), Mode::Hang] {
        let (full, second) = (Node::start(), Node::start());
        full.set(Mode::Fail(Error::NoSpace(lacks.to_owned())));
        second.set(other);
        let mut hasty = options().with_deadline(Duration::from_millis(800));
        hasty.attempt = Duration::from_millis(150);
        let client = Client::connect_lazy([full.address(), second.address()], hasty).unwrap();
        let error = get(&client, ReadAt::Linearizable).await.unwrap_err();
        assert!(matches!(&error, Error::NoSpace(told) if told.contains(lacks)), "{error}");
        // What nobody answered may have happened, whatever another node lacks.
        let error = client.commit(txn(), once()).await.unwrap_err();
        assert!(matches!(&error, Error::NoSpace(told) | Error::Unknown(told) if told.contains(lacks)), "{error}");
    }
}

#[tokio::test]
async fn a_read_leaves_a_node_that_has_fallen_silent() {
    let (first, second) = (Node::start(), Node::start());
    first.set(Mode::Hang);
    let client = Client::connect_lazy([first.address(), second.address()], options()).unwrap();
    assert_eq!(get(&client, ReadAt::Linearizable).await.unwrap(), None);
    assert_eq!((first.reads(), second.reads()), (1, 1));
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_as_soon_as_another_one_leads() {
    let (old, new) = (Node::start(), Node::start());
    old.says(leader(4, 1));
    old.set(Mode::Hang);
    let mut patient = options().with_deadline(Duration::from_secs(300));
    patient.attempt = Duration::from_secs(300);
    let client = Client::connect([old.address(), new.address()], patient).await.unwrap();
    let commit = tokio::spawn(async move { client.commit(txn(), once()).await });
    eventually("the commit has arrived", async || old.commits() == 1).await;
    new.says(leader(5, 1));
    let committed = tokio::time::timeout(Duration::from_secs(20), commit).await;
    committed.expect("it went to the new leader").unwrap().unwrap();
    assert_eq!(new.commits(), 1);
}

#[tokio::test]
async fn a_snapshot_is_read_where_it_is_held_and_gone_with_its_node() {
    let (mut first, second) = (Node::start(), Node::start());
    first.says(leader(4, 1));
    let client = Client::connect([first.address(), second.address()], options()).await.unwrap();
    let revision = client.snapshot(Duration::from_secs(60)).await.unwrap();
    // The cluster moves on; the snapshot stays.
    second.says(leader(5, 1));
    first.says(follower(5, 1, &second.address()));
    assert_eq!(get(&client, ReadAt::Revision(revision)).await.unwrap(), None);
    assert_eq!((first.reads(), second.reads()), (1, 0));
    first.kill();
    assert_eq!(get(&client, ReadAt::Revision(revision)).await, Err(Error::SnapshotGone(revision)));
    assert_eq!(second.reads(), 0);
    client.release(revision).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_released_where_it_is_held() {
    let node = Node::start();
    let client = Client::connect([node.address()], options()).await.unwrap();
    let revision = client.snapshot(Duration::from_secs(60)).await.unwrap();
    assert_eq!(*node.state.held.lock().unwrap(), [7]);
    client.release(revision).await.unwrap();
    assert!(node.state.held.lock().unwrap().is_empty());
}

#[tokio::test]
async fn without_any_node_it_is_unavailable_by_the_deadline() {
    let client = Client::connect_lazy([nobody()], impatient()).unwrap();
    let began = Instant::now();
    let error = client.commit(txn(), None).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(why) if why.contains("gave up after 600 ms")), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
    let error = Client::connect([nobody()], impatient()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn statuses_come_in_the_order_of_the_endpoints_and_tell_who_is_down() {
    let node = Node::start();
    node.says(leader(4, 1));
    let endpoints = [nobody(), node.address()];
    let client = Client::connect_lazy(&endpoints, options()).unwrap();
    let views = client.statuses().await;
    assert_eq!(views.iter().map(|view| view.endpoint.clone()).collect::<Vec<_>>(), endpoints);
    assert!(matches!(views[0].status, Err(Error::Unavailable(_))));
    assert_eq!(views[1].status.as_ref().unwrap().term, 4);
}

#[tokio::test]
async fn a_request_over_the_limit_does_not_leave() {
    let node = Node::start();
    let mut options = options();
    options.message_bytes_max = 100;
    let client = Client::connect_lazy([node.address()], options).unwrap();
    let ops = (0..20).map(|_| put("some key", "some value")).collect();
    let error = client.commit(Txn { ops }, None).await.unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { max: 100, .. }), "{error:?}");
    assert_eq!(node.commits(), 0);
}

#[tokio::test]
async fn bad_endpoints_are_refused() {
    let none: [&str; 0] = [];
    assert_eq!(Client::connect_lazy(none, options()).unwrap_err(), ConnectError::NoEndpoints);
    let error = Client::connect_lazy(["localhost"], options()).unwrap_err();
    assert!(error.to_string().contains("port is missing"), "{error}");
}
