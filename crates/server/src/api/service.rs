//! Both services on one listener, with their limits.

use std::{future::Future, sync::Arc, time::Duration};

use coracle::client::pb::{cluster_server::ClusterServer, kv_server::KvServer};
use coracle::level::Kv;
use tokio::{net::TcpListener, sync::watch};
use tonic::transport::Server;

use super::{
    ClusterService, KvService, Operator,
    exchange::ExchangeLimits,
    listen::incoming,
    metered::{Budget, Metered},
};

/// What one client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApiLimits {
    /// The most bytes of a message, in either direction.
    pub(crate) message_bytes_max: usize,
    /// The most requests under way on one connection, and calls under way of one stream; more wait.
    pub(crate) requests_max: usize,
    /// The most calls in one message of a stream; a stream that has one with more is ended.
    pub(crate) calls_max: usize,
    /// The most streams of calls on one connection; further ones are refused.
    pub(crate) streams_max: usize,
    /// The most connections; more are closed.
    pub(crate) connections_max: usize,
    /// How long a request may take.
    pub(crate) request_time_max: Duration,
    /// How long a connection may take until it has begun to speak HTTP/2.
    pub(crate) handshake_time_max: Duration,
    /// How long a connection may be without a request, even if it answers that it is alive.
    pub(crate) idle_time_max: Duration,
    /// The most bytes of requests and answers under way, of all clients; further requests are refused as busy.
    pub(crate) bytes_under_way_max: usize,
}

impl Default for ApiLimits {
    fn default() -> ApiLimits {
        ApiLimits {
            message_bytes_max: 8 << 20,
            requests_max: 1024,
            calls_max: 4096,
            streams_max: 16,
            connections_max: 1024,
            request_time_max: Duration::from_secs(60),
            handshake_time_max: Duration::from_secs(5),
            idle_time_max: Duration::from_secs(600),
            bytes_under_way_max: 256 << 20,
        }
    }
}

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until `stop` is ready, then lets what is under way come to an end; how long that may take is up to the caller.
pub(crate) async fn serve(
    listener: TcpListener,
    kv: Arc<dyn Kv>,
    operator: Arc<dyn Operator>,
    limits: ApiLimits,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let max = limits.message_bytes_max;
    let exchange_limits = ExchangeLimits {
        calls_max: limits.calls_max,
        under_way_max: limits.requests_max,
        streams_max: limits.streams_max,
        message_bytes_max: max,
    };
    let (says_stop, stopping) = watch::channel(false);
    let stop = async move {
        stop.await;
        says_stop.send_replace(true);
    };
    let kv = KvServer::new(KvService { kv, exchange_limits, stopping });
    let kv = kv.max_decoding_message_size(max).max_encoding_message_size(max);
    let cluster = ClusterServer::new(ClusterService::new(operator)).max_decoding_message_size(max);
    let budget = Arc::new(Budget::new(limits.bytes_under_way_max));
    Server::builder()
        .concurrency_limit_per_connection(limits.requests_max)
        .max_concurrent_streams(u32::try_from(limits.requests_max).unwrap_or(u32::MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .timeout(limits.request_time_max)
        .add_service(Metered { inner: kv, budget: Arc::clone(&budget) })
        .add_service(Metered { inner: cluster, budget })
        .serve_with_incoming_shutdown(incoming(listener, limits), stop)
        .await
}
