//! A way to the server that can be cut.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// Passes everything on; told to, it lets requests through and cuts the connection in place of the answer.
pub(crate) struct Proxy {
    socket: PathBuf,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    /// What a request must contain so that its answer is cut off; empty stands for none.
    marker: Mutex<Vec<u8>>,
    /// How many answers are still to be cut off.
    left: AtomicUsize,
    /// How many were.
    cut: AtomicUsize,
}

impl Proxy {
    /// A proxy at `socket`, before the server at `server`. Its threads end with the test's process.
    pub(crate) fn start(socket: &Path, server: &Path) -> Proxy {
        let listener = UnixListener::bind(socket).unwrap();
        let plan = Arc::new(Plan::default());
        let (server, shared) = (server.to_owned(), plan.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, UnixStream::connect(&server)) else { continue };
                let plan = shared.clone();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let is_doomed = Arc::new(Mutex::new(false));
                let doomed = is_doomed.clone();
                thread::spawn(move || {
                    pass(from, to, |bytes| {
                        if plan.dooms(bytes) {
                            *doomed.lock().unwrap() = true;
                        }
                        true
                    })
                });
                let plan = shared.clone();
                thread::spawn(move || {
                    pass(server, client, |_| {
                        let is_doomed = *is_doomed.lock().unwrap();
                        if is_doomed {
                            plan.cut.fetch_add(1, Ordering::SeqCst);
                        }
                        !is_doomed
                    })
                });
            }
        });
        Proxy { socket: socket.to_owned(), plan }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Cuts off the answers to the next requests that contain `marker`.
    pub(crate) fn cut(&self, count: usize, marker: &[u8]) {
        *self.plan.marker.lock().unwrap() = marker.to_vec();
        self.plan.left.store(count, Ordering::SeqCst);
    }

    /// How many answers were cut off.
    pub(crate) fn cuts(&self) -> usize {
        self.plan.cut.load(Ordering::SeqCst)
    }
}

impl Plan {
    fn dooms(&self, bytes: &[u8]) -> bool {
        let marker = self.marker.lock().unwrap();
        let is_it = !marker.is_empty() && bytes.windows(marker.len()).any(|window| window == marker.as_slice());
        is_it && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

/// Passes bytes on while `may_pass` says so; then both directions end.
fn pass(mut from: UnixStream, mut to: UnixStream, mut may_pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 || !may_pass(&buffer[..len]) || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _both = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
