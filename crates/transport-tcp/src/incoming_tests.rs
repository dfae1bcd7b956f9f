use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use coracle_core::{Body, GroupId, Incarnation, Message, NodeId, Term};
use coracle_transport::{Fault, GroupHello, PROTOCOL_VERSION, Refusal};
use tokio::{
    io::{AsyncReadExt, DuplexStream, duplex},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

use super::*;
use crate::wire::{put_frame, put_greeting, put_raw};

const MAX: usize = 1 << 20;

#[derive(Default)]
struct TestHost {
    received: Mutex<Vec<Frame>>,
    refuses: Mutex<bool>,
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
    fn unreachable(&self, _: GroupId, _: NodeId) {}
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

/// Node 2's end of a connection to node 1, byte by byte.
struct Client {
    stream: DuplexStream,
    shared: Arc<Shared>,
    host: Arc<TestHost>,
    serving: JoinHandle<()>,
    _close: watch::Sender<bool>,
}

impl Client {
    fn start(options: TcpOptions, buffer: usize) -> Client {
        let (near, far) = duplex(buffer);
        let host = Arc::new(TestHost::default());
        let shared = Arc::new(Shared::new(options, Arc::new(crate::dial::SystemResolver)));
        assert!(shared.host.set(host.clone()).is_ok());
        let (close, signal) = watch::channel(false);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let closing = Closing::new(signal, mpsc::channel(1).0);
        let arriving = Arriving { stream: Box::new(far), from: "a test".to_owned(), security: None };
        let serving = tokio::spawn(serve(shared.clone(), arriving, permit, closing));
        Client { stream: near, shared, host, serving, _close: close }
    }

    /// Sends `bytes` and closes; returns what came back, once the connection is over.
    async fn sends(mut self, bytes: &[u8]) -> (Vec<u8>, Arc<Shared>, Vec<Frame>) {
        let mut answer = Vec::new();
        let (mut read, mut write) = tokio::io::split(self.stream);
        let writing = async {
            // The other side may hang up before it has taken everything.
            let _ = write.write_all(bytes).await;
            let _ = write.shutdown().await;
        };
        tokio::join!(writing, async { read.read_to_end(&mut answer).await.unwrap() });
        (&mut self.serving).await.unwrap();
        let received = std::mem::take(&mut *self.host.received.lock().unwrap());
        (answer, self.shared, received)
    }
}

/// What node 2 says before its frames.
fn introduction() -> Vec<u8> {
    let mut out = preamble(Purpose::Frames).to_vec();
    put_greeting(&mut out, &Greeting::Hello(hello(2)), MAX).unwrap();
    put_greeting(&mut out, &Greeting::Welcome, MAX).unwrap();
    out
}

fn introduced_and(frames: &[Frame]) -> Vec<u8> {
    let mut out = introduction();
    frames.iter().for_each(|frame| put_frame(&mut out, frame, MAX).unwrap());
    out
}

/// What node 1 answers to the introduction.
fn expected_answer() -> Vec<u8> {
    let mut out = preamble(Purpose::Frames).to_vec();
    put_greeting(&mut out, &Greeting::Hello(hello(1)), MAX).unwrap();
    out
}

async fn fault_of(bytes: &[u8], fault: Fault) -> Vec<Frame> {
    let (_, shared, received) = Client::start(TcpOptions::default(), 4096).sends(bytes).await;
    assert_eq!((shared.faults.of(fault), shared.faults.total()), (1, 1), "{fault:?}");
    received
}

#[tokio::test]
async fn a_conversation_split_at_every_byte_is_understood() {
    let frames = [frame(2, 1, 1), frame(2, 1, 2)];
    let (answer, shared, received) = Client::start(TcpOptions::default(), 1).sends(&introduced_and(&frames)).await;
    assert_eq!((answer, received.as_slice(), shared.faults.total()), (expected_answer(), &frames[..], 0));
}

#[tokio::test]
async fn a_conversation_cut_at_every_byte_ends_without_a_fault() {
    let whole = introduced_and(&[frame(2, 1, 1)]);
    for len in 0..whole.len() {
        let (_, shared, received) = Client::start(TcpOptions::default(), 4096).sends(&whole[..len]).await;
        assert_eq!((received.len(), shared.faults.total()), (0, 0), "{len} bytes");
    }
}

#[tokio::test]
async fn garbage_is_closed_without_an_answer() {
    let (answer, shared, _) = Client::start(TcpOptions::default(), 4096).sends(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!((answer.len(), shared.faults.of(Fault::Garbage)), (0, 1));
}

#[tokio::test]
async fn a_grpc_client_is_told_what_is_spoken_here() {
    let preface = coracle_transport::links::HTTP2_PREFACE;
    let (answer, shared, _) = Client::start(TcpOptions::default(), 4096).sends(&preface).await;
    assert_eq!((answer.as_slice(), shared.faults.of(Fault::Garbage)), (&preamble(Purpose::Frames)[..], 1));
}

#[tokio::test]
async fn another_version_is_told_which_one_is_spoken() {
    let mut bytes = introduction();
    bytes[11] = 9;
    let (answer, shared, _) = Client::start(TcpOptions::default(), 4096).sends(&bytes).await;
    assert_eq!((answer.as_slice(), shared.faults.of(Fault::Version)), (&preamble(Purpose::Frames)[..], 1));
}

#[tokio::test]
async fn who_is_not_admitted_is_told_why() {
    let client = Client::start(TcpOptions::default(), 4096);
    *client.host.refuses.lock().unwrap() = true;
    let (answer, shared, _) = client.sends(&introduced_and(&[frame(2, 1, 1)])).await;
    let mut expected = preamble(Purpose::Frames).to_vec();
    put_greeting(&mut expected, &Greeting::Refused(Refusal::NoGroup), MAX).unwrap();
    assert_eq!((answer, shared.faults.of(Fault::Refused)), (expected, 1));
}

#[tokio::test]
async fn frames_before_the_handshake_are_refused() {
    let mut bytes = preamble(Purpose::Frames).to_vec();
    put_frame(&mut bytes, &frame(2, 1, 1), MAX).unwrap();
    assert!(fault_of(&bytes, Fault::Malformed).await.is_empty());
}

#[tokio::test]
async fn c20_faults_close_the_connection_and_are_counted() {
    let good = frame(2, 1, 5);
    for (bad, fault) in [
        (frame(3, 1, 5), Fault::Sender),
        (frame(2, 1, u64::MAX), Fault::Impossible),
        (frame(2, 1, 4), Fault::Impossible),
    ] {
        let received = fault_of(&introduced_and(&[good.clone(), bad, good.clone()]), fault).await;
        assert_eq!(received, std::slice::from_ref(&good), "what came before the fault is good");
    }
    let mut raw = introduction();
    put_raw(&mut raw, b"?", MAX).unwrap();
    fault_of(&raw, Fault::Malformed).await;
    fault_of(&[&introduction()[..], &[0, 0, 0, 2, 0, 0xc1]].concat(), Fault::Malformed).await;
    fault_of(&[&introduction()[..], &[0, 0, 0, 0]].concat(), Fault::Malformed).await;
    fault_of(&[&introduction()[..], &[0xff; 4]].concat(), Fault::Oversized).await;
}

#[tokio::test]
async fn a_frame_for_nobody_here_is_dropped_and_told_once() {
    let (good, misdirected) = (frame(2, 1, 5), frame(2, 7, 5));
    let frames = [good.clone(), misdirected.clone(), misdirected, good.clone()];
    let (answer, shared, received) = Client::start(TcpOptions::default(), 4096).sends(&introduced_and(&frames)).await;
    assert_eq!((shared.faults.of(Fault::Receiver), shared.faults.total()), (2, 2));
    assert_eq!(received, [good.clone(), good], "the connection goes on");
    let hello_len = expected_answer().len() - preamble(Purpose::Frames).len();
    assert_eq!(answer.len() - expected_answer().len(), hello_len, "what is hosted here is told again, once");
}

#[tokio::test]
async fn a_frame_beyond_its_own_limit_is_refused() {
    let options = TcpOptions { frame_bytes_max: 10, ..TcpOptions::default() };
    let (_, shared, received) = Client::start(options, 4096).sends(&introduced_and(&[frame(2, 1, 1)])).await;
    assert_eq!((received.len(), shared.faults.of(Fault::Oversized)), (0, 1));
}

#[tokio::test]
async fn an_announcement_is_answered_with_what_is_hosted_here() {
    let mut bytes = introduction();
    put_greeting(&mut bytes, &Greeting::Hello(hello(3)), MAX).unwrap();
    put_frame(&mut bytes, &frame(3, 1, 1), MAX).unwrap();
    let (answer, shared, received) = Client::start(TcpOptions::default(), 4096).sends(&bytes).await;
    let hello_len = expected_answer().len() - preamble(Purpose::Frames).len();
    assert_eq!((answer.len() - expected_answer().len(), shared.faults.total()), (hello_len, 0));
    assert_eq!(received, [frame(3, 1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_closed() {
    let mut silent = Client::start(TcpOptions::default(), 4096);
    (&mut silent.serving).await.unwrap();
    assert_eq!(silent.shared.faults.of(Fault::Timeout), 1);
    let mut idle = Client::start(TcpOptions::default(), 4096);
    idle.stream.write_all(&introduction()).await.unwrap();
    (&mut idle.serving).await.unwrap();
    assert_eq!(idle.shared.faults.total(), 0, "to have nothing to say is no fault");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_what_it_is_told_is_closed() {
    // There is room for the answer to the handshake, and for no more.
    let mut deaf = Client::start(TcpOptions::default(), expected_answer().len());
    let mut bytes = introduction();
    for _ in 0..1000 {
        put_greeting(&mut bytes, &Greeting::Hello(hello(2)), MAX).unwrap();
    }
    let (_unread, mut write) = tokio::io::split(deaf.stream);
    let patience = Duration::from_secs(3600);
    let sending = timeout(patience, write.write_all(&bytes));
    let (sent, served) = tokio::join!(sending, timeout(patience, &mut deaf.serving));
    served.expect("in time").unwrap();
    assert!(sent.expect("in time").is_err(), "it is closed");
    assert_eq!(deaf.shared.faults.of(Fault::Timeout), 1);
}
