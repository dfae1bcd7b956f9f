//! One process of `coracle serve`.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::{
    binary::binary,
    ports,
    wait::{eventually, until},
};

/// How often the leader of a node under test shows that it is alive.
pub const HEARTBEAT: Duration = Duration::from_millis(50);
/// The longest election timeout of a node under test.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(600);
/// Short times, so that elections are soon over.
const TIMES: [&str; 4] = ["--heartbeat", "50ms", "--election-timeout", "300ms..600ms"];
const LOG_LINES_SHOWN: usize = 40;

/// A node: its addresses, its directory, its log and, while it runs, its process.
#[derive(Debug)]
pub struct Node {
    /// What it is called.
    pub name: String,
    /// Where peers reach it.
    pub peer_port: u16,
    /// Where clients reach it.
    pub api_port: u16,
    /// Its directory.
    pub data: PathBuf,
    /// The URL of its storage; `None` for plain files in its directory.
    pub storage: Option<String>,
    /// The cluster's name, `None` for the default.
    pub cluster: Option<String>,
    /// Who founds the cluster; empty for a node alone.
    pub peers: Vec<String>,
    /// Further arguments of `serve`.
    pub extra: Vec<String>,
    /// The host in its address, as a multiaddr begins.
    host: String,
    /// Where its Unix socket is, if peers come to one.
    socket: Option<PathBuf>,
    /// How its address ends.
    ending: &'static str,
    log: PathBuf,
    /// How long the log was when the process was started.
    log_start: usize,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    /// Held open: the node leaves when it closes, however this process ends.
    _stdin: Option<ChildStdin>,
}

/// Why a node did not become ready.
#[derive(Debug)]
pub enum NotReady {
    /// Somebody else took one of its ports.
    PortTaken,
    /// It ended with this.
    Ended(ExitStatus),
}

impl Node {
    /// A node with ports of its own, not started.
    pub fn new(name: &str, folder: &Path) -> Node {
        let data = folder.join(name);
        Node {
            name: name.to_owned(),
            peer_port: ports::free(),
            api_port: ports::free(),
            storage: None,
            data,
            cluster: None,
            peers: Vec::new(),
            extra: Vec::new(),
            socket: None,
            host: "/ip4/127.0.0.1".to_owned(),
            ending: "",
            log: folder.join(format!("{name}.log")),
            log_start: 0,
            process: None,
        }
    }

    /// Where its peers find it.
    pub fn address(&self) -> String {
        if let Some(socket) = &self.socket {
            return format!("/unix/{}", socket.display().to_string().replace('/', "%2F"));
        }
        format!("{}/tcp/{}{}", self.host, self.peer_port, self.ending)
    }

    /// Peers come over TLS from now on.
    pub fn over_tls(&mut self) {
        self.ends_with("/tls");
    }

    /// Its address ends like this from now on: `/tls`, `/http` for gRPC, `/tls/http`.
    pub fn ends_with(&mut self, ending: &'static str) {
        self.ending = ending;
    }

    /// Peers come to a Unix socket beside its directory from now on.
    pub fn over_unix(&mut self) {
        self.socket = Some(self.data.with_extension("sock"));
    }

    /// Peers are told this name of the host, or this IPv4 address of it, from now on.
    pub fn advertise(&mut self, host: &str) {
        let protocol = if host.parse::<std::net::Ipv4Addr>().is_ok() { "ip4" } else { "dns4" };
        self.host = format!("/{protocol}/{host}");
    }

    /// It keeps its data in this directory, in plain files, from now on; `query` is the end of the URL, from the question mark on.
    pub fn keep_in_files(&mut self, data: PathBuf, query: &str) {
        self.storage = Some(format!("file:{}{query}", data.display()));
        self.data = data;
    }

    /// It keeps its data in a sled database from now on.
    pub fn keep_in_sled(&mut self) {
        self.storage = Some(format!("sled:{}", self.data.display()));
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.api_port)
    }

    /// The arguments of its process.
    pub fn arguments(&self) -> Vec<String> {
        let storage = self.storage.clone().unwrap_or_else(|| format!("file:{}", self.data.display()));
        let mut arguments = vec![
            "serve".to_owned(),
            self.address(),
            "--api".to_owned(),
            self.endpoint(),
            "--storage".to_owned(),
            storage,
        ];
        arguments.extend(TIMES.map(str::to_owned));
        if !self.peers.is_empty() {
            arguments.extend(["--peers".to_owned(), self.peers.join(",")]);
        }
        if let Some(cluster) = &self.cluster {
            arguments.extend(["--cluster".to_owned(), cluster.clone()]);
        }
        arguments.extend(self.extra.iter().cloned());
        arguments
    }

    /// Starts its process.
    ///
    /// # Panics
    /// When it runs already.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        self.log_start = self.log().len();
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut child = Command::new(binary())
            .args(self.arguments())
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        self.process = Some(Process { child, _stdin: stdin });
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn ready_or_not(&mut self) -> Result<(), NotReady> {
        let name = self.name.clone();
        eventually(&format!("{name} is ready"), || {
            if self.log_since_start().lines().any(|line| line.starts_with("ready ")) {
                return Ok(Ok(()));
            }
            match self.ended() {
                Some(_) if self.log_since_start().contains("in use (os error") => Ok(Err(NotReady::PortTaken)),
                Some(status) => Ok(Err(NotReady::Ended(status))),
                None => Err(format!("it still runs, and has said:\n{}", self.log_tail())),
            }
        })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// When it ends instead.
    #[track_caller]
    pub fn ready(&mut self) {
        if let Err(error) = self.ready_or_not() {
            panic!("{} is not ready: {error:?}:\n{}", self.name, self.log_tail());
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// How it ended, if it has since it was started.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.child.try_wait().unwrap()?;
        self.process = None;
        Some(status)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Sends SIGKILL, and does not wait: nothing can be flushed any more.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.as_mut().expect("it runs").child.kill().unwrap();
    }

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -{name}: {sent}");
        if name == "STOP" {
            // The signal is on its way until then.
            until("the process has stopped", || self.proc_status("State:").is_none_or(|state| state.starts_with('T')));
        }
    }

    /// Its resident memory in bytes; `None` where the system does not tell.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = self.proc_status("VmRSS:")?;
        Some(text.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }

    /// The most resident memory in bytes that it ever had; `None` where the system does not tell.
    pub fn peak_bytes(&self) -> Option<u64> {
        let text = self.proc_status("VmHWM:")?;
        Some(text.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    }

    fn proc_status(&self, field: &str) -> Option<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        text.lines().find_map(|line| line.strip_prefix(field)).map(|rest| rest.trim().to_owned())
    }

    /// The number of its process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").child.id()
    }

    /// All that it has ever logged and printed.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// What its present, or last, process has logged and printed.
    pub fn log_since_start(&self) -> String {
        self.log().get(self.log_start..).unwrap_or_default().to_owned()
    }

    /// Waits until its present process has logged this.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn logs(&self, part: &str) {
        eventually(&format!("{} logs \"{part}\"", self.name), || {
            if self.log_since_start().contains(part) { Ok(()) } else { Err(self.log_tail()) }
        });
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may be stopped or have ended; there is nobody to tell.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("== the end of the log of {}\n{}", self.name, self.log_tail());
        }
    }
}
