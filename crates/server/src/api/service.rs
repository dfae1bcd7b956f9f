//! Both services on one listener, with their limits.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use coracle::client::pb::{
    cluster_server::ClusterServer,
    kv_server::{Kv as _, KvServer},
};
use coracle::level::Kv;
use futures_util::future::BoxFuture;
use http_body::{Body as HttpBody, Frame};
use hyper::body::Incoming;
use prost::Message;
use tokio::{net::TcpListener, sync::watch, time};
use tonic::{
    Request, Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::{
    ClusterService, KvService, Operator, connections,
    exchange::ExchangeLimits,
    metered::{Activity, Budget, Kind, MeteredBody, Share},
    unary,
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

/// Serves until `stop` is ready, then lets what is under way come to an end; how long that may take is up to the caller.
pub(crate) async fn serve(
    listener: TcpListener,
    kv: Arc<dyn Kv>,
    operator: Arc<dyn Operator>,
    limits: ApiLimits,
    stop: impl Future<Output = ()>,
) {
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
    let kv = Arc::new(KvService { kv, exchange_limits, stopping });
    let streams = KvServer::from_arc(Arc::clone(&kv));
    let api = Arc::new(Api {
        kv,
        kv_server: streams.max_decoding_message_size(max).max_encoding_message_size(max),
        cluster_server: ClusterServer::new(ClusterService::new(operator)).max_decoding_message_size(max),
        budget: Arc::new(Budget::new(limits.bytes_under_way_max)),
        limits,
    });
    let service_of = |activity| Connection { api: Arc::clone(&api), activity };
    connections::serve(listener, limits, service_of, stop).await;
}

/// The call whose bodies go on for as long as the connection: its bytes are given back call by call ([`Tab`](super::metered::Tab)).
const EXCHANGE: &str = "/coracle.v1.Kv/Exchange";

// What goes the short way.
const COMMIT: &str = "/coracle.v1.Kv/Commit";
const GET_MANY: &str = "/coracle.v1.Kv/GetMany";
const CONTAINS_MANY: &str = "/coracle.v1.Kv/ContainsMany";
const PAGE: &str = "/coracle.v1.Kv/Page";

const ENCODING: &str = "grpc-encoding";

/// What all connections share.
struct Api {
    kv: Arc<KvService>,
    kv_server: KvServer<KvService>,
    cluster_server: ClusterServer<ClusterService>,
    budget: Arc<Budget>,
    limits: ApiLimits,
}

/// What answers the requests of one connection.
struct Connection {
    api: Arc<Api>,
    activity: Activity,
}

type Answered = http::Response<AnswerBody>;

/// A method of [`KvService`] that answers one message with one.
type Method<Q, A> = for<'a> fn(&'a KvService, Request<Q>) -> BoxFuture<'a, Result<tonic::Response<A>, Status>>;

impl hyper::service::Service<http::Request<Incoming>> for Connection {
    type Response = Answered;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Answered, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let (api, activity) = (Arc::clone(&self.api), self.activity.clone());
        match request.uri().path() {
            COMMIT => api.unary(request, &activity, |kv, asked| kv.commit(asked)),
            GET_MANY => api.unary(request, &activity, |kv, asked| kv.get_many(asked)),
            CONTAINS_MANY => api.unary(request, &activity, |kv, asked| kv.contains_many(asked)),
            PAGE => api.unary(request, &activity, |kv, asked| kv.page(asked)),
            _ => Box::pin(async move { Ok(api.other(request, activity).await) }),
        }
    }
}

impl Api {
    /// The short way, for what is asked most.
    fn unary<Q, A>(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        activity: &Activity,
        method: Method<Q, A>,
    ) -> BoxFuture<'static, Result<Answered, Infallible>>
    where
        Q: Message + Default + 'static,
        A: Message + 'static,
    {
        let (time_max, max) = (self.time_max(request.headers()), self.limits.message_bytes_max);
        let is_encoded = request.headers().get(ENCODING).is_some_and(|encoding| encoding != "identity");
        let share = Share::new(&self.budget, Some(activity));
        let body = MeteredBody::new(request.into_body(), Kind::Request, Arc::clone(&share));
        Box::pin(async move {
            let answer = time::timeout(time_max, async {
                let asked = Request::new(unary::message(body, is_encoded, max).await?);
                let answer = method(&self.kv, asked).await?;
                unary::answer(&answer.into_inner(), share, max)
            });
            Ok(in_time(answer.await.map(|answer| answer.map(|answer| answer.map(AnswerBody::Unary)))))
        })
    }

