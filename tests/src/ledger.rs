//! Writers whose data tell what is missing, what is wrong and what is there twice, on any node and at any time.
//!
//! Each writer's nth transaction puts its nth key, whose value follows from it, and adds one to the writer's counter.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle::{client::Client, level::Level};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    cluster::Cluster,
    state::{self, State},
    wait::{PATIENCE, eventually},
};

const WRITERS: usize = 2;
/// How many more acknowledged writes of each show that writes go on.
const MORE: usize = 10;

/// How many transactions of each writer were acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledged(Vec<usize>);

/// Writers that go on whatever happens.
#[derive(Debug)]
pub struct Ledger {
    acknowledged: Vec<Arc<AtomicUsize>>,
    is_over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a writer puts: its text is found in any file that holds it.
pub fn value(writer: usize, number: usize) -> String {
    let mut text = format!("<{writer} wrote {number}>");
    let size = [0, 400, 3_000][number % 3];
    while text.len() < size {
        text.push_str(&number.to_string());
    }
    text
}

fn key(writer: usize, number: usize) -> Bytes {
    format!("key/{writer}/{number:06}").into()
}

fn counter(writer: usize) -> Bytes {
    format!("count/{writer}").into()
}

async fn write(level: Level, writer: usize, acknowledged: Arc<AtomicUsize>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::SeqCst) {
        let number = acknowledged.load(Ordering::SeqCst);
        let mut batch = level.batch();
        batch.put(key(writer, number), value(writer, number)).increment(counter(writer), 1);
        let committed = level.write(batch).await.unwrap();
        let expected = i64::try_from(number + 1).unwrap();
        assert_eq!(committed.integers, [expected], "a write of {writer} was lost or counted twice");
        acknowledged.store(number + 1, Ordering::SeqCst);
    }
}

impl Ledger {
    /// Starts writers in an empty cluster, each with a session. Needs a tokio runtime round it.
    ///
    /// # Panics
    /// In their tasks, and so in [`Ledger::stop`], when a write fails or counts otherwise than once.
    pub fn start(cluster: &Cluster) -> Ledger {
        let is_over = Arc::new(AtomicBool::new(false));
        let acknowledged: Vec<Arc<AtomicUsize>> = (0..WRITERS).map(|_| Arc::default()).collect();
        let start = |(writer, acknowledged): (usize, &Arc<AtomicUsize>)| {
            tokio::spawn(write(cluster.level(), writer, acknowledged.clone(), is_over.clone()))
        };
        let tasks = acknowledged.iter().enumerate().map(start).collect();
        Ledger { acknowledged, is_over, tasks }
    }

    /// What was acknowledged before this.
    pub fn acknowledged(&self) -> Acknowledged {
        Acknowledged(self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect())
    }

    /// Waits until every writer had some more writes acknowledged.
    ///
    /// # Panics
    /// When they are not in time, or a writer has ended.
    #[track_caller]
    pub fn goes_on(&self) {
        let Acknowledged(goals) = self.acknowledged();
        eventually("writes go on", || {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a writer has ended");
            let Acknowledged(counts) = self.acknowledged();
            let is_met = counts.iter().zip(&goals).all(|(count, goal)| *count >= goal + MORE);
            if is_met { Ok(()) } else { Err(format!("{counts:?}, {goals:?} were there before")) }
        });
    }

    /// Stops the writers, and says what was acknowledged.
    ///
    /// # Panics
    /// When a write failed.
    pub async fn stop(self) -> Acknowledged {
        self.is_over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        Acknowledged(self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).collect())
    }
}

impl Acknowledged {
    /// How many transactions there are of all writers.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// How many there are of one of them.
    pub fn of(&self, writer: usize) -> usize {
        self.0[writer]
    }

    /// Checks what was read from a node: it is what some prefix of the writes leaves. `Err` says which of the acknowledged ones are not there yet.
    ///
    /// # Errors
    /// When some are missing.
    ///
    /// # Panics
    /// When something is there that was never written, or a value is wrong, or one is missing between others.
    pub fn judge(&self, state: &State) -> Result<(), String> {
        let mut left = state.clone();
        for (writer, acknowledged) in self.0.iter().enumerate() {
            let mut there = 0;
            while let Some(found) = left.remove(&key(writer, there)) {
                assert!(found == value(writer, there), "key {there} of {writer} has {found:?}");
                there += 1;
            }
            let count =
                left.remove(&counter(writer)).map_or(0, |bytes| String::from_utf8_lossy(&bytes).parse().unwrap());
            // The counters are read first, keys may be added until the last page is read.
            assert!(count <= there, "{writer} has counted {count} writes, {there} are there");
            if count < *acknowledged {
                return Err(format!("{count} writes of {writer} are there, {acknowledged} were acknowledged"));
            }
        }
        let wrong: BTreeMap<_, _> = left.into_iter().take(3).collect();
        assert!(wrong.is_empty(), "nobody wrote these: {wrong:?}");
        Ok(())
    }

    /// Reads everything from the cluster, linearizably, and checks that all of it is there.
    ///
    /// # Panics
    /// When it is not.
    pub async fn are_in(&self, cluster: &Cluster) {
        let found = cluster.level().prefix("").collect_all().await.unwrap();
        self.judge(&found.into_iter().collect()).unwrap();
    }

    /// Reads everything from one node, as it is there, until all of this is there.
    ///
    /// # Panics
    /// When it is not in time, or anything is wrong at any time.
    pub async fn reach(&self, client: &Client) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let judged = match state::stale(client).await {
                Ok(state) => self.judge(&state),
                Err(error) => Err(error.to_string()),
            };
            let Err(why) = judged else { return };
            assert!(Instant::now() < deadline, "{client:?}: {why}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(count: usize, keys: usize) -> State {
        let mut state: State = (0..keys).map(|number| (key(0, number), value(0, number).into())).collect();
        state.insert(counter(0), count.to_string().into());
        state
    }

    #[test]
    fn a_prefix_passes_as_far_as_it_goes() {
        assert_eq!(Acknowledged(vec![5]).judge(&state(5, 6)), Ok(()));
        assert!(Acknowledged(vec![5]).judge(&state(4, 4)).unwrap_err().contains("4 writes of 0"));
    }

    #[test]
    #[should_panic(expected = "key 2 of 0 has")]
    fn a_wrong_value_is_noticed() {
        let mut state = state(5, 5);
        state.insert(key(0, 2), "x".into());
        let _ = Acknowledged(vec![0]).judge(&state);
    }

    #[test]
    #[should_panic(expected = "2 are there")]
    fn a_gap_is_noticed() {
        let mut state = state(5, 5);
        state.remove(&key(0, 2));
        let _ = Acknowledged(vec![0]).judge(&state);
    }
}
