//! The suite that every transport passes, over each kind of address.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::options;
use coracle_transport::{
    Address, Transport,
    conformance::{self, Factory},
};
use coracle_transport_tcp::{TcpOptions, TcpTransport};
use tempfile::TempDir;

/// Small enough for what is beyond it to be made quickly.
const FRAME_BYTES_MAX: usize = 2 << 20;

fn transport() -> Arc<dyn Transport> {
    // The suite breaks hundreds of connections, and each waits before it is made again.
    let backoff_max = Duration::from_millis(5);
    Arc::new(TcpTransport::new(TcpOptions { frame_bytes_max: FRAME_BYTES_MAX, backoff_max, ..options() }))
}

/// TCP, at an address whose port the system chooses.
struct Tcp(&'static str);

impl Factory for Tcp {
    fn transport(&self) -> Arc<dyn Transport> {
        transport()
    }

    fn bind(&self) -> Address {
        self.0.parse().unwrap()
    }

    fn frame_bytes_max(&self) -> Option<usize> {
        Some(FRAME_BYTES_MAX)
    }
}

#[tokio::test]
async fn tcp_passes() {
    let report = conformance::transport(Tcp("/ip4/127.0.0.1/tcp/0")).await;
    assert_eq!(report.skipped, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_over_ipv6_passes_on_several_threads() {
    let report = conformance::transport(Tcp("/ip6/::1/tcp/0")).await;
    assert_eq!(report.skipped, [""; 0]);
}

#[tokio::test]
async fn tcp_at_a_name_passes() {
    let report = conformance::transport(Tcp("/dns4/localhost/tcp/0")).await;
    assert_eq!(report.skipped, [""; 0]);
}

/// Unix sockets, each at a path of its own.
struct Unix {
    directory: TempDir,
    next: AtomicU64,
}

impl Factory for Unix {
    fn transport(&self) -> Arc<dyn Transport> {
        transport()
    }

    fn bind(&self) -> Address {
        let name = format!("{}.sock", self.next.fetch_add(1, Ordering::Relaxed));
        Address::unix(self.directory.path().join(name).to_str().unwrap()).unwrap()
    }

    fn frame_bytes_max(&self) -> Option<usize> {
        Some(FRAME_BYTES_MAX)
    }
}

#[tokio::test]
async fn unix_sockets_pass() {
    let unix = Unix { directory: tempfile::tempdir().unwrap(), next: AtomicU64::new(1) };
    let report = conformance::transport(unix).await;
    assert!(report.passed.len() >= 25, "{report:?}");
}
