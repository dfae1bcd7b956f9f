//! The command line, as a script uses it.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{binary::binary, wait::PATIENCE};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Ended {
    /// Checks the exit code.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Checks that the complaint has all of these parts.
    ///
    /// # Panics
    /// When it lacks one.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Ended {
        for part in parts {
            assert!(self.stderr.contains(part), "\"{part}\" is missing: {self:#?}");
        }
        self
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Runs the binary to its end.
///
/// # Panics
/// When it does not end in time.
#[track_caller]
pub fn coracle<A: AsRef<str>>(args: impl IntoIterator<Item = A>) -> Ended {
    coracle_with(args, b"")
}

/// Runs the binary to its end, with something to read.
///
/// # Panics
/// When it does not end in time.
#[track_caller]
pub fn coracle_with<A: AsRef<str>>(args: impl IntoIterator<Item = A>, input: &[u8]) -> Ended {
    // Files, unlike pipes, never fill up.
    let [mut stdin, mut stdout, mut stderr] = [(); 3].map(|()| tempfile::tempfile().unwrap());
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    let args: Vec<String> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let began = Instant::now();
    let mut child = Command::new(binary())
        .args(&args)
        .env_remove("CORACLE_ENDPOINTS")
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::from(stdin))
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap();
    let code = wait(&mut child, began + PATIENCE);
    let took = began.elapsed();
    let ended = Ended { code: code.flatten(), stdout: text(&mut stdout), stderr: text(&mut stderr), took };
    assert!(code.is_some(), "coracle {} does not end: {ended:#?}", args.join(" "));
    ended
}

/// `None` when it had to be killed, `Some(None)` when a signal of somebody else ended it.
fn wait(child: &mut Child, deadline: Instant) -> Option<Option<i32>> {
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code());
        }
        thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

fn text(file: &mut File) -> String {
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
