//! HTTP/2 on each connection of a listener.

use std::{convert::Infallible, error::Error, future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2, service::HttpService};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::net::TcpListener;

use super::{ApiLimits, listen::incoming, metered::Activity};

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves each connection by a service of its own until `stop` is ready, then lets what is under way come to an end; how long that may take is up to the caller.
pub(crate) async fn serve<S, B>(
    listener: TcpListener,
    limits: ApiLimits,
    service_of: impl Fn(Activity) -> S,
    stop: impl Future<Output = ()>,
) where
    S: HttpService<Incoming, ResBody = B, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(u32::try_from(limits.requests_max).unwrap_or(u32::MAX))
        .auto_date_header(false);
    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop);
    {
        // Gone before the connections end: who comes then is refused, instead of waiting.
        let mut incoming = pin!(incoming(listener, limits));
        loop {
            let counted = tokio::select! {
                () = &mut stop => break,
                Some(counted) = incoming.next() => counted,
            };
            let service = service_of(counted.activity());
            let connection = connections.watch(http.serve_connection(TokioIo::new(counted), service));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a client's connection broke");
                }
            });
        }
    }
    connections.shutdown().await;
}
