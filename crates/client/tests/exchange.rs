//! Many calls to a node on one stream.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use common::{Mode, Node, Streams, eventually, leader, put};
use coracle_client::{Client, ClientOptions, status};
use coracle_level::{Error, Kv, Once, Op, ReadAt, Revision, SessionId, Txn};
use tonic::Status;

fn txn() -> Txn {
    Txn { ops: vec![put("k", "v")] }
}

fn once() -> Option<Once> {
    Some(Once { session: SessionId(3), sequence: 1, floor: 0 })
}

async fn connect(node: &Node) -> Client {
    Client::connect([node.address()], ClientOptions::default()).await.unwrap()
}

fn messages(node: &Node) -> Vec<usize> {
    node.state.messages.lock().unwrap().clone()
}

/// So many commits at a time, on tasks of their own.
async fn commit_at_once(client: &Client, count: usize) {
    let commits: Vec<_> = (0..count)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.commit(txn(), None).await })
        })
        .collect();
    for commit in commits {
        assert_eq!(commit.await.unwrap().unwrap().revision, Revision(7));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_waits_leaves_together() {
    let node = Node::start();
    let client = connect(&node).await;
    client.commit(txn(), None).await.unwrap();
    commit_at_once(&client, 64).await;
    let messages = messages(&node);
    assert_eq!((node.exchanges(), messages.iter().sum::<usize>(), messages[0]), (1, 65, 1));
    assert!(messages.len() < 30, "{messages:?}");
}

#[tokio::test]
async fn answers_come_in_any_order() {
    let node = Node::start();
    let client = connect(&node).await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.commit(Txn { ops: vec![put("slow", "v")] }, None).await }
    });
    eventually("the slow one has arrived", async || node.commits() == 1).await;
    commit_at_once(&client, 3).await;
    let keys = vec![Bytes::from_static(b"k")];
    let read = client.get_many(ReadAt::Linearizable, keys).await.unwrap();
    assert_eq!(read.value[0].as_ref().unwrap().value, "v");
    assert!(!slow.is_finished());
    node.state.slow.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().revision, Revision(7));
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test]
async fn an_error_is_that_of_its_call_only() {
    let node = Node::start();
    let client = connect(&node).await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.commit(Txn { ops: vec![put("slow", "v")] }, None).await }
    });
    eventually("the slow one has arrived", async || node.commits() == 1).await;
    let told = Error::NotAnInteger { key: "k".to_owned() };
    node.set(Mode::Fail(told.clone()));
    assert_eq!(client.commit(txn(), None).await, Err(told));
    node.state.slow.notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test]
async fn a_node_that_knows_no_streams_is_asked_by_requests() {
    let node = Node::start().without_streams();
    let client = connect(&node).await;
    for _ in 0..3 {
        client.commit(txn(), None).await.unwrap();
    }
    assert_eq!((node.commits(), node.exchanges()), (3, 1));
}

#[tokio::test]
async fn a_large_call_has_a_request_of_its_own() {
    let node = Node::start();
    let client = connect(&node).await;
    let op = Op::Put { key: Bytes::from_static(b"k"), value: vec![0; 100_000].into() };
    client.commit(Txn { ops: vec![op] }, None).await.unwrap();
    assert_eq!((node.commits(), node.exchanges()), (1, 0));
}

/// A client whose messages have so many bytes at most.
async fn connect_with(node: &Node, message_bytes_max: usize) -> Client {
    let mut options = ClientOptions::default();
    options.message_bytes_max = message_bytes_max;
    Client::connect([node.address()], options).await.unwrap()
}

