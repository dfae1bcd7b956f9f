//! Making connections.

use std::{
    future::{self, Ready},
    io,
    net::Ipv6Addr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
#[cfg(feature = "tls")]
use coracle_transport::tls::TlsError;
use coracle_transport::{
    Address, Route, TransportError,
    links::{MESSAGEPACK_MAGIC, Spoken, connect_tcp},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use crate::{
    GrpcOptions,
    connection::Io,
    pb::{self, peer_client::PeerClient},
    secure::security,
    wire::{ENVELOPE_BYTES_MAX, WireError},
};

/// A connection to another process.
pub(crate) struct Dialed {
    pub(crate) client: PeerClient<Channel>,
    met: Met,
}

impl Dialed {
    /// What went wrong, told by what was met below HTTP/2 if that is the reason.
    pub(crate) fn explain(&self, error: WireError) -> WireError {
        self.met.first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(error)
    }
}

/// What was wrong below HTTP/2, whose own errors do not say it.
#[derive(Clone)]
struct Met {
    address: Arc<str>,
    first: Arc<Mutex<Option<WireError>>>,
}

impl Met {
    fn new(address: &Address) -> Met {
        Met { address: address.to_string().into(), first: Arc::default() }
    }

    fn note(&self, error: WireError) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Connects to an address.
pub(crate) async fn connect(address: &Address, options: &GrpcOptions) -> Result<Dialed, WireError> {
    let Route::Grpc { host, port } = address.route() else {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "not an address of gRPC").into());
    };
    let security = security(address, options).map_err(WireError::NoSecurity)?;
    let stream = connect_tcp(address, (host, *port), options.connect_timeout, options.write_timeout).await?;
    let mut io: Box<dyn Io> = Box::new(stream);
    if let Some(security) = security {
        let secure = timeout(options.handshake_timeout, security.connect(host, io)).await;
        io = secure.map_err(|_| WireError::Timeout)??;
    }
    let met = Met::new(address);
    let sniffing = Sniffing { io, first: [0; 8], len: 0, met: met.clone() };
    let channel = endpoint(host, *port, options)?.connect_with_connector(Once(Some(sniffing))).await?;
    let client = PeerClient::new(channel).max_encoding_message_size(options.message_bytes_max);
    Ok(Dialed { client, met })
}

fn endpoint(host: &str, port: u16, options: &GrpcOptions) -> Result<Endpoint, WireError> {
    /// Names and values of an answer's headers.
    const HEADER_BYTES_MAX: u32 = 16 << 10;
    let uri = match host.parse::<Ipv6Addr>() {
        Ok(ip) => format!("http://[{ip}]:{port}"),
        Err(_) => format!("http://{host}:{port}"),
    };
    Ok(Endpoint::from_shared(uri)?
        .initial_stream_window_size(options.window_bytes)
        .initial_connection_window_size(options.window_bytes)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.write_timeout)
        .keep_alive_while_idle(true))
}

/// Asks the process at `address`.
pub(crate) async fn ask(address: &Address, question: Bytes, options: &GrpcOptions) -> Result<Bytes, TransportError> {
    let unanswered = |reason: String| TransportError::Unanswered { address: address.to_string(), reason };
    let (len, limit) = (question.len(), options.question_bytes_max);
    if len > limit {
        return Err(unanswered(format!("the question cannot be put: it has {len} bytes, {limit} are allowed")));
    }
    let dialed = connect(address, options).await.map_err(|error| unanswered(error.to_string()))?;
    match timeout(options.handshake_timeout, exchange(&dialed, question, limit)).await {
        Ok(result) => result.map_err(|error| unanswered(dialed.explain(error).to_string())),
        Err(_) => Err(unanswered(format!("no answer within {:?}", options.handshake_timeout))),
    }
}

async fn exchange(dialed: &Dialed, question: Bytes, bytes_max: usize) -> Result<Bytes, WireError> {
    let client = dialed.client.clone();
    let answer = client
        .max_decoding_message_size(bytes_max + ENVELOPE_BYTES_MAX)
        .ask(pb::AskRequest { question })
        .await?
        .into_inner()
        .answer;
    if answer.len() > bytes_max {
        return Err(WireError::Oversized(format!("the answer has {} bytes, {bytes_max} are allowed", answer.len())));
    }
    Ok(answer)
}

/// Hands out a connection that exists already, and never another one: who it leads to is checked once.
struct Once(Option<Sniffing>);

impl Service<Uri> for Once {
    type Response = TokioIo<Sniffing>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Sniffing>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection is gone");
        future::ready(self.0.take().map(TokioIo::new).ok_or_else(gone))
    }
}

/// Looks at the first bytes that arrive: they tell another protocol from HTTP/2, whose own errors do not say what was met.
struct Sniffing {
    io: Box<dyn Io>,
    first: [u8; MESSAGEPACK_MAGIC.len()],
    len: usize,
    met: Met,
}

impl Sniffing {
    /// Looks at what one read has brought.
    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        /// Length and kind of HTTP/2's first frame.
        const ENOUGH: usize = 4;
        let taken = bytes.len().min(self.first.len() - self.len);
        self.first[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        let first = &self.first[..self.len];
        let spoken = Spoken::of(first);
        let may_become = MESSAGEPACK_MAGIC.starts_with(first);
        if spoken == Some(Spoken::Http2) || self.len < ENOUGH || (spoken.is_none() && may_become) {
            return Ok(());
        }
        self.met.note(match spoken {
            Some(spoken) => WireError::Foreign { spoken, address: self.met.address.to_string() },
            None => WireError::Garbage,
        });
        Err(io::Error::new(io::ErrorKind::InvalidData, "another protocol is spoken there"))
    }
}

impl AsyncRead for Sniffing {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Err(error) = ready!(Pin::new(&mut self.io).poll_read(cx, buf)) {
            // Whoever is refused in the handshake of TLS hears of it only when it reads.
            #[cfg(feature = "tls")]
            if let Some(error) = TlsError::within(&error) {
                self.met.note(WireError::Tls(error));
            }
            return Poll::Ready(Err(error));
        }
        Poll::Ready(if self.len < self.first.len() { self.look(&buf.filled()[before..]) } else { Ok(()) })
    }
}

impl AsyncWrite for Sniffing {
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
