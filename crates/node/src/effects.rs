//! Who does what the replica asks of its storage: the loop itself, when that never blocks, or a thread.

use std::{
    io,
    sync::{Arc, mpsc},
    time::Duration,
};

use coracle_core::{GroupId, Persist};
use coracle_replica::{Completion, LogWorker, SnapshotWorker, StateEffect, StateWorker};
use coracle_storage::{LogStore, SnapshotStore, StateMachine};

use crate::{
    inbox::Inbox,
    workers::{ReadLog, ReadRange, SnapshotWork, Snapshots, State, Threads, WriteLog},
};

/// See the module. A method that returns a completion has done the work in line.
pub(crate) struct Storage {
    log: Log,
    state: StateSide,
    snapshots: mpsc::Sender<SnapshotWork>,
    threads: Threads,
}

enum Log {
    InLine(LogWorker),
    Threads { writes: mpsc::Sender<Persist>, reads: mpsc::Sender<ReadRange> },
}

enum StateSide {
    InLine(Box<State>),
    Thread(mpsc::Sender<StateEffect>),
}

impl Storage {
    pub(crate) fn new(
        log: Arc<dyn LogStore>,
        snapshots: Arc<dyn SnapshotStore>,
        machine: Box<dyn StateMachine>,
        group: GroupId,
        inbox: Arc<Inbox>,
    ) -> io::Result<Storage> {
        let (spawner, threads) = Threads::new(inbox);
        let is_quick = log.never_blocks();
        let worker = LogWorker::new(log, group);
        let log = if is_quick {
            Log::InLine(worker)
        } else {
            let writes = spawner.spawn("coracle-log", WriteLog(worker.clone()))?;
            Log::Threads { writes, reads: spawner.spawn("coracle-read", ReadLog(worker))? }
        };
        let is_quick = machine.never_blocks();
        let worker = StateWorker::new(machine, snapshots.clone());
        let state = State { worker, spawner: spawner.clone(), has_failed: false };
        let state = if is_quick {
            StateSide::InLine(Box::new(state))
        } else {
            StateSide::Thread(spawner.spawn("coracle-state", state)?)
        };
        let snapshots = spawner.spawn("coracle-snapshot", Snapshots(SnapshotWorker::new(snapshots)))?;
        Ok(Storage { log, state, snapshots, threads })
    }

    pub(crate) fn write(&self, persist: Persist) -> Option<Completion> {
        match &self.log {
            Log::InLine(worker) => Some(worker.write(vec![persist])),
            Log::Threads { writes, .. } => hand_over(writes, persist),
        }
    }

    pub(crate) fn read(&self, range: ReadRange) -> Option<Completion> {
        match &self.log {
            Log::InLine(worker) => Some(worker.read(range.request, range.from, range.to, range.bytes_max)),
            Log::Threads { reads, .. } => hand_over(reads, range),
        }
    }

    pub(crate) fn state(&mut self, effect: StateEffect) -> Option<Completion> {
        match &mut self.state {
            StateSide::InLine(state) => state.run(effect),
            StateSide::Thread(queue) => hand_over(queue, effect),
        }
    }

    pub(crate) fn snapshot(&self, work: SnapshotWork) -> Option<Completion> {
        hand_over(&self.snapshots, work)
    }

    /// Lets everything that is queued be done, and the state be flushed; gives up on it after `deadline`.
    pub(crate) async fn close(self, deadline: Duration) {
        let Storage { log, state, snapshots, threads } = self;
        match state {
            StateSide::InLine(mut state) => state.close(),
            // The thread flushes when its queue is gone.
            StateSide::Thread(queue) => drop(queue),
        }
        drop((log, snapshots));
        if !threads.ended(deadline).await {
            tracing::warn!("storage still has not answered: its threads are left behind");
        }
    }
}

/// A thread whose queue is gone has panicked, and said so.
fn hand_over<T>(queue: &mpsc::Sender<T>, work: T) -> Option<Completion> {
    let _ = queue.send(work);
    None
}
