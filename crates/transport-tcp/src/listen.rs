//! Accepting connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use coracle_transport::{Address, Route, TransportError, links::Closing};
use tokio::{
    net::{TcpListener, lookup_host},
    time::sleep,
};

use crate::{
    dial::prepare,
    incoming::{Arriving, serve},
    secure::Security,
    shared::Shared,
    wire::Io,
};

/// Where connections come from.
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix::Listener),
}

/// Begins to listen; returns the address that was bound, its port filled in.
pub(crate) async fn bind(address: &Address) -> Result<(Listener, Address), TransportError> {
    let bound = match address.route() {
        Route::Tcp { host, port } => bind_tcp(address, host, *port).await,
        #[cfg(unix)]
        Route::Unix { path } => unix::bind(path).await.map(|listener| (Listener::Unix(listener), address.clone())),
        _ => return Err(TransportError::Unsupported { address: address.to_string(), transport: "tcp" }),
    };
    bound.map_err(|source| TransportError::Listen { address: address.to_string(), source })
}

async fn bind_tcp(address: &Address, host: &str, port: u16) -> io::Result<(Listener, Address)> {
    let resolved = lookup_host((host, port)).await?;
    let sockets: Vec<SocketAddr> = resolved.filter(|socket| address.accepts(socket.ip())).collect();
    if sockets.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address of the kind asked for")));
    }
    let listener = TcpListener::bind(sockets.as_slice()).await?;
    let bound = address.with_port(listener.local_addr()?.port());
    Ok((Listener::Tcp(listener), bound))
}

/// Accepts connections until the transport is closed; with `security` they are over TLS.
pub(crate) async fn accept(shared: Arc<Shared>, listener: Listener, security: Option<Security>, mut closing: Closing) {
    /// After a failure that concerns the process, such as too many open files.
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        let accepted = tokio::select! {
            () = closing.closed() => return,
            accepted = listener.accept(&shared) => accepted,
        };
        match accepted {
            Ok((stream, from)) => admit(&shared, Arriving { stream, from, security: security.clone() }, &closing),
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Serves a connection in a task of its own, if there is room for it.
fn admit(shared: &Arc<Shared>, arriving: Arriving, closing: &Closing) {
    let connection = shared.connections.clone().try_acquire_owned();
    let handshake = shared.handshakes.clone().try_acquire_owned();
    let (Ok(connection), Ok(handshake)) = (connection, handshake) else {
        shared.overloaded(&arriving.from);
        return;
    };
    let serving = serve(shared.clone(), arriving, handshake, closing.clone());
    tokio::spawn(async move {
        serving.await;
        drop(connection);
    });
}

impl Listener {
    async fn accept(&self, shared: &Shared) -> io::Result<(Box<dyn Io>, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                prepare(&stream, &shared.options)?;
                Ok((Box::new(stream), from.to_string()))
            }
            #[cfg(unix)]
            Listener::Unix(listener) => listener.accept().await,
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::{fs, io, os::unix::fs::FileTypeExt, path::PathBuf};

    use tokio::net::{UnixListener, UnixStream};

    use crate::wire::Io;

    /// Removes its socket from the file system when it is dropped.
    pub(crate) struct Listener {
        listener: UnixListener,
        path: PathBuf,
    }

    pub(super) async fn bind(path: &str) -> io::Result<Listener> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path).await => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        };
        Ok(Listener { listener, path: path.into() })
    }

    /// Whether the path is a socket on which nobody listens: a process that was killed leaves it behind.
    async fn is_abandoned(path: &str) -> bool {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        is_socket && UnixStream::connect(path).await.err().is_some_and(refused)
    }

    impl Listener {
        pub(super) async fn accept(&self) -> io::Result<(Box<dyn Io>, String)> {
            let (stream, _) = self.listener.accept().await?;
            Ok((Box::new(stream), format!("unix:{}", self.path.display())))
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            // If it is gone already, all the better.
            let _ = fs::remove_file(&self.path);
        }
    }
}