    /// The way through what is generated: streams, what operators ask for, and what is asked seldom.
    async fn other(&self, mut request: http::Request<Incoming>, activity: Activity) -> Answered {
        let time_max = self.time_max(request.headers());
        let is_exchange = request.uri().path() == EXCHANGE;
        // A stream of calls is of use only while there are calls.
        let share = Share::new(&self.budget, Some(&activity).filter(|_| !is_exchange));
        let (mut kind, mut answers) = (Kind::Answer, Arc::clone(&share));
        if is_exchange {
            request.extensions_mut().insert(Arc::clone(&share));
            request.extensions_mut().insert(activity);
            (kind, answers) = (Kind::Answers, Share::new(&self.budget, None));
        }
        let request = request.map(|body| MeteredBody::new(body, Kind::Request, share));
        let answer = time::timeout(time_max, async {
            let Ok(answer) = match request.uri().path() {
                path if is_of::<KvServer<KvService>>(path) => self.kv_server.clone().call(request).await,
                path if is_of::<ClusterServer<ClusterService>>(path) => self.cluster_server.clone().call(request).await,
                path => Ok(unknown(path).into_http()),
            };
            Ok(answer)
        });
        // The share lives as long as either body, and as what is done in between.
        in_time(answer.await.map(|answer: Result<http::Response<Body>, Status>| {
            answer.map(|answer| answer.map(|body| AnswerBody::Other(MeteredBody::new(body, kind, answers))))
        }))
    }

    /// How long a request may take: as long as its client waits, up to the limit.
    fn time_max(&self, headers: &http::HeaderMap) -> Duration {
        let asked = headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
        asked.map_or(self.limits.request_time_max, |asked| asked.min(self.limits.request_time_max))
    }
}

/// Whether a path is one of these services'.
pub(super) fn is_known(path: &str) -> bool {
    is_of::<KvServer<KvService>>(path) || is_of::<ClusterServer<ClusterService>>(path)
}

/// The answer to what is none of these services'.
pub(super) fn unknown(path: &str) -> Status {
    Status::unimplemented(format!("there is no {path}"))
}

/// Whether a path is one of a service's.
fn is_of<S: NamedService>(path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME)).is_some_and(|path| path.starts_with('/'))
}

/// How long a client waits: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number: u64 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The answer, or why there is none.
fn in_time(answer: Result<Result<Answered, Status>, time::error::Elapsed>) -> Answered {
    let late = |_| Err(Status::cancelled("the request took longer than it may"));
    answer.unwrap_or_else(late).unwrap_or_else(Status::into_http)
}

/// The body of an answer.
#[derive(Default)]
enum AnswerBody {
    /// A refusal has none.
    #[default]
    Empty,
    Unary(unary::Answer),
    Other(MeteredBody<Body>),
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            AnswerBody::Empty => Poll::Ready(None),
            AnswerBody::Unary(answer) => Pin::new(answer).poll_frame(cx),
            AnswerBody::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Empty => true,
            AnswerBody::Unary(answer) => answer.is_end_stream(),
            AnswerBody::Other(body) => body.is_end_stream(),
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle::client::pb::{self, kv_client::KvClient};

    use super::*;

    #[test]
    fn how_long_clients_wait_is_read() {
        for (value, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("20m", Some(Duration::from_millis(20))),
            ("20u", Some(Duration::from_micros(20))),
            ("20n", Some(Duration::from_nanos(20))),
            ("", None),
            ("5", None),
            ("S", None),
            ("-5S", None),
            ("100000000S", None),
            ("5\u{e9}", None),
        ] {
            assert_eq!(grpc_timeout(value), expected, "{value}");
        }
    }

    /// Refuses all calls, and tells their paths.
    #[derive(Clone, Default)]
    struct Paths(Arc<std::sync::Mutex<Vec<String>>>);

    impl Service<http::Request<Body>> for Paths {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            self.0.lock().unwrap().push(request.uri().path().to_owned());
            std::future::ready(Ok(Status::unavailable("").into_http()))
        }
    }

    #[tokio::test]
    async fn what_goes_the_short_way_is_what_clients_call() {
        let paths = Paths::default();
        let mut kv = KvClient::new(paths.clone());
        assert!(kv.commit(pb::CommitRequest::default()).await.is_err());
        assert!(kv.get_many(pb::GetManyRequest::default()).await.is_err());
        assert!(kv.contains_many(pb::ContainsManyRequest::default()).await.is_err());
        assert!(kv.page(pb::PageRequest::default()).await.is_err());
        assert!(kv.exchange(futures_util::stream::empty()).await.is_err());
        assert_eq!(*paths.0.lock().unwrap(), [COMMIT, GET_MANY, CONTAINS_MANY, PAGE, EXCHANGE]);
    }

    #[test]
    fn a_service_has_the_paths_that_begin_with_its_name() {
        assert!(is_of::<KvServer<KvService>>("/coracle.v1.Kv/Exchange"));
        for other in ["/coracle.v1.Kv", "/coracle.v1.Kvs/Commit", "coracle.v1.Kv/Commit", "/coracle.v1.Cluster/Join"] {
            assert!(!is_of::<KvServer<KvService>>(other), "{other}");
        }
    }
}
