//! Connections, a limited number of them.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long to wait when the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that counts.
pub(crate) struct Counted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// The connections of a listener; one beyond the limit is closed at once, so that its client goes to another node.
pub(crate) fn incoming(listener: TcpListener, connections_max: usize) -> impl Stream<Item = io::Result<Counted>> {
    let places = Arc::new(Semaphore::new(connections_max));
    stream::unfold((listener, places), move |(listener, places)| async move {
        let counted = accept(&listener, &places, connections_max).await;
        Some((Ok(counted), (listener, places)))
    })
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, connections_max: usize) -> Counted {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Arc::clone(places).try_acquire_owned() {
                Ok(place) => return ready(stream, place),
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

fn ready(stream: TcpStream, place: OwnedSemaphorePermit) -> Counted {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    Counted { stream, _place: place }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
