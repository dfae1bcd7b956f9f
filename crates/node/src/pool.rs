//! Few threads for many groups: what a group asks for is done in order, and the groups take turns.

use std::{
    convert::Infallible,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use coracle_replica::{Completion, SnapshotJob};
use tokio::{sync::mpsc as alive, time::timeout};

use crate::inbox::Inbox;

/// What a group's worker does with everything that has queued up for it.
pub(crate) trait Worker<T>: Send {
    /// Does it, in order; each completion is handed on at once.
    fn work(&mut self, queued: Vec<T>, done: &mut dyn FnMut(Completion));

    /// Nothing more will come.
    fn finish(&mut self) {}
}

/// Held by whatever has to end before somebody may go on.
pub(crate) type Token = alive::Sender<Infallible>;

/// Knows when all who held a token have ended.
pub(crate) struct Ended(alive::Receiver<Infallible>);

impl Ended {
    pub(crate) fn new() -> (Token, Ended) {
        let (token, ended) = alive::channel(1);
        (token, Ended(ended))
    }

    /// Waits for all of them, for a while: a hung device does not end.
    pub(crate) async fn within(mut self, deadline: Duration) -> bool {
        timeout(deadline, self.0.recv()).await.is_ok()
    }
}

/// Something that takes a turn on a thread.
trait Turn: Send + Sync {
    fn turn(self: Arc<Self>);
}

/// A bounded number of threads. They end when the pool and all that takes turns on it are gone.
pub(crate) struct Pool {
    name: &'static str,
    threads_max: usize,
    turns: mpsc::Sender<Arc<dyn Turn>>,
    waiting: Arc<Mutex<mpsc::Receiver<Arc<dyn Turn>>>>,
    threads: Mutex<usize>,
    token: Token,
}

impl Pool {
    /// A pool without threads; `token` is held by each of them.
    pub(crate) fn new(name: &'static str, threads_max: usize, token: Token) -> Pool {
        let (turns, waiting) = mpsc::channel();
        Pool { name, threads_max, turns, waiting: Arc::new(Mutex::new(waiting)), threads: Mutex::new(0), token }
    }

    /// Lets a worker take turns here. There is a thread for it, unless there are as many as there may be.
    pub(crate) fn strand<T: Send + 'static>(
        &self,
        worker: impl Worker<T> + 'static,
        inbox: Arc<Inbox>,
        token: Token,
    ) -> io::Result<Strand<T>> {
        self.grow()?;
        Ok(Strand(Arc::new(Inner {
            name: self.name,
            inbox,
            turns: self.turns.clone(),
            waiting: Mutex::new(Waiting { items: Vec::new(), is_scheduled: false, is_closed: false }),
            worker: Mutex::new(Some(Alive { worker: Box::new(worker), _token: token })),
        })))
    }

    /// Runs a job piece by piece, among what else takes turns here. There has to be a strand here already, and with it a thread.
    pub(crate) fn run(&self, job: SnapshotJob, inbox: Arc<Inbox>, token: Token) {
        let job = Mutex::new(Some((job, token)));
        schedule(&self.turns, Arc::new(Job { inbox, turns: self.turns.clone(), job }));
    }

    fn grow(&self) -> io::Result<()> {
        let mut threads = lock(&self.threads);
        if *threads < self.threads_max {
            let (waiting, token) = (self.waiting.clone(), self.token.clone());
            thread::Builder::new().name(self.name.to_owned()).spawn(move || {
                take_turns(&waiting);
                drop(token);
            })?;
            *threads += 1;
        }
        Ok(())
    }
}

/// A thread's life.
fn take_turns(waiting: &Mutex<mpsc::Receiver<Arc<dyn Turn>>>) {
    loop {
        // Whoever holds the lock waits for the next turn; the others wait for the lock.
        let next = lock(waiting).recv();
        let Ok(next) = next else { return };
        next.turn();
    }
}

fn schedule(turns: &mpsc::Sender<Arc<dyn Turn>>, turn: Arc<dyn Turn>) {
    // The threads hold the other end as long as there is a sender.
    let _ = turns.send(turn);
}

/// The way to a worker. When it is dropped, the worker does what it was given before, and ends.
pub(crate) struct Strand<T: Send + 'static>(Arc<Inner<T>>);

struct Inner<T> {
    name: &'static str,
    inbox: Arc<Inbox>,
    turns: mpsc::Sender<Arc<dyn Turn>>,
    waiting: Mutex<Waiting<T>>,
    /// `None` once it has ended.
    worker: Mutex<Option<Alive<T>>>,
}

/// What the worker holds of the store is let go before anyone is told that it has ended: fields are dropped in order.
struct Alive<T> {
    worker: Box<dyn Worker<T>>,
    _token: Token,
}

