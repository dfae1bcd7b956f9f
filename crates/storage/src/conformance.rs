//! Checks that every store must pass, for authors of adapters: [`all`] is the one call.
//!
//! It panics with what the store did wrong, and returns what could not be shown.
//! [`Subject`] is the store under test and the way to close it and open it again; every check gets a new one from the factory.
//!
//! | Part | What it checks |
//! |---|---|
//! | [`store`] | identity, engine, parts that outlive the store, use after it was closed |
//! | [`log_store`] | batches all or nothing, of one and of a hundred groups; truncation, compaction, repair; reads bounded in bytes, beside writes; refusals |
//! | [`kv_store`] | batches atomic with their applied index, also after a crash; scans both ways; empty, large and too large; replacement |
//! | [`snapshot_store`] | reads that go on, receipts that go on, what does not match, what is kept |
//! | [`recovery`] | reports of damage and torn writes, failed syncs, no space, the lock: by hooks of [`Subject`] that have defaults |
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use coracle_core::{GroupId, Index};
//! use coracle_storage::{
//!     Store,
//!     conformance::{self, Subject},
//! };
//! # use std::path::PathBuf;
//! # fn open(path: &PathBuf) -> Arc<dyn Store> { panic!("{path:?}") }
//! # fn new_directory() -> PathBuf { panic!("of your own") }
//! # fn flip_a_bit_of(path: &PathBuf, group: GroupId, index: Index) -> bool { panic!("{path:?} {group} {index}") }
//!
//! struct Mine {
//!     directory: PathBuf,
//!     store: Arc<dyn Store>,
//! }
//!
//! impl Subject for Mine {
//!     fn store(&self) -> Arc<dyn Store> {
//!         self.store.clone()
//!     }
//!
//!     fn reopen(self) -> Mine {
//!         let Mine { directory, store } = self;
//!         drop(store);
//!         Mine { store: open(&directory), directory }
//!     }
//!
//!     fn damage_entry(&mut self, group: GroupId, index: Index) -> bool {
//!         flip_a_bit_of(&self.directory, group, index)
//!     }
//! }
//!
//! fn new_store() -> Mine {
//!     let directory = new_directory();
//!     Mine { store: open(&directory), directory }
//! }
//!
//! // In a test; hooks that are missing are named, so that none goes missing unnoticed.
//! assert_eq!(conformance::all(new_store), ["tear_last_write", "fail_syncs", "fill_up", "open_again"]);
//! ```

mod identity;
mod kv;
mod log;
mod recovery;
mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, Membership, NodeId, Run, Term};

use crate::{Durability, LogBatch, Result, Store};

/// A store under test.
///
/// What has a default is optional: a subject that cannot do it leaves it out, and [`all`] names it.
pub trait Subject: Sized {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Closes the store and opens it again. Not called when the store is [`Durability::Volatile`].
    fn reopen(self) -> Self;

    /// Tries to open the same place a second time, while it is open; `None` where there is no such place.
    fn open_again(&self) -> Option<Result<Arc<dyn Store>>> {
        None
    }

    /// Changes the stored data of one entry, as a failing device does; index and term of the entry stay readable. Says whether it did.
    /// Nobody uses the store meanwhile, and `reopen` follows: it may be closed here.
    fn damage_entry(&mut self, group: GroupId, index: Index) -> bool {
        let _ = (group, index);
        false
    }

    /// Leaves the last write to the log as a power cut in the middle of it does: some of its blocks are there and some never were, and nobody was told that it is durable. Says whether it did.
    /// Nobody uses the store meanwhile, and `reopen` follows: it may be closed here.
    fn tear_last_write(&mut self) -> bool {
        false
    }

    /// Makes every sync of the store's log fail from now on, until it is opened again. Says whether it did.
    fn fail_syncs(&mut self) -> bool {
        false
    }

    /// Leaves no space for writes to the store's log from now on, until [`Subject::make_room`]. Says whether it did.
    /// For stores that answer [`StorageError::Full`](crate::StorageError::Full): not for those that cannot reserve space, and not for remote ones, which wait.
    fn fill_up(&mut self) -> bool {
        false
    }

    /// There is space again.
    fn make_room(&mut self) {}
}

/// Checks everything, and returns the hooks of [`Subject`] that are missing: what they show was not shown.
///
/// # Panics
/// When the store breaks a rule.
pub fn all<S: Subject>(factory: impl Fn() -> S) -> Vec<&'static str> {
    store(&factory);
    log_store(&factory);
    kv_store(&factory);
    snapshot_store(&factory);
    recovery(&factory)
}

/// Checks what a store says after damage, a torn write, a failed sync, as far as the subject can bring them about; returns the hooks that are missing.
///
/// # Panics
/// When the store breaks a rule.
pub fn recovery<S: Subject>(factory: impl Fn() -> S) -> Vec<&'static str> {
    recovery::check(&factory)
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
