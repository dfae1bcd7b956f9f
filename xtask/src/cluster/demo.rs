//! The running `coracle demo words --json`.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::state::{State, states_in};
use crate::process::tail;

/// Longer than any write may be retried: silence beyond it is a hang.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A process that counts words.
pub(super) struct Demo {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

/// A line of its output.
pub(super) enum Line {
    Progress(Progress),
    Outcome(Outcome),
}

/// How far it is.
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) ops_per_second: f64,
    pub(super) nodes: Vec<State>,
}

/// What it found.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) equal: bool,
    pub(super) words: u64,
    pub(super) distinct: u64,
    pub(super) seconds: f64,
    pub(super) ops_per_second: f64,
    pub(super) latency_ms: Latency,
    pub(super) interrupted_ms: f64,
    #[serde(default)]
    pub(super) top: Vec<(String, u64)>,
    #[serde(default)]
    pub(super) differences: Vec<Value>,
}

/// How long writes took, in milliseconds.
#[derive(Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Demo {
    pub(super) fn start(binary: &Path, endpoints: &str, texts: &[PathBuf], clients: u16, log: PathBuf) -> Result<Demo> {
        let mut command = Command::new(binary);
        command.args(["demo", "words", "--endpoints", endpoints, "--clients", &clients.to_string(), "--json"]);
        command.arg("--exit-with-stdin");
        for text in texts {
            command.arg("--input").arg(text);
        }
        // Held open by the child's handle: the demo leaves when it closes, however this process ends.
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(&log).with_context(|| format!("cannot write {}", log.display()))?);
        let mut child = command.spawn().context("cannot start coracle demo")?;
        let (tell, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                // Nobody listens any more when the demo was given up.
                lines.take_while(|line| tell.send(line.clone()).is_ok()).for_each(drop);
            });
        }
        Ok(Demo { child, lines, log })
    }

    /// The next line that says something.
    pub(super) fn next(&mut self) -> Result<Line> {
        loop {
            match self.lines.recv_timeout(SILENCE_MAX) {
                Ok(text) => {
                    if let Some(line) = parse(&text)? {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!(
                    "the clients said nothing for {} s; the end of {}:\n{}",
                    SILENCE_MAX.as_secs(),
                    self.log.display(),
                    tail(&self.log, 15)
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("the clients ended with {status} and no result:\n{}", tail(&self.log, 15));
                }
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has usually ended by itself, and then this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(text: &str) -> Result<Option<Line>> {
    let value: Value = serde_json::from_str(text).with_context(|| format!("expected a JSON object, got: {text}"))?;
    match value["event"].as_str() {
        Some("progress") => Ok(Some(Line::Progress(Progress {
            done: value["done"].as_u64().unwrap_or_default(),
            total: value["total"].as_u64().unwrap_or_default(),
            ops_per_second: value["ops_per_second"].as_f64().unwrap_or_default(),
            nodes: states_in(&value["nodes"]),
        }))),
        Some("result") => {
            let outcome =
                serde_json::from_value(value).with_context(|| format!("a result of another shape: {text}"))?;
            Ok(Some(Line::Outcome(outcome)))
        }
        // Other events may be added to the stream.
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_names_the_leader() {
        let text = r#"{"event":"progress","done":5,"total":10,"ops_per_second":2.5,"nodes":[{"endpoint":"127.0.0.1:9590","up":true,"id":"7f","role":"leader","term":2,"commit":4,"applied":4,"leader":true}]}"#;
        let Ok(Some(Line::Progress(progress))) = parse(text) else { panic!("not progress") };
        assert_eq!((progress.done, progress.total), (5, 10));
        assert!(progress.nodes[0].leads);
    }

    #[test]
    fn a_result_is_read_whole() {
        let text = r#"{"event":"result","equal":false,"words":10,"distinct":3,"seconds":1.5,"ops_per_second":6.7,"latency_ms":{"p50":1,"p90":2,"p99":3.5,"max":4},"interrupted_ms":1200,"top":[["the",5]],"differences":[{"word":"a"}]}"#;
        let Ok(Some(Line::Outcome(outcome))) = parse(text) else { panic!("not a result") };
        assert!(!outcome.equal);
        assert_eq!(outcome.top, [("the".to_owned(), 5)]);
        assert_eq!(outcome.differences.len(), 1);
    }

    #[test]
    fn what_is_no_json_is_an_error_that_shows_it() {
        let Err(error) = parse("panicked at") else { panic!("accepted") };
        assert!(error.to_string().contains("panicked at"));
        assert!(matches!(parse(r#"{"event":"news"}"#), Ok(None)));
    }
}
