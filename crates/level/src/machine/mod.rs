//! The replicated state machine: current values with their revisions, sessions, and the past as far as it is held.

mod batch;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hash;
mod holds;
mod layout;
mod read;
mod sessions;
mod snapshot;
mod sweep;
mod transaction;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{EntryKind, Index, Run};
use coracle_storage::{Applied, KvStore, Result, SnapshotReader, SnapshotSource, StateMachine, StorageError};

use self::{
    batch::Batch,
    holds::Shared,
    layout::KeyRange,
    read::{Held, PageLimits},
    sessions::{Admission, Sessions},
    sweep::Sweep,
    transaction::Transaction,
};
use crate::{
    CommandReply, Committed, Error, Limits, Once, Query, QueryReply, Read, Revision, ScanPage, ScanSpec, SessionId,
    Value,
    command::{CommandRef, OpRef, decode_query, encode_answer, encode_reply, read_command},
    limits::within,
};

/// What one replica allows itself. Nothing here changes what the log means, so replicas may differ.
#[derive(Clone, Debug)]
pub struct LevelOptions {
    /// The limits of reads.
    pub limits: Limits,
    /// The most revisions that clients hold at a time. Default 1,024.
    pub holds_max: usize,
    /// About the most bytes written to the store as one batch; the entries of one call are split beyond it. Default 4 MiB.
    pub write_bytes_max: usize,
}

impl Default for LevelOptions {
    fn default() -> LevelOptions {
        LevelOptions { limits: Limits::default(), holds_max: 1024, write_bytes_max: 4 << 20 }
    }
}

/// The level-style state machine on a [`KvStore`].
///
/// Its commands are [`Command`](crate::Command)s, its queries [`Query`](crate::Query)s, encoded.
/// A revision is the index of the entry that made it (C23).
pub struct LevelMachine {
    kv: Arc<dyn KvStore>,
    options: LevelOptions,
    shared: Arc<Shared>,
    applied: Index,
    flushed: Index,
    sessions: Sessions,
    batch: Batch,
    sweep: Sweep,
}

impl LevelMachine {
    /// Takes up the state in `kv`: what it recovered, or nothing if it was left in the middle of an installation.
    ///
    /// # Errors
    /// When the store cannot be read or written, or its rows are damaged.
    pub fn open(kv: Arc<dyn KvStore>, options: LevelOptions) -> Result<LevelMachine> {
        if kv.applied()?.is_none() {
            // Half of a snapshot is no state. The log's base already lies at the snapshot (C8), so the replica installs one again.
            kv.replace_begin()?;
            kv.replace_end(Index::ZERO)?;
        }
        let flushed = kv.flush()?;
        sweep::delete_all(&*kv, flushed)?;
        Ok(LevelMachine {
            sessions: Sessions::load(&*kv)?,
            options: LevelOptions { limits: options.limits.clamped(), ..options },
            shared: Arc::default(),
            applied: flushed,
            flushed,
            batch: Batch::default(),
            sweep: Sweep::default(),
            kv,
        })
    }

    /// Executes the entry at `index`: the encoded reply.
    fn execute(&mut self, index: Index, data: &[u8]) -> Result<Bytes> {
        let index = index.0;
        let reply = match read_command(data) {
            Ok(CommandRef::Txn { ops, once: None }) => self.transact(index, &ops)?.map(CommandReply::Committed),
            Ok(CommandRef::Txn { ops, once: Some(once) }) => return self.transact_once(index, &ops, once),
            Ok(CommandRef::OpenSession { limits }) => {
                self.sessions.open(index, limits, &mut self.batch);
                Ok(CommandReply::SessionOpened(SessionId(index)))
            }
            Ok(CommandRef::CloseSession { session }) => {
                self.sessions.close(session.0, &mut self.batch);
                Ok(CommandReply::SessionClosed)
            }
            Err(error) => Err(error),
        };
        Ok(encode_reply(&reply))
    }

