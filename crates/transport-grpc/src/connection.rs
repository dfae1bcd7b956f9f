//! A connection that another process made, and how long it may stay.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use coracle_transport::{
    Host,
    links::{Closing, HTTP2_PREFACE},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};
use tonic::transport::server::Connected;

use crate::{shared::Shared, wire::WireError};

/// A stream of bytes both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What is known of a connection; every call that arrives over it has it.
pub(crate) struct Connection {
    /// Who made it.
    pub(crate) from: String,
    /// The host, as it is to be seen from there.
    pub(crate) host: Arc<dyn Host>,
    /// Whether it carries a stream of frames.
    is_taken: AtomicBool,
    /// Whether it ever did.
    was_taken: AtomicBool,
    /// Whether the process at the other end was admitted over it.
    is_admitted: watch::Sender<bool>,
    /// Given back once the other side is known.
    handshake: Mutex<Option<OwnedSemaphorePermit>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    pub(crate) fn new(
        from: String,
        host: Arc<dyn Host>,
        permit: OwnedSemaphorePermit,
        handshake: OwnedSemaphorePermit,
    ) -> Connection {
        Connection {
            from,
            host,
            is_taken: AtomicBool::new(false),
            was_taken: AtomicBool::new(false),
            is_admitted: watch::Sender::new(false),
            handshake: Mutex::new(Some(handshake)),
            _permit: permit,
        }
    }

    /// For the one stream that a connection carries.
    pub(crate) fn take(self: Arc<Connection>) -> Option<Taken> {
        self.was_taken.store(true, Ordering::Relaxed);
        (!self.is_taken.swap(true, Ordering::AcqRel)).then_some(Taken(self))
    }

    pub(crate) fn is_admitted(&self) -> bool {
        *self.is_admitted.borrow()
    }

    /// Ends when nobody has been admitted for `patience`: at the start, or since the last stream was over.
    async fn unused(&self, patience: Duration) {
        let mut admitted = self.is_admitted.subscribe();
        // The sender lives as long as this.
        while tokio::time::timeout(patience, admitted.wait_for(|admitted| *admitted)).await.is_ok() {
            let _ = admitted.wait_for(|admitted| !*admitted).await;
        }
    }
}

/// The right to the stream of a connection, as long as it is alive.
pub(crate) struct Taken(Arc<Connection>);

impl Taken {
    /// The other side is known, and may stay.
    pub(crate) fn admitted(&self) {
        drop(self.0.handshake.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.0.is_admitted.send_replace(true);
    }

    pub(crate) fn from(&self) -> &str {
        &self.0.from
    }

    pub(crate) fn host(&self) -> Arc<dyn Host> {
        self.0.host.clone()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.is_admitted.send_replace(false);
        self.0.is_taken.store(false, Ordering::Release);
    }
}

/// The bytes of a connection whose preface was read; they end when it has been without use for too long, and some time after the transport is closed.
pub(crate) struct Guarded {
    io: Box<dyn Io>,
    /// What was read already, and is to be read again.
    again: &'static [u8],
    connection: Arc<Connection>,
    /// `None` once it has ended.
    end: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
}

impl Guarded {
    pub(crate) fn new(
        io: Box<dyn Io>,
        connection: Arc<Connection>,
        shared: Arc<Shared>,
        mut closing: Closing,
    ) -> Guarded {
        // A stream whose handshake takes too long is to be told so before its connection ends.
        let (patience, grace) = (shared.options.handshake_timeout * 2, shared.options.shutdown_timeout);
        let watched = connection.clone();
        let end = async move {
            tokio::select! {
                () = watched.unused(patience) => {}
                () = async { closing.closed().await; sleep(grace).await } => {
                    return io::ErrorKind::ConnectionAborted.into();
                }
            }
            // Of a stream it was said already.
            if !watched.was_taken.load(Ordering::Relaxed) {
                shared.complain(&watched.from, &WireError::Timeout);
            }
            io::Error::new(io::ErrorKind::TimedOut, "nobody was admitted in time")
        };
        Guarded { io, again: &HTTP2_PREFACE, connection, end: Some(Box::pin(end)) }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(end) = &mut self.end else { return Poll::Ready(io::ErrorKind::ConnectionAborted.into()) };
        let error = ready!(end.as_mut().poll(cx));
        self.end = None;
        Poll::Ready(error)
    }
}

impl Connected for Guarded {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Arc<Connection> {
        self.connection.clone()
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_end(cx) {
            return Poll::Ready(Err(error));
        }
        if self.again.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let (now, later) = self.again.split_at(self.again.len().min(buf.remaining()));
        buf.put_slice(now);
        self.again = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
