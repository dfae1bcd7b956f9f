//! Files that come into being together, once all of them are known to be of use.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::exit::{Failure, Outcome};

/// Files that are written under other names first. Unless they are published, they are gone with this.
#[derive(Default)]
pub(super) struct Staged {
    /// Where each is, and where it is to be.
    files: Vec<(PathBuf, PathBuf)>,
}

impl Staged {
    /// Writes a file that anybody may read; returns where it is for now.
    pub(super) fn write(&mut self, file: &Path, text: &str) -> Outcome<PathBuf> {
        self.put(file, text, 0o644)
    }

    /// Writes a file that its owner alone may read, from its first moment on.
    pub(super) fn write_secret(&mut self, file: &Path, text: &str) -> Outcome<PathBuf> {
        self.put(file, text, 0o600)
    }

    fn put(&mut self, file: &Path, text: &str, mode: u32) -> Outcome<PathBuf> {
        let mut name = OsString::from(file);
        name.push(".new");
        let staged = PathBuf::from(name);
        let write = || {
            // One that a run left behind which was cut short.
            remove(&staged)?;
            let mut open = options(mode).open(&staged)?;
            open.write_all(text.as_bytes())?;
            open.sync_all()
        };
        self.files.push((staged.clone(), file.to_owned()));
        write().map_err(|error| Failure::io(format_args!("could not write {}", file.display()), &error))?;
        Ok(staged)
    }

    /// Gives all files their names; what is there by these names is replaced.
    pub(super) fn publish(mut self) -> Outcome {
        while let Some((staged, file)) = self.files.first() {
            fs::rename(staged, file)
                .map_err(|error| Failure::io(format_args!("could not write {}", file.display()), &error))?;
            self.files.remove(0);
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        for (staged, _) in &self.files {
            // What cannot be removed does no harm: nobody uses it, and the next run replaces it.
            let _ = fs::remove_file(staged);
        }
    }
}

/// A new file; what is there already is left alone.
fn options(mode: u32) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

pub(super) fn make_folder(folder: &Path) -> Outcome {
    fs::create_dir_all(folder).map_err(|error| Failure::io(format_args!("could not make {}", folder.display()), &error))
}
