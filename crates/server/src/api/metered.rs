//! What clients have under way: how many bytes in all, and whether a connection is of use.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use coracle::{client::status, level::Error};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::{
    Status,
    body::Body,
    codegen::{Body as HttpBody, BoxFuture, Service, StdError, http},
    server::NamedService,
};

/// When to try again when there are too many bytes under way.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// The bytes of all requests and answers under way, over all connections.
pub(crate) struct Budget {
    bytes_max: usize,
    bytes: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Budget {
        Budget { bytes_max, bytes: AtomicUsize::new(0) }
    }
}

/// What one request and its answer take; given back when both are done with.
struct Share {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    _under_way: Option<UnderWay>,
}

impl Share {
    /// Takes what a request brings, if there is room.
    fn reserve(&self, bytes: usize) -> Result<(), Status> {
        let fits = |sum: usize| sum.checked_add(bytes).filter(|sum| *sum <= self.budget.bytes_max);
        match self.budget.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => {
                self.bytes.fetch_add(bytes, Ordering::AcqRel);
                Ok(())
            }
            Err(_) => Err(status::from_error(&Error::Busy { retry_after: RETRY_AFTER })),
        }
    }

    /// Takes what an answer has. What was done cannot be refused any more; it keeps further requests out instead.
    fn take(&self, bytes: usize) {
        self.budget.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::AcqRel);
    }
}

/// Whether a connection is of use: it has requests under way, or had one lately.
#[derive(Clone)]
pub(crate) struct Activity(Arc<Active>);

struct Active {
    under_way: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    /// That of a connection that was just made.
    pub(crate) fn new() -> Activity {
        Activity(Arc::new(Active { under_way: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }))
    }

    /// Since when nothing is under way; `None` when something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let last = *self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        (self.0.under_way.load(Ordering::Acquire) == 0).then_some(last)
    }

    fn begin(&self) -> UnderWay {
        self.0.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self.clone())
    }
}

/// A request that is under way, until its answer is written.
struct UnderWay(Activity);

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A service whose requests count.
#[derive(Clone)]
pub(crate) struct Metered<S> {
    pub(crate) inner: S,
    pub(crate) budget: Arc<Budget>,
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Metered<S>
where
    S: Service<http::Request<MeteredBody<B>>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Into<StdError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let under_way = request.extensions().get::<Activity>().map(Activity::begin);
        let budget = Arc::clone(&self.budget);
        let share = Arc::new(Share { budget, bytes: AtomicUsize::new(0), _under_way: under_way });
        let asked = Arc::clone(&share);
        let answer = self.inner.call(request.map(|inner| MeteredBody { inner, is_request: true, share: asked }));
        Box::pin(async move {
            // The share lives as long as either body, and as what is done in between.
            let answer = answer.await?;
            Ok(answer.map(|inner| Body::new(MeteredBody { inner, is_request: false, share })))
        })
    }
}

/// A body whose bytes count from when they arrive, or are encoded.
pub(crate) struct MeteredBody<B> {
    inner: B,
    is_request: bool,
    share: Arc<Share>,
}

impl<B> HttpBody for MeteredBody<B>
where
    B: HttpBody<Data = bytes::Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        if self.is_request {
            return Poll::Ready(Some(self.share.reserve(bytes).map(|()| frame)));
        }
        self.share.take(bytes);
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
