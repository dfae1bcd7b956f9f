//! Something between nodes that cuts their connections.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// A proxy before a node's peer port that cuts every connection whenever so many more bytes have gone to the node.
#[derive(Debug)]
pub struct Cutter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Bytes that went to the node since [`Cutter::arm`].
    bytes: AtomicU64,
    cuts: AtomicUsize,
    cuts_max: AtomicUsize,
    /// How many bytes go by between two cuts.
    every: AtomicU64,
    /// Counts the cuts for the connections.
    cut: watch::Sender<usize>,
}

impl Cutter {
    /// A proxy at `port` that forwards everything to `target` and cuts nothing yet.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn at(port: u16, target: u16) -> Cutter {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let shared = Arc::new(Shared {
            bytes: AtomicU64::new(0),
            cuts: AtomicUsize::new(0),
            cuts_max: AtomicUsize::new(0),
            every: AtomicU64::new(u64::MAX),
            cut: watch::channel(0).0,
        });
        let accepting = shared.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let Ok(to) = TcpStream::connect(("127.0.0.1", target)).await else { continue };
                tokio::spawn(carry(from, to, accepting.clone()));
            }
        });
        Cutter { shared }
    }

    /// From here on bytes are counted, and `cuts` times connections are cut after so many of them.
    pub fn arm(&self, cuts: usize, every: u64) {
        self.shared.bytes.store(0, Ordering::SeqCst);
        self.shared.cuts.store(0, Ordering::SeqCst);
        self.shared.every.store(every, Ordering::SeqCst);
        self.shared.cuts_max.store(cuts, Ordering::SeqCst);
    }

    /// How many bytes went to the node.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// How often connections were cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Counts what went by, and cuts when it is time.
    fn count(&self, bytes: usize) {
        let sum = self.bytes.fetch_add(bytes as u64, Ordering::SeqCst) + bytes as u64;
        let cuts = self.cuts.load(Ordering::SeqCst);
        let due = self.every.load(Ordering::SeqCst).saturating_mul(cuts as u64 + 1);
        let may_cut = cuts < self.cuts_max.load(Ordering::SeqCst);
        if may_cut
            && sum >= due
            && self.cuts.compare_exchange(cuts, cuts + 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            self.cut.send_modify(|cut| *cut += 1);
        }
    }
}

async fn carry(from: TcpStream, to: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    tokio::select! {
        () = forward(from_read, to_write, |bytes| shared.count(bytes)) => {}
        () = forward(to_read, from_write, |_| {}) => {}
        _ = cut.changed() => {}
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: impl Fn(usize)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        count(read);
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}
