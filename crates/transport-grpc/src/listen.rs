//! Accepting connections, and telling what is spoken on them before they cost anything.

use std::{io, sync::Arc, time::Duration};

use coracle_transport::{
    Address, Host, Route, TransportError,
    links::{Closing, HTTP2_PREFACE, HTTP2_SETTINGS, MESSAGEPACK_MAGIC, Spoken, bind_tcp, part, prepare_tcp},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::Server;

use crate::{
    connection::{Connection, Guarded, Io},
    secure::Security,
    service::Metered,
    shared::Shared,
    wire::WireError,
};

/// Where connections come from.
pub(crate) struct Listener {
    listener: TcpListener,
    /// Whether connections are over TLS, and how.
    security: Option<Security>,
}

/// Begins to listen; returns the address that was bound, its port filled in.
pub(crate) async fn bind(address: &Address, security: Option<Security>) -> Result<(Listener, Address), TransportError> {
    let Route::Grpc { host, port } = address.route() else {
        return Err(TransportError::Unsupported { address: address.to_string(), transport: "grpc" });
    };
    let bound = bind_tcp(address, (host, *port)).await;
    let (listener, bound) = bound.map_err(|source| TransportError::Listen { address: address.to_string(), source })?;
    Ok((Listener { listener, security }, bound))
}

/// Accepts and serves connections until the transport is closed.
pub(crate) async fn serve(shared: Arc<Shared>, listener: Listener, closing: Closing) {
    /// How many connections may wait to be served; the limits on them are counted elsewhere.
    const WAITING_MAX: usize = 16;
    let (accepted, incoming) = mpsc::channel(WAITING_MAX);
    let accepting = accept(shared.clone(), listener, accepted, closing.clone());
    let incoming = ReceiverStream::new(incoming).map(Ok::<Guarded, io::Error>);
    let service = Metered::new(shared.clone(), closing.clone());
    let mut signal = closing;
    let serving = server(&shared).serve_with_incoming_shutdown(service, incoming, async move { signal.closed().await });
    let ((), served) = tokio::join!(accepting, serving);
    if let Err(error) = served {
        tracing::error!(%error, "connections are not served any more");
    }
}

fn server(shared: &Shared) -> Server {
    /// Names and values of a call's headers; ours take a few hundred bytes.
    const HEADER_BYTES_MAX: u32 = 16 << 10;
    /// One for frames, or one question; one more so that a second one can be refused.
    const STREAMS_MAX: u32 = 2;
    /// How much the other side may put into one piece: fewer pieces cost less.
    const PIECE_BYTES_MAX: u32 = 256 << 10;
    let options = &shared.options;
    Server::builder()
        .initial_stream_window_size(options.window_bytes)
        .initial_connection_window_size(options.window_bytes)
        .max_concurrent_streams(STREAMS_MAX)
        .max_frame_size(PIECE_BYTES_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.write_timeout))
}

async fn accept(shared: Arc<Shared>, listener: Listener, accepted: mpsc::Sender<Guarded>, mut closing: Closing) {
    /// After a failure that concerns the process, such as too many open files.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        let connected = tokio::select! {
            () = closing.closed() => return,
            connected = listener.listener.accept() => connected,
        };
        match connected {
            Ok((stream, from)) => {
                admit(&shared, stream, from.to_string(), &listener, accepted.clone(), &closing);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Looks at a connection in a task of its own, if there is room for it, and hands it on.
fn admit(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: String,
    listener: &Listener,
    accepted: mpsc::Sender<Guarded>,
    closing: &Closing,
) {
    let permit = shared.connections.clone().try_acquire_owned();
    let handshake = shared.handshakes.clone().try_acquire_owned();
    let (Ok(permit), Ok(handshake)) = (permit, handshake) else {
        shared.overloaded(&from);
        return;
    };
    let (shared, security, mut closing) = (shared.clone(), listener.security.clone(), closing.clone());
    tokio::spawn(async move {
        let Some(host) = shared.host.get().cloned() else { return };
        let begun = tokio::select! {
            () = closing.closed() => return,
            begun = timeout(shared.options.handshake_timeout, begin(stream, host, security, &shared)) => begun,
        };
        match begun.unwrap_or(Err(WireError::Timeout)) {
            Ok((io, host)) => {
                let connection = Arc::new(Connection::new(from, host, permit, handshake));
                // Nobody takes it when the transport is closed.
                let _ = accepted.send(Guarded::new(io, connection, shared, closing)).await;
            }
            Err(error) => shared.complain(&from, &error),
        }
    });
}

/// Makes the connection secure, if it is to be, and reads the preface; the host is as it is to be seen from there.
async fn begin(
    stream: TcpStream,
    host: Arc<dyn Host>,
    security: Option<Security>,
    shared: &Shared,
) -> Result<(Box<dyn Io>, Arc<dyn Host>), WireError> {
    prepare_tcp(&stream, shared.options.write_timeout)?;
    let (mut stream, host): (Box<dyn Io>, _) = match security {
        Some(security) => security.accept(Box::new(stream), host).await?,
        None => (Box::new(stream), host),
    };
    match read_preface(&mut stream).await? {
        Some(Spoken::Http2) => Ok((stream, host)),
        Some(spoken) => {
            // What a server of gRPC says first tells the other side what is spoken here; and TLS, that it is not.
            part(&mut stream, &HTTP2_SETTINGS).await;
            Err(WireError::ForeignHere(spoken))
        }
        None => Err(WireError::Garbage),
    }
}

/// Reads no more than the preface, and stops as soon as it is something else.
async fn read_preface(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Spoken>, WireError> {
    let mut first = [0; HTTP2_PREFACE.len()];
    let mut len = 0;
    while len < first.len() {
        match stream.read(&mut first[len..]).await? {
            0 => return Err(WireError::Closed),
            read => len += read,
        }
        let may_become = |whole: &[u8]| first[..len].iter().zip(whole).all(|(a, b)| a == b);
        let is_short = len < MESSAGEPACK_MAGIC.len();
        let is_undecided = may_become(&HTTP2_PREFACE)
            || is_short && may_become(&MESSAGEPACK_MAGIC)
            || matches!(first[..len], [0x15 | 0x16]);
        if !is_undecided {
            return Ok(Spoken::of(&first[..len]).filter(|spoken| *spoken != Spoken::Http2));
        }
    }
    Ok(Some(Spoken::Http2))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Option<Spoken>, WireError> {
        read_preface(&mut &bytes[..]).await
    }

    #[tokio::test]
    async fn prefaces_tell_what_is_spoken() {
        assert_eq!(read(&HTTP2_PREFACE).await.unwrap(), Some(Spoken::Http2));
        assert_eq!(read(b"\xC0RACLE\r\n\x00\x00\x00\x01\x01").await.unwrap(), Some(Spoken::MessagePack));
        assert_eq!(read(b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n").await.unwrap(), None);
        assert_eq!(read(b"GE").await.unwrap(), None, "it does not wait for more");
        for len in 0..HTTP2_PREFACE.len() {
            assert!(matches!(read(&HTTP2_PREFACE[..len]).await, Err(WireError::Closed)), "{len} bytes");
        }
    }
}
