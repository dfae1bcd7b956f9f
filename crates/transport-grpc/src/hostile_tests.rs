//! What others may do to a process that listens, and what it costs.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle_core::{Body, GroupId, Incarnation, Message, NodeId, Term};
use coracle_transport::{
    Address, Fault, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Peer, Refusal, Transport, links::HTTP2_PREFACE,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming, transport::Server};

use crate::{
    GrpcOptions, GrpcTransport,
    convert::{encode_frame, encode_greeting},
    dial::{Dialed, connect},
    pb::{self, envelope::Content},
    wire::{Greeting, Said, WireError, read_said},
};

const MAX: usize = 1 << 20;

#[derive(Default)]
struct TestHost {
    received: Mutex<Vec<Frame>>,
    refuses: Mutex<bool>,
    lost: Mutex<usize>,
}

impl Host for TestHost {
    fn hello(&self) -> Hello {
        hello(1)
    }
    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        (group == GroupId(1)).then_some(NodeId(1))
    }
    fn admit(&self, _: &GroupHello) -> Result<(), Refusal> {
        if *self.refuses.lock().unwrap() { Err(Refusal::NoGroup) } else { Ok(()) }
    }
    fn receive(&self, frames: Vec<Frame>) {
        self.received.lock().unwrap().extend(frames);
    }
    fn unreachable(&self, _: GroupId, _: NodeId) {
        *self.lost.lock().unwrap() += 1;
    }
    fn answer(&self, question: Bytes) -> Bytes {
        question
    }
}

fn hello(node: u64) -> Hello {
    let group = GroupHello {
        group: GroupId(1),
        cluster_name: "c".to_owned(),
        cluster: None,
        node: NodeId(node),
        incarnation: Incarnation(node),
    };
    Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: node, groups: vec![group] }
}

fn frame(from: u64, to: u64, term: u64) -> Frame {
    let body = Body::HeartbeatResponse { round: 1, promise: 0 };
    Frame { group: GroupId(1), message: Message { from: NodeId(from), to: NodeId(to), term: Term(term), body } }
}

fn envelope(frames: Vec<pb::Frame>) -> pb::Envelope {
    pb::Envelope { content: Some(Content::Frames(pb::Frames { frames })) }
}

fn frames(frames: &[Frame]) -> pb::Envelope {
    envelope(frames.iter().cloned().map(encode_frame).collect())
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Node 1, which listens.
struct Node {
    transport: GrpcTransport,
    host: Arc<TestHost>,
    address: Address,
}

impl Node {
    async fn start(options: GrpcOptions) -> Node {
        let (transport, host) = (GrpcTransport::new(options), Arc::new(TestHost::default()));
        let bind = "/ip4/127.0.0.1/tcp/0/http".parse().unwrap();
        let address = transport.listen(&bind, host.clone()).await.unwrap();
        Node { transport, host, address }
    }

    async fn counts(&self, fault: Fault) {
        let faults = self.transport.faults();
        eventually("a fault is counted", || faults.total() > 0).await;
        assert_eq!((faults.of(fault), faults.total()), (1, 1), "{fault:?}");
    }

    fn received(&self) -> Vec<Frame> {
        self.host.received.lock().unwrap().clone()
    }

    async fn raw(&self) -> TcpStream {
        let coracle_transport::Route::Grpc { host, port } = self.address.route() else { unreachable!() };
        TcpStream::connect((host.as_str(), *port)).await.unwrap()
    }
}

/// Node 2, message by message.
struct Client {
    say: mpsc::Sender<pb::Envelope>,
    answers: Streaming<pb::Envelope>,
    dialed: Dialed,
}

impl Client {
    async fn connect(node: &Node) -> Client {
        let options = GrpcOptions { message_bytes_max: 64 << 20, ..GrpcOptions::default() };
        let dialed = connect(&node.address, &options).await.unwrap();
        let (say, said) = mpsc::channel(16);
        let answers = dialed.client.clone().connect(ReceiverStream::new(said)).await.unwrap().into_inner();
        Client { say, answers, dialed }
    }

    async fn introduced(node: &Node) -> Client {
        let mut client = Client::connect(node).await;
        client.greets(Greeting::Hello(hello(2))).await;
        assert_eq!(client.hears().await.unwrap(), Said::Greeting(Greeting::Hello(hello(1))));
        client.greets(Greeting::Welcome).await;
        client
    }

    async fn greets(&self, greeting: Greeting) {
        self.says(encode_greeting(greeting)).await;
    }

    async fn says(&self, envelope: pb::Envelope) {
        self.say.send(envelope).await.unwrap();
    }

    async fn hears(&mut self) -> Result<Said, WireError> {
        read_said(&mut self.answers, MAX).await
    }

    /// The status with which the other side ends the stream.
    async fn ends(&mut self) -> Code {
        loop {
            match self.answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Code::Ok,
                Err(status) => return status.code(),
            }
        }
    }
}

