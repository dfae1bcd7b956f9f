//! A running process some of whose syncs fail, by `strace`: the process itself is what is shipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use crate::{tools, trace::Trace, wait::eventually};

/// A process whose syncs are traced, and some of which fail.
#[derive(Debug)]
pub struct FailingSyncs {
    strace: Child,
    output: PathBuf,
}

impl FailingSyncs {
    /// From here on, the `nth` call of `fdatasync` in each of the process's threads fails with EIO: of any file, or of `only` one.
    /// What was called goes to `output`.
    ///
    /// # Errors
    /// When `strace` is missing or may not trace here.
    ///
    /// # Panics
    /// When the process is not traced in time.
    pub fn of(pid: u32, nth: usize, only: Option<&Path>, output: &Path) -> Result<FailingSyncs, String> {
        let mut command = tools::command("strace")?;
        command.args(["-f", "-y", "-q", "-e", "trace=fsync,fdatasync", "-e", "signal=none"]);
        command.args(["-e", &format!("inject=fdatasync:error=EIO:when={nth}")]);
        if let Some(path) = only {
            command.arg("-P").arg(path);
        }
        command.arg("-o").arg(output).args(["-p", &pid.to_string()]);
        let strace = command.stdin(Stdio::null()).spawn();
        let mut strace = strace.map_err(|error| format!("strace does not run: {error}"))?;
        eventually("the process is traced", || match strace.try_wait() {
            Ok(None) if is_traced(pid) => Ok(Ok(())),
            Ok(None) => Err("not all its threads are".to_owned()),
            // The sync has failed already.
            Ok(Some(status)) if status.success() => Ok(Ok(())),
            ended => Ok(Err(format!("strace cannot attach: {ended:?}"))),
        })?;
        Ok(FailingSyncs { strace, output: output.to_owned() })
    }

    /// Waits until the process has ended, and gives what it called.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn trace(mut self) -> Result<Trace, String> {
        self.strace.wait().map_err(|error| format!("strace is lost: {error}"))?;
        Trace::read(&self.output)
    }
}

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        // It has ended, or a test has failed; there is nobody to tell.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Whether all threads of a process are traced.
fn is_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let tracers = threads.map(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(|tracer| tracer.trim() != "0")
    });
    // A thread that has ended meanwhile has no status.
    let tracers: Vec<bool> = tracers.flatten().collect();
    !tracers.is_empty() && tracers.iter().all(|is_traced| *is_traced)
}
