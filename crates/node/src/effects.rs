//! Who does what the replica asks of its storage: the loop itself, when that never blocks, or threads that all groups share.

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use coracle_core::{GroupId, Persist};
use coracle_replica::{Completion, LogWorker, SnapshotWorker, StateEffect, StateWorker};
use coracle_storage::{LogStore, SnapshotStore, StateMachine};

use crate::{
    inbox::Inbox,
    log_thread::{self, GroupWrite},
    pool::{Ended, Pool, Strand, Token},
    workers::{ReadLog, ReadRange, SnapshotWork, Snapshots, State},
};

/// The most threads for state machines that may wait for a device.
const STATE_THREADS_MAX: usize = 4;

/// The threads of a process, and its log. However many groups there are, there are at most seven threads.
pub(crate) struct Devices {
    log: Arc<dyn LogStore>,
    /// `None` when the log never blocks.
    writes: Option<mpsc::Sender<GroupWrite>>,
    reads: Pool,
    states: Pool,
    snapshots: Arc<Pool>,
}

impl Devices {
    /// The second value ends with the last thread.
    pub(crate) fn new(log: Arc<dyn LogStore>) -> io::Result<(Devices, Ended)> {
        let (token, ended) = Ended::new();
        let writes = if log.never_blocks() { None } else { Some(log_thread::start(log.clone(), token.clone())?) };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let reads = Pool::new("coracle-read", 1, token.clone());
        let states = Pool::new("coracle-state", cores.min(STATE_THREADS_MAX), token.clone());
        let snapshots = Arc::new(Pool::new("coracle-snapshot", 1, token));
        Ok((Devices { log, writes, reads, states, snapshots }, ended))
    }
}

/// See the module. A method that returns a completion has done the work in line.
pub(crate) struct Storage {
    log: Log,
    state: StateSide,
    snapshots: Strand<SnapshotWork>,
    ended: Ended,
}

enum Log {
    InLine(LogWorker),
    Threads(LogThreads),
}

struct LogThreads {
    group: GroupId,
    inbox: Arc<Inbox>,
    token: Token,
    writes: mpsc::Sender<GroupWrite>,
    reads: Strand<ReadRange>,
}

enum StateSide {
    InLine(Box<State>),
    Strand(Strand<StateEffect>),
}

impl Storage {
    pub(crate) fn new(
        devices: &Devices,
        group: GroupId,
        snapshots: Arc<dyn SnapshotStore>,
        machine: Box<dyn StateMachine>,
        inbox: Arc<Inbox>,
    ) -> io::Result<Storage> {
        let (token, ended) = Ended::new();
        let worker = Snapshots(SnapshotWorker::new(snapshots.clone()));
        let stored = devices.snapshots.strand(worker, inbox.clone(), token.clone())?;
        let is_quick = machine.never_blocks();
        let state = State {
            worker: StateWorker::new(machine, snapshots),
            snapshots: devices.snapshots.clone(),
            inbox: inbox.clone(),
            token: token.clone(),
            has_failed: false,
        };
        let state = if is_quick {
            StateSide::InLine(Box::new(state))
        } else {
            StateSide::Strand(devices.states.strand(state, inbox.clone(), token.clone())?)
        };
        let worker = LogWorker::new(devices.log.clone(), group);
        let log = match devices.writes.clone() {
            None => Log::InLine(worker),
            Some(writes) => {
                let reads = devices.reads.strand(ReadLog(worker), inbox.clone(), token.clone())?;
                Log::Threads(LogThreads { group, inbox, token, writes, reads })
            }
        };
        Ok(Storage { log, state, snapshots: stored, ended })
    }

    pub(crate) fn write(&self, persist: Persist) -> Option<Completion> {
        match &self.log {
            Log::InLine(worker) => Some(worker.write_one(persist)),
            Log::Threads(LogThreads { group, inbox, token, writes, .. }) => {
                let write = GroupWrite { group: *group, persist, inbox: inbox.clone(), token: token.clone() };
                // The thread goes on as long as there is somebody to hand it something.
                let _ = writes.send(write);
                None
            }
        }
    }

    pub(crate) fn read(&self, range: ReadRange) -> Option<Completion> {
        match &self.log {
            Log::InLine(worker) => Some(worker.read(range.request, range.from, range.to, range.bytes_max)),
            Log::Threads(LogThreads { reads, .. }) => {
                reads.push(range);
                None
            }
        }
    }

    pub(crate) fn state(&mut self, effect: StateEffect) -> Option<Completion> {
        match &mut self.state {
            StateSide::InLine(state) => state.run(effect),
            StateSide::Strand(strand) => {
                strand.push(effect);
                None
            }
        }
    }

    pub(crate) fn snapshot(&self, work: SnapshotWork) -> Option<Completion> {
        self.snapshots.push(work);
        None
    }

    /// Lets everything that is queued be done, and the state be flushed; gives up on it after `deadline`, and says whether it was done.
    pub(crate) async fn close(self, deadline: Duration) -> bool {
        let Storage { log, state, snapshots, ended } = self;
        match state {
            StateSide::InLine(mut state) => state.close(),
            // The worker flushes when it ends.
            StateSide::Strand(strand) => drop(strand),
        }
        drop((log, snapshots));
        let has_ended = ended.within(deadline).await;
        if !has_ended {
            tracing::warn!("storage still has not answered: what it was asked for is left behind");
        }
        has_ended
    }
}
