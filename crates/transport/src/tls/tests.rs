//! What is loaded, what is refused, and what both sides learn of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use coracle_core::{GroupId, Incarnation, NodeId};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{Address, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Refusal, check_hello};

type Change = fn(&mut CertificateParams);

fn unchanged(_: &mut CertificateParams) {}

fn expired(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 12, 31));
}

fn ahead(params: &mut CertificateParams) {
    (params.not_before, params.not_after) = (date_time_ymd(2900, 1, 1), date_time_ymd(2900, 12, 31));
}

fn soon(params: &mut CertificateParams) {
    params.not_after = SystemTime::now().checked_add(Duration::from_secs(5 * 86_400)).unwrap().into();
}

/// A CA in a directory of its own.
struct Ca {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Ca {
        Ca::with(name, unchanged)
    }

    fn with(name: &str, change: Change) -> Ca {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Ca { folder, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, host: &str, change: Change) -> TlsFiles {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let path = |name: String| self.folder.path().join(name);
        let files = TlsFiles {
            ca: path("ca.pem".to_owned()),
            certificate: path(format!("{host}.pem")),
            key: path(format!("{host}.key")),
        };
        fs::write(&files.certificate, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn load(&self, host: &str) -> Tls {
        Tls::load(&self.issue(host, unchanged)).unwrap()
    }

    /// One with a certificate that [`Tls::load`] would not take.
    fn force(&self, host: &str, change: Change) -> Tls {
        let files = self.issue(host, change);
        let pem = |file: &Path| fs::read(file).unwrap();
        let ca = CertificateDer::from_pem_slice(&pem(&files.ca)).unwrap();
        let identity = Identity {
            anchors: vec![webpki::anchor_from_trusted_cert(&ca).unwrap().to_owned()],
            chain: vec![CertificateDer::from_pem_slice(&pem(&files.certificate)).unwrap()],
            key: PrivateKeyDer::from_pem_slice(&pem(&files.key)).unwrap(),
            expiries: Vec::new(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (server, client) = configure(&identity, &provider).unwrap();
        let certificate = PeerCertificate::new(&identity.chain);
        Tls { server: Arc::new(server), client: Arc::new(client), certificate, expiries: Arc::new([]) }
    }
}

fn refused(files: &TlsFiles) -> String {
    Tls::load(files).unwrap_err().to_string()
}

#[test]
fn files_that_fit_are_loaded_and_their_ends_told() {
    let ca = Ca::new("a");
    let tls = ca.load("a.example");
    assert_eq!(tls.expiring(Duration::from_secs(86_400)), []);
    let files = ca.issue("b.example", soon);
    let expiring = Tls::load(&files).unwrap().expiring(Duration::from_secs(30 * 86_400));
    assert_eq!(expiring.len(), 1);
    assert!(expiring[0].to_string().contains("b.example.pem expires on 2"), "{}", expiring[0]);
    let shown = format!("{tls:?}");
    assert!(shown.contains("a.example.pem") && !shown.contains("PrivateKey"), "{shown}");
}

#[test]
fn files_that_are_missing_or_hold_something_else_are_named() {
    let ca = Ca::new("a");
    let good = ca.issue("a.example", unchanged);
    let file = |name: &str, text: &str| {
        let path = ca.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let missing = ca.folder.path().join("missing.pem");
    let text = file("text.pem", "no certificate");
    let torn = file("torn.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let damaged = file("damaged.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let huge = file("huge.pem", &" ".repeat((1 << 20) + 1));
    for (ca, certificate, key, parts) in [
        (&missing, &good.certificate, &good.key, ["cannot read", "missing.pem"]),
        (&good.ca, &missing, &good.key, ["cannot read", "missing.pem"]),
        (&good.ca, &good.certificate, &missing, ["cannot read", "missing.pem"]),
        (&good.ca, &text, &good.key, ["is not PEM", "text.pem"]),
        (&good.ca, &torn, &good.key, ["is not PEM", "torn.pem"]),
        (&good.ca, &good.key, &good.key, ["there is no certificate in", "a.example.key"]),
        (&good.ca, &good.certificate, &good.certificate, ["there is no private key in", "a.example.pem"]),
        (&good.ca, &damaged, &good.key, ["cannot be used", "damaged.pem"]),
        (&damaged, &good.certificate, &good.key, ["cannot be used", "damaged.pem"]),
        (&good.ca, &huge, &good.key, ["larger than 1048576 bytes", "huge.pem"]),
    ] {
        let files = TlsFiles { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() };
        let reason = refused(&files);
        assert!(parts.iter().all(|part| reason.contains(part)), "{parts:?}: {reason}");
    }
}

#[test]
fn files_that_do_not_fit_together_are_refused() {
    let (ca, other) = (Ca::new("a"), Ca::new("a"));
    let (a, b) = (ca.issue("a.example", unchanged), ca.issue("b.example", unchanged));
    let key = refused(&TlsFiles { key: b.key, ..a.clone() });
    assert!(key.contains("b.example.key does not belong to the certificate in"), "{key}");
    let foreign = refused(&TlsFiles { ca: other.issue("x", unchanged).ca, ..a });
    assert!(foreign.contains("is not of the CA in"), "{foreign}");
}

#[test]
fn certificates_out_of_their_time_are_refused_with_the_date() {
    let ca = Ca::new("a");
    let old = refused(&ca.issue("a.example", expired));
    assert!(old.contains("a.example.pem expired on 2020-12-31 00:00 UTC"), "{old}");
    let new = refused(&ca.issue("a.example", ahead));
    assert!(new.contains("not valid before 2900-01-01 00:00 UTC"), "{new}");
    let ca = Ca::with("a", expired);
    let of_ca = refused(&ca.issue("a.example", unchanged));
    assert!(of_ca.contains("ca.pem expired on 2020-12-31"), "{of_ca}");
}

#[test]
fn a_ca_may_be_replaced_by_listing_both() {
    let (old, new) = (Ca::with("a", expired), Ca::new("a"));
    let files = new.issue("a.example", unchanged);
    let pem = |ca: &Ca| fs::read_to_string(ca.folder.path().join("ca.pem")).unwrap();
    fs::write(&files.ca, pem(&old) + &pem(&new)).unwrap();
    Tls::load(&files).unwrap();
}

fn certificate_for(ca: &Ca, host: &str) -> PeerCertificate {
    let pem = fs::read(ca.issue(host, unchanged).certificate).unwrap();
    PeerCertificate::new(&[CertificateDer::from_pem_slice(&pem).unwrap()])
}

#[test]
fn a_certificate_is_for_its_names_and_addresses_only() {
    let ca = Ca::new("a");
    let name = certificate_for(&ca, "a.example");
    assert!(names_fit(&name, &["b.example", "A.example"]));
    assert!(!names_fit(&name, &["b.example", "x.a.example", "10.0.0.1", "not a name", ""]));
    assert_eq!(name.names(), ["a.example"]);
    let ip = certificate_for(&ca, "10.0.0.1");
    assert!(names_fit(&ip, &["10.0.0.1"]) && !names_fit(&ip, &["10.0.0.2"]));
    assert_eq!(ip.names(), ["10.0.0.1"]);
    assert!(names_fit(&certificate_for(&ca, "::1"), &["0:0::1"]));
}

/// What each side of a handshake between the two comes to, and, if the side that dialled has nothing against it, what it reads first.
async fn meet(accepting: &Tls, dialling: &Tls, host: &str) -> (Result<(), TlsError>, Result<(), TlsError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accept = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = accepting.accept(stream).await?;
        stream.write_all(b"!").await.unwrap();
        Ok(())
    };
    let dial = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut stream = dialling.connect(host, stream).await?;
        // As every protocol does: whoever dialled speaks first.
        stream.write_all(b"?").await.unwrap();
        match stream.read_u8().await {
            Ok(_) => Ok(()),
            Err(error) => Err(TlsError::within(&error).unwrap_or(TlsError::Io(error))),
        }
    };
    timeout(Duration::from_secs(10), async { tokio::join!(accept, dial) }).await.unwrap()
}

fn texts((accepting, dialling): (Result<(), TlsError>, Result<(), TlsError>)) -> (String, String) {
    (accepting.unwrap_err().to_string(), dialling.unwrap_err().to_string())
}

fn both((accepting, dialling): &(String, String), expected: (&str, &str)) {
    assert!(accepting.contains(expected.0), "where it was accepted: {accepting}");
    assert!(dialling.contains(expected.1), "where it was dialled: {dialling}");
}

#[tokio::test]
async fn two_of_one_ca_meet_by_name_and_by_ip() {
    let ca = Ca::new("a");
    for host in ["a.example", "10.0.0.1", "::1"] {
        let (accepting, dialling) = meet(&ca.load(host), &ca.load("b.example"), host).await;
        accepting.unwrap();
        dialling.unwrap();
    }
}

#[tokio::test]
async fn another_ca_is_refused_on_both_sides_even_with_the_same_name() {
    for name in ["a", "b"] {
        let (ours, theirs) = (Ca::new("a"), Ca::new(name));
        let met = texts(meet(&ours.load("a.example"), &theirs.load("b.example"), "a.example").await);
        both(&met, ("it is not of the CA that is trusted there", "certificate is not of this node's CA"));
    }
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused_and_told_so() {
    let (ours, theirs) = (Ca::new("a"), Ca::new("b"));
    let intruder = Tls { server: theirs.load("x").server, ..theirs.load("x") };
    // It trusts everybody whom it may reach, so that its own certificate is what decides.
    let trusting = Tls { client: trusting(&ours, &theirs), ..intruder };
    let met = texts(meet(&ours.load("a.example"), &trusting, "a.example").await);
    both(&met, ("certificate is not of this node's CA", "it is not of the CA that is trusted there"));
}

/// A client that shows a certificate of `theirs` and trusts `ours`.
fn trusting(ours: &Ca, theirs: &Ca) -> Arc<ClientConfig> {
    let (files, trusted) = (theirs.issue("x", unchanged), ours.issue("y", unchanged));
    let pem = |file: &Path| fs::read(file).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem(&trusted.ca)).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&pem(&files.certificate)).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&pem(&files.key)).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(config.with_client_auth_cert(chain, key).unwrap())
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused_and_told_so() {
    let ca = Ca::new("a");
    let mut roots = RootCertStore::empty();
    let pem = fs::read(ca.issue("y", unchanged).ca).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let anonymous = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let anonymous = Tls { client: Arc::new(anonymous), ..ca.load("b.example") };
    let met = texts(meet(&ca.load("a.example"), &anonymous, "a.example").await);
    both(&met, ("shows no certificate", "a certificate is required there"));
}

#[tokio::test]
async fn certificates_that_expire_while_a_node_runs_are_refused_on_both_sides() {
    let ca = Ca::new("a");
    let met = texts(meet(&ca.force("a.example", expired), &ca.load("b.example"), "a.example").await);
    both(&met, ("it has expired", "certificate expired on 2020-12-31"));
    let met = texts(meet(&ca.load("a.example"), &ca.force("b.example", expired), "a.example").await);
    both(&met, ("certificate expired on 2020-12-31", "it has expired"));
    let met = texts(meet(&ca.load("a.example"), &ca.force("b.example", ahead), "a.example").await);
    both(&met, ("not valid before 2900-01-01", "is not valid yet"));
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_on_both_sides() {
    let ca = Ca::new("a");
    for (host, dialled) in [("a.example", "c.example"), ("a.example", "10.0.0.1"), ("10.0.0.1", "10.0.0.2")] {
        let met = texts(meet(&ca.load(host), &ca.load("b.example"), dialled).await);
        both(&met, ("not for the host that was dialled", &format!("is for {host}, not for {dialled}")));
    }
    let nameless = ca.load("a.example").connect("no name", tokio::io::duplex(1).0).await.unwrap_err();
    assert!(nameless.to_string().contains("\"no name\" is neither"), "{nameless}");
}

#[tokio::test]
async fn protocols_inside_of_tls_are_told_apart() {
    let ca = Ca::new("a");
    let (one, other) = (ca.load("a.example").speaking(b"one"), ca.load("b.example").speaking(b"other"));
    let met = texts(meet(&one, &other, "a.example").await);
    both(&met, ("another protocol inside of TLS", "another protocol inside of TLS"));
    meet(&one, &other.speaking(b"one"), "a.example").await.1.unwrap();
}

#[tokio::test]
async fn what_is_not_tls_is_said_to_be_not_tls() {
    let tls = Ca::new("a").load("a.example");
    for words in [b"\xC0RACLE\r\n\x00\x00\x00\x01".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(words).await.unwrap();
        // Whoever speaks plainly hangs up on the alert.
        theirs.shutdown().await.unwrap();
        assert!(matches!(tls.accept(ours).await, Err(TlsError::NotTls)));
        let mut answer = [0; 2];
        theirs.read_exact(&mut answer).await.unwrap();
        assert!(answer == [0x15, 3], "an alert: {answer:02x?}");
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(words).await.unwrap();
        assert!(matches!(tls.connect("a.example", ours).await, Err(TlsError::NotTls)));
    }
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    drop(theirs);
    assert!(matches!(tls.connect("a.example", ours).await, Err(TlsError::Closed)));
}

/// A host that admits everybody, and knows where some are.
struct Knowing(Mutex<Vec<Address>>);

impl Host for Knowing {
    fn hello(&self) -> Hello {
        hello()
    }

    fn hosts(&self, _: GroupId) -> Option<NodeId> {
        None
    }

    fn addresses(&self, _: GroupId, _: NodeId) -> Vec<Address> {
        self.0.lock().unwrap().clone()
    }

    fn admit(&self, _: &GroupHello) -> Result<(), Refusal> {
        Ok(())
    }

    fn receive(&self, _: Vec<Frame>) {}

    fn unreachable(&self, _: GroupId, _: NodeId) {}

    fn answer(&self, question: Bytes) -> Bytes {
        question
    }
}

fn hello() -> Hello {
    let group = GroupHello {
        group: GroupId(1),
        cluster_name: "test".to_owned(),
        cluster: None,
        node: NodeId(7),
        incarnation: Incarnation(1),
    };
    Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 1, groups: vec![group] }
}

#[test]
fn a_member_is_admitted_only_with_a_certificate_for_one_of_its_addresses() {
    let host = Arc::new(Knowing(Mutex::default()));
    let certified = Certified::new(host.clone(), certificate_for(&Ca::new("a"), "a.example"));
    let at = |addresses: &[&str]| {
        *host.0.lock().unwrap() = addresses.iter().map(|text| text.parse().unwrap()).collect();
        check_hello(&certified, &hello())
    };
    at(&[]).expect("nobody knows where it is: it is no member yet");
    at(&["/unix/a"]).expect("no host that it could be for");
    at(&["/dns4/b.example/tcp/1/tls", "/dns4/a.example/tcp/1/tls/http"]).unwrap();
    let refusal = at(&["/ip4/10.0.0.1/tcp/1/tls", "/dns4/b.example/tcp/1"]).unwrap_err().to_string();
    assert!(refusal.contains("is for a.example, and node 0000000000000007 is at 10.0.0.1, b.example"), "{refusal}");
}
