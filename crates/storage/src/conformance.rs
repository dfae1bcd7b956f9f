//! Checks that every store must pass, for authors of adapters: one call each.
//!
//! Each function panics with what the store did wrong.
//! [`Subject`] is the store under test and the way to close it and open it again; every check gets a new one.

mod identity;
mod kv;
mod log;
mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, Membership, NodeId, Run, Term};

use crate::{Durability, LogBatch, Store};

/// A store under test.
pub trait Subject: Sized {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Closes the store and opens it again. Not called when the store is [`Durability::Volatile`].
    fn reopen(self) -> Self;
}

/// Checks a store as a whole: engine and identity.
///
/// # Panics
/// When the store breaks a rule.
pub fn store<S: Subject>(factory: impl Fn() -> S) {
    identity::check(&factory);
}

/// Checks the logs of a store.
///
/// # Panics
/// When the store breaks a rule.
pub fn log_store<S: Subject>(factory: impl Fn() -> S) {
    log::check(&factory);
}

/// Checks the key-value data of a store.
///
/// # Panics
/// When the store breaks a rule.
pub fn kv_store<S: Subject>(factory: impl Fn() -> S) {
    kv::check(&factory);
}

/// Checks the snapshots of a store.
///
/// # Panics
/// When the store breaks a rule.
pub fn snapshot_store<S: Subject>(factory: impl Fn() -> S) {
    snapshot::check(&factory);
}

/// Reopens what survives that.
fn reopened<S: Subject>(subject: S) -> S {
    if subject.store().durability() == Durability::Volatile { subject } else { subject.reopen() }
}

const GROUP: GroupId = GroupId(1);
const OTHER: GroupId = GroupId(2);

fn membership(nodes: u64) -> Membership {
    Membership::of_voters((1..=nodes).map(NodeId))
}

/// `count` commands, each with data that only its index and term have.
fn run(first: u64, term: u64, count: u64) -> Run {
    let entries: Vec<Entry> =
        (first..first + count).map(|index| Entry::command(format!("{index}@{term}").repeat(4))).collect();
    Run::new(Index(first), Term(term), entries)
}

fn membership_entry(index: u64, term: u64, nodes: u64) -> Run {
    let entry = Entry { kind: EntryKind::Membership, data: membership(nodes).encode() };
    Run::new(Index(index), Term(term), [entry])
}

fn large(index: u64, term: u64, bytes: usize) -> Run {
    Run::new(Index(index), Term(term), [Entry::command(pattern(bytes))])
}

/// Bytes that do not repeat at any power of two.
fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|i| (i % 251) as u8).collect()
}

fn batch(entries: Vec<Run>) -> LogBatch {
    LogBatch::append(GROUP, entries)
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term: Term(term), voted_for: Some(NodeId(vote)), commit_index: Index(commit), is_repairing: false }
}

fn base(index: u64, term: u64) -> Base {
    Base { index: Index(index), term: Term(term), membership_index: Index(1), membership: Some(membership(3)) }
}
