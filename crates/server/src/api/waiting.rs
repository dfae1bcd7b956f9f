//! What clients hear while the node is not part of a cluster yet.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use coracle::{
    client::{
        pb::{cluster_server::ClusterServer, kv_server::KvServer},
        status,
    },
    level::Error,
};
use tokio::net::TcpListener;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::Server,
};

use super::{ApiLimits, ClusterService, KvService, listen::incoming};

/// Answers each request with why it is not served, until `stop` is ready.
pub(crate) async fn answer(
    listener: TcpListener,
    why: &str,
    limits: ApiLimits,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let why: Arc<str> = why.into();
    Server::builder()
        .concurrency_limit_per_connection(limits.requests_max)
        .add_service(Waiting::<KvServer<KvService>>::new(&why))
        .add_service(Waiting::<ClusterServer<ClusterService>>::new(&why))
        .serve_with_incoming_shutdown(incoming(listener, limits), stop)
        .await
}

/// In the place of the service `S`.
struct Waiting<S> {
    why: Arc<str>,
    of: PhantomData<fn() -> S>,
}

impl<S> Waiting<S> {
    fn new(why: &Arc<str>) -> Waiting<S> {
        Waiting { why: Arc::clone(why), of: PhantomData }
    }
}

impl<S> Clone for Waiting<S> {
    fn clone(&self) -> Waiting<S> {
        Waiting::new(&self.why)
    }
}

impl<S: NamedService> NamedService for Waiting<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Waiting<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        // Surely without effect, so that clients go on to another node, or try again.
        ready(Ok(status::from_error(&Error::Unavailable(self.why.to_string())).into_http()))
    }
}