struct Waiting<T> {
    items: Vec<T>,
    /// Whether it waits for its turn, or has it: there is one at a time.
    is_scheduled: bool,
    is_closed: bool,
}

impl<T: Send + 'static> Strand<T> {
    /// Work for a worker that has panicked is dropped: it has said so.
    pub(crate) fn push(&self, item: T) {
        self.0.clone().change(|waiting| waiting.items.push(item));
    }
}

impl<T: Send + 'static> Drop for Strand<T> {
    fn drop(&mut self) {
        self.0.clone().change(|waiting| waiting.is_closed = true);
    }
}

impl<T: Send + 'static> Inner<T> {
    fn change(self: Arc<Self>, change: impl FnOnce(&mut Waiting<T>)) {
        let was_scheduled = {
            let mut waiting = lock(&self.waiting);
            change(&mut waiting);
            mem::replace(&mut waiting.is_scheduled, true)
        };
        if !was_scheduled {
            self.schedule();
        }
    }

    fn schedule(self: Arc<Self>) {
        let turns = self.turns.clone();
        schedule(&turns, self);
    }

    /// Lets the worker do `items`, and end if nothing more will come. A panic in it is told as a failure, and ends it.
    fn work(&self, items: Vec<T>, is_last: bool) {
        let mut slot = lock(&self.worker);
        let Some(Alive { worker, .. }) = &mut *slot else { return };
        let worked = catch_unwind(AssertUnwindSafe(|| worker.work(items, &mut |done| self.inbox.push_done(done))));
        if worked.is_err() {
            self.inbox.push_done(panicked(self.name));
        } else if is_last && catch_unwind(AssertUnwindSafe(|| worker.finish())).is_err() {
            tracing::error!(thread = self.name, "panicked while it ended");
        }
        if is_last || worked.is_err() {
            *slot = None;
        }
    }
}

impl<T: Send + 'static> Turn for Inner<T> {
    fn turn(self: Arc<Self>) {
        let (items, is_last) = {
            let mut waiting = lock(&self.waiting);
            (mem::take(&mut waiting.items), waiting.is_closed)
        };
        self.work(items, is_last);
        let is_again = {
            let mut waiting = lock(&self.waiting);
            waiting.is_scheduled = !waiting.items.is_empty() || waiting.is_closed != is_last;
            waiting.is_scheduled
        };
        if is_again {
            self.schedule();
        }
    }
}

/// A snapshot that is being written.
struct Job {
    inbox: Arc<Inbox>,
    turns: mpsc::Sender<Arc<dyn Turn>>,
    job: Mutex<Option<(SnapshotJob, Token)>>,
}

impl Turn for Job {
    fn turn(self: Arc<Self>) {
        let mut slot = lock(&self.job);
        if self.inbox.is_closed() {
            // Nobody waits for it any more: what it has written so far goes with it.
            *slot = None;
        }
        let Some((job, _)) = &mut *slot else { return };
        let done = match catch_unwind(AssertUnwindSafe(|| job.step())) {
            Ok(done) => done,
            Err(_) => Some(panicked("the snapshot's thread")),
        };
        match done {
            Some(done) => {
                self.inbox.push_done(done);
                *slot = None;
            }
            None => schedule(&self.turns, self.clone()),
        }
    }
}

fn panicked(what: &str) -> Completion {
    Completion::Failed { what: format!("{what} panicked"), is_log: false, is_damage: false }
}

