//! What the demo prints: JSON lines for programs, or a progress bar and a summary for people.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value as Json, json};

use super::{
    watch::NodeState,
    words::{self, Difference},
    work::{Measured, Work},
};
use crate::{exit::Outcome, out};

/// How many of the most frequent words are shown.
const TOP: usize = 10;
/// The most differences that are listed.
const DIFFERENCES_MAX: usize = 100;

/// Shows how far it is.
pub(crate) enum Progress {
    Json,
    Terminal { bar: ProgressBar, nodes: Vec<ProgressBar>, _all: MultiProgress },
}

impl Progress {
    pub(crate) fn new(json: bool, total: usize, nodes: usize) -> Progress {
        if json {
            return Progress::Json;
        }
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = all.add(ProgressBar::new(total as u64));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} words  {msg}") {
            bar.set_style(style);
        }
        let plain = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let line = || all.add(ProgressBar::new(1).with_style(plain.clone()));
        let nodes = (0..nodes).map(|_| line()).collect();
        Progress::Terminal { bar, nodes, _all: all }
    }

    pub(crate) fn show(&self, done: usize, total: usize, per_second: f64, states: &[NodeState]) -> Outcome {
        match self {
            Progress::Json => out::line(json!({
                "event": "progress",
                "done": done,
                "total": total,
                "ops_per_second": per_second.round(),
                "nodes": states,
            })),
            Progress::Terminal { bar, nodes, .. } => {
                bar.set_position(done as u64);
                bar.set_message(format!("{per_second:.0}/s"));
                for (line, state) in nodes.iter().zip(states) {
                    line.set_message(node_line(state));
                }
                Ok(())
            }
        }
    }

    pub(crate) fn end(&self) {
        if let Progress::Terminal { bar, nodes, .. } = self {
            bar.abandon();
            nodes.iter().for_each(ProgressBar::abandon);
        }
    }
}

fn node_line(state: &NodeState) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let role = if state.up { state.role.unwrap_or("-") } else { "down" };
    format!(
        "{:<22} {role:<13} term {:<4} commit {:<8} applied {}",
        state.endpoint,
        number(state.term),
        number(state.commit),
        number(state.applied)
    )
}

/// How often acknowledgements came lately.
pub(crate) struct Rate {
    at: Instant,
    done: usize,
    per_second: f64,
}

impl Rate {
    pub(crate) fn new() -> Rate {
        Rate { at: Instant::now(), done: 0, per_second: 0.0 }
    }

    /// Smoothed over a few calls.
    pub(crate) fn update(&mut self, done: usize) -> f64 {
        let elapsed = self.at.elapsed().as_secs_f64().max(1e-6);
        let latest = (done - self.done) as f64 / elapsed;
        self.per_second = if self.done == 0 { latest } else { 0.6 * self.per_second + 0.4 * latest };
        (self.at, self.done) = (Instant::now(), done);
        self.per_second
    }
}

/// How it ended.
pub(crate) struct Report {
    words: usize,
    distinct: usize,
    took: Duration,
    interrupted: Duration,
    measured: Measured,
    top: Vec<(String, i64)>,
    differences: Vec<Difference>,
}

impl Report {
    pub(crate) fn new(
        work: &Work,
        took: Duration,
        measured: Measured,
        found: &std::collections::BTreeMap<String, String>,
    ) -> Report {
        let expected = words::count(work.words());
        Report {
            words: work.total(),
            distinct: expected.len(),
            took,
            interrupted: work.longest_gap(),
            measured,
            top: words::top(&expected, TOP),
            differences: words::differences(&expected, found),
        }
    }

    pub(crate) fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }

    pub(crate) fn print(&self, json: bool) -> Outcome {
        if json { out::line(self.as_json()) } else { out::line(self.as_text()) }
    }

    fn per_second(&self) -> f64 {
        self.words as f64 / self.took.as_secs_f64().max(1e-6)
    }

    /// The latency below which this part of the increments stayed, in milliseconds.
    fn latency(&self, part: f64) -> f64 {
        (self.measured.latency.value_at_quantile(part) as f64 / 10.0).round() / 100.0
    }

    fn as_json(&self) -> Json {
        let differences = self.differences.iter().take(DIFFERENCES_MAX);
        json!({
            "event": "result",
            "equal": self.is_equal(),
            "words": self.words,
            "distinct": self.distinct,
            "seconds": (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
            "ops_per_second": self.per_second().round(),
            "latency_ms": {
                "p50": self.latency(0.5),
                "p90": self.latency(0.9),
                "p99": self.latency(0.99),
                "max": self.latency(1.0),
            },
            "interrupted_ms": u64::try_from(self.interrupted.as_millis()).unwrap_or(u64::MAX),
            "unknown": self.measured.unknown,
            "top": self.top.iter().map(|(word, count)| json!([word, count])).collect::<Vec<_>>(),
            "differences_total": self.differences.len(),
            "differences": differences.map(|d| json!([d.word, d.expected, d.found])).collect::<Vec<_>>(),
        })
    }

    fn as_text(&self) -> String {
        let top: Vec<String> = self.top.iter().map(|(word, count)| format!("{word} {count}")).collect();
        let mut lines = vec![
            format!("top words: {}", top.join(", ")),
            format!(
                "{} increments of {} words in {:.1} s: {:.0}/s",
                self.words,
                self.distinct,
                self.took.as_secs_f64(),
                self.per_second()
            ),
            format!(
                "latency: p50 {} ms, p90 {} ms, p99 {} ms, max {} ms",
                self.latency(0.5),
                self.latency(0.9),
                self.latency(0.99),
                self.latency(1.0)
            ),
            format!("longest time without an acknowledged write: {} ms", self.interrupted.as_millis()),
        ];
        if self.measured.unknown > 0 {
            lines.push(format!("increments whose outcome is unknown: {}", self.measured.unknown));
        }
        lines.push(self.verdict());
        lines.join("\n")
    }

    fn verdict(&self) -> String {
        if self.is_equal() {
            return "the counts are equal to the last word".to_owned();
        }
        let listed = self.differences.iter().take(DIFFERENCES_MAX).map(|difference| {
            let found = difference.found.as_deref().unwrap_or("nothing");
            format!("  {}: expected {}, found {found}", difference.word, difference.expected)
        });
        let head = format!("the counts of {} words differ:", self.differences.len());
        std::iter::once(head).chain(listed).collect::<Vec<_>>().join("\n")
    }
}
