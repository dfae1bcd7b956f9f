//! Requests of one message that take long.

use std::time::Duration;

use bytes::Bytes;
use coracle::client::pb::{self, cluster_client::ClusterClient, kv_client::KvClient};
use tonic::{Code, Status, transport::Channel};

use super::{
    ApiLimits,
    exchange::tests::Gated,
    tests::{Served, start_with},
};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

async fn connect(served: &Served) -> KvClient<Channel> {
    KvClient::connect(format!("http://{}", served.address)).await.unwrap()
}

async fn put(kv: &mut KvClient<Channel>, len: usize) -> Result<u64, Status> {
    let put = pb::op::Op::Put(pb::Put { key: Bytes::from_static(b"k"), value: vec![0; len].into() });
    let request = pb::CommitRequest { ops: vec![pb::Op { op: Some(put) }], once: None };
    Ok(kv.commit(request).await?.into_inner().revision)
}

fn is_late(status: &Status) {
    assert!(status.code() == Code::Cancelled && status.message().contains("longer than it may"), "{status:?}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_cancelled_and_gives_its_bytes_back() {
    let gated = Gated::new();
    let limits = ApiLimits { request_time_max: SHORT, bytes_under_way_max: 3000, ..ApiLimits::default() };
    let served = start_with(gated.clone(), limits).await;
    let mut kv = connect(&served).await;
    for _ in 0..5 {
        is_late(&put(&mut kv, 2000).await.unwrap_err());
        gated.has_under_way(0).await;
    }
    gated.let_through(1);
    assert!(put(&mut kv, 2000).await.is_ok());
}

#[tokio::test]
async fn what_operators_ask_is_cancelled_as_well() {
    let limits = ApiLimits { request_time_max: SHORT, ..ApiLimits::default() };
    let served = start_with(Gated::new(), limits).await;
    let mut cluster = ClusterClient::connect(format!("http://{}", served.address)).await.unwrap();
    let request = pb::JoinRequest { address: "/memory/404".to_owned(), ..pb::JoinRequest::default() };
    is_late(&cluster.join(request).await.unwrap_err());
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_end() {
    let gated = Gated::new();
    let mut served = start_with(gated.clone(), ApiLimits::default()).await;
    let mut kv = connect(&served).await;
    let under_way = tokio::spawn(async move { put(&mut kv, 10).await });
    gated.has_under_way(1).await;
    served.stop();
    gated.let_through(1);
    assert!(tokio::time::timeout(LONG, under_way).await.unwrap().unwrap().is_ok());
    tokio::time::timeout(LONG, served.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn no_more_requests_of_a_connection_are_under_way_than_are_allowed() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits { requests_max: 2, ..ApiLimits::default() }).await;
    let mut kv = connect(&served).await;
    gated.let_through(1);
    assert!(put(&mut kv, 10).await.is_ok(), "from now on the client knows the limit");
    let puts: Vec<_> = (0..5)
        .map(|_| {
            let mut kv = kv.clone();
            tokio::spawn(async move { put(&mut kv, 10).await })
        })
        .collect();
    gated.has_under_way(2).await;
    gated.let_through(puts.len());
    for put in puts {
        assert!(tokio::time::timeout(LONG, put).await.unwrap().unwrap().is_ok());
    }
    assert_eq!(gated.most_under_way(), 2);
}