    /// Executes a transaction unless its session knows it; errors of the transaction are kept like any other reply.
    fn transact_once(&mut self, index: u64, ops: &[OpRef<'_>], once: Once) -> Result<Bytes> {
        match self.sessions.admit(index, once, reply_bytes(ops), &mut self.batch) {
            Admission::Repeated(reply) => Ok(reply),
            Admission::Refused(error) => Ok(encode_reply(&Err(error))),
            Admission::Execute => {
                let outcome = self.transact(index, ops)?;
                let reply = encode_reply(&outcome.map(CommandReply::Committed));
                self.sessions.answered(index, once, reply.clone(), &mut self.batch);
                Ok(reply)
            }
        }
    }

    fn transact(&mut self, index: u64, ops: &[OpRef<'_>]) -> Result<crate::Result<Committed>> {
        if let Err(error) = Limits::CEILING.check_lengths(ops.iter().map(OpRef::lengths)) {
            return Ok(Err(error));
        }
        let effect = match Transaction::run(&*self.kv, &self.batch, Revision(index), ops)? {
            Ok(effect) => effect,
            Err(error) => return Ok(Err(error)),
        };
        for (row, change) in effect.changes.into_iter() {
            let Some(after) = change.after else { continue };
            if let Some(before) = change.before
                && self.shared.is_needed(before.modified.0, index)
            {
                let history = layout::history_key(layout::user_key(&row), index);
                let before =
                    transaction::current(&*self.kv, &self.batch, &row, |before| before.map(Bytes::copy_from_slice))?;
                self.batch.set(history, before);
                self.sweep.added();
            }
            self.batch.set(row, after.map(|(_, bytes)| bytes));
        }
        Ok(Ok(effect.committed))
    }

    /// Writes what has come together, with the index of the last entry executed.
    fn write(&mut self) -> Result<()> {
        self.sessions.write(&mut self.batch);
        let batch = self.batch.take();
        let _writing = self.shared.writing();
        self.kv.write(batch, self.applied)
    }

    fn answer(&self, query: Query) -> Result<crate::Result<QueryReply>> {
        match query {
            Query::GetMany { at, keys } => self.values(at, &keys),
            Query::ContainsMany { at, keys } => self.contained(at, &keys),
            Query::Page { at, scan } => self.page(at, scan),
            Query::Hold => Ok(self.hold().map(QueryReply::Held)),
            Query::Release(revision) => {
                self.shared.release(revision.0);
                Ok(Ok(QueryReply::Released))
            }
        }
    }

    fn hold(&self) -> crate::Result<Revision> {
        let max = self.options.holds_max;
        self.shared.hold(self.applied.0, max).or_else(|got| within("holds_max", max, got))?;
        Ok(Revision(self.applied.0))
    }

    /// The revision that a read shows; `SnapshotGone` when it asks for one that is not held.
    fn shown(&self, at: Option<Revision>) -> crate::Result<Revision> {
        match at {
            None => Ok(Revision(self.applied.0)),
            Some(revision) if self.shared.is_held(revision.0) => Ok(revision),
            Some(revision) => Err(Error::SnapshotGone(revision)),
        }
    }

    fn values(&self, at: Option<Revision>, keys: &[Bytes]) -> Result<crate::Result<QueryReply>> {
        let limits = &self.options.limits;
        let revision = match limits.check_keys(keys).and_then(|()| self.shown(at)) {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        let mut values: Vec<Option<Value>> = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for key in keys {
            let value = self.get(at, key)?;
            bytes += value.as_ref().map_or(0, |value| value.value.len());
            // One value comes whatever its size.
            if !values.is_empty()
                && let Err(error) = within("answer_bytes_max", limits.answer_bytes_max, bytes)
            {
                return Ok(Err(error));
            }
            values.push(value);
        }
        Ok(Ok(QueryReply::Values(Read { value: values, revision })))
    }

    fn contained(&self, at: Option<Revision>, keys: &[Bytes]) -> Result<crate::Result<QueryReply>> {
        let revision = match self.options.limits.check_keys(keys).and_then(|()| self.shown(at)) {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        let value = keys.iter().map(|key| Ok(self.get(at, key)?.is_some())).collect::<Result<_>>()?;
        Ok(Ok(QueryReply::Contained(Read { value, revision })))
    }

    fn get(&self, at: Option<Revision>, key: &[u8]) -> Result<Option<Value>> {
        read::get(&*self.kv, at.map(|revision| revision.0), key)
    }

    fn page(&self, at: Option<Revision>, scan: ScanSpec) -> Result<crate::Result<QueryReply>> {
        let revision = match self.shown(at) {
            Ok(revision) => revision,
            Err(error) => return Ok(Err(error)),
        };
        let ScanSpec { from, to, reverse, limit, values } = scan;
        let limits = PageLimits {
            entries: self.options.limits.page_entries_max.min(limit as usize),
            bytes: self.options.limits.page_bytes_max,
            values,
        };
        let held = at.map(|revision| Held { revision: revision.0, shared: &self.shared });
        let rows = read::page(&*self.kv, held, &KeyRange { from, to }, reverse, limits)?;
        let entries = rows.entries.into_iter().map(|(key, value)| (key, value.value)).collect();
        Ok(Ok(QueryReply::Page(Read { value: ScanPage { entries, more: rows.more }, revision })))
    }
}

impl StateMachine for LevelMachine {
    fn applied(&self) -> Applied {
        Applied { applied: self.applied, flushed: self.flushed }
    }

    fn apply(&mut self, entries: &[Run], replies: &mut Vec<Bytes>) -> Result<()> {
        for run in entries {
            if run.first() != self.applied.next() {
                let (first, last) = (run.first(), self.applied);
                return Err(StorageError::Invalid(format!("entries from {first} do not follow {last}")));
            }
            for (index, entry) in run.iter() {
                if entry.kind == EntryKind::Command {
                    replies.push(self.execute(index, &entry.data)?);
                }
                self.applied = index;
                if self.batch.bytes() >= self.options.write_bytes_max {
                    self.write()?;
                }
            }
        }
        self.sweep.step(&*self.kv, &self.shared, &mut self.batch)?;
        self.write()
    }

    fn query(&mut self, query: &[u8]) -> Result<Bytes> {
        let answer = match decode_query(query) {
            Ok(query) => self.answer(query)?,
            Err(error) => Err(error),
        };
        Ok(encode_answer(&answer))
    }

    fn flush(&mut self) -> Result<Index> {
        self.flushed = self.kv.flush()?;
        Ok(self.flushed)
    }

    fn is_durable(&self) -> bool {
        self.kv.is_durable()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotSource>> {
        let pin = self.shared.pin(self.applied.0);
        Ok(Box::new(snapshot::Source::new(self.kv.clone(), pin, &self.sessions)))
    }

    fn install(&mut self, index: Index, snapshot: &mut SnapshotReader<'_>) -> Result<()> {
        let mut reader = snapshot::Reader::open(snapshot, index.0)?;
        self.shared.replace();
        self.kv.replace_begin()?;
        while let Some(page) = reader.rows()? {
            self.kv.replace_add(page)?;
        }
        self.kv.replace_end(index)?;
        self.sessions = Sessions::load(&*self.kv)?;
        self.batch = Batch::default();
        self.sweep = Sweep::default();
        self.applied = index;
        self.flushed = index;
        Ok(())
    }

    fn state_hash(&mut self) -> Option<u64> {
        hash::state(&*self.kv, &self.sessions).ok()
    }

    fn never_blocks(&self) -> bool {
        self.kv.never_blocks()
    }
}

/// How long the reply to a transaction can be: what surrounds the integers, and an error's text.
fn reply_bytes(ops: &[OpRef<'_>]) -> usize {
    let integers = ops.iter().filter(|op| matches!(op, OpRef::Increment { .. })).count();
    512 + 8 * integers
}
