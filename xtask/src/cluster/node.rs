//! One node: a process that cannot outlive this one.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, anyhow, bail};

use super::link::Link;
use crate::process::tail;

const READY_WAIT: Duration = Duration::from_secs(30);
/// More than a node takes that shuts down in order.
const END_WAIT: Duration = Duration::from_secs(15);
const LOG_LINES_SHOWN: usize = 15;

/// Where a node listens, on loopback.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    peers: u16,
    clients: u16,
}

/// Why a node does not run.
pub(super) enum StartError {
    /// Somebody else has its port.
    PortTaken(Error),
    /// Anything else.
    Other(Error),
}

impl From<Error> for StartError {
    fn from(error: Error) -> StartError {
        StartError::Other(error)
    }
}

/// A node and, while it runs, its process.
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) ports: Ports,
    /// Where its peers find it.
    pub(super) address: String,
    binary: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

/// What is the same for all nodes.
pub(super) struct Setting<'a> {
    pub(super) link: &'a Link,
    /// Where their logs go.
    pub(super) folder: &'a Path,
    pub(super) binary: &'a Path,
}

struct Process {
    child: Child,
    /// Held open: the node leaves when it closes, however this process ends.
    stdin: Option<ChildStdin>,
    /// Says once that the node is ready.
    ready: Receiver<()>,
    started: Instant,
}

impl Ports {
    /// 9490, 9491, … for peers and 9590, 9591, … for clients.
    pub(super) fn documented(nodes: u16) -> Result<Vec<Ports>> {
        let all: Vec<Ports> = (0..nodes).map(|node| Ports { peers: 9490 + node, clients: 9590 + node }).collect();
        for port in all.iter().flat_map(|ports| [ports.peers, ports.clients]) {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                bail!("port {port} is not free ({error}): end what listens there, or run with --free-ports");
            }
        }
        Ok(all)
    }

    /// Ports that nobody uses at this moment.
    pub(super) fn free(nodes: u16) -> Result<Vec<Ports>> {
        let listen = || TcpListener::bind(("127.0.0.1", 0)).context("cannot find a free port on 127.0.0.1");
        // All are held until all are drawn, so that they differ.
        let held: Vec<(TcpListener, TcpListener)> =
            (0..nodes).map(|_| Ok((listen()?, listen()?))).collect::<Result<_>>()?;
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        held.iter().map(|(peers, clients)| Ok(Ports { peers: port(peers)?, clients: port(clients)? })).collect()
    }

    /// Where its peers find it.
    pub(super) fn peer_address(&self, link: &Link) -> String {
        link.address(self.peers)
    }

    /// Where clients find it.
    pub(super) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.clients)
    }
}

impl Node {
    /// The node `number` at `ports`, of a cluster of `peers`; its data are in `storage`.
    pub(super) fn new(number: usize, ports: Ports, peers: &str, storage: &str, setting: &Setting<'_>) -> Node {
        let Setting { link, folder, binary } = setting;
        let (address, endpoint) = (ports.peer_address(link), ports.endpoint());
        let arguments =
            ["serve", &address, "--peers", peers, "--storage", storage, "--api", &endpoint, "--exit-with-stdin"];
        let mut arguments = arguments.map(str::to_owned).to_vec();
        arguments.extend(link.arguments());
        Node {
            number,
            ports,
            address,
            binary: binary.to_path_buf(),
            arguments,
            log: folder.join(format!("n{number}.log")),
            process: None,
        }
    }

    /// Starts the process on an empty directory, for it to be taken in by these; it is ready when [`Node::wait_until_ready`] says so.
    pub(super) fn start_to_join(&mut self, members: &str) -> Result<()> {
        let option = self.arguments.iter().position(|argument| argument == "--peers" || argument == "--join");
        let option = option.with_context(|| format!("node {} was never told how to find others", self.number))?;
        self.arguments.splice(option..option + 2, ["--join".to_owned(), members.to_owned()]);
        self.start()
    }

    /// Starts the process; it is ready when [`Node::wait_until_ready`] says so.
    pub(super) fn start(&mut self) -> Result<()> {
        let log = open_log(&self.log)?;
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let ready = watch(&mut child, log);
        let stdin = child.stdin.take();
        self.process = Some(Process { child, stdin, ready, started: Instant::now() });
        Ok(())
    }

    /// Waits for the node's readiness line.
    pub(super) fn wait_until_ready(&mut self) -> Result<(), StartError> {
        let number = self.number;
        let Some(process) = &mut self.process else { return Err(anyhow!("node {number} was not started").into()) };
        let left = READY_WAIT.saturating_sub(process.started.elapsed());
        let what = match process.ready.recv_timeout(left) {
            Ok(()) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => format!("was not ready within {} s", READY_WAIT.as_secs()),
            Err(RecvTimeoutError::Disconnected) => match process.child.wait() {
                Ok(status) => format!("ended with {status} before it was ready"),
                Err(error) => format!("closed its output before it was ready, and cannot be waited for: {error}"),
            },
        };
        let log = tail(&self.log, LOG_LINES_SHOWN);
        let is_port_taken = log.to_lowercase().contains("in use");
        let error = anyhow!("node {number} {what}; the end of {}:\n{log}", self.log.display());
        Err(if is_port_taken { StartError::PortTaken(error) } else { StartError::Other(error) })
    }

    /// Kills the process (SIGKILL): it can neither flush nor say goodbye.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { bail!("node {} does not run", self.number) };
        process.child.kill().with_context(|| format!("cannot kill node {}", self.number))?;
        process.child.wait()?;
        Ok(())
    }

    /// Tells the process to leave; dropping the node waits for it.
    pub(super) fn leave(&mut self) {
        if let Some(process) = &mut self.process {
            process.stdin = None;
        }
    }

    /// How the process ended, told once.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.child.try_wait().ok()??;
        self.process = None;
        Some(status)
    }

    /// Where its log is.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Whether its process was started and not seen to end.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let start = Instant::now();
        while start.elapsed() < END_WAIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // It had its time; there is nobody to tell that it could not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

/// Copies what the node prints to its log, and tells when it is ready.
fn watch(child: &mut Child, mut log: File) -> Receiver<()> {
    let (tell, ready) = channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The log and the listener are conveniences: the pipe must be drained without them too.
                let _ = writeln!(log, "{line}");
                if line.starts_with("ready ") {
                    let _ = tell.send(());
                }
            }
        });
    }
    ready
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::link::Transport;

    #[test]
    fn free_ports_differ() {
        let ports = Ports::free(9).unwrap();
        let distinct: BTreeSet<u16> = ports.iter().flat_map(|ports| [ports.peers, ports.clients]).collect();
        assert_eq!(distinct.len(), 18);
    }

    #[test]
    fn a_node_that_ends_early_shows_its_log() {
        let folder = std::env::temp_dir().join(format!("coracle-xtask-{}", std::process::id()));
        let ports = Ports { peers: 1, clients: 2 };
        // `cargo serve …` is no command, so the process ends at once and complains.
        let link = Link::plain(Transport::Tcp);
        let setting = Setting { link: &link, folder: &folder, binary: Path::new(env!("CARGO")) };
        let mut node = Node::new(1, ports, "", "memory:", &setting);
        node.start().unwrap();
        let Err(StartError::Other(error)) = node.wait_until_ready() else { panic!("it is ready, or its port taken") };
        let text = error.to_string();
        assert!(text.contains("node 1 ended with") && text.contains("serve"), "{text}");
        fs::remove_dir_all(folder).unwrap();
    }
}