#[tokio::test]
async fn the_handshake_has_its_order() {
    for greetings in [
        vec![encode_greeting(Greeting::Welcome)],
        vec![frames(&[frame(2, 1, 1)])],
        vec![pb::Envelope::default()],
        vec![encode_greeting(Greeting::Hello(hello(2))); 2],
        vec![encode_greeting(Greeting::Hello(hello(2))), frames(&[frame(2, 1, 1)])],
    ] {
        let node = Node::start(GrpcOptions::default()).await;
        let mut client = Client::connect(&node).await;
        for envelope in greetings {
            client.says(envelope).await;
        }
        assert_eq!(client.ends().await, Code::InvalidArgument);
        node.counts(Fault::Malformed).await;
        assert!(node.received().is_empty());
    }
}

#[tokio::test]
async fn who_is_not_admitted_is_told_why() {
    let node = Node::start(GrpcOptions::default()).await;
    *node.host.refuses.lock().unwrap() = true;
    let mut client = Client::connect(&node).await;
    client.greets(Greeting::Hello(hello(2))).await;
    assert_eq!(client.hears().await.unwrap(), Said::Greeting(Greeting::Refused(Refusal::NoGroup)));
    assert_eq!(client.ends().await, Code::PermissionDenied);
    node.counts(Fault::Refused).await;
    let later = Hello { version: 9, ..hello(2) };
    let node = Node::start(GrpcOptions::default()).await;
    let mut client = Client::connect(&node).await;
    client.greets(Greeting::Hello(later)).await;
    let refusal = Refusal::Version { ours: PROTOCOL_VERSION, theirs: 9 };
    assert_eq!(client.hears().await.unwrap(), Said::Greeting(Greeting::Refused(refusal)));
    node.counts(Fault::Version).await;
}

#[tokio::test]
async fn c20_faults_close_the_stream_and_are_counted() {
    let good = frame(2, 1, 5);
    let nobody = pb::Frame { body: None, ..encode_frame(good.clone()) };
    for (bad, fault) in [
        (encode_frame(frame(3, 1, 5)), Fault::Sender),
        (encode_frame(frame(2, 1, u64::MAX)), Fault::Impossible),
        (encode_frame(frame(2, 1, 4)), Fault::Impossible),
        (nobody, Fault::Malformed),
    ] {
        let node = Node::start(GrpcOptions::default()).await;
        let mut client = Client::introduced(&node).await;
        client.says(envelope(vec![encode_frame(good.clone()), bad, encode_frame(good.clone())])).await;
        assert_eq!(client.ends().await, Code::InvalidArgument);
        node.counts(fault).await;
        assert_eq!(node.received(), std::slice::from_ref(&good), "what came before the fault is good");
    }
}

