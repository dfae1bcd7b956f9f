//! What clients hear while the node is not part of a cluster yet.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    sync::Arc,
};

use coracle::{client::status, level::Error};
use hyper::{body::Incoming, service::service_fn};
use tokio::net::TcpListener;
use tonic::{body::Body, codegen::http};

use super::{
    ApiLimits, connections,
    service::{is_known, unknown},
};

/// Answers each request with why it is not served, until `stop` is ready.
pub(crate) async fn answer(listener: TcpListener, why: &str, limits: ApiLimits, stop: impl Future<Output = ()>) {
    let why: Arc<str> = why.into();
    let service_of = |_| {
        let why = Arc::clone(&why);
        service_fn(move |request: http::Request<Incoming>| -> Ready<Result<http::Response<Body>, Infallible>> {
            let refusal = match request.uri().path() {
                // Surely without effect, so that clients go on to another node, or try again.
                path if is_known(path) => status::from_error(&Error::Unavailable(why.to_string())),
                path => unknown(path),
            };
            ready(Ok(refusal.into_http()))
        })
    };
    connections::serve(listener, limits, service_of, stop).await;
}
