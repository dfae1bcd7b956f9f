//! An engine for fuzzing: its syncs cost nothing.

use std::path::Path;

use coracle_storage::{Result, files};

use super::Engine;
use crate::SledOptions;

/// Opens the database in `path` for a process that will not outlive it.
pub(crate) fn open(path: &Path) -> Result<Engine> {
    Engine::open_with(path, &SledOptions::default(), files::lock(path)?, Box::new(|| Ok(())))
}
