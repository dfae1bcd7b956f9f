//! What is written to: a plain file, and the stores.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use coracle_core::Run;
use coracle_storage::{LogBatch, LogStore, Store};
use coracle_storage_file::{FileOptions, FileStore};
use coracle_storage_memory::MemoryStore;
use coracle_storage_sled::{SledOptions, SledStore};

/// The name of the subject that the others are compared with.
pub(super) const PLAIN: &str = "plain";
/// All of them, in the order of the table.
pub(super) const NAMES: [&str; 3] = [PLAIN, "file", "sled"];

/// Something that makes entries durable.
pub(super) trait Subject {
    /// Makes sure, before the clock runs, that so many bytes of data have their place.
    fn prepare(&mut self, bytes: u64) -> io::Result<()>;

    /// Returns when the batch is durable.
    fn write(&mut self, batch: &LogBatch) -> io::Result<()>;
}

/// Opens one of [`NAMES`] in a directory of its own.
pub(super) fn open(name: &str, dir: &Path) -> io::Result<Box<dyn Subject>> {
    let path = dir.join(name);
    let store = match name {
        PLAIN => return Ok(Box::new(Plain::new(&path)?)),
        "file" => FileStore::open(&path, FileOptions::default(), Arc::new(MemoryStore::new())).map(|store| store.log()),
        "sled" => SledStore::open(&path, SledOptions::default()).map(|store| store.log()),
        other => return Err(io::Error::other(format!("the subjects are {NAMES:?}, got `{other}`"))),
    };
    Ok(Box::new(Log(store.map_err(io::Error::other)?)))
}

/// The log of a store.
struct Log(Arc<dyn LogStore>);

impl Subject for Log {
    fn prepare(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, batch: &LogBatch) -> io::Result<()> {
        self.0.write(std::slice::from_ref(batch)).map_err(io::Error::other)
    }
}

/// How large the plain file is.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// A file whose blocks all have been written with zeros; nothing else is written twice.
struct Plain {
    file: File,
    position: u64,
    /// The data of one write.
    buffer: Vec<u8>,
}

impl Plain {
    fn new(path: &Path) -> io::Result<Plain> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
        let mut plain = Plain { file, position: 0, buffer: Vec::new() };
        plain.fill()?;
        Ok(plain)
    }

    /// Begins anew: on ext4 the emptied file gets new blocks, which are written here.
    fn fill(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        let zeros = vec![0; 1024 * 1024];
        for offset in (0..FILE_BYTES).step_by(zeros.len()) {
            self.file.write_all_at(&zeros, offset)?;
        }
        self.position = 0;
        self.file.sync_all()
    }
}

impl Subject for Plain {
    fn prepare(&mut self, bytes: u64) -> io::Result<()> {
        if self.position + bytes > FILE_BYTES { self.fill() } else { Ok(()) }
    }

    fn write(&mut self, batch: &LogBatch) -> io::Result<()> {
        self.buffer.clear();
        for entry in batch.entries.iter().flat_map(Run::entries) {
            self.buffer.extend_from_slice(&entry.data);
        }
        self.file.write_all_at(&self.buffer, self.position)?;
        self.position += self.buffer.len() as u64;
        self.file.sync_data()
    }
}
