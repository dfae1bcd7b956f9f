//! Many calls under way at once from one task.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::{Committed, Once, Read, ReadAt, Result, ScanPage, ScanSpec, Txn, Value};

/// A call of a [`Kv`](crate::Kv), as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// [`Kv::get_many`](crate::Kv::get_many).
    GetMany {
        /// How fresh.
        at: ReadAt,
        /// Which.
        keys: Vec<Bytes>,
    },
    /// [`Kv::contains_many`](crate::Kv::contains_many).
    ContainsMany {
        /// How fresh.
        at: ReadAt,
        /// Which.
        keys: Vec<Bytes>,
    },
    /// [`Kv::page`](crate::Kv::page).
    Page {
        /// How fresh.
        at: ReadAt,
        /// Which keys.
        scan: ScanSpec,
    },
    /// [`Kv::commit`](crate::Kv::commit).
    Commit {
        /// What it changes.
        txn: Txn,
        /// What makes it take effect once.
        once: Option<Once>,
    },
}

/// What a [`Call`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// To `GetMany`.
    Values(Read<Vec<Option<Value>>>),
    /// To `ContainsMany`.
    Contained(Read<Vec<bool>>),
    /// To `Page`.
    Page(Read<ScanPage>),
    /// To `Commit`.
    Committed(Committed),
}

/// Many calls under way at once, from one task: [`Kv::pipeline`](crate::Kv::pipeline) makes one.
///
/// What was pushed is handed on in one piece, and the task is woken once for many answers.
/// Every call is answered exactly once, in any order. Dropped, all are cancelled: whether their commits take effect stays unknown.
pub trait Pipeline: Send {
    /// Adds a call, by a number of the caller's that its answer carries.
    fn push(&mut self, number: u64, call: Call);

    /// Hands on what was pushed. The answers have to be polled for afterwards.
    fn submit(&mut self);

    /// Adds what was answered to `answers`; pending when that is nothing.
    fn poll_answers(&mut self, cx: &mut Context<'_>, answers: &mut Vec<(u64, Result<Answer>)>) -> Poll<()>;
}
