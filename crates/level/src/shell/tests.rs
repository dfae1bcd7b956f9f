//! The shell on a store that fails on demand.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use tokio::sync::Notify;

use super::*;
use crate::{Limits, MemoryKv, Once, SessionId, SessionLimits};

/// What happens to a commit.
#[derive(Clone, Debug)]
enum Fault {
    /// The error comes, and nothing was done.
    Before(Error),
    /// It is done, and the error comes.
    After(Error),
    /// It waits until the gate opens, and is done.
    Gate,
}

/// A map in memory that fails as it is told to, and counts.
struct Faulty {
    kv: MemoryKv,
    faults: Mutex<VecDeque<Fault>>,
    /// Every third commit is done and not answered, every fifth is not done.
    stormy: AtomicBool,
    commits: AtomicUsize,
    pages: AtomicUsize,
    holds: AtomicUsize,
    releases: AtomicUsize,
    sessions: AtomicUsize,
    gate: Notify,
    at_gate: Notify,
}

impl Faulty {
    fn new(faults: impl IntoIterator<Item = Fault>) -> Arc<Faulty> {
        Faulty::on(MemoryKv::new(), faults)
    }

    fn on(kv: MemoryKv, faults: impl IntoIterator<Item = Fault>) -> Arc<Faulty> {
        Arc::new(Faulty {
            kv,
            faults: Mutex::new(faults.into_iter().collect()),
            stormy: AtomicBool::new(false),
            commits: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            releases: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            gate: Notify::new(),
            at_gate: Notify::new(),
        })
    }

    fn fault(&self) -> Option<Fault> {
        let count = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if self.stormy.load(Ordering::SeqCst) {
            return match count {
                count if count % 3 == 0 => Some(Fault::After(unknown())),
                count if count % 5 == 0 => Some(Fault::Before(unknown())),
                _ => None,
            };
        }
        self.faults.lock().unwrap().pop_front()
    }

    fn count(counter: &AtomicUsize) -> usize {
        counter.load(Ordering::SeqCst)
    }

    /// Waits until as many holds were given back as were taken.
    async fn all_released(&self) {
        let released = async {
            while Faulty::count(&self.releases) < Faulty::count(&self.holds) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), released).await.expect("a hold was not given back");
    }
}

#[async_trait]
impl Kv for Faulty {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        match self.faults.lock().unwrap().pop_front() {
            Some(Fault::Before(error) | Fault::After(error)) => return Err(error),
            Some(Fault::Gate) | None => {}
        }
        self.kv.get_many(at, keys).await
    }

    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>> {
        self.kv.contains_many(at, keys).await
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        self.kv.page(at, scan).await
    }

    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed> {
        match self.fault() {
            None => self.kv.commit(txn, once).await,
            Some(Fault::Before(error)) => Err(error),
            Some(Fault::After(error)) => {
                self.kv.commit(txn, once).await?;
                Err(error)
            }
            Some(Fault::Gate) => {
                let open = self.gate.notified();
                self.at_gate.notify_one();
                open.await;
                self.kv.commit(txn, once).await
            }
        }
    }

    async fn snapshot(&self, hold: Duration) -> Result<Revision> {
        self.holds.fetch_add(1, Ordering::SeqCst);
        self.kv.snapshot(hold).await
    }

    async fn release(&self, revision: Revision) -> Result<()> {
        self.kv.release(revision).await?;
        self.releases.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn open_session(&self) -> Result<SessionId> {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        self.kv.open_session().await
    }

    async fn close_session(&self, session: SessionId) -> Result<()> {
        self.sessions.fetch_sub(1, Ordering::SeqCst);
        self.kv.close_session(session).await
    }
}

fn unknown() -> Error {
    Error::Unknown("lost".to_owned())
}

fn unavailable() -> Error {
    Error::Unavailable("no leader".to_owned())
}

