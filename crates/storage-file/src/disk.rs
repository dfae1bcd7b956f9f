//! The files under the log, behind a small trait, so that tests can cut the power between any two calls.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::retry_on_intr,
};

/// How much is written at once when a file is filled with zeros.
const ZEROS: usize = 1024 * 1024;

/// One directory. Names come and go durably.
pub(crate) trait Disk: Send + Sync {
    /// The files' names, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file of `bytes` zeros that are all written and durable; its name need not be.
    /// When there is no space nothing is left behind.
    fn allocate(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that is there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes all names durable that are there: a process that was killed may have left some that are not.
    fn sync_names(&self) -> io::Result<()>;

    /// Deletes a file, durably; that it is absent is no error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// The path of a file, for errors.
    fn place(&self, name: &str) -> String;
}

/// One file; its size never changes.
pub(crate) trait DiskFile: Send + Sync {
    /// How many bytes it has.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills the buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of the bytes.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system.
#[derive(Debug)]
pub(crate) struct OsDisk {
    path: PathBuf,
}

impl OsDisk {
    /// A directory that exists.
    pub(crate) fn new(path: PathBuf) -> OsDisk {
        OsDisk { path }
    }
}

impl Disk for OsDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|file| Ok(file?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn allocate(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        fill(&path, bytes).inspect_err(|_| drop(fs::remove_file(&path))).map(|file| Arc::new(file) as _)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.sync_names()
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Also when it is gone already: that may not be durable yet.
            _ => self.sync_names(),
        }
    }

    fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Reserves first, so that a disk without space says so at once, then writes zeros: blocks that were written before are overwritten without a change to the file system's own records, which an fdatasync would have to wait for.
fn fill(path: &Path, bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    match retry_on_intr(|| fallocate(&file, FallocateFlags::empty(), 0, bytes)) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; ZEROS];
    let mut offset = 0;
    while offset < bytes {
        let len = (bytes - offset).min(ZEROS as u64);
        file.write_all_at(&zeros[..len as usize], offset)?;
        offset += len;
    }
    file.sync_all()?;
    Ok(file)
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Whether an error says that there is no space, and nothing else is wrong.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
