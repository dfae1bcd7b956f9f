//! Processes of servers, which cannot outlive this one.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
};

/// Starts a server, says what its process is, and kills it when standard input closes: that happens however this process ends.
const GUARD: &str = r#"log=$1; shift
"$@" </dev/null >>"$log" 2>&1 &
echo $!
cat >/dev/null
kill -KILL $! 2>/dev/null
wait"#;

/// How much of a log an error shows.
const LOG_BYTES_SHOWN: usize = 2000;

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    guard: Child,
    /// Closing it ends the server.
    stdin: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
}

impl Server {
    /// Starts a program; what it prints goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(program: &Path, arguments: &[String], log: PathBuf) -> io::Result<Server> {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "sh"]).arg(&log).arg(program).args(arguments);
        // A group of its own: Ctrl-C is for this process, which then ends it.
        guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = guard.spawn()?;
        let stdin = guard.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = guard.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let pid = line.trim().parse().map_err(|_| io::Error::other(format!("no process was started: {line}")))?;
        Ok(Server { guard, stdin, pid, log })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// An error that shows the end of its log, if it has ended.
    pub(crate) fn check(&self) -> io::Result<()> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if !matches!(state, None | Some('Z' | 'X')) {
            return Ok(());
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_BYTES_SHOWN)..]).into_owned();
        Err(io::Error::other(format!("a server has ended; the end of its log:\n{end}")))
    }

    /// Kills it and waits for its end.
    pub(crate) fn stop(&mut self) {
        drop(self.stdin.take());
        // It was started, so it can be waited for.
        let _ = self.guard.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ports on loopback that nobody uses at this moment, all different.
///
/// # Errors
/// When there are none.
pub(crate) fn free_ports(number: usize) -> io::Result<Vec<u16>> {
    // All are held until all are drawn.
    let held = (0..number).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_ends_when_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(Path::new("sleep"), &["1000".to_owned()], dir.path().join("log")).unwrap();
        server.check().unwrap();
        let pid = server.pid();
        drop(server);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn the_log_of_a_server_that_has_ended_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = ["-c", "echo why it ended"].map(str::to_owned);
        let server = Server::start(Path::new("sh"), &arguments, dir.path().join("log")).unwrap();
        let error = loop {
            match server.check() {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("why it ended"), "{error}");
    }
}
