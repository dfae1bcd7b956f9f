//! Who is let in, who is not, and what both sides learn of it; questions.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use bytes::Bytes;
use common::{GROUP, Process, eventually, options, pair};
use coracle_core::{Incarnation, NodeId};
use coracle_transport::{Fault, Peer, Transport, TransportError};
use coracle_transport_tcp::{TcpOptions, TcpTransport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

async fn refused(a: &Process, fault: Fault) {
    eventually("a refusal", || {
        a.send(2, 1);
        a.transport.faults().of(fault) > 0 && a.lost() > 0
    })
    .await;
}

#[tokio::test]
async fn another_cluster_is_refused_and_told_so() {
    let (a, b) = pair().await;
    *a.host.cluster.lock().unwrap() = "other".to_owned();
    refused(&a, Fault::RefusedThere).await;
    assert!(b.transport.faults().of(Fault::Refused) > 0);
    assert!(b.rounds().is_empty());
    *a.host.cluster.lock().unwrap() = "test".to_owned();
    a.reaches(&b).await;
}

#[tokio::test]
async fn c01_another_incarnation_is_a_stranger_and_told_so() {
    let (a, b) = pair().await;
    let expected =
        Peer { group: GROUP, id: NodeId(2), incarnation: Incarnation(99), addresses: vec![b.address.clone()] };
    a.transport.set_peer(expected);
    refused(&a, Fault::Refused).await;
    eventually("the stranger hears of it", || b.transport.faults().of(Fault::RefusedThere) > 0).await;
    assert!(b.rounds().is_empty());
    a.knows(&b);
    a.reaches(&b).await;
}

#[tokio::test]
async fn another_node_at_the_address_is_a_stranger() {
    let (a, b) = pair().await;
    let c = Process::start(3).await;
    a.knows_at(&b, vec![c.address.clone()]);
    refused(&a, Fault::Refused).await;
    assert!(c.rounds().is_empty());
}

/// A listener that answers every connection with `bytes`.
async fn answers(bytes: Vec<u8>) -> coracle_transport::Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&bytes).await;
            // Closing with unread bytes would discard what was written.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    address
}

const PREAMBLE: &[u8] = b"\xC0RACLE\r\n\x00\x00\x00\x02\x01";

#[tokio::test]
async fn other_protocols_and_versions_are_told_apart() {
    let later = [&PREAMBLE[..11], &[9, 1]].concat();
    let oversized = [PREAMBLE, &[0xff; 4]].concat();
    let nonsense = [PREAMBLE, &[0, 0, 0, 2, 1, 0xc1]].concat();
    for (answer, fault) in [
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Fault::Garbage),
        (later, Fault::Version),
        (oversized, Fault::Oversized),
        (nonsense, Fault::Malformed),
    ] {
        let (a, b) = pair().await;
        a.knows_at(&b, vec![answers(answer).await]);
        refused(&a, fault).await;
    }
}

#[tokio::test]
async fn who_never_answers_is_given_up() {
    let hasty = TcpOptions { handshake_timeout: std::time::Duration::from_millis(20), ..options() };
    let a = Process::start_at(1, 1, "/ip4/127.0.0.1/tcp/0", hasty).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![listener.local_addr().unwrap().into()];
    a.transport.set_peer(Peer { group: GROUP, id: NodeId(2), incarnation: Incarnation(2), addresses });
    refused(&a, Fault::Timeout).await;
}

#[tokio::test]
async fn questions_are_answered_without_admission() {
    let b = Process::start(2).await;
    *b.host.cluster.lock().unwrap() = "other".to_owned();
    let outsider = TcpTransport::new(options());
    let answer = outsider.ask(&b.address, Bytes::from_static(b"who?")).await.unwrap();
    assert_eq!(answer, "re: who?");
    let large = Bytes::from(vec![1; (1 << 20) - 4]);
    assert_eq!(outsider.ask(&b.address, large).await.unwrap().len(), 1 << 20, "the largest answer");
    assert_eq!(b.transport.faults().total(), 0);
}

async fn unanswered(to: &coracle_transport::Address, question: Bytes) -> String {
    match TcpTransport::new(options()).ask(to, question).await {
        Err(TransportError::Unanswered { address, reason }) => {
            assert_eq!(address, to.to_string());
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn questions_and_answers_beyond_the_limit_are_refused() {
    let b = Process::start(2).await;
    let question = unanswered(&b.address, vec![0; (1 << 20) + 1].into()).await;
    assert!(question.contains("1048577 bytes") && question.contains("1048576 are allowed"), "{question}");
    let own = unanswered(&b.address, vec![0; 1 << 20].into()).await;
    assert!(own.contains("closed"), "the answer cannot be sent: {own}");
    eventually("counted", || b.transport.faults().of(Fault::Oversized) == 1).await;
    let forged = answers([PREAMBLE, &[0xff; 4]].concat()).await;
    let answer = unanswered(&forged, Bytes::new()).await;
    assert!(answer.contains("announced"), "{answer}");
    let other = unanswered(&answers(b"HTTP/1.1 400 Bad Request\r\n".to_vec()).await, Bytes::new()).await;
    assert!(other.contains("does not speak") && other.contains("it is HTTP"), "{other}");
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0d".to_vec();
    let grpc = unanswered(&answers(settings).await, Bytes::new()).await;
    assert!(grpc.contains("it is gRPC (HTTP/2), whose addresses end with /http"), "{grpc}");
}

#[tokio::test]
async fn nobody_to_ask_is_an_error_that_names_the_address() {
    let b = Process::start(2).await;
    b.transport.shutdown().await;
    assert!(unanswered(&b.address, Bytes::new()).await.contains("refused"));
    let memory = TcpTransport::new(options()).ask(&coracle_transport::Address::memory(1), Bytes::new()).await;
    assert!(matches!(memory, Err(TransportError::Unsupported { .. })));
}