#[tokio::test]
async fn a_frame_for_nobody_here_is_dropped_and_told_once() {
    let node = Node::start(GrpcOptions::default()).await;
    let mut client = Client::introduced(&node).await;
    let (good, misdirected) = (frame(2, 1, 5), frame(2, 7, 5));
    client.says(frames(&[good.clone(), misdirected.clone(), misdirected, good.clone()])).await;
    assert_eq!(client.hears().await.unwrap(), Said::Greeting(Greeting::Hello(hello(1))));
    let Client { say, mut answers, dialed: _dialed } = client;
    drop(say);
    assert!(answers.message().await.unwrap().is_none(), "it was told once");
    assert_eq!(node.received(), [good.clone(), good], "the stream goes on");
    assert_eq!((node.transport.faults().of(Fault::Receiver), node.transport.faults().total()), (2, 2));
}

#[tokio::test]
async fn an_announcement_is_answered_with_what_is_hosted_here() {
    let node = Node::start(GrpcOptions::default()).await;
    let mut client = Client::introduced(&node).await;
    client.greets(Greeting::Hello(hello(3))).await;
    assert_eq!(client.hears().await.unwrap(), Said::Greeting(Greeting::Hello(hello(1))));
    client.says(frames(&[frame(3, 1, 1)])).await;
    eventually("a frame of the new group", || node.received() == [frame(3, 1, 1)]).await;
}

#[tokio::test]
async fn a_stranger_cannot_send_much() {
    let options = GrpcOptions { hello_bytes_max: 1000, question_bytes_max: 2000, ..GrpcOptions::default() };
    for len in [1500, 100_000, 32 << 20] {
        let node = Node::start(options.clone()).await;
        let mut client = Client::connect(&node).await;
        client.greets(Greeting::RefusedOtherwise("x".repeat(len))).await;
        assert_eq!(client.ends().await, Code::OutOfRange, "{len} bytes");
        node.counts(Fault::Oversized).await;
    }
}

#[tokio::test]
async fn who_was_admitted_sends_no_more_than_a_message_may_take() {
    let node = Node::start(GrpcOptions { message_bytes_max: 100_000, ..GrpcOptions::default() }).await;
    let mut client = Client::introduced(&node).await;
    let large = |len| {
        let body = Body::Propose { nonce: 0, sequence: 0, commands: vec![vec![0; len].into()] };
        Frame { group: GroupId(1), message: Message { body, ..frame(2, 1, 1).message } }
    };
    client.says(frames(&[large(99_900)])).await;
    client.says(frames(&[large(100_000)])).await;
    assert_eq!(client.ends().await, Code::OutOfRange);
    node.counts(Fault::Oversized).await;
    assert_eq!(node.received().len(), 1);
}

#[tokio::test]
async fn who_was_admitted_sends_no_message_that_is_larger_than_it_looks() {
    let node = Node::start(GrpcOptions::default()).await;
    let mut client = Client::introduced(&node).await;
    client.says(envelope(vec![pb::Frame::default(); 200_000])).await;
    assert_eq!(client.ends().await, Code::OutOfRange);
    node.counts(Fault::Oversized).await;
    assert!(node.received().is_empty());
}

#[tokio::test]
async fn a_connection_carries_one_stream() {
    let node = Node::start(GrpcOptions::default()).await;
    let client = Client::introduced(&node).await;
    let second = client.dialed.client.clone().connect(tokio_stream::empty()).await;
    assert_eq!(second.unwrap_err().code(), Code::ResourceExhausted);
    node.counts(Fault::Overload).await;
    client.says(frames(&[frame(2, 1, 1)])).await;
    eventually("the first stream goes on", || node.received().len() == 1).await;
}

#[tokio::test]
async fn a_question_beyond_the_limit_is_refused_before_it_is_there() {
    let options = GrpcOptions { hello_bytes_max: 1000, question_bytes_max: 2000, ..GrpcOptions::default() };
    let node = Node::start(options).await;
    let client = Client::connect(&node).await;
    let question = vec![0; 1 << 20].into();
    let refused = client.dialed.client.clone().ask(pb::AskRequest { question }).await;
    assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
    node.counts(Fault::Oversized).await;
}

