//! The suite that every transport passes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;

use common::options;
use coracle_transport::{
    Address, Transport,
    conformance::{self, Factory},
};
use coracle_transport_grpc::{GrpcOptions, GrpcTransport};

/// Small enough for what is beyond it to be made quickly.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// gRPC, at an address whose port the system chooses.
struct Grpc(&'static str);

impl Factory for Grpc {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(GrpcTransport::new(GrpcOptions { message_bytes_max: MESSAGE_BYTES_MAX, ..options() }))
    }

    fn bind(&self) -> Address {
        self.0.parse().unwrap()
    }

    fn frame_bytes_max(&self) -> Option<usize> {
        Some(MESSAGE_BYTES_MAX)
    }
}

#[tokio::test]
async fn grpc_passes() {
    let report = conformance::transport(Grpc("/ip4/127.0.0.1/tcp/0/http")).await;
    assert_eq!(report.skipped, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_over_ipv6_passes_on_several_threads() {
    let report = conformance::transport(Grpc("/ip6/::1/tcp/0/http")).await;
    assert_eq!(report.skipped, [""; 0]);
}