#[tokio::test]
async fn an_answer_over_the_limit_ends_its_own_call_only() {
    let node = Node::start();
    node.state.data.lock().unwrap().insert(Bytes::from_static(b"large"), vec![0; 5000].into());
    let client = connect_with(&node, 1000).await;
    let slow = tokio::spawn({
        let client = client.clone();
        async move { client.commit(Txn { ops: vec![put("slow", "v")] }, None).await }
    });
    eventually("the slow one has arrived", async || node.commits() == 1).await;
    let error = client.get_many(ReadAt::Linearizable, vec![Bytes::from_static(b"large")]).await.unwrap_err();
    assert!(matches!(&error, Error::Protocol(why) if why.contains("too large")), "{error:?}");
    assert_eq!(node.reads(), 1, "it would be as large again");
    node.state.slow.notify_one();
    assert_eq!(slow.await.unwrap().unwrap().revision, Revision(7));
    assert_eq!(node.exchanges(), 1);
    // A request of its own says the same.
    let node = Node::start().without_streams();
    node.state.data.lock().unwrap().insert(Bytes::from_static(b"large"), vec![0; 5000].into());
    let client = connect_with(&node, 1000).await;
    let error = client.get_many(ReadAt::Linearizable, vec![Bytes::from_static(b"large")]).await.unwrap_err();
    assert!(matches!(&error, Error::Protocol(why) if why.contains("too large")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_message_of_calls_is_over_the_limit() {
    let node = Node::start();
    let client = connect_with(&node, 200).await;
    client.commit(txn(), None).await.unwrap();
    commit_at_once(&client, 64).await;
    let messages = messages(&node);
    assert_eq!((node.exchanges(), messages.iter().sum::<usize>()), (1, 65));
    // Each commit takes 10 bytes, and what goes round it.
    assert!(messages.iter().all(|calls| *calls <= 5), "{messages:?}");
    // One that fits into a message only without a number has a request of its own.
    let value = Bytes::from(vec![0; 180]);
    let op = Op::Put { key: Bytes::from_static(b"k"), value };
    client.commit(Txn { ops: vec![op] }, None).await.unwrap();
    assert_eq!((node.commits(), node.exchanges()), (66, 1));
    assert_eq!(self::messages(&node).iter().sum::<usize>(), 65);
}

#[tokio::test]
async fn c21_what_a_node_did_not_take_before_it_ended_a_stream_in_order_is_asked_again() {
    let node = Node::start();
    *node.state.streams.lock().unwrap() = Streams::End(status::from_error(&Error::Closed));
    let client = connect(&node).await;
    // Without a session, so that it may be repeated only if it surely had no effect.
    client.commit(txn(), None).await.unwrap();
    assert_eq!((node.commits(), node.exchanges(), messages(&node)), (1, 1, vec![1]));
}

#[tokio::test]
async fn c21_a_stream_that_ends_otherwise_leaves_its_calls_unknown() {
    let statuses = [
        Status::unavailable("a proxy"),
        Status::out_of_range("too large"),
        Status::unimplemented("half-way"),
        Status::ok(""),
    ];
    for status in statuses {
        let node = Node::start();
        *node.state.streams.lock().unwrap() = Streams::End(status);
        let client = connect(&node).await;
        let error = client.commit(txn(), None).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{error:?}");
        assert_eq!((node.commits(), node.exchanges()), (0, 1));
        *node.state.streams.lock().unwrap() = Streams::Serve;
        client.commit(txn(), None).await.unwrap();
        assert_eq!((node.commits(), node.exchanges()), (1, 2));
    }
}

#[tokio::test]
async fn c21_answers_that_cannot_be_read_leave_their_calls_unknown() {
    let node = Node::start();
    *node.state.streams.lock().unwrap() = Streams::Compressed;
    let client = connect(&node).await;
    // To the client this looks much as if the node did not know the call.
    let error = client.commit(txn(), None).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    eventually("it had an effect", async || node.commits() == 1).await;
}

#[tokio::test]
async fn c22_a_commit_with_a_session_is_repeated_when_its_stream_breaks() {
    let node = Node::start();
    *node.state.streams.lock().unwrap() = Streams::End(Status::unavailable("a proxy"));
    let client = connect(&node).await;
    let commit = tokio::spawn(async move { client.commit(txn(), once()).await });
    eventually("the stream broke twice", async || node.exchanges() > 1).await;
    *node.state.streams.lock().unwrap() = Streams::Serve;
    commit.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_does_not_wait_any_more_disturbs_nobody() {
    let node = Node::start();
    node.says(leader(1, 1));
    let client = connect(&node).await;
    node.set(Mode::Hang);
    for arrived in 1..4 {
        let dropped = tokio::spawn({
            let client = client.clone();
            async move { client.commit(txn(), None).await }
        });
        eventually("it has arrived", async || node.commits() == arrived).await;
        dropped.abort();
        assert!(dropped.await.unwrap_err().is_cancelled());
    }
    node.set(Mode::Serve);
    commit_at_once(&client, 10).await;
    assert_eq!(node.exchanges(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_stream() {
    let node = Node::start();
    let client = connect(&node).await;
    client.commit(txn(), None).await.unwrap();
    drop(client);
    let over = async || node.state.streams_over.load(Ordering::SeqCst) == 1;
    eventually("the stream is over", over).await;
}
