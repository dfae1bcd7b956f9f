//! What adapters with a directory of their own share: files that appear as a whole or not at all, the identity, the lock, snapshots, and the bytes of small records.

pub mod codec;
pub mod identity;
mod snapshot;

pub use snapshot::FileSnapshots;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use crate::{Result, StorageError};

/// Makes a directory and those above it, durably. What is in one that is there already is synced, too: a process that was killed may have left names that are not durable (C3).
///
/// # Errors
/// When one cannot be made or synced.
pub fn ensure_dir(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
    fs::create_dir_all(path).map_err(io("create the directory", path))?;
    for dir in missing {
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_dir(parent.unwrap_or(Path::new(".")))?;
    }
    sync_dir(path)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When it cannot be synced.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io("sync the directory", path))
}

/// Replaces a file, durably when this returns.
///
/// # Errors
/// When it cannot be written or synced; the old one is then still there.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = write_beside(path, content, true)?;
    rename(&temporary, path)
}

/// Replaces a file; after a power cut it may be the old one, or damaged.
///
/// # Errors
/// When it cannot be written.
pub fn replace_lazily(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = write_beside(path, content, false)?;
    fs::rename(&temporary, path).map_err(io("replace", path))
}

/// Gives a file its name, durably.
///
/// # Errors
/// When it cannot be renamed, or the directory cannot be synced.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(io("replace", to))?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// A file's content; `None` when it is not there.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Deletes a file; that it is absent is no error.
///
/// # Errors
/// When it is there and cannot be deleted.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("delete", path)(error)),
        _ => Ok(()),
    }
}

/// Keeps other processes out of a directory for as long as the file is open.
///
/// # Errors
/// [`StorageError::Locked`] when another has it.
pub fn lock(dir: &Path) -> Result<File> {
    let name = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(io("open", &name))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Locked { place: dir.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(io("lock", &name)(error)),
    }
}

/// Makes an error of the system name what was tried, and on which path.
pub fn io<'a>(operation: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StorageError + 'a {
    move |error| StorageError::io(format!("{operation} {}", path.display()), error)
}

fn write_beside(path: &Path, content: &[u8], sync: bool) -> Result<PathBuf> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    if let Err(error) = write() {
        // What there is of it may be what fills the disk.
        let _ = fs::remove_file(&temporary);
        return Err(io("write", &temporary)(error));
    }
    Ok(temporary)
}