/// A handle that tries again at once, for a while.
fn level(kv: &Arc<Faulty>, deadline: Duration) -> Level {
    let options = HandleOptions {
        deadline,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(1),
        page_len: 10,
        ..HandleOptions::default()
    };
    Level::with_options(kv.clone(), options)
}

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(30);

#[tokio::test]
async fn c22_a_write_whose_answer_is_lost_takes_effect_once() {
    let kv = Faulty::new([Fault::After(unknown()), Fault::Before(unknown()), Fault::After(unknown())]);
    let db = level(&kv, LONG);
    assert_eq!(db.increment("n", 5).await, Ok(5));
    assert_eq!(db.increment("n", 1).await, Ok(6));
    assert_eq!(Faulty::count(&kv.commits), 5);
    assert_eq!(Faulty::count(&kv.sessions), 1);
}

#[tokio::test]
async fn errors_that_pass_are_waited_out() {
    let busy = Error::Busy { retry_after: Duration::from_millis(2) };
    let faults = [Fault::Before(Error::NotLeader { leader: None }), Fault::Before(busy), Fault::Before(unavailable())];
    let kv = Faulty::new(faults.clone());
    let db = level(&kv, LONG);
    db.put("a", "1").await.unwrap();
    kv.faults.lock().unwrap().extend(faults);
    assert_eq!(db.get("a").await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn after_the_deadline_an_open_outcome_is_unknown_and_another_is_not() {
    let kv = Faulty::new(vec![Fault::Before(unavailable()); 10_000]);
    assert_eq!(level(&kv, SHORT).put("a", "1").await, Err(unavailable()));

    let faults = [Fault::After(unknown())].into_iter().chain(vec![Fault::Before(unavailable()); 10_000]);
    let kv = Faulty::new(faults);
    assert!(matches!(level(&kv, SHORT).put("a", "1").await, Err(Error::Unknown(_))));
    assert!(kv.kv.contains_many(ReadAt::Stale, vec![copy("a")]).await.unwrap().value[0]);

    let kv = Faulty::new([Fault::Gate]);
    assert!(matches!(level(&kv, SHORT).put("a", "1").await, Err(Error::Unknown(_))), "no answer at all");

    let kv = Faulty::new(vec![Fault::Before(unknown()); 10_000]);
    let read = level(&kv, SHORT).get("a").await;
    assert!(matches!(read, Err(Error::Unavailable(_))), "a read has no outcome: {read:?}");
}

#[tokio::test]
async fn an_open_outcome_stays_open_when_a_later_attempt_is_refused() {
    let kv = Faulty::new([Fault::After(unknown()), Fault::Before(Error::Closed)]);
    assert!(matches!(level(&kv, LONG).put("a", "1").await, Err(Error::Unknown(_))));
    let kv = Faulty::new([Fault::Before(Error::Closed)]);
    assert_eq!(level(&kv, LONG).put("a", "1").await, Err(Error::Closed));
}

#[tokio::test]
async fn c22_an_expired_session_is_told_and_not_retried() {
    let limits = SessionLimits { sessions_max: 1, ..SessionLimits::default() };
    let kv = Faulty::on(MemoryKv::with_limits(Limits::default(), limits), []);
    let db = level(&kv, LONG);
    db.increment("n", 1).await.unwrap();
    level(&kv, LONG).increment("n", 1).await.unwrap();
    let commits = Faulty::count(&kv.commits);
    assert!(matches!(db.increment("n", 1).await, Err(Error::SessionExpired(_))));
    assert_eq!(Faulty::count(&kv.commits), commits + 1);
    assert_eq!(db.increment("n", 1).await, Ok(3), "the next write opens a session of its own");
}

#[tokio::test]
async fn errors_of_the_caller_are_not_retried() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    db.put("text", "x").await.unwrap();
    assert_eq!(db.increment("text", 1).await, Err(Error::NotAnInteger { key: "text".to_owned() }));
    assert!(matches!(db.put(vec![0; 5000], "").await, Err(Error::LimitExceeded { .. })));
    assert_eq!(Faulty::count(&kv.commits), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c22_many_writers_through_a_storm_count_exactly() {
    let kv = Faulty::new([]);
    kv.stormy.store(true, Ordering::SeqCst);
    let db = level(&kv, LONG);
    let writers: Vec<_> = (0..40)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move {
                let mut sums = Vec::new();
                for _ in 0..25 {
                    sums.push(db.increment("n", 1).await.unwrap());
                }
                sums
            })
        })
        .collect();
    let mut sums = Vec::new();
    for writer in writers {
        sums.extend(writer.await.unwrap());
    }
    sums.sort_unstable();
    assert_eq!(sums, (1..=1000).collect::<Vec<i64>>());
    assert_eq!(Faulty::count(&kv.sessions), 1);
}

