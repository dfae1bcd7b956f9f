//! Nodes that do as a test tells them, each on a runtime of its own so that it can be killed with its connections.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeMap, VecDeque},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_client::{
    Refusal, RefusalKind,
    pb::{self, answer::Answer, call::Call, cluster_server, kv_server, kv_server::Kv as _},
    status,
};
use coracle_level::{Error, Op, Revision};
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, transport::Server};

/// How a node treats commits and reads.
#[derive(Clone, Default)]
pub(crate) enum Mode {
    #[default]
    Serve,
    Fail(Error),
    Hang,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) mode: Mutex<Mode>,
    pub(crate) view: Mutex<pb::StatusResponse>,
    pub(crate) data: Mutex<BTreeMap<Bytes, Bytes>>,
    pub(crate) held: Mutex<Vec<u64>>,
    pub(crate) commits: AtomicUsize,
    pub(crate) reads: AtomicUsize,
    pub(crate) members: Mutex<Vec<pb::Member>>,
    pub(crate) refusals: Mutex<VecDeque<Status>>,
    pub(crate) operations: AtomicUsize,
    /// What lets a commit of the key `slow` be answered.
    pub(crate) slow: tokio::sync::Notify,
    pub(crate) streams: Mutex<Streams>,
    /// How many streams of calls were asked for.
    pub(crate) exchanges: AtomicUsize,
    /// How many of them the client has ended.
    pub(crate) streams_over: AtomicUsize,
    /// How many calls each message of a stream had.
    pub(crate) messages: Mutex<Vec<usize>>,
}

/// What a node does with streams of calls.
#[derive(Clone, Default)]
pub(crate) enum Streams {
    #[default]
    Serve,
    /// It does not know them.
    Unknown,
    /// It answers none of the calls of the first message, and ends the stream.
    End(Status),
    /// It takes the calls, and says that its answers are compressed.
    Compressed,
}

pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    runtime: Option<Runtime>,
}

