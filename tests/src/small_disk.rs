//! A disk that is soon full: a small file system in memory.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::Path,
};

use crate::power::{Mounted, check_root};

/// What fills a disk is written in pieces of this size, then byte by byte.
const PIECE: usize = 64 << 10;

/// A file system of a few megabytes.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: Mounted,
    /// Where it is mounted.
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    /// One of so many bytes.
    ///
    /// # Errors
    /// Says in a line what this machine lacks.
    pub fn new(bytes: u64) -> Result<SmallDisk, String> {
        check_root()?;
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let size = format!("size={bytes}");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs"].map(Path::new);
        let mounted = Mounted::with(&arguments, folder.path().join("disk"))?;
        Ok(SmallDisk { mounted, _folder: folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.mounted.at
    }

    /// Takes all the space that is left.
    ///
    /// # Panics
    /// When something else than space is missing.
    pub fn fill(&self) {
        let mut file = File::create(self.folder().join("ballast")).unwrap();
        for piece in [PIECE, 1] {
            let piece = vec![1; piece];
            let error = loop {
                if let Err(error) = file.write_all(&piece) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    }

    /// Gives it back.
    ///
    /// # Panics
    /// When it was not taken.
    pub fn free(&self) {
        fs::remove_file(self.folder().join("ballast")).unwrap();
    }
}
