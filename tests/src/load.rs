//! A writer that goes on whatever happens, and says when it was answered.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use coracle::level::Level;
use tokio::task::JoinHandle;

use crate::wait::eventually;

/// How many more acknowledged writes show that writes go on.
const MORE: usize = 20;

/// Increments a counter in a session until it is told to stop; each answer has to be one more than the last, so that each increment counts once.
#[derive(Debug)]
pub struct Load {
    key: String,
    /// When each write was acknowledged.
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts to increment `key`, which nobody else writes. Needs a tokio runtime round it.
    ///
    /// # Panics
    /// In its task, and so in [`Load::stop`], when a write fails or counts otherwise than once.
    pub fn start(level: Level, key: &str) -> Load {
        let (acknowledged, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let load = (acknowledged.clone(), is_over.clone(), key.to_owned());
        let task = tokio::spawn(async move {
            let (acknowledged, is_over, key) = load;
            while !is_over.load(Ordering::SeqCst) {
                let sum = level.increment(&key, 1).await.unwrap();
                let mut times = lock(&acknowledged);
                times.push(Instant::now());
                assert_eq!(sum, i64::try_from(times.len()).unwrap(), "an increment was lost or counted twice");
            }
        });
        Load { key: key.to_owned(), acknowledged, is_over, task }
    }

    /// The counter.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How many writes were acknowledged.
    pub fn count(&self) -> usize {
        lock(&self.acknowledged).len()
    }

    /// Waits until some more writes were acknowledged.
    ///
    /// # Panics
    /// When they are not in time.
    #[track_caller]
    pub fn goes_on(&self) {
        let goal = self.count() + MORE;
        eventually("writes go on", || {
            assert!(!self.task.is_finished(), "the writer has ended");
            let count = self.count();
            if count >= goal { Ok(()) } else { Err(format!("{count} of {goal}")) }
        });
    }

    /// The longest time without an acknowledged write that ended after `since`.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let times = lock(&self.acknowledged);
        let first = times.partition_point(|time| *time < since).saturating_sub(1);
        times[first..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// The median time from one acknowledged write to the next, of those since `since`.
    pub fn median_gap(&self, since: Instant) -> Duration {
        let times = lock(&self.acknowledged);
        let first = times.partition_point(|time| *time < since);
        let gaps = times[first..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        median(gaps)
    }

    /// Stops it, and says how many writes were acknowledged.
    ///
    /// # Panics
    /// When a write failed.
    pub async fn stop(self) -> usize {
        self.is_over.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        lock(&self.acknowledged).len()
    }
}

/// The middle one; zero if there is none.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn lock(times: &Mutex<Vec<Instant>>) -> MutexGuard<'_, Vec<Instant>> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}
