//! A Redis server for each node, none of which outlives this process.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{process::tail, redis};

const START_WAIT: Duration = Duration::from_secs(20);
const END_WAIT: Duration = Duration::from_secs(10);
const LOG_LINES_SHOWN: usize = 10;

/// Ends the server when this process's end of the pipe closes, however that comes.
const UNTIL_STDIN_CLOSES: &str = r#""$0" "$@" </dev/null & server=$!; cat >/dev/null; kill "$server"; wait "$server""#;

/// The servers; they end when this is dropped.
pub(super) struct Servers {
    /// Where their sockets are: a short path, since those of sockets are limited to about 100 bytes.
    sockets: PathBuf,
    running: Vec<Child>,
}

impl Servers {
    /// For clusters that need none.
    pub(super) fn none() -> Servers {
        Servers { sockets: env::temp_dir().join(format!("coracle-{}", process::id())), running: Vec::new() }
    }

    /// Starts a server for each of so many nodes, durable against a power loss, with its data under `folder`.
    pub(super) fn start(nodes: usize, folder: &Path) -> Result<Servers> {
        let binary = redis::server()?;
        let mut servers = Servers::none();
        fs::create_dir_all(&servers.sockets).with_context(|| format!("cannot make {}", servers.sockets.display()))?;
        for number in 1..=nodes {
            let (data, log) = (folder.join(format!("redis{number}")), folder.join(format!("redis{number}.log")));
            fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
            let mut command = Command::new("/bin/sh");
            command.args(["-c", UNTIL_STDIN_CLOSES]).arg(&binary).args(["--port", "0", "--save", ""]);
            command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(data);
            command.arg("--unixsocket").arg(servers.socket(number)).arg("--logfile").arg(&log);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
            servers.running.push(child.with_context(|| format!("cannot start {}", binary.display()))?);
            servers.wait(number, &log)?;
        }
        println!("{nodes} Redis servers run, each for one node");
        Ok(servers)
    }

    /// Where the server of a node listens.
    pub(super) fn socket(&self, number: usize) -> PathBuf {
        self.sockets.join(format!("r{number}.sock"))
    }

    fn wait(&mut self, number: usize, log: &Path) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_WAIT {
            // It is there once the server listens.
            if self.socket(number).exists() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("Redis server {number} does not answer; the end of {}:\n{}", log.display(), tail(log, LOG_LINES_SHOWN))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.running.iter_mut().for_each(|child| drop(child.stdin.take()));
        let start = Instant::now();
        for child in &mut self.running {
            while start.elapsed() < END_WAIT && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
            // It had its time; there is nobody to tell that it could not be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
        // Sockets only; where there are none, neither is the folder.
        let _ = fs::remove_dir_all(&self.sockets);
    }
}