#[tokio::test]
async fn c22_writers_wait_for_one_that_is_stuck_rather_than_overrun_the_session() {
    let kv = Faulty::new([Fault::Gate]);
    let db = level(&kv, LONG);
    let stuck = tokio::spawn({
        let db = db.clone();
        async move { db.increment("n", 1).await }
    });
    kv.at_gate.notified().await;
    let others: Vec<_> = (0..2000)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.increment("n", 1).await })
        })
        .collect();
    let full = async {
        while Faulty::count(&kv.commits) < 512 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, full).await.unwrap();
    kv.gate.notify_waiters();
    stuck.await.unwrap().unwrap();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(db.get("n").await.unwrap().unwrap(), "2001");
}

#[tokio::test]
async fn a_write_that_is_dropped_does_not_hold_up_the_session() {
    let kv = Faulty::new([Fault::Gate]);
    let db = level(&kv, LONG);
    let stuck = tokio::spawn({
        let db = db.clone();
        async move { db.put("a", "1").await }
    });
    kv.at_gate.notified().await;
    stuck.abort();
    assert!(stuck.await.is_err());
    for _ in 0..1100 {
        db.increment("n", 1).await.unwrap();
    }
}

async fn fill(db: &Level, count: usize) -> Vec<(Bytes, Bytes)> {
    let mut batch = db.batch();
    for at in 0..count {
        batch.put(format!("k{at:03}"), at.to_string());
    }
    db.write(batch).await.unwrap();
    (0..count).map(|at| (copy(format!("k{at:03}")), copy(at.to_string()))).collect()
}

#[tokio::test]
async fn a_short_scan_is_one_call() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    let expected = fill(&db, 25).await;
    assert_eq!(db.scan("k003".."k013").collect_all().await.unwrap(), expected[3..13]);
    assert_eq!(db.prefix("k01").limit(4).collect_all().await.unwrap(), expected[10..14]);
    assert_eq!(db.prefix("").limit(0).collect_all().await.unwrap(), []);
    assert_eq!((Faulty::count(&kv.pages), Faulty::count(&kv.holds)), (2, 0));
}

#[tokio::test]
async fn a_long_scan_shows_one_revision_and_gives_it_back() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    let expected = fill(&db, 35).await;
    let mut scan = db.prefix("k");
    let mut seen = vec![scan.next().await.unwrap().unwrap()];
    db.put("k030", "changed").await.unwrap();
    db.del("k031").await.unwrap();
    db.put("k0305", "new").await.unwrap();
    seen.extend(scan.try_collect::<Vec<_>>().await.unwrap());
    assert_eq!(seen, expected);
    kv.all_released().await;
    assert_eq!(Faulty::count(&kv.holds), 1);
}

#[tokio::test]
async fn a_scan_that_is_dropped_gives_its_revision_back() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    fill(&db, 35).await;
    let mut scan = db.prefix("k");
    scan.next().await.unwrap().unwrap();
    drop(scan);
    kv.all_released().await;
    assert_eq!(Faulty::count(&kv.holds), 1);
}

