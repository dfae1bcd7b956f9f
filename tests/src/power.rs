//! A power cut, as far as a store can tell: an ext4 image lies on an XFS file system that shares blocks between copies, and a copy of the image is what had reached the device at that instant.
//!
//! What only lay in the page cache above the image is not in the copy.
//! What the device holds counts as kept, so a missing flush of a drive's cache goes unnoticed: that a sync precedes each acknowledgement is shown by its system calls (`trace`).

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::tools;

const XFS_BYTES: u64 = 2 << 30;
const EXT4_BYTES: u64 = 512 << 20;

/// A file system that is unmounted when this goes.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
}

impl Mounted {
    /// Mounts an image.
    fn new(image: &Path, at: PathBuf) -> Result<Mounted, String> {
        Mounted::with(&[Path::new("-o"), Path::new("loop"), image], at)
    }

    /// Mounts what the arguments of `mount` say.
    pub(crate) fn with(what: &[&Path], at: PathBuf) -> Result<Mounted, String> {
        fs::create_dir_all(&at).map_err(|error| format!("{} cannot be made: {error}", at.display()))?;
        tools::run("mount", what.iter().chain(&[&*at]))?;
        Ok(Mounted { at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A process that was killed may hold it for a moment longer.
        let unmount = |option: &str| Command::new("umount").arg(option).arg(&self.at).stderr(Stdio::null()).status();
        if !unmount("--").is_ok_and(|status| status.success()) {
            let _ = unmount("--lazy");
        }
    }
}

/// A machine whose power can be cut.
#[derive(Debug)]
pub struct Rig {
    /// How often it was.
    cuts: usize,
    /// Before the file system that it lies on, so that it is unmounted first.
    live: Mounted,
    lower: Mounted,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// Sets it up.
    ///
    /// # Errors
    /// Says in a line what this machine lacks: root, loop devices, a tool.
    pub fn new() -> Result<Rig, String> {
        check_root()?;
        if !Path::new("/dev/loop-control").exists() {
            return Err("there are no loop devices".to_owned());
        }
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let image = folder.path().join("xfs");
        sparse(&image, XFS_BYTES)?;
        tools::run("mkfs.xfs", [Path::new("-q"), Path::new("-m"), Path::new("reflink=1"), &image])?;
        let lower = Mounted::new(&image, folder.path().join("lower"))?;
        let image = lower.at.join("0");
        sparse(&image, EXT4_BYTES)?;
        tools::run("mkfs.ext4", [Path::new("-q"), Path::new("-F"), &image])?;
        let live = Mounted::new(&image, folder.path().join("live-0"))?;
        Ok(Rig { cuts: 0, live, lower, _folder: folder })
    }

    /// The folder that loses what was not synced.
    pub fn folder(&self) -> &Path {
        &self.live.at
    }

    /// Cuts the power, while processes may write: then ends them with `stop`, and starts the machine again.
    ///
    /// # Panics
    /// When that does not work, or a file that was written and never synced is still there: then this machine shows nothing.
    pub fn cut(&mut self, stop: impl FnOnce()) {
        let canary = format!("canary-{}", self.cuts);
        let mut file = File::create(self.live.at.join(&canary)).unwrap();
        file.write_all(canary.as_bytes()).unwrap();
        let image = |number: usize| self.lower.at.join(number.to_string());
        let (before, after) = (image(self.cuts), image(self.cuts + 1));
        tools::run("cp", [Path::new("--reflink=always"), &before, &after]).unwrap();
        stop();
        drop(file);
        self.cuts += 1;
        let folder = self.live.at.with_file_name(format!("live-{}", self.cuts));
        self.live = Mounted::new(&after, folder).unwrap();
        fs::remove_file(&before).unwrap();
        let kept = fs::read(self.live.at.join(&canary)).unwrap_or_default();
        assert!(kept.is_empty(), "a file that was never synced survived the power cut: this rig shows nothing");
    }
}

/// Whether file systems can be mounted.
pub(crate) fn check_root() -> Result<(), String> {
    if tools::run("id", ["-u"])?.trim() == "0" { Ok(()) } else { Err("only root can mount".to_owned()) }
}

fn sparse(path: &Path, bytes: u64) -> Result<(), String> {
    let made = File::create(path).and_then(|file| file.set_len(bytes));
    made.map_err(|error| format!("{} cannot be made: {error}", path.display()))
}
