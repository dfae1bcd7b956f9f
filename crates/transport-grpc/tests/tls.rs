//! Connections over TLS: who gets one, who does not, and what both sides learn of it.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use common::{GROUP, Process, eventually, grpc_address, options};
use coracle_core::{Body, Index, InstallSnapshot, Membership, NodeId, SnapshotMeta, Term};
use coracle_transport::{
    Address, Fault, Refusal, Transport, TransportError,
    conformance::{self, Factory},
    tls::{Tls, TlsFiles},
};
use coracle_transport_grpc::{GrpcOptions, GrpcTransport};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const TLS: &str = "/ip4/127.0.0.1/tcp/0/tls/http";
const PLAIN: &str = "/ip4/127.0.0.1/tcp/0/http";

/// A CA of its own.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    /// Options with a certificate for these hosts.
    fn options(&self, hosts: &[&str]) -> GrpcOptions {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let files = TlsFiles { ca: path("ca.pem"), certificate: path("node.pem"), key: path("node.key") };
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>()).unwrap();
        fs::write(&files.ca, &self.pem).unwrap();
        fs::write(&files.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        GrpcOptions { tls: Some(Tls::load(&files).unwrap()), ..options() }
    }

    async fn process(&self, node: u64, hosts: &[&str]) -> Process {
        Process::start_at(node, node, TLS, self.options(hosts)).await
    }
}

/// Waits until a frame from `a` to node 2 has come to nothing, and both sides have counted why.
async fn refused(a: &Process, b: &Process, ours: Fault, theirs: Fault) {
    eventually("a refusal on both sides", || {
        a.send(2, 1);
        a.lost() > 0 && a.transport.faults().of(ours) > 0 && b.transport.faults().of(theirs) > 0
    })
    .await;
    assert!(b.rounds().is_empty());
}

