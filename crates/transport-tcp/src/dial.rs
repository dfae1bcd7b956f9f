//! Making connections.

use std::{io, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use coracle_transport::{Address, Route};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use crate::{
    TcpOptions,
    secure::security,
    wire::{Io, WireError},
};

/// Finds out where a name is, anew for each connection: hosts move, and names move with them.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// The addresses of `host`, in the order to try. IP addresses are asked for as names are.
    ///
    /// # Errors
    /// When the name has none, or nobody answers.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// Asks the system.
pub(crate) struct SystemResolver;

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }
}

/// Connects to an address; a name is resolved anew each time, and each of its IP addresses is tried.
pub(crate) async fn connect(
    address: &Address,
    resolver: &dyn Resolve,
    options: &TcpOptions,
) -> Result<Box<dyn Io>, WireError> {
    match address.route() {
        Route::Tcp { host, port } => {
            let security = security(address, options).map_err(WireError::NoSecurity)?;
            let resolved = within(options.connect_timeout, resolver.resolve(host, *port)).await?;
            let stream = connect_tcp(address, host, resolved, options).await?;
            let Some(security) = security else { return Ok(stream) };
            let secure = timeout(options.handshake_timeout, security.connect(host, stream)).await;
            secure.map_err(|_| WireError::Timeout)?
        }
        Route::Unix { path } => Ok(connect_unix(path, options).await?),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither TCP nor a Unix socket").into()),
    }
}

async fn connect_tcp(
    address: &Address,
    host: &str,
    resolved: Vec<SocketAddr>,
    options: &TcpOptions,
) -> io::Result<Box<dyn Io>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address of the kind asked for"));
    for socket in resolved.into_iter().filter(|socket| address.accepts(socket.ip())) {
        match within(options.connect_timeout, TcpStream::connect(socket)).await {
            Ok(stream) => {
                prepare(&stream, options)?;
                return Ok(Box::new(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(unix)]
async fn connect_unix(path: &str, options: &TcpOptions) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(within(options.connect_timeout, tokio::net::UnixStream::connect(path)).await?))
}

#[cfg(not(unix))]
async fn connect_unix(_: &str, _: &TcpOptions) -> io::Result<Box<dyn Io>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "there are no Unix sockets on this system"))
}

/// Small frames leave at once, and a silent peer is noticed by its missing acknowledgements.
pub(crate) fn prepare(stream: &TcpStream, options: &TcpOptions) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Without it the retransmissions of a partition grow apart, and go on for minutes after it has healed.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(options.write_timeout))?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = options;
    Ok(())
}

async fn within<T>(limit: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, attempt).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"))),
    }
}
