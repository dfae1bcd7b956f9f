//! Connections: a limited number of them, and none that is of no use.

use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{ApiLimits, metered::Activity};
use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant, Sleep},
};

/// How long to wait when the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// From how many bytes on a write is worth a system call of its own.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// How an HTTP/2 client begins (RFC 9113 §3.4); what it says is checked further up.
const PREFACE_LEN: usize = 24;

/// A connection that counts, and ends when it is of no use.
pub(crate) struct Counted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
    /// How many bytes of the preface have not come.
    preface_missing: usize,
    activity: Activity,
    idle_time_max: Duration,
    /// Whether other tasks were let run since something is to be written.
    has_gathered: bool,
    /// When to look whether the preface has come, or whether the connection was idle for too long.
    timer: Pin<Box<Sleep>>,
}

/// The connections of a listener; one beyond the limit is closed at once, so that its client goes to another node.
pub(crate) fn incoming(listener: TcpListener, limits: ApiLimits) -> impl Stream<Item = Counted> {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    stream::unfold((listener, places), move |(listener, places)| async move {
        let counted = accept(&listener, &places, &limits).await;
        Some((counted, (listener, places)))
    })
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, limits: &ApiLimits) -> Counted {
    let connections_max = limits.connections_max;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Arc::clone(places).try_acquire_owned() {
                Ok(place) => return ready(stream, place, limits),
                Err(_) => tracing::warn!(%peer, connections_max, "closed a client's connection: the limit is reached"),
            },
            Err(error) => {
                // One connection that failed must not end the listener.
                tracing::warn!(%error, "could not accept a client's connection");
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn ready(stream: TcpStream, place: OwnedSemaphorePermit, limits: &ApiLimits) -> Counted {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    Counted {
        stream,
        _place: place,
        preface_missing: PREFACE_LEN,
        activity: Activity::new(),
        idle_time_max: limits.idle_time_max,
        has_gathered: false,
        timer: Box::pin(time::sleep(limits.handshake_time_max)),
    }
}

impl Counted {
    /// Whether it is of use, as its requests are to say.
    pub(crate) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Notes what was read; from the end of the preface on, idleness is what ends the connection.
    fn arrived(&mut self, bytes: usize) {
        let missing = self.preface_missing.saturating_sub(bytes);
        if self.preface_missing > 0 && missing == 0 {
            self.timer.as_mut().reset(Instant::now() + self.idle_time_max);
        }
        self.preface_missing = missing;
    }

    /// Lets tasks that are ready run before the next write, when several requests are under way: answers that become ready together leave with one system call, instead of one each.
    /// What is to be written is `bytes` long, and in so many pieces: with a large one, or one behind its head, HTTP/2 adds nothing before it is gone.
    fn poll_gathered(&mut self, bytes: usize, pieces: usize, cx: &mut Context<'_>) -> Poll<()> {
        if bytes > GATHERED_BYTES_MAX || pieces > 1 || !self.activity.has_several() {
            return Poll::Ready(());
        }
        if mem::replace(&mut self.has_gathered, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes note of an attempt to write.
    fn written(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.has_gathered = result.is_pending();
        result
    }

    /// Waits until the connection is to end: with an error when it never began.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.preface_missing > 0 {
                tracing::debug!("closed a client's connection: it did not begin to speak HTTP/2 in time");
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let now = Instant::now();
            let over_at = self.activity.idle_since().unwrap_or(now) + self.idle_time_max;
            if over_at <= now {
                tracing::debug!("closed a client's connection: it was idle for too long");
                return Poll::Ready(Ok(()));
            }
            self.timer.as_mut().reset(over_at);
        }
        Poll::Pending
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            // To have read nothing is to have read the end.
            Poll::Pending => self.poll_over(cx),
            ready => {
                self.arrived(buf.filled().len() - before);
                ready
            }
        }
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_gathered(buf.len(), 1, cx));
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pieces = bufs.iter().filter(|piece| !piece.is_empty()).count();
        ready!(self.poll_gathered(bufs.iter().map(|piece| piece.len()).sum(), pieces, cx));
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use futures_util::StreamExt;

    use super::{
        super::metered::{Budget, Share},
        *,
    };

    /// Whether something is written at the first attempt.
    async fn is_written(counted: &mut Counted, what: &[u8]) -> bool {
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *counted).poll_write(cx, what).is_ready())).await
    }

    /// The same, with a head of its own.
    async fn is_written_with_a_head(counted: &mut Counted) -> bool {
        let pieces = [io::IoSlice::new(b"head"), io::IoSlice::new(b"x")];
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *counted).poll_write_vectored(cx, &pieces).is_ready())).await
    }

    #[tokio::test]
    async fn with_several_requests_under_way_other_tasks_run_before_each_write() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut incoming = pin!(incoming(listener, ApiLimits::default()));
        let mut counted = incoming.next().await.unwrap();
        let budget = Arc::new(Budget::new(1));
        let activity = counted.activity();
        let first = Share::new(&budget, Some(&activity));
        for _ in 0..2 {
            assert!(is_written(&mut counted, b"x").await, "one alone waits for nothing");
        }
        let second = Share::new(&budget, Some(&activity));
        for _ in 0..2 {
            assert!(!is_written(&mut counted, b"x").await);
            assert!(is_written(&mut counted, b"x").await);
        }
        assert!(is_written_with_a_head(&mut counted).await, "nothing can join it");
        assert!(is_written(&mut counted, &[0; GATHERED_BYTES_MAX + 1]).await, "it is large enough");
        drop((first, second));
        assert!(is_written(&mut counted, b"x").await);
    }
}