#[tokio::test]
async fn scans_go_backwards_and_end_at_their_limit() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    let mut expected = fill(&db, 35).await;
    expected.reverse();
    assert_eq!(db.prefix("k").reverse().collect_all().await.unwrap(), expected);
    assert_eq!(db.prefix("k").reverse().limit(23).collect_all().await.unwrap(), expected[..23]);
    let keys = db.scan("k010"..).reverse().keys_only().collect_all().await.unwrap();
    let expected: Vec<_> = expected[..25].iter().map(|(key, _)| (key.clone(), Bytes::new())).collect();
    assert_eq!(keys, expected);
    assert_eq!(db.scan("z".."a").collect_all().await.unwrap(), []);
    assert_eq!(db.scan::<&[u8]>(..).collect_all().await.unwrap().len(), 35);
    kv.all_released().await;
}

#[tokio::test]
async fn a_snapshot_shows_one_state() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    let expected = fill(&db, 25).await;
    let snapshot = db.snapshot().await.unwrap();
    db.put("k000", "changed").await.unwrap();
    db.del("k001").await.unwrap();
    db.put("new", "1").await.unwrap();
    assert_eq!(snapshot.get("k000").await.unwrap().unwrap(), "0");
    assert_eq!(snapshot.get_many(["k001", "new"]).await.unwrap(), [Some(copy("1")), None]);
    assert!(snapshot.contains_key("k001").await.unwrap() && !snapshot.contains_key("new").await.unwrap());
    assert_eq!(snapshot.prefix("k").collect_all().await.unwrap(), expected);
    assert_eq!(snapshot.scan(.."k002").collect_all().await.unwrap(), expected[..2]);
    let (revision, copy_of_it) = (snapshot.revision(), snapshot.clone());
    snapshot.release().await.unwrap();
    assert_eq!(copy_of_it.get("k000").await, Err(Error::SnapshotGone(revision)));
    drop(copy_of_it);
    kv.all_released().await;
    assert_eq!((Faulty::count(&kv.holds), Faulty::count(&kv.releases)), (1, 1));
}

#[tokio::test]
async fn a_snapshot_lives_as_long_as_its_scans() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    let expected = fill(&db, 25).await;
    let snapshot = db.snapshot().await.unwrap();
    let scan = snapshot.prefix("k");
    drop(snapshot);
    db.put("k020", "changed").await.unwrap();
    assert_eq!(scan.collect_all().await.unwrap(), expected);
    kv.all_released().await;
}

#[tokio::test]
async fn holds_end_by_themselves() {
    let kv = MemoryKv::new();
    let held = kv.snapshot(Duration::ZERO).await.unwrap();
    let read = kv.get_many(ReadAt::Revision(held), vec![]).await;
    assert_eq!(read, Err(Error::SnapshotGone(held)));
}

#[tokio::test]
async fn reads_come_with_their_revisions() {
    let db = Level::new(Arc::new(MemoryKv::new()));
    let written = db.put("a", "1").await.unwrap();
    let read = db.get_with(ReadAt::Stale, "a").await.unwrap();
    assert_eq!((read.value.unwrap().modified, read.revision), (written, written));
    assert!(db.contains_key("a").await.unwrap() && !db.contains_key("b").await.unwrap());
    assert_eq!(db.get_many(["b", "a"]).await.unwrap(), [None, Some(copy("1"))]);
    assert!(db.del("a").await.unwrap() > written);
    assert_eq!(db.get("a").await, Ok(None));
}

#[tokio::test]
async fn a_closed_handle_opens_another_session_when_it_writes() {
    let kv = Faulty::new([]);
    let db = level(&kv, LONG);
    db.close().await.unwrap();
    db.put("a", "1").await.unwrap();
    db.close().await.unwrap();
    assert_eq!(Faulty::count(&kv.sessions), 0);
    db.put("a", "2").await.unwrap();
    assert_eq!(Faulty::count(&kv.sessions), 1);
}
