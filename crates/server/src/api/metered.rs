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
    codegen::{Body as HttpBody, StdError, http},
};

/// The most of an answer that is handed on at once: HTTP/2 takes a whole piece as soon as its client makes room for a byte.
pub(crate) const PIECE_BYTES_MAX: usize = 16 << 10;

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

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

/// What one request and its answer take; given back when both are done with.
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
    _under_way: Option<UnderWay>,
}

impl Share {
    /// With `activity`, its connection is of use as long as it lives.
    pub(crate) fn new(budget: &Arc<Budget>, activity: Option<&Activity>) -> Arc<Share> {
        let under_way = activity.map(Activity::begin);
        Arc::new(Share { budget: Arc::clone(budget), bytes: AtomicUsize::new(0), _under_way: under_way })
    }

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
    pub(crate) fn take(&self, bytes: usize) {
        self.budget.bytes.fetch_add(bytes, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives some of it back early.
    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.budget.bytes.fetch_sub(bytes, Ordering::AcqRel);
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
    /// How many streams of calls there are.
    streams: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    /// That of a connection that was just made.
    pub(crate) fn new() -> Activity {
        let (under_way, streams) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Activity(Arc::new(Active { under_way, streams, last: Mutex::new(Instant::now()) }))
    }

    /// Since when nothing is under way; `None` when something is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let last = *self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        (self.0.under_way.load(Ordering::Acquire) == 0).then_some(last)
    }

    /// Whether more than one request is under way.
    pub(crate) fn has_several(&self) -> bool {
        self.0.under_way.load(Ordering::Acquire) > 1
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

/// What a stream of calls has taken and not given back, and its place among those of the connection.
pub(crate) struct Tab {
    share: Option<Arc<Share>>,
    place: Option<StreamPlace>,
    /// As long as calls are under way, the connection is of use.
    in_use: Option<UnderWay>,
    /// The bytes of the calls that are not answered. What came along with them of the next message is among them, which is less than a frame.
    bytes: usize,
    /// The bytes of the answers that have not left.
    answers: usize,
}

/// A stream of a connection.
struct StreamPlace(Activity);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Tab {
    /// The tab of a request, whose extensions have its share and its connection's activity.
    ///
    /// # Errors
    /// `LimitExceeded` when the connection has `streams_max` streams.
    pub(crate) fn open(extensions: &http::Extensions, streams_max: usize) -> Result<Tab, Error> {
        let place = extensions.get::<Activity>().map(|activity| StreamPlace(activity.clone()));
        if let Some(StreamPlace(activity)) = &place {
            let got = activity.0.streams.fetch_add(1, Ordering::AcqRel) + 1;
            if got > streams_max {
                let limit = "the streams of calls on one connection".to_owned();
                return Err(Error::LimitExceeded { limit, max: streams_max as u64, got: got as u64 });
            }
        }
        let share = extensions.get::<Arc<Share>>().cloned();
        Ok(Tab { share, place, in_use: None, bytes: 0, answers: 0 })
    }

    /// A message has arrived as a whole, with which so many calls are not answered.
    pub(crate) fn arrived(&mut self, unanswered: usize) {
        if let Some(share) = &self.share {
            self.bytes = share.bytes.load(Ordering::Acquire) - self.answers;
        }
        if unanswered == 0 {
            return self.give_back(self.bytes);
        }
        if let (None, Some(StreamPlace(activity))) = (&self.in_use, &self.place) {
            self.in_use = Some(activity.begin());
        }
    }

    /// Some of so many calls are answered: they give back their part.
    pub(crate) fn answered(&mut self, count: usize, unanswered: usize) {
        if count >= unanswered {
            self.in_use = None;
            return self.give_back(self.bytes);
        }
        self.give_back(self.bytes / unanswered * count);
    }

    /// Answers of so many bytes are there, and have not left.
    pub(crate) fn keeps(&mut self, bytes: usize) {
        self.answers += bytes;
        if let Some(share) = &self.share {
            share.take(bytes);
        }
    }

    /// Answers of so many bytes leave; they count with the body from then on.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.answers -= bytes;
        if let Some(share) = &self.share {
            share.give_back(bytes);
        }
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(share) = &self.share {
            share.give_back(bytes);
        }
    }
}

/// Whose bytes a body has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A client's, which are refused when there are too many.
    Request,
    /// An answer's, which count until the answer is written.
    Answer,
    /// Of many answers: what was written counts until there is more to write.
    Answers,
}

/// A body whose bytes count from when they arrive, or are encoded.
pub(crate) struct MeteredBody<B> {
    inner: B,
    /// What has not left of an answer's last frame.
    rest: bytes::Bytes,
    kind: Kind,
    share: Arc<Share>,
}

impl<B> MeteredBody<B> {
    pub(crate) fn new(inner: B, kind: Kind, share: Arc<Share>) -> MeteredBody<B> {
        MeteredBody { inner, rest: bytes::Bytes::new(), kind, share }
    }

    /// The next piece of the rest.
    fn piece(&mut self) -> bytes::Bytes {
        let len = self.rest.len().min(PIECE_BYTES_MAX);
        self.rest.split_to(len)
    }
}

impl<B> HttpBody for MeteredBody<B>
where
    B: HttpBody<Data = bytes::Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(self.piece()))));
        }
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        let bytes = frame.data_ref().map_or(0, Buf::remaining);
        match self.kind {
            Kind::Request => return Poll::Ready(Some(self.share.reserve(bytes).map(|()| frame))),
            Kind::Answers => self.share.give_back(self.share.bytes.load(Ordering::Acquire)),
            Kind::Answer => {}
        }
        self.share.take(bytes);
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.rest = data;
                Frame::data(self.piece())
            }
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.inner.size_hint() } else { SizeHint::default() }
    }
}
