//! Stands between two processes over TCP: splits what passes, holds it up, cuts it.

use std::{
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use super::{Factory, process::Process};
use crate::{Address, Route};

/// What is done to the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// How many bytes pass in one piece.
    pub(super) piece_bytes_max: usize,
    /// Nothing passes; both ends only notice that it is slow.
    pub(super) is_stalled: bool,
    /// All connections end, and new ones as soon as they are made.
    pub(super) is_cut: bool,
    /// Each connection ends after as many bytes towards the one that listens.
    pub(super) bytes_max: usize,
}

const OPEN: Settings = Settings { piece_bytes_max: 64 << 10, is_stalled: false, is_cut: false, bytes_max: usize::MAX };

/// A way to an address that can be made worse.
pub(super) struct Proxy {
    /// What to dial instead.
    pub(super) address: Address,
    settings: watch::Sender<Settings>,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy in front of `to`; `None` when that is not TCP.
    pub(super) async fn to(to: &Address) -> Option<Proxy> {
        let (Route::Tcp { host, port, .. } | Route::Grpc { host, port, .. }) = to.route() else { return None };
        let (host, port) = (host.clone(), *port);
        let listener = TcpListener::bind((host.as_str(), 0))
            .await
            .unwrap_or_else(|error| panic!("the proxy of this suite cannot listen on {host}: {error}"));
        let bound = listener.local_addr().unwrap_or_else(|error| panic!("a listener has no address: {error}"));
        let (settings, watched) = watch::channel(OPEN);
        let accepted = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, (host, port), watched, accepted.clone()));
        Some(Proxy { address: to.with_port(bound.port()), settings, accepted, task })
    }

    /// Changes what is done to the connections, those that there are too.
    pub(super) fn set(&self, change: impl FnOnce(&mut Settings)) {
        self.settings.send_modify(change);
    }

    /// How many connections were made.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    to: (String, u16),
    settings: watch::Receiver<Settings>,
    accepted: Arc<AtomicUsize>,
) {
    // The connections end with the proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            Ok((stream, _)) = listener.accept() => stream,
            Some(_) = connections.join_next() => continue,
        };
        if !settings.borrow().is_cut {
            accepted.fetch_add(1, Ordering::Relaxed);
            connections.spawn(connect(stream, to.clone(), settings.clone()));
        }
    }
}

async fn connect(from: TcpStream, to: (String, u16), mut settings: watch::Receiver<Settings>) {
    let bytes_max = settings.borrow().bytes_max;
    let (there, back) = (settings.clone(), settings.clone());
    let conversation = async {
        let to = TcpStream::connect((to.0.as_str(), to.1)).await?;
        from.set_nodelay(true)?;
        to.set_nodelay(true)?;
        let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
        tokio::try_join!(forward(from_read, to_write, there, bytes_max), forward(to_read, from_write, back, usize::MAX))
    };
    tokio::select! {
        // Whichever end closed or failed, the other one learns of it by the end of its own connection.
        _ = conversation => {}
        () = until(&mut settings, |settings| settings.is_cut) => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut settings: watch::Receiver<Settings>,
    bytes_max: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; OPEN.piece_bytes_max];
    let mut left = bytes_max;
    while left > 0 {
        until(&mut settings, |settings| !settings.is_stalled).await;
        let piece = settings.borrow().piece_bytes_max.min(buffer.len()).min(left);
        let read = from.read(&mut buffer[..piece]).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        left -= read;
    }
    Err(io::ErrorKind::ConnectionReset.into())
}

async fn until(settings: &mut watch::Receiver<Settings>, condition: impl Fn(&Settings) -> bool) {
    if settings.wait_for(|settings| condition(settings)).await.is_err() {
        // The proxy is being dropped, and this task with it.
        pending::<()>().await;
    }
}

/// What can be cut between two processes: by the factory, or by a proxy on the way of the first to the second.
pub(super) enum Line<'a> {
    Factory { factory: &'a dyn Factory, a: Address, b: Address },
    Proxy(Proxy),
}

impl<'a> Line<'a> {
    /// Makes `a` know `b` over a line that can be cut; `None` when there is none.
    pub(super) async fn between(factory: &'a dyn Factory, a: &Process, b: &Process) -> Option<Line<'a>> {
        if factory.cut(&a.address, &b.address) {
            factory.mend(&a.address, &b.address);
            a.knows(b);
            return Some(Line::Factory { factory, a: a.address.clone(), b: b.address.clone() });
        }
        let proxy = Proxy::to(&b.address).await?;
        a.knows_at(b, vec![proxy.address.clone()]);
        Some(Line::Proxy(proxy))
    }

    pub(super) fn cut(&self) {
        match self {
            Line::Factory { factory, a, b } => assert!(factory.cut(a, b), "the factory could cut this line before"),
            Line::Proxy(proxy) => proxy.set(|settings| settings.is_cut = true),
        }
    }

    pub(super) fn mend(&self) {
        match self {
            Line::Factory { factory, a, b } => factory.mend(a, b),
            Line::Proxy(proxy) => proxy.set(|settings| settings.is_cut = false),
        }
    }
}