/// A panic is caught before it reaches a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use coracle_core::{GroupId, Index, Membership, NodeId, Run, SnapshotMeta, Term};
    use coracle_replica::{StateEffect, StateWorker, Work};
    use coracle_storage::{Applied, SnapshotReader, SnapshotSource, StateMachine, Store};
    use coracle_storage_memory::MemoryStore;

    use super::*;
    use crate::{inbox::Item, tests::open_inbox};

    const PANIC: u64 = u64::MAX - 1;

    /// Tells what it was given, in which order, and by which thread.
    struct Notes(mpsc::Sender<(u64, thread::ThreadId)>);

    impl Worker<u64> for Notes {
        fn work(&mut self, queued: Vec<u64>, _: &mut dyn FnMut(Completion)) {
            for item in queued {
                assert!(item != PANIC, "on purpose");
                self.0.send((item, thread::current().id())).unwrap();
            }
        }
        fn finish(&mut self) {
            self.0.send((u64::MAX, thread::current().id())).unwrap();
        }
    }

    #[tokio::test]
    async fn a_hundred_workers_keep_their_order_on_two_threads_and_end() {
        let ((token, ended), (notes, noted)) = (Ended::new(), mpsc::channel());
        let pool = Pool::new("test", 2, token.clone());
        let strands: Vec<Strand<u64>> = (0..100)
            .map(|_| pool.strand(Notes(notes.clone()), Arc::new(open_inbox()), token.clone()).unwrap())
            .collect();
        drop((notes, token));
        for item in 0..1000 {
            strands[item % 100].push(item as u64);
        }
        drop((strands, pool));
        assert!(ended.within(Duration::from_secs(60)).await);
        let noted: Vec<_> = noted.iter().collect();
        let ends = noted.iter().filter(|(item, _)| *item == u64::MAX).count();
        let threads: std::collections::HashSet<_> = noted.iter().map(|(_, thread)| *thread).collect();
        assert_eq!((noted.len(), ends, threads.len() <= 2), (1100, 100, true));
        for strand in 0..100 {
            let of_one: Vec<u64> =
                noted.iter().map(|(item, _)| *item).filter(|item| item % 100 == strand && *item != u64::MAX).collect();
            assert!(of_one.is_sorted() && of_one.len() == 10, "{of_one:?}");
        }
    }

    #[tokio::test]
    async fn a_worker_that_panics_is_a_failure_of_its_own_group() {
        let ((token, ended), (notes, noted)) = (Ended::new(), mpsc::channel());
        let pool = Pool::new("test", 1, token.clone());
        let inboxes = [Arc::new(open_inbox()), Arc::new(open_inbox())];
        let strand = |n: usize| pool.strand(Notes(notes.clone()), inboxes[n].clone(), token.clone()).unwrap();
        let (bad, good) = (strand(0), strand(1));
        bad.push(PANIC);
        bad.push(1);
        good.push(2);
        drop((bad, good, pool, notes, token));
        assert!(ended.within(Duration::from_secs(60)).await);
        assert_eq!(noted.iter().map(|(item, _)| item).collect::<Vec<_>>(), [2, u64::MAX]);
        let mut items = Vec::new();
        inboxes[0].take(&mut items);
        assert!(matches!(&items[..], [Item::Done(Completion::Failed { is_log: false, .. })]));
        items.clear();
        inboxes[1].take(&mut items);
        assert!(items.is_empty());
    }

    /// A state of which there is always more.
    struct Endless;

    impl StateMachine for Endless {
        fn applied(&self) -> Applied {
            Applied { applied: Index(1), flushed: Index(0) }
        }
        fn apply(&mut self, _: &[Run], _: &mut Vec<Bytes>) -> coracle_storage::Result<()> {
            Ok(())
        }
        fn query(&mut self, _: &[u8]) -> coracle_storage::Result<Bytes> {
            Ok(Bytes::new())
        }
        fn flush(&mut self) -> coracle_storage::Result<Index> {
            Ok(Index(1))
        }
        fn is_durable(&self) -> bool {
            false
        }
        fn snapshot(&mut self) -> coracle_storage::Result<Box<dyn SnapshotSource>> {
            Ok(Box::new(Endless))
        }
        fn install(&mut self, _: Index, _: &mut SnapshotReader<'_>) -> coracle_storage::Result<()> {
            Ok(())
        }
    }

    impl SnapshotSource for Endless {
        fn read(&mut self, _: usize) -> coracle_storage::Result<Option<Bytes>> {
            Ok(Some(Bytes::from_static(b"more")))
        }
    }

    #[tokio::test]
    async fn a_snapshot_that_nobody_waits_for_is_given_up() {
        let ((token, ended), (notes, _noted)) = (Ended::new(), mpsc::channel());
        let pool = Pool::new("test", 1, token.clone());
        let inbox = Arc::new(open_inbox());
        let strand = pool.strand(Notes(notes), inbox.clone(), token.clone()).unwrap();
        let snapshots = MemoryStore::new().snapshots(GroupId(0)).unwrap();
        let meta = SnapshotMeta {
            content: 0,
            last_included_index: Index(1),
            last_included_term: Term(1),
            membership_index: Index(1),
            membership: Membership::of_voters([NodeId(1)]),
            size: 0,
            checksum: 0,
        };
        let work = StateWorker::new(Box::new(Endless), snapshots).run(StateEffect::TakeSnapshot { meta: meta.into() });
        let Work::Snapshot(job) = work else { panic!("a snapshot is not written at once") };
        pool.run(job, inbox.clone(), token);
        inbox.close();
        drop((strand, pool));
        assert!(ended.within(Duration::from_secs(60)).await);
    }

    #[tokio::test]
    async fn nobody_waits_for_a_hung_device_for_ever() {
        let (token, ended) = Ended::new();
        let start = Instant::now();
        assert!(!ended.within(Duration::from_millis(20)).await);
        assert!(start.elapsed() < Duration::from_secs(30));
        drop(token);
    }
}
