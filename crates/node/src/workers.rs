//! What a group has done by others: whatever may wait for a device.

use std::sync::Arc;

use coracle_core::{Index, InstallSnapshot, NodeId, Term};
use coracle_replica::{Completion, LogWorker, SnapshotWorker, StateEffect, StateWorker, Work};

use crate::{
    inbox::Inbox,
    pool::{Pool, Token, Worker},
};

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
    /// Where snapshots are written, beside later work.
    pub(crate) snapshots: Arc<Pool>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) token: Token,
    /// A machine that failed is not flushed at the end (C18).
    pub(crate) has_failed: bool,
}

impl State {
    /// Does one thing; `None` when somebody else goes on with it.
    pub(crate) fn run(&mut self, effect: StateEffect) -> Option<Completion> {
        match self.worker.run(effect) {
            Work::Done(completion) => {
                self.has_failed |= matches!(completion, Completion::Failed { .. });
                Some(completion)
            }
            Work::Snapshot(job) => {
                self.snapshots.run(job, self.inbox.clone(), self.token.clone());
                None
            }
        }
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
    Store { from: NodeId, term: Term, piece: Box<InstallSnapshot> },
}

/// Reads and stores snapshots.
pub(crate) struct Snapshots(pub(crate) SnapshotWorker);

impl Worker<SnapshotWork> for Snapshots {
    fn work(&mut self, queued: Vec<SnapshotWork>, done: &mut dyn FnMut(Completion)) {
        for work in queued {
            done(match work {
                SnapshotWork::Read { peer, content, offset, len } => self.0.read(peer, content, offset, len),
                SnapshotWork::Store { from, term, piece } => self.0.store(from, term, *piece),
            });
        }
    }
}
