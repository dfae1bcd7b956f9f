//! A Redis server of a test's own.

use std::{
    env, fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use tempfile::TempDir;

use crate::wait::{PATIENCE, eventually};

/// A server on a Unix socket, with its data in a directory that goes with it. It syncs before it answers.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    process: Option<Child>,
}

impl Redis {
    /// A server that answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Redis {
        // A short path: sockets' names are limited.
        let mut redis = Redis { folder: tempfile::Builder::new().prefix("rd").tempdir().unwrap(), process: None };
        redis.restart();
        redis
    }

    /// A namespace on it, as a storage URL.
    pub fn url(&self, namespace: &str) -> String {
        format!("redis+unix://{}?namespace={namespace}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Starts it on the data that it has.
    ///
    /// # Panics
    /// When it runs already, or does not start.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the server runs");
        let log_file = self.folder.path().join("log");
        let log = fs::File::create(&log_file).unwrap();
        let mut command = Command::new(server());
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--unixsocket"]);
        command.arg(self.socket()).arg("--dir").arg(self.folder.path());
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.process = Some(command.spawn().unwrap());
        eventually("the Redis server answers", || match self.ask(&["PING"]) {
            Ok(answer) if answer.starts_with("+PONG") => Ok(()),
            other => Err(format!("{other:?}: {}", fs::read_to_string(&log_file).unwrap_or_default())),
        });
    }

    /// Kills it (SIGKILL).
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the server runs");
        process.kill().unwrap();
        process.wait().unwrap();
        // A killed server leaves its socket behind.
        let _ = fs::remove_file(self.socket());
    }

    /// A copy of what it has on disk.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.data(), copy.path());
        copy
    }

    /// Puts an earlier copy in the place of what a killed server has on disk.
    ///
    /// # Panics
    /// When it runs, or the files cannot be written.
    pub fn put_back(&self, copy: &TempDir) {
        assert!(self.process.is_none(), "the server runs");
        fs::remove_dir_all(self.data()).unwrap();
        fs::create_dir(self.data()).unwrap();
        copy_files(copy.path(), &self.data());
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("appendonlydir")
    }

    /// Sends it a command, and returns the beginning of the raw answer.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let count = words.matches('$').count();
        stream.write_all(format!("*{count}\r\n{words}").as_bytes())?;
        let mut answer = vec![0; 4096];
        let len = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended; there is nobody to tell.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The server's program: what `CORACLE_REDIS_SERVER` names, or what `cargo xtask redis` finds or fetches.
fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| env::var_os("CORACLE_REDIS_SERVER").map_or_else(find, PathBuf::from))
}

fn find() -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args(["xtask", "redis"]);
    let found = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().expect("cargo runs");
    assert!(found.status.success(), "there is no Redis server: cargo xtask redis says why");
    PathBuf::from(String::from_utf8_lossy(&found.stdout).trim())
}