impl Node {
    pub(crate) fn start() -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = Fake(Arc::clone(&state));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            Server::builder().serve_with_incoming(Services::new(fake), TcpListenerStream::new(listener)).await.unwrap();
        });
        Node { address, state, runtime: Some(runtime) }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// The same, of a version that knows no streams of calls.
    pub(crate) fn without_streams(self) -> Node {
        *self.state.streams.lock().unwrap() = Streams::Unknown;
        self
    }

    pub(crate) fn exchanges(&self) -> usize {
        self.state.exchanges.load(Ordering::SeqCst)
    }

    pub(crate) fn says(&self, view: pb::StatusResponse) {
        *self.state.view.lock().unwrap() = view;
    }

    pub(crate) fn commits(&self) -> usize {
        self.state.commits.load(Ordering::SeqCst)
    }

    pub(crate) fn reads(&self) -> usize {
        self.state.reads.load(Ordering::SeqCst)
    }

    /// What the next operations on the cluster are answered with.
    pub(crate) fn refuses(&self, with: impl IntoIterator<Item = Status>) {
        self.state.refusals.lock().unwrap().extend(with);
    }

    pub(crate) fn has_members(&self, members: impl IntoIterator<Item = (u64, String)>) {
        let member = |(node_id, client_address)| pb::Member { node_id, client_address, ..Default::default() };
        *self.state.members.lock().unwrap() = members.into_iter().map(member).collect();
    }

    pub(crate) fn operations(&self) -> usize {
        self.state.operations.load(Ordering::SeqCst)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address at which nobody listens.
pub(crate) fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

pub(crate) fn leader(term: u64, cluster: u64) -> pb::StatusResponse {
    pb::StatusResponse { role: pb::Role::Leader.into(), term, cluster_id: Some(cluster), ..Default::default() }
}

pub(crate) fn follower(term: u64, cluster: u64, leader: &str) -> pb::StatusResponse {
    pb::StatusResponse {
        role: pb::Role::Follower.into(),
        term,
        cluster_id: Some(cluster),
        leader_client_address: leader.to_owned(),
        ..Default::default()
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Both services behind one port, without a router.
#[derive(Clone)]
struct Services {
    kv: kv_server::KvServer<Fake>,
    cluster: cluster_server::ClusterServer<Fake>,
}

impl Services {
    fn new(fake: Fake) -> Services {
        Services { kv: kv_server::KvServer::new(fake.clone()), cluster: cluster_server::ClusterServer::new(fake) }
    }
}

impl tonic::codegen::Service<tonic::codegen::http::Request<tonic::body::Body>> for Services {
    type Response = tonic::codegen::http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = tonic::codegen::BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::codegen::http::Request<tonic::body::Body>) -> Self::Future {
        if request.uri().path().starts_with("/coracle.v1.Kv/") {
            self.kv.call(request)
        } else {
            self.cluster.call(request)
        }
    }
}

#[derive(Clone)]
struct Fake(Arc<State>);

impl Fake {
    /// An operation on the cluster: the next of the answers that were laid out, and from then on it works.
    async fn operation(&self) -> Result<(), Status> {
        self.0.operations.fetch_add(1, Ordering::SeqCst);
        match self.0.refusals.lock().unwrap().pop_front() {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }

    async fn answer(&self, pb::Call { number, call }: pb::Call) -> pb::Answer {
        let answer = match call {
            Some(Call::Commit(request)) => self.commit(Request::new(request)).await.map(into(Answer::Commit)),
            Some(Call::GetMany(request)) => self.get_many(Request::new(request)).await.map(into(Answer::GetMany)),
            Some(Call::ContainsMany(request)) => {
                self.contains_many(Request::new(request)).await.map(into(Answer::ContainsMany))
            }
            _ => Err(Status::unimplemented("not played here")),
        };
        let failed = |status: Status| Answer::Error(pb::Error::decode(status.details()).unwrap());
        pb::Answer { number, answer: Some(answer.unwrap_or_else(failed)) }
    }

    async fn mode(&self) -> Result<(), Status> {
        let mode = self.0.mode.lock().unwrap().clone();
        match mode {
            Mode::Serve => Ok(()),
            Mode::Fail(error) => Err(status::from_error(&error)),
            Mode::Hang => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for Fake {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.0.view.lock().unwrap().clone()))
    }

    async fn members(&self, _: Request<pb::MembersRequest>) -> Result<Response<pb::MembersResponse>, Status> {
        let node_id = self.0.view.lock().unwrap().node_id;
        let members = self.0.members.lock().unwrap().clone();
        Ok(Response::new(pb::MembersResponse { node_id, members, ..Default::default() }))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        self.operation().await?;
        let request = request.into_inner();
        Ok(Response::new(pb::JoinResponse { node_id: request.address.len() as u64 }))
    }

    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveResponse>, Status> {
        let node_id = request.into_inner().node_id;
        let after = self.operation().await;
        let mut members = self.0.members.lock().unwrap();
        let before = members.len();
        members.retain(|member| member.node_id != node_id);
        if members.len() == before {
            return Err(Refusal::new(RefusalKind::NotMember, "gone").to_status());
        }
        after.map(|()| Response::new(pb::LeaveResponse {}))
    }

    async fn transfer(&self, request: Request<pb::TransferRequest>) -> Result<Response<pb::TransferResponse>, Status> {
        self.operation().await?;
        let leader_id = request.into_inner().node_id.unwrap_or(9);
        Ok(Response::new(pb::TransferResponse { leader_id }))
    }

    async fn weaken(&self, _: Request<pb::WeakenRequest>) -> Result<Response<pb::WeakenResponse>, Status> {
        self.operation().await?;
        Ok(Response::new(pb::WeakenResponse {}))
    }

    async fn snapshot(
        &self,
        _: Request<pb::TakeSnapshotRequest>,
    ) -> Result<Response<pb::TakeSnapshotResponse>, Status> {
        self.operation().await?;
        Ok(Response::new(pb::TakeSnapshotResponse { index: 77 }))
    }
}

fn into<T>(answer: fn(T) -> Answer) -> impl Fn(Response<T>) -> Answer {
    move |response| answer(response.into_inner())
}

#[tonic::async_trait]
impl kv_server::Kv for Fake {
    type ExchangeStream = ReceiverStream<Result<pb::ExchangeResponse, Status>>;

    async fn exchange(
        &self,
        request: Request<tonic::Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        self.0.exchanges.fetch_add(1, Ordering::SeqCst);
        let streams = self.0.streams.lock().unwrap().clone();
        let is_compressed = matches!(streams, Streams::Compressed);
        let ends = match streams {
            Streams::Serve | Streams::Compressed => None,
            Streams::Unknown => return Err(Status::unimplemented("")),
            Streams::End(status) => Some(status),
        };
        let (sender, answers) = tokio::sync::mpsc::channel(64);
        let (fake, mut calls) = (self.clone(), request.into_inner());
        let first = if is_compressed { calls.message().await? } else { None };
        if let Some(message) = first {
            for call in message.calls {
                fake.answer(call).await;
            }
        }
        tokio::spawn(async move {
            while let Ok(Some(message)) = calls.message().await {
                fake.0.messages.lock().unwrap().push(message.calls.len());
                if let Some(status) = ends {
                    let _ = sender.send(Err(status)).await;
                    return;
                }
                for call in message.calls {
                    let (fake, sender) = (fake.clone(), sender.clone());
                    tokio::spawn(async move {
                        let answers = vec![fake.answer(call).await];
                        let _ = sender.send(Ok(pb::ExchangeResponse { answers })).await;
                    });
                }
            }
            fake.0.streams_over.fetch_add(1, Ordering::SeqCst);
        });
        let mut response = Response::new(ReceiverStream::new(answers));
        if is_compressed {
            response.metadata_mut().insert("grpc-encoding", "gzip".parse().unwrap());
        }
        Ok(response)
    }

    async fn get_many(&self, request: Request<pb::GetManyRequest>) -> Result<Response<pb::GetManyResponse>, Status> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        self.mode().await?;
        let request = request.into_inner();
        let at = request.at.unwrap_or_default();
        if at.consistency() == pb::Consistency::Revision && !self.0.held.lock().unwrap().contains(&at.revision) {
            return Err(status::from_error(&Error::SnapshotGone(Revision(at.revision))));
        }
        let data = self.0.data.lock().unwrap();
        let value =
            |key| data.get(key).map(|value| pb::Value { value: value.clone(), created: 1, modified: 1, version: 1 });
        let values = request.keys.iter().map(|key| pb::MaybeValue { value: value(key) }).collect();
        Ok(Response::new(pb::GetManyResponse { values, revision: 1 }))
    }

    async fn commit(&self, request: Request<pb::CommitRequest>) -> Result<Response<pb::CommitResponse>, Status> {
        let request = request.into_inner();
        self.0.commits.fetch_add(1, Ordering::SeqCst);
        self.mode().await?;
        if request.ops.iter().any(is_slow) {
            self.0.slow.notified().await;
        }
        for op in request.ops {
            if let Some(pb::op::Op::Put(pb::Put { key, value })) = op.op {
                self.0.data.lock().unwrap().insert(key, value);
            }
        }
        Ok(Response::new(pb::CommitResponse { revision: 7, integers: Vec::new() }))
    }

    async fn snapshot(&self, _: Request<pb::SnapshotRequest>) -> Result<Response<pb::SnapshotResponse>, Status> {
        self.mode().await?;
        self.0.held.lock().unwrap().push(7);
        Ok(Response::new(pb::SnapshotResponse { revision: 7 }))
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Result<Response<pb::ReleaseResponse>, Status> {
        let revision = request.into_inner().revision;
        self.0.held.lock().unwrap().retain(|held| *held != revision);
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn contains_many(
        &self,
        _: Request<pb::ContainsManyRequest>,
    ) -> Result<Response<pb::ContainsManyResponse>, Status> {
        Ok(Response::new(pb::ContainsManyResponse { present: Vec::new(), revision: 1 }))
    }

    async fn page(&self, _: Request<pb::PageRequest>) -> Result<Response<pb::PageResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn open_session(
        &self,
        _: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        self.mode().await?;
        Ok(Response::new(pb::OpenSessionResponse { session: 3 }))
    }

    async fn close_session(
        &self,
        _: Request<pb::CloseSessionRequest>,
    ) -> Result<Response<pb::CloseSessionResponse>, Status> {
        Ok(Response::new(pb::CloseSessionResponse {}))
    }
}

fn is_slow(op: &pb::Op) -> bool {
    matches!(&op.op, Some(pb::op::Op::Put(put)) if put.key == "slow")
}

/// A put, as a transaction takes it.
pub(crate) fn put(key: &'static str, value: &'static str) -> Op {
    Op::Put { key: Bytes::from_static(key.as_bytes()), value: Bytes::from_static(value.as_bytes()) }
}
