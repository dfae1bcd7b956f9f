//! The increments: who takes which word, and what came of it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use coracle::level::{Error, Level};
use hdrhistogram::Histogram;
use tokio::time;

use crate::exit::{Code, Failure, Outcome};

/// How long all clients together may go without an acknowledged write before the demo gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);
/// Latencies are kept in microseconds, up to ten minutes.
const LATENCY_MAX: u64 = 600_000_000;

/// What all clients share.
pub(crate) struct Work {
    prefix: String,
    words: Vec<String>,
    next: AtomicUsize,
    done: AtomicUsize,
    pace: Mutex<Pace>,
}

/// When writes were acknowledged.
struct Pace {
    last: Instant,
    longest_gap: Duration,
}

/// What one client measured.
pub(crate) struct Measured {
    pub(crate) latency: Histogram<u64>,
    /// How many increments ended without anybody knowing whether they took effect.
    pub(crate) unknown: usize,
}

impl Measured {
    pub(crate) fn new() -> Outcome<Measured> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 3)
            .map_err(|error| Failure::new(Code::Internal, format!("the histogram: {error}")))?;
        Ok(Measured { latency, unknown: 0 })
    }

    pub(crate) fn add(&mut self, other: &Measured) {
        // Both have the same bounds, so that this cannot fail.
        let _ = self.latency.add(&other.latency);
        self.unknown += other.unknown;
    }
}

impl Work {
    pub(crate) fn new(prefix: String, words: Vec<String>) -> Work {
        let pace = Mutex::new(Pace { last: Instant::now(), longest_gap: Duration::ZERO });
        Work { prefix, words, next: AtomicUsize::new(0), done: AtomicUsize::new(0), pace }
    }

    pub(crate) fn total(&self) -> usize {
        self.words.len()
    }

    pub(crate) fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// The longest time in which no write was acknowledged, the one under way included.
    pub(crate) fn longest_gap(&self) -> Duration {
        let pace = self.pace();
        if self.done() < self.total() { pace.longest_gap.max(pace.last.elapsed()) } else { pace.longest_gap }
    }

    /// One client: takes word after word and counts it, until there is none left.
    pub(crate) async fn client(&self, level: Level) -> Outcome<Measured> {
        let mut measured = Measured::new()?;
        while let Some(word) = self.words.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let began = Instant::now();
            match self.count(&level, word).await {
                Ok(()) => {
                    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(LATENCY_MAX);
                    measured.latency.saturating_record(micros.max(1));
                }
                Err(Error::Unknown(_) | Error::SessionExpired(_)) => measured.unknown += 1,
                Err(error) => return Err(error.into()),
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        crate::connect::leave(level).await;
        Ok(measured)
    }

    /// One increment. What surely had no effect is asked for again for as long as there is hope.
    async fn count(&self, level: &Level, word: &str) -> Result<(), Error> {
        let key = format!("{}{word}", self.prefix);
        loop {
            let error = match level.increment(key.clone(), 1).await {
                Ok(_) => {
                    self.acknowledged();
                    return Ok(());
                }
                Err(error) => error,
            };
            let in_vain = matches!(
                error,
                Error::NotLeader { .. } | Error::Unavailable(_) | Error::Busy { .. } | Error::NoSpace(_)
            );
            if !in_vain || self.pace().last.elapsed() > PATIENCE {
                return Err(error);
            }
            time::sleep(PAUSE).await;
        }
    }

    fn acknowledged(&self) {
        let mut pace = self.pace();
        let now = Instant::now();
        pace.longest_gap = pace.longest_gap.max(now - pace.last);
        pace.last = now;
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
