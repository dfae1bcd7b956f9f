//! The facade on a map in memory, without a cluster.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::{Entry, Run, Term};
use coracle_storage::{StateMachine, StorageError};

use crate::{
    Command, CommandReply, Committed, Error, HoldDeadlines, Kv, LevelMachine, LevelOptions, Limits, Once, Query,
    QueryReply, Read, ReadAt, Result, Revision, ScanPage, ScanSpec, SessionId, SessionLimits, Txn, Value,
    command::{decode_answer, decode_reply, encode_command, encode_query},
    map_store::MapStore,
};

/// A [`Kv`] on a map in memory: the replicated state machine without replication, for tests and for users without a cluster.
pub struct MemoryKv {
    inner: Mutex<Inner>,
    limits: Limits,
    session_limits: SessionLimits,
}

struct Inner {
    machine: LevelMachine,
    holds: HoldDeadlines,
}

impl Default for MemoryKv {
    fn default() -> MemoryKv {
        MemoryKv::new()
    }
}

impl fmt::Debug for MemoryKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryKv").finish_non_exhaustive()
    }
}

impl MemoryKv {
    /// An empty one with the default limits.
    pub fn new() -> MemoryKv {
        MemoryKv::with_limits(Limits::default(), SessionLimits::default())
    }

    /// An empty one with limits of its own, none above the ceilings.
    pub fn with_limits(limits: Limits, session_limits: SessionLimits) -> MemoryKv {
        let limits = limits.clamped();
        let options = LevelOptions { limits: limits.clone(), ..LevelOptions::default() };
        // An empty map in memory has nothing that could fail to be read.
        let machine = LevelMachine::open(Arc::new(MapStore::new()), options);
        let Ok(machine) = machine else { unreachable!("a map in memory opens") };
        MemoryKv { inner: Mutex::new(Inner { machine, holds: HoldDeadlines::new() }), limits, session_limits }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked did so between whole changes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn propose(&self, command: &Command) -> Result<CommandReply> {
        let mut inner = self.inner();
        let index = inner.machine.applied().applied.next();
        let entry = Entry::command(encode_command(command));
        let mut replies = Vec::new();
        inner.machine.apply(&[Run::new(index, Term(1), vec![entry])], &mut replies).map_err(failed)?;
        decode_reply(&replies.pop().unwrap_or_default())
    }

    fn read(&self, at: ReadAt, query: &Query) -> Result<QueryReply> {
        let mut inner = self.inner();
        inner.expire()?;
        if let Some(revision) = at.revision() {
            inner.holds.touch(revision, Instant::now());
        }
        inner.query(query)
    }
}

impl Inner {
    fn query(&mut self, query: &Query) -> Result<QueryReply> {
        let answer = self.machine.query(&encode_query(query)).map_err(failed)?;
        decode_answer(&answer)
    }

    /// Gives back the holds whose time is over.
    fn expire(&mut self) -> Result<()> {
        for revision in self.holds.expired(Instant::now()) {
            self.query(&Query::Release(revision))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        match self.read(at, &Query::GetMany { at: at.revision(), keys })? {
            QueryReply::Values(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>> {
        match self.read(at, &Query::ContainsMany { at: at.revision(), keys })? {
            QueryReply::Contained(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>> {
        match self.read(at, &Query::Page { at: at.revision(), scan })? {
            QueryReply::Page(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed> {
        self.limits.check(&txn)?;
        match self.propose(&Command::Txn { txn, once })? {
            CommandReply::Committed(committed) => Ok(committed),
            other => Err(unexpected(&other)),
        }
    }

    async fn snapshot(&self, hold: Duration) -> Result<Revision> {
        let mut inner = self.inner();
        inner.expire()?;
        match inner.query(&Query::Hold)? {
            QueryReply::Held(revision) => {
                inner.holds.hold(revision, hold, Instant::now());
                Ok(revision)
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn release(&self, revision: Revision) -> Result<()> {
        let mut inner = self.inner();
        inner.expire()?;
        if inner.holds.release(revision) {
            inner.query(&Query::Release(revision))?;
        }
        Ok(())
    }

    async fn open_session(&self) -> Result<SessionId> {
        match self.propose(&Command::OpenSession { limits: self.session_limits })? {
            CommandReply::SessionOpened(session) => Ok(session),
            other => Err(unexpected(&other)),
        }
    }

    async fn close_session(&self, session: SessionId) -> Result<()> {
        self.propose(&Command::CloseSession { session }).map(drop)
    }
}

/// A map in memory does not fail; were it to, what it did is open.
fn failed(error: StorageError) -> Error {
    Error::Unknown(error.to_string())
}

fn unexpected(reply: &impl fmt::Debug) -> Error {
    Error::Protocol(format!("the state machine answered something else than was asked: {reply:?}"))
}
