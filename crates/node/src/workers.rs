//! Threads for what may wait for a device.

use std::{
    convert::Infallible,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use coracle_core::{Index, InstallSnapshot, NodeId, Persist, Run, Term};
use coracle_replica::{Completion, LogWorker, SnapshotJob, SnapshotWorker, StateEffect, StateWorker, Work};
use tokio::{sync::mpsc as alive, time::timeout};

use crate::inbox::Inbox;

/// The most bytes of entries that one write takes up: more that waits is the next one's.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// What a thread does with everything that has queued up for it.
pub(crate) trait Worker<T>: Send {
    /// Does it, in order; each completion is handed on at once.
    fn work(&mut self, queued: Vec<T>, done: &mut dyn FnMut(Completion));

    /// Nothing more will come.
    fn finish(&mut self) {}

    /// What a panic in it counts as.
    fn is_log(&self) -> bool {
        false
    }
}

/// Starts threads that tell the inbox what they did.
#[derive(Clone)]
pub(crate) struct Spawner {
    inbox: Arc<Inbox>,
    /// Held by each thread while it lives.
    token: alive::Sender<Infallible>,
}

/// Knows when all threads have ended.
pub(crate) struct Threads(alive::Receiver<Infallible>);

impl Threads {
    pub(crate) fn new(inbox: Arc<Inbox>) -> (Spawner, Threads) {
        let (token, ended) = alive::channel(1);
        (Spawner { inbox, token }, Threads(ended))
    }

    /// Waits for all threads and all who could start one to end, for a while: a hung device does not end.
    pub(crate) async fn ended(mut self, deadline: Duration) -> bool {
        timeout(deadline, self.0.recv()).await.is_ok()
    }
}

impl Spawner {
    /// Starts a thread that works off a queue; it ends when the queue's other end is dropped.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        mut worker: impl Worker<T> + 'static,
    ) -> io::Result<mpsc::Sender<T>> {
        let (queue, queued) = mpsc::channel();
        let Spawner { inbox, token } = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            run(name, &mut worker, &queued, &inbox);
            // What the worker holds of the store is let go before anyone is told that the thread has ended.
            drop(worker);
            drop(token);
        })?;
        Ok(queue)
    }

    /// Runs a job on a thread of its own.
    pub(crate) fn spawn_job(&self, job: SnapshotJob) -> io::Result<()> {
        let Spawner { inbox, token } = self.clone();
        thread::Builder::new().name("coracle-take".to_owned()).spawn(move || {
            let done = catch_unwind(AssertUnwindSafe(|| job.run()));
            inbox.push_done(done.unwrap_or_else(|_| panicked("the snapshot's thread", false)));
            drop(token);
        })?;
        Ok(())
    }
}

/// A thread's life. A panic in the worker is told as a failure, and ends it.
fn run<T>(name: &str, worker: &mut impl Worker<T>, queued: &mpsc::Receiver<T>, inbox: &Inbox) {
    while let Ok(first) = queued.recv() {
        let batch: Vec<T> = std::iter::once(first).chain(queued.try_iter()).collect();
        let worked = catch_unwind(AssertUnwindSafe(|| worker.work(batch, &mut |done| inbox.push_done(done))));
        if worked.is_err() {
            inbox.push_done(panicked(name, worker.is_log()));
            return;
        }
    }
    if catch_unwind(AssertUnwindSafe(|| worker.finish())).is_err() {
        tracing::error!(thread = name, "panicked while it ended");
    }
}

fn panicked(what: &str, is_log: bool) -> Completion {
    Completion::Failed { what: format!("{what} panicked"), is_log }
}

/// Writes the log. What queued up while the last write was under way is one write: group commit without a timer.
pub(crate) struct WriteLog(pub(crate) LogWorker);

impl Worker<Persist> for WriteLog {
    fn work(&mut self, queued: Vec<Persist>, done: &mut dyn FnMut(Completion)) {
        for writes in portions(queued) {
            let completion = self.0.write(writes);
            let has_failed = matches!(completion, Completion::Failed { .. });
            done(completion);
            if has_failed {
                return;
            }
        }
    }

    fn is_log(&self) -> bool {
        true
    }
}

/// Cuts writes into portions of bounded size.
fn portions(writes: Vec<Persist>) -> Vec<Vec<Persist>> {
    let mut portions: Vec<Vec<Persist>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let size: usize = write.entries.iter().map(Run::size).sum();
        bytes += size;
        match portions.last_mut() {
            Some(portion) if bytes <= WRITE_BYTES_MAX => portion.push(write),
            _ => {
                bytes = size;
                portions.push(vec![write]);
            }
        }
    }
    portions
}