async fn unanswered(asking: GrpcOptions, to: &Address) -> String {
    match GrpcTransport::new(asking).ask(to, Bytes::from_static(b"who?")).await {
        Err(TransportError::Unanswered { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn members_talk_both_ways_and_ask_questions() {
    let ca = Ca::new("a");
    let (a, b) = (ca.process(1, &["127.0.0.1"]).await, ca.process(2, &["localhost", "127.0.0.1"]).await);
    assert!(a.address.is_tls() && a.address.to_string().ends_with("/tls/http"));
    a.knows(&b);
    b.knows(&a);
    a.reaches(&b).await;
    b.reaches(&a).await;
    let asking = GrpcTransport::new(ca.options(&["elsewhere.example"]));
    assert_eq!(asking.ask(&b.address, Bytes::from_static(b"who?")).await.unwrap(), "re: who?");
    assert_eq!(a.transport.faults().total() + b.transport.faults().total(), 0);
    a.transport.shutdown().await;
    b.transport.shutdown().await;
}

/// Transports with certificates, for the suite that every transport passes.
struct Secure {
    options: GrpcOptions,
    bind: &'static str,
}

impl Factory for Secure {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(GrpcTransport::new(self.options.clone()))
    }

    fn bind(&self) -> Address {
        self.bind.parse().unwrap()
    }

    fn frame_bytes_max(&self) -> Option<usize> {
        Some(self.options.message_bytes_max)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_of_all_transports_passes_over_tls() {
    for (bind, host) in [(TLS, "127.0.0.1"), ("/dns4/localhost/tcp/0/tls/http", "localhost")] {
        let options = GrpcOptions { message_bytes_max: 2 << 20, ..Ca::new("a").options(&[host]) };
        let report = conformance::transport(Secure { options, bind }).await;
        assert_eq!(report.skipped, [""; 0]);
    }
}

fn chunk(len: usize) -> Body {
    let meta = SnapshotMeta {
        content: 0,
        last_included_index: Index(1),
        last_included_term: Term(1),
        membership_index: Index(1),
        membership: Membership::of_voters([NodeId(1)]),
        size: len as u64,
        checksum: 0,
    };
    Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset: 0, data: vec![7; len].into() }))
}

#[tokio::test]
async fn frames_larger_than_any_record_arrive_whole_and_at_once() {
    let ca = Ca::new("a");
    let (a, b) = (ca.process(1, &["127.0.0.1"]).await, ca.process(2, &["127.0.0.1"]).await);
    a.knows(&b);
    a.reaches(&b).await;
    // What waits in a buffer until the next write would never arrive: there is none.
    for (sent, len) in [1, 16 << 10, (64 << 10) + 1, 4 << 20].into_iter().enumerate() {
        a.send_body(GROUP, 2, chunk(len));
        eventually("the chunk is there", || {
            let received = b.host.received.lock().unwrap();
            let lens = received.iter().filter_map(|frame| match &frame.message.body {
                Body::InstallSnapshot(chunk) => Some(chunk.data.len()),
                _ => None,
            });
            lens.clone().next_back() == Some(len) && lens.count() == sent + 1
        })
        .await;
    }
}

#[tokio::test]
async fn another_ca_is_refused_on_both_sides() {
    let (ours, theirs) = (Ca::new("a"), Ca::new("b"));
    let (a, b) = (theirs.process(1, &["127.0.0.1"]).await, ours.process(2, &["127.0.0.1"]).await);
    a.knows(&b);
    refused(&a, &b, Fault::Tls, Fault::Tls).await;
    let reason = unanswered(theirs.options(&["127.0.0.1"]), &b.address).await;
    assert!(reason.contains("certificate is not of this node's CA"), "{reason}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_where_it_is_dialled() {
    let ca = Ca::new("a");
    let (a, b) = (ca.process(1, &["127.0.0.1"]).await, ca.process(2, &["b.example"]).await);
    a.knows(&b);
    refused(&a, &b, Fault::Tls, Fault::Tls).await;
    let reason = unanswered(ca.options(&["127.0.0.1"]), &b.address).await;
    assert!(reason.contains("is for b.example, not for 127.0.0.1, which was dialled"), "{reason}");
}

#[tokio::test]
async fn a_member_with_anothers_certificate_is_refused_and_told_why() {
    let ca = Ca::new("a");
    let (a, b) = (ca.process(1, &["a.example"]).await, ca.process(2, &["127.0.0.1"]).await);
    a.knows(&b);
    b.host.places.lock().unwrap().push((NodeId(1), a.address.clone()));
    refused(&a, &b, Fault::RefusedThere, Fault::Refused).await;
    let refusal = a.host.refusals.lock().unwrap()[0].clone();
    let (expected, presented) = (vec!["127.0.0.1".to_owned()], vec!["a.example".to_owned()]);
    assert_eq!(refusal, Refusal::Certificate { node: NodeId(1), expected, presented });
    // It may still ask: founding and joining need no more than a certificate of the CA.
    GrpcTransport::new(ca.options(&["a.example"])).ask(&b.address, Bytes::new()).await.unwrap();
    // Once the member is known to be where its certificate says, it is let in.
    b.host.places.lock().unwrap().push((NodeId(1), "/dns4/a.example/tcp/1/tls".parse().unwrap()));
    a.reaches(&b).await;
}

#[tokio::test]
async fn plaintext_and_tls_do_not_meet_and_both_say_why() {
    let ca = Ca::new("a");
    let secure = ca.process(2, &["127.0.0.1"]).await;
    let plain = Process::start_at(1, 1, PLAIN, ca.options(&["127.0.0.1"])).await;
    let swap = |address: &Address, from: &str, to: &str| address.to_string().replace(from, to).parse().unwrap();
    let plainly: Address = swap(&secure.address, "/tls", "");
    plain.knows_at(&secure, vec![plainly.clone()]);
    refused(&plain, &secure, Fault::Garbage, Fault::Tls).await;
    let reason = unanswered(options(), &plainly).await;
    assert!(reason.contains("this address speaks TLS ("), "{reason}");
    let securely = plain.address.over_tls();
    let reason = unanswered(ca.options(&["127.0.0.1"]), &securely).await;
    assert!(reason.contains("the other side does not speak TLS here"), "{reason}");
    eventually("the plain side counts it", || plain.transport.faults().of(Fault::Garbage) > 1).await;
}

#[tokio::test]
async fn without_certificates_addresses_over_tls_are_refused_with_what_to_do() {
    let ca = Ca::new("a");
    let b = ca.process(2, &["127.0.0.1"]).await;
    let reason = unanswered(options(), &b.address).await;
    assert!(reason.contains("GrpcOptions::tls") && reason.contains("--tls-cert"), "{reason}");
    let host = b.host.clone();
    let error = GrpcTransport::new(options()).listen(&TLS.parse().unwrap(), host).await.unwrap_err();
    assert!(matches!(error, TransportError::Tls { .. }));
    assert!(
        error.to_string().contains("/ip4/127.0.0.1/tcp/0/tls/http is over TLS: it has to have certificates"),
        "{error}"
    );
}

#[tokio::test]
async fn who_says_nothing_during_the_handshake_of_tls_is_given_up() {
    let ca = Ca::new("a");
    let hasty = GrpcOptions { handshake_timeout: Duration::from_millis(50), ..ca.options(&["127.0.0.1"]) };
    let b = Process::start_at(2, 2, TLS, hasty).await;
    let mut silent = connect(&b.address).await;
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed");
    assert_eq!(b.transport.faults().of(Fault::Timeout), 1);
    // Half a record is as good as nothing.
    let mut slow = connect(&b.address).await;
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    eventually("the second", || b.transport.faults().of(Fault::Timeout) == 2).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = grpc_address(&listener).over_tls();
    let hasty = GrpcOptions { handshake_timeout: Duration::from_millis(50), ..ca.options(&["127.0.0.1"]) };
    assert!(unanswered(hasty, &nobody).await.contains("no answer in time"));
}

async fn connect(address: &Address) -> TcpStream {
    let coracle_transport::Route::Grpc { host, port } = address.route() else { panic!("{address}") };
    TcpStream::connect((host.as_str(), *port)).await.unwrap()
}

#[tokio::test]
async fn handshakes_of_tls_count_against_the_limit() {
    let ca = Ca::new("a");
    let narrow = GrpcOptions { handshakes_max: 1, ..ca.options(&["127.0.0.1"]) };
    let (a, b) = (ca.process(1, &["127.0.0.1"]).await, Process::start_at(2, 2, TLS, narrow).await);
    let silent = connect(&b.address).await;
    a.knows(&b);
    eventually("one too many", || {
        a.send(2, 1);
        b.transport.faults().of(Fault::Overload) > 0
    })
    .await;
    assert!(b.rounds().is_empty());
    drop(silent);
    a.reaches(&b).await;
}
