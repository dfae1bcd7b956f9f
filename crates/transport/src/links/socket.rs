//! TCP sockets, as every adapter wants them.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, lookup_host},
};

use crate::Address;

/// Connects to `host` and `port` of `address`; a name is resolved anew each time, and each of its IP addresses is tried, `connect_timeout` for each.
///
/// # Errors
/// Why the last of them could not be reached.
pub async fn connect_tcp(
    address: &Address,
    (host, port): (&str, u16),
    connect_timeout: Duration,
    write_timeout: Duration,
) -> io::Result<TcpStream> {
    let mut last = no_address(host);
    let resolved = within(connect_timeout, lookup_host((host, port))).await?;
    for socket in resolved.filter(|socket| address.accepts(socket.ip())) {
        match within(connect_timeout, TcpStream::connect(socket)).await {
            Ok(stream) => {
                prepare_tcp(&stream, write_timeout)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Listens on `host` and `port` of `address`; returns what was bound, its port filled in.
///
/// # Errors
/// When nothing there can be listened on.
pub async fn bind_tcp(address: &Address, (host, port): (&str, u16)) -> io::Result<(TcpListener, Address)> {
    let resolved = lookup_host((host, port)).await?;
    let sockets: Vec<SocketAddr> = resolved.filter(|socket| address.accepts(socket.ip())).collect();
    if sockets.is_empty() {
        return Err(no_address(host));
    }
    let listener = TcpListener::bind(sockets.as_slice()).await?;
    let bound = address.with_port(listener.local_addr()?.port());
    Ok((listener, bound))
}

/// Makes small frames leave at once, and a silent peer be noticed by its missing acknowledgements.
///
/// # Errors
/// When the system does not allow it.
pub fn prepare_tcp(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Without it the retransmissions of a partition grow apart, and go on for minutes after it has healed.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(write_timeout))?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = write_timeout;
    Ok(())
}

/// Says a last word and waits, within limits, until the other side has read it: closing at once would discard it together with what was not read here.
pub async fn part(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), last: &[u8]) {
    const DISCARDED_BYTES_MAX: usize = 64 << 10;
    if stream.write_all(last).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut scratch = [0; 1024];
    let mut discarded = 0;
    while discarded < DISCARDED_BYTES_MAX {
        match stream.read(&mut scratch).await {
            Ok(read) if read > 0 => discarded += read,
            _ => return,
        }
    }
}

fn no_address(host: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address of the kind asked for"))
}

async fn within<T>(timeout: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {timeout:?}"))),
    }
}
