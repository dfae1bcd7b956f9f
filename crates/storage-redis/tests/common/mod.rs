//! A real server for tests: started on a socket in a directory of its own, killed when it is dropped.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

pub(crate) mod proxy;

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use coracle_storage_redis::{RedisOptions, RedisStore, RedisUrl};
use tempfile::TempDir;

/// How long anything may take before a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "{what}: not after {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A server, and the directory with its socket and its data.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A server that syncs before it answers.
    pub(crate) fn start() -> Server {
        Server::with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A server with these settings.
    pub(crate) fn with(args: &[&str]) -> Server {
        Server::try_with(args).unwrap()
    }

    /// A server with these settings, or what it says why it does not start.
    pub(crate) fn try_with(args: &[&str]) -> Result<Server, String> {
        let dir = tempfile::Builder::new().prefix("coracle").tempdir().unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut server = Server { dir, args, child: None };
        server.try_start()?;
        Ok(server)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn url(&self, namespace: &str) -> RedisUrl {
        url_of(&self.socket(), namespace)
    }

    /// Opens a store on it.
    pub(crate) fn open(&self, namespace: &str) -> RedisStore {
        RedisStore::open(&self.url(namespace), options()).unwrap()
    }

    /// Starts it on its data.
    pub(crate) fn start_again(&mut self) {
        self.try_start().unwrap();
    }

    fn try_start(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "the server runs");
        let log_path = self.dir.path().join("log");
        let log = fs::File::create(&log_path).unwrap();
        let mut command = Command::new(binary());
        command.arg("--port").arg("0").arg("--unixsocket").arg(self.socket()).arg("--dir").arg(self.dir.path());
        command.args(["--save", ""]).args(&self.args);
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut ended = None;
        wait_for("a server that answers", || {
            ended = child.try_wait().unwrap();
            let answers = || ask(&self.socket(), &["PING"]).is_ok_and(|answer| answer.starts_with("+PONG"));
            ended.is_some() || answers()
        });
        if let Some(status) = ended {
            return Err(format!("the server ended, {status}: {}", fs::read_to_string(&log_path).unwrap_or_default()));
        }
        self.child = Some(child);
        Ok(())
    }

    /// Kills it, as a crash would (SIGKILL).
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().unwrap();
        child.wait().unwrap();
        let _was_there = fs::remove_file(self.socket());
    }

    /// Sends a command past every store; returns the beginning of the raw answer.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        ask(&self.socket(), words).unwrap()
    }

    /// Copies its append-only files.
    pub(crate) fn copy_data(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.dir.path().join("appendonlydir"), copy.path());
        copy
    }

    /// Puts an earlier copy of its append-only files in their place.
    pub(crate) fn put_data(&self, copy: &TempDir) {
        let data = self.dir.path().join("appendonlydir");
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        copy_files(copy.path(), &data);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Options for tests: what does not come soon does not come.
pub(crate) fn options() -> RedisOptions {
    RedisOptions {
        open_timeout: Duration::from_secs(3),
        response_timeout: Duration::from_secs(10),
        ..RedisOptions::default()
    }
}

pub(crate) fn url_of(socket: &Path, namespace: &str) -> RedisUrl {
    RedisUrl::parse(&format!("redis+unix://{}?namespace={namespace}", socket.display())).unwrap()
}

/// The server's program; a test without one fails.
pub(crate) fn binary() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/redis/redis-server");
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|dir| dir.join("redis-server"));
    let named = env::var_os("CORACLE_REDIS_SERVER").map(PathBuf::from);
    let mut found = named.into_iter().chain([fetched]).chain(on_path).filter(|file| file.is_file());
    found.next().expect("no redis-server: `cargo xtask redis` gets one")
}

/// Sends one command on a connection of its own.
fn ask(socket: &Path, words: &[&str]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; 64 << 10];
    let len = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
}
