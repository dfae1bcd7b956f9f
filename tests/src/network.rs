//! A network between processes, from which one node can be cut off.
//!
//! Before each node's port for peers stands a proxy, and peers know the proxies only.
//! While a node is cut off, what goes to it and what comes from it waits, and arrives when the network has healed: late messages are the worse case.
//! Who made a connection is seen by the system's table of sockets, so this needs Linux.

use std::{fs, net::TcpListener};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// All proxies of a cluster.
#[derive(Debug)]
pub struct Network {
    cut: watch::Sender<Option<Cut>>,
}

/// Who is cut off.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The port at which its peers look for it.
    port: u16,
    process: u32,
}

impl Default for Network {
    fn default() -> Network {
        Network { cut: watch::channel(None).0 }
    }
}

impl Network {
    /// A proxy at `port` that forwards to `target`. Needs a tokio runtime round it; `false` when somebody else has the port.
    ///
    /// # Panics
    /// When the listener cannot be used.
    pub fn stands_before(&self, target: u16, port: u16) -> bool {
        let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) else { return false };
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let cut = self.cut.clone();
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(carry(from, port, target, cut.clone()));
            }
        });
        true
    }

    /// Cuts the node off whose peers look for it at `port`.
    pub fn isolate(&self, port: u16, process: u32) {
        self.cut.send_replace(Some(Cut { port, process }));
    }

    /// Lets everything pass, what has waited first.
    pub fn heal(&self) {
        self.cut.send_replace(None);
    }
}

async fn carry(from: TcpStream, port: u16, target: u16, cut: watch::Sender<Option<Cut>>) {
    let Ok(source) = from.peer_addr() else { return };
    let way = || Way::new(&cut, port, source.port());
    way().is_open().await;
    let Ok(to) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    tokio::select! {
        () = forward(from_read, to_write, way()) => {}
        () = forward(to_read, from_write, way()) => {}
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: Way) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        way.is_open().await;
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}

/// One direction of a connection, and whether it is cut.
struct Way {
    cut: watch::Receiver<Option<Cut>>,
    port: u16,
    source: u16,
    is_cut: bool,
}

impl Way {
    fn new(cut: &watch::Sender<Option<Cut>>, port: u16, source: u16) -> Way {
        let mut way = Way { cut: cut.subscribe(), port, source, is_cut: false };
        way.look();
        way
    }

    fn look(&mut self) {
        let cut = *self.cut.borrow_and_update();
        self.is_cut = cut.is_some_and(|cut| cut.port == self.port || has_socket(cut.process, self.source));
    }

    /// Waits while it is cut.
    async fn is_open(&mut self) {
        if self.cut.has_changed().unwrap_or(false) {
            self.look();
        }
        while self.is_cut && self.cut.changed().await.is_ok() {
            self.look();
        }
    }
}

/// Whether a process has a TCP socket at this local port.
fn has_socket(process: u32, port: u16) -> bool {
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else { return false };
    let ending = format!(":{port:04X}");
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1).is_some_and(|local| local.ends_with(&ending));
        fields.get(9).filter(|_| is_it).map(|inode| format!("socket:[{inode}]"))
    };
    let sockets: Vec<String> = table.lines().filter_map(inode).collect();
    let Ok(files) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
}
