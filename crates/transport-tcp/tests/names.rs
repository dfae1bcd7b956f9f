//! Names are looked up at each connection.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use common::{GROUP, Process, eventually, options};
use coracle_core::NodeId;
use coracle_transport::{Address, Route, Transport};
use coracle_transport_tcp::{Resolve, TcpTransport};

/// Knows one name, whose addresses change.
#[derive(Default)]
struct Directory {
    addresses: Mutex<Vec<SocketAddr>>,
    questions: Mutex<Vec<(String, u16)>>,
}

impl Directory {
    fn moves_to(&self, addresses: &[&Address]) {
        let socket = |address: &&Address| match address.route() {
            Route::Tcp { host, port, .. } => SocketAddr::new(host.parse().unwrap(), *port),
            other => panic!("{other:?}"),
        };
        *self.addresses.lock().unwrap() = addresses.iter().map(socket).collect();
    }

    fn questions(&self) -> usize {
        self.questions.lock().unwrap().len()
    }
}

#[async_trait]
impl Resolve for Directory {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.questions.lock().unwrap().push((host.to_owned(), port));
        let addresses = self.addresses.lock().unwrap().clone();
        if addresses.is_empty() { Err(io::Error::other("the directory is empty")) } else { Ok(addresses) }
    }
}

/// A process that looks names up in the directory.
async fn start(directory: &Arc<Directory>) -> Process {
    let host = Process::start(1).await.host;
    let transport = TcpTransport::with_resolver(options(), directory.clone());
    let address = transport.listen(&"/ip4/127.0.0.1/tcp/0".parse().unwrap(), host.clone()).await.unwrap();
    Process { transport, host, address }
}

fn name(address: &Address, protocol: &str) -> Address {
    let Route::Tcp { port, .. } = address.route() else { panic!("{address}") };
    format!("/{protocol}/node.example/tcp/{port}").parse().unwrap()
}

#[tokio::test]
async fn a_name_is_resolved_again_at_each_reconnect() {
    let directory = Arc::new(Directory::default());
    let (a, b) = (start(&directory).await, Process::start(2).await);
    a.knows_at(&b, vec![name(&b.address, "dns")]);
    directory.moves_to(&[&b.address]);
    a.reaches(&b).await;
    assert_eq!(directory.questions.lock().unwrap()[0], ("node.example".to_owned(), port_of(&b.address)));
    b.transport.shutdown().await;
    let asked = directory.questions();
    let moved = Process::start(2).await;
    eventually("the name is asked for in vain", || {
        a.send(2, 1);
        directory.questions() > asked + 1
    })
    .await;
    directory.moves_to(&[&moved.address]);
    a.reaches(&moved).await;
    assert!(a.transport.stats(GROUP, NodeId(2)).is_connected);
}

fn port_of(address: &Address) -> u16 {
    match address.route() {
        Route::Tcp { port, .. } => *port,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried_if_they_are_of_its_family() {
    let directory = Arc::new(Directory::default());
    let (a, b) = (start(&directory).await, Process::start(2).await);
    let six = Process::start_at(2, 2, "/ip6/::1/tcp/0", options()).await;
    let gone = Process::start(3).await;
    gone.transport.shutdown().await;
    directory.moves_to(&[&gone.address, &six.address, &b.address]);
    a.knows_at(&b, vec![name(&b.address, "dns4")]);
    a.reaches(&b).await;
    assert!(six.rounds().is_empty(), "an IPv6 address of a name of which IPv4 is asked for");
    a.knows_at(&b, vec![name(&b.address, "dns6")]);
    a.reaches(&six).await;
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_an_error_that_says_so() {
    let directory = Arc::new(Directory::default());
    let (a, b) = (start(&directory).await, Process::start(2).await);
    let asked = a.transport.ask(&name(&b.address, "dns"), Bytes::new()).await.unwrap_err();
    assert!(asked.to_string().contains("the directory is empty"), "{asked}");
    a.knows_at(&b, vec![name(&b.address, "dns")]);
    eventually("unreachable", || {
        a.send(2, 1);
        a.lost() > 1
    })
    .await;
    directory.moves_to(&[&b.address]);
    a.reaches(&b).await;
}