/// What comes back after `bytes`, until the other side closes.
async fn answer(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let (mut stream, mut answer) = (node.raw().await, Vec::new());
    stream.write_all(bytes).await.unwrap();
    // That it resets the connection is as good an end.
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn garbage_is_closed_without_an_answer() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX"] {
        let node = Node::start(GrpcOptions::default()).await;
        assert!(answer(&node, garbage).await.is_empty());
        node.counts(Fault::Garbage).await;
    }
}

#[tokio::test]
async fn who_says_nothing_is_closed() {
    let hasty = GrpcOptions { handshake_timeout: Duration::from_millis(30), ..GrpcOptions::default() };
    for unfinished in [&b""[..], &HTTP2_PREFACE[..10], &HTTP2_PREFACE[..]] {
        let node = Node::start(hasty.clone()).await;
        answer(&node, unfinished).await;
        node.counts(Fault::Timeout).await;
    }
    let node = Node::start(hasty.clone()).await;
    let mut silent = Client::connect(&node).await;
    assert_eq!(silent.ends().await, Code::DeadlineExceeded);
    node.counts(Fault::Timeout).await;
    let mut asking = silent.dialed.client.clone();
    let deadline = Instant::now() + Duration::from_secs(10);
    while asking.ask(pb::AskRequest::default()).await.is_ok() {
        assert!(Instant::now() < deadline, "a connection without a stream is closed");
    }
}

#[tokio::test]
async fn connections_that_do_not_shake_hands_are_few() {
    let node = Node::start(GrpcOptions { handshakes_max: 2, ..GrpcOptions::default() }).await;
    let (_first, mut second) = (node.raw().await, node.raw().await);
    assert!(answer(&node, b"").await.is_empty(), "the third is closed at once");
    node.counts(Fault::Overload).await;
    second.write_all(b"?").await.unwrap();
    assert!(second.read_to_end(&mut Vec::new()).await.is_ok());
    // There is room again; and who has shaken hands does not take it away.
    let mut members = Vec::new();
    for _ in 0..5 {
        members.push(Client::introduced(&node).await);
    }
}

/// Shakes hands, and takes nothing from then on.
struct Deaf;

#[tonic::async_trait]
impl pb::peer_server::Peer for Deaf {
    type ConnectStream = ReceiverStream<Result<pb::Envelope, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::Envelope>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        answers.try_send(Ok(encode_greeting(Greeting::Hello(hello(2))))).unwrap();
        tokio::spawn(async move {
            let _unread = request;
            answers.closed().await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn ask(&self, _: Request<pb::AskRequest>) -> Result<Response<pb::AskResponse>, Status> {
        Err(Status::unimplemented("deaf"))
    }
}

#[tokio::test]
async fn who_takes_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::grpc("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let service = pb::peer_server::PeerServer::new(Deaf);
    tokio::spawn(Server::builder().serve_with_incoming(service, TcpListenerStream::new(listener)));
    let node = Node::start(GrpcOptions { write_timeout: Duration::from_millis(50), ..GrpcOptions::default() }).await;
    let peer = Peer { group: GroupId(1), id: NodeId(2), incarnation: Incarnation(2), addresses: vec![address] };
    node.transport.set_peer(peer);
    let large = || {
        let body = Body::Propose { nonce: 0, sequence: 0, commands: vec![vec![0; MAX].into()] };
        Frame { group: GroupId(1), message: Message { body, ..frame(1, 2, 1).message } }
    };
    eventually("it is given up", || {
        node.transport.send(large());
        *node.host.lost.lock().unwrap() > 0
    })
    .await;
    assert!(node.transport.faults().of(Fault::Timeout) > 0);
}