/// A range of the log to be read.
pub(crate) struct ReadRange {
    pub(crate) request: u64,
    pub(crate) from: Index,
    pub(crate) to: Index,
    pub(crate) bytes_max: usize,
}

/// Reads the log, beside writes.
pub(crate) struct ReadLog(pub(crate) LogWorker);

impl Worker<ReadRange> for ReadLog {
    fn work(&mut self, queued: Vec<ReadRange>, done: &mut dyn FnMut(Completion)) {
        for ReadRange { request, from, to, bytes_max } in queued {
            done(self.0.read(request, from, to, bytes_max));
        }
    }
}

/// Does what the state machine is asked for.
pub(crate) struct State {
    pub(crate) worker: StateWorker,
    /// Starts the threads of snapshots.
    pub(crate) spawner: Spawner,
    /// A machine that failed is not flushed at the end (C18).
    pub(crate) has_failed: bool,
}

impl State {
    /// Does one thing; `None` when a thread of its own goes on with it.
    pub(crate) fn run(&mut self, effect: StateEffect) -> Option<Completion> {
        let completion = match self.worker.run(effect) {
            Work::Done(completion) => completion,
            Work::Snapshot(job) => match self.spawner.spawn_job(job) {
                Ok(()) => return None,
                Err(error) => Completion::Failed { what: format!("start a snapshot's thread: {error}"), is_log: false },
            },
        };
        self.has_failed |= matches!(completion, Completion::Failed { .. });
        Some(completion)
    }

    /// Makes the state durable, so that the next start has less to apply.
    pub(crate) fn close(&mut self) {
        let machine = self.worker.machine();
        if self.has_failed || !machine.is_durable() {
            return;
        }
        if let Err(error) = machine.flush() {
            tracing::warn!(%error, "the state could not be flushed at the end; the log brings it back");
        }
    }
}

impl Worker<StateEffect> for State {
    fn work(&mut self, queued: Vec<StateEffect>, done: &mut dyn FnMut(Completion)) {
        for effect in queued {
            if self.has_failed {
                return;
            }
            if let Some(completion) = self.run(effect) {
                done(completion);
            }
        }
    }

    fn finish(&mut self) {
        self.close();
    }
}

/// Work on stored snapshots.
pub(crate) enum SnapshotWork {
    Read { peer: NodeId, content: u64, offset: u64, len: usize },
    Store { from: NodeId, term: Term, piece: InstallSnapshot },
}

/// Reads and stores snapshots.
pub(crate) struct Snapshots(pub(crate) SnapshotWorker);

impl Worker<SnapshotWork> for Snapshots {
    fn work(&mut self, queued: Vec<SnapshotWork>, done: &mut dyn FnMut(Completion)) {
        for work in queued {
            done(match work {
                SnapshotWork::Read { peer, content, offset, len } => self.0.read(peer, content, offset, len),
                SnapshotWork::Store { from, term, piece } => self.0.store(from, term, piece),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{Entry, Ticket};

    use super::*;

    fn write(ticket: u64, len: usize) -> Persist {
        let entry = Entry::command(Bytes::from(vec![0; len]));
        let run = Run::new(Index(ticket), Term(1), [entry]);
        Persist {
            ticket: Ticket(ticket),
            truncate_from: None,
            repaired: vec![],
            entries: vec![run],
            hard_state: None,
            base: None,
        }
    }

    #[test]
    fn what_queued_up_is_one_write_up_to_a_limit() {
        let tickets = |lens: &[usize]| -> Vec<Vec<u64>> {
            let writes = lens.iter().zip(1..).map(|(len, ticket)| write(ticket, *len)).collect();
            let portions = portions(writes);
            portions.iter().map(|portion| portion.iter().map(|write| write.ticket.0).collect()).collect()
        };
        assert_eq!(tickets(&[1, 1, 1]), [[1, 2, 3]]);
        assert_eq!(tickets(&[5 << 20, 5 << 20, 1]), [vec![1], vec![2, 3]]);
        assert_eq!(tickets(&[9 << 20, 9 << 20]), [[1], [2]]);
        assert!(tickets(&[]).is_empty());
    }

    #[test]
    fn a_worker_that_panics_is_a_failure() {
        struct Panics;
        impl Worker<()> for Panics {
            fn work(&mut self, _: Vec<()>, _: &mut dyn FnMut(Completion)) {
                panic!("on purpose");
            }
        }
        let inbox = crate::tests::open_inbox();
        let (queue, queued) = mpsc::channel();
        queue.send(()).unwrap();
        run("the test", &mut Panics, &queued, &inbox);
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert!(matches!(&items[..], [crate::inbox::Item::Done(Completion::Failed { .. })]));
    }
}
