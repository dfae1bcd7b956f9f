//! `rediss`: the server's certificate is checked, and it may ask for ours.
#![allow(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod common;

use std::{fs, net::TcpListener, path::Path, time::Duration};

use common::{Server, options};
use coracle_core::{Entry, GroupId, Index, Run, Term};
use coracle_storage::{LogBatch, StorageError, Store};
use coracle_storage_redis::{RedisOptions, RedisStore, RedisTls, RedisUrl};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, in PEM.
fn signed(authority: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    // With its issuer's name, OpenSSL would take it for its own issuer.
    params.distinguished_name.push(DnType::CommonName, "localhost");
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A server on a port that was free a moment ago; another one when it is not any more.
fn start(files: &Path, authority: &Authority) -> (Server, u16) {
    let (certificate, key) = signed(authority);
    let write = |name: &str, text: &str| {
        let path = files.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (certificate, key) = (write("server.pem", &certificate), write("server.key", &key));
    let authority = write("authority.pem", &authority.pem());
    let mut complaint = String::new();
    for _ in 0..10 {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let text = port.to_string();
        let tls = ["--tls-port", &text, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let ask = ["--tls-ca-cert-file", &authority, "--tls-auth-clients", "yes", "--bind", "127.0.0.1"];
        let sync = ["--appendonly", "yes", "--appendfsync", "always"];
        match Server::try_with(&[&tls[..], &ask, &sync].concat()) {
            Ok(server) => return (server, port),
            Err(what) => complaint = what,
        }
    }
    panic!("no server with TLS: {complaint}");
}

fn open(port: u16, authority: &Authority, identity: Option<&Authority>) -> Result<RedisStore, StorageError> {
    let identity = identity.map(signed).map(|(certificate, key)| (certificate.into_bytes(), key.into_bytes()));
    let tls = RedisTls { authority: Some(authority.pem().into_bytes()), identity };
    let options = RedisOptions { tls, open_timeout: Duration::from_millis(300), ..options() };
    RedisStore::open(&RedisUrl::parse(&format!("rediss://localhost:{port}?namespace=n1")).unwrap(), options)
}

#[test]
fn both_sides_are_checked() {
    let files = tempfile::tempdir().unwrap();
    let (trusted, other) = (authority(), authority());
    let (_server, port) = start(files.path(), &trusted);
    for (authority, identity) in [(&other, Some(&trusted)), (&trusted, Some(&other)), (&trusted, None)] {
        let refused = open(port, authority, identity);
        assert!(matches!(refused, Err(StorageError::Io { .. })), "{refused:?}");
    }
    let store = open(port, &trusted, Some(&trusted)).unwrap();
    let run = Run::new(Index(1), Term(1), [Entry::command("abc")]);
    store.log().write(&[LogBatch::append(GroupId(1), vec![run])]).unwrap();
    assert_eq!(store.log().recover(GroupId(1), 100).unwrap().last_index, Index(1));
}

/// As `serve --storage` can say it.
#[test]
fn the_url_names_certificates() {
    let files = tempfile::tempdir().unwrap();
    let trusted = authority();
    let (_server, port) = start(files.path(), &trusted);
    let (certificate, key) = signed(&trusted);
    let (cert_file, key_file) = (files.path().join("node & co.pem"), files.path().join("node.key"));
    fs::write(&cert_file, certificate).unwrap();
    fs::write(&key_file, key).unwrap();
    let ca = files.path().join("authority.pem").display().to_string();
    let identity = format!("cert={}&key={}", cert_file.display().to_string().replace('&', "%26"), key_file.display());
    let open = |query: &str| {
        let url = RedisUrl::parse(&format!("rediss://localhost:{port}?namespace=n1&{query}")).unwrap();
        let options = RedisOptions { open_timeout: Duration::from_millis(300), ..options() };
        RedisStore::open(&url, options)
    };
    let untrusted = open(&identity);
    assert!(matches!(untrusted, Err(StorageError::Io { .. })), "the system does not trust it: {untrusted:?}");
    let absent = open("ca=/nowhere/ca.pem");
    assert!(matches!(&absent, Err(error) if error.to_string().contains("read /nowhere/ca.pem")), "{absent:?}");
    let store = open(&format!("ca={ca}&{identity}")).unwrap();
    assert_eq!(store.identity().unwrap(), None);
}
