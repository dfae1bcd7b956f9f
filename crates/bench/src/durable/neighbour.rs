//! Something else that writes to the same disk, as databases, logs and builds do.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const FILES: usize = 8;
const FILE_BYTES: usize = 24 * 1024 * 1024;
const PAUSE: Duration = Duration::from_millis(150);

/// What it does, for whoever reads the figures.
pub(super) const WHAT: &str = "Meanwhile another thread writes files of 24 MiB to the same disk, with 150 ms between two, and syncs every other one; its CPU time counts, too.";

/// Writes until it is dropped.
pub(super) struct Neighbour {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Neighbour {
    /// Begins, in a directory of its own.
    pub(super) fn begin(dir: &Path) -> io::Result<Neighbour> {
        let dir = tempfile::Builder::new().prefix("coracle-neighbour-").tempdir_in(dir)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        let thread = thread::Builder::new().name("neighbour".into()).spawn(move || write(dir.path(), &told))?;
        Ok(Neighbour { is_over, thread: Some(thread) })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the neighbour could not write: {error}");
        }
    }
}

fn write(dir: &Path, is_over: &AtomicBool) -> io::Result<()> {
    let data = vec![0xa5; 1024 * 1024];
    for number in 0_usize.. {
        let mut file = File::create(dir.join((number % FILES).to_string()))?;
        for _ in 0..FILE_BYTES / data.len() {
            if is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            file.write_all(&data)?;
        }
        if number % 2 == 1 {
            file.sync_all()?;
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
