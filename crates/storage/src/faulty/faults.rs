//! What goes wrong, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use coracle_core::Rng;

use super::lock;
use crate::StorageError;

/// The place that a full store names.
const PLACE: &str = "the faulty store";

/// A kind of operation, counted and failed for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// A write of the logs.
    LogWrite,
    /// A read of a log, recovery included.
    LogRead,
    /// A write of key-value data.
    KvWrite,
    /// A read of key-value data.
    KvRead,
    /// A flush of key-value data.
    KvFlush,
    /// A write of a piece of a snapshot.
    SnapshotWrite,
    /// The end of a snapshot: the sync.
    SnapshotCommit,
    /// A read of a stored snapshot.
    SnapshotRead,
}

impl Op {
    fn name(self) -> &'static str {
        match self {
            Op::LogWrite => "write the log",
            Op::LogRead => "read the log",
            Op::KvWrite => "write key-value data",
            Op::KvRead => "read key-value data",
            Op::KvFlush => "flush key-value data",
            Op::SnapshotWrite => "write a snapshot",
            Op::SnapshotCommit => "sync a snapshot",
            Op::SnapshotRead => "read a snapshot",
        }
    }

    /// Whether it is refused while there is no space: what reserves before it writes.
    /// Key-value data is not among them, since a state machine has no way to try again.
    fn needs_space(self) -> bool {
        matches!(self, Op::LogWrite | Op::SnapshotWrite | Op::SnapshotCommit)
    }
}

/// What happens to an operation. After an error that is not [`Fault::Full`] the log takes no more writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An I/O error, and nothing was done.
    Error,
    /// An I/O error after everything was done, as of a sync.
    ErrorAfter,
    /// The I/O error of a device without space, met while writing; nothing was done.
    NoSpace,
    /// No space, found before anything was done.
    Full,
    /// It takes so much longer, or until [`Faults::mend`].
    Delay(Duration),
    /// An I/O error after a part was done, such as a store may leave (C18): the first batches of a log write, the first bytes of a snapshot's piece, and nothing of anything else.
    Torn,
    /// As `Torn`, and of the next batch a part too, which no store may leave: half of its entries and nothing else, or half of the changes of a key-value batch.
    TornWithin,
}

/// What goes wrong: a script that is shared with the store. Clones are the same.
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    changed: Condvar,
}

#[derive(Debug)]
struct Script {
    rng: Rng,
    /// By number of the operation among those of its kind, the first being 0.
    rules: Vec<(Op, Range<u64>, Fault)>,
    chances: Vec<(Op, f64, Fault)>,
    held: BTreeSet<Op>,
    is_full: bool,
    is_losing: bool,
    counts: BTreeMap<Op, u64>,
    injected: u64,
    /// Counts calls of `mend`.
    mended: u64,
}

impl Faults {
    /// Nothing goes wrong yet. What is left to chance is drawn from `seed`.
    pub fn new(seed: u64) -> Faults {
        let script = Script {
            rng: Rng::new(seed),
            rules: Vec::new(),
            chances: Vec::new(),
            held: BTreeSet::new(),
            is_full: false,
            is_losing: false,
            counts: BTreeMap::new(),
            injected: 0,
            mended: 0,
        };
        Faults { shared: Arc::new(Shared { script: Mutex::new(script), changed: Condvar::new() }) }
    }

    /// The `n`th operation of this kind from now on suffers `fault`; the next one is the first.
    pub fn nth(&self, op: Op, n: u64, fault: Fault) {
        self.range(op, n.saturating_sub(1), 1, fault);
    }

    /// After `skip` operations of this kind, the next `count` suffer `fault`.
    pub fn range(&self, op: Op, skip: u64, count: u64, fault: Fault) {
        let script = &mut *lock(&self.shared.script);
        let first = script.counts.get(&op).copied().unwrap_or(0).saturating_add(skip);
        script.rules.push((op, first..first.saturating_add(count), fault));
    }

    /// Each operation of this kind suffers `fault` with this probability.
    pub fn chance(&self, op: Op, probability: f64, fault: Fault) {
        lock(&self.shared.script).chances.push((op, probability, fault));
    }

    /// Nothing that reserves before it writes finds space, until [`Faults::free`]: log and snapshots.
    pub fn fill(&self) {
        lock(&self.shared.script).is_full = true;
    }

    /// There is space again.
    pub fn free(&self) {
        lock(&self.shared.script).is_full = false;
    }

    /// Operations of this kind do not return, until [`Faults::release`].
    pub fn hold(&self, op: Op) {
        lock(&self.shared.script).held.insert(op);
    }

    /// What is held goes on.
    pub fn release(&self, op: Op) {
        lock(&self.shared.script).held.remove(&op);
        self.shared.changed.notify_all();
    }

    /// Whether the disk acknowledges writes of the log that it only keeps in its cache: gone with the next [power cut](super::FaultyStore::power_cut), unless a write that cannot wait took them along.
    /// Those are repairs and compactions, and the first write after this ends.
    pub fn lose_log_writes(&self, is_losing: bool) {
        lock(&self.shared.script).is_losing = is_losing;
    }

    /// Nothing goes wrong any more, and what is held or delayed goes on.
    pub fn mend(&self) {
        let script = &mut *lock(&self.shared.script);
        script.rules.clear();
        script.chances.clear();
        script.held.clear();
        (script.is_full, script.is_losing) = (false, false);
        script.mended += 1;
        self.shared.changed.notify_all();
    }

    /// How many operations of this kind were begun.
    pub fn count(&self, op: Op) -> u64 {
        lock(&self.shared.script).counts.get(&op).copied().unwrap_or(0)
    }

    /// How many operations suffered a fault.
    pub fn injected(&self) -> u64 {
        lock(&self.shared.script).injected
    }

    pub(super) fn is_losing(&self) -> bool {
        lock(&self.shared.script).is_losing
    }

    /// A number below `bound`, from the seed; 0 when `bound` is.
    pub(super) fn below(&self, bound: usize) -> usize {
        lock(&self.shared.script).rng.below(bound.max(1) as u64) as usize
    }

    /// Begins an operation: waits as long as it is held or delayed, and says what else it suffers.
    pub(super) fn begin(&self, op: Op) -> Option<Fault> {
        let mut script = lock(&self.shared.script);
        let count = script.counts.entry(op).or_default();
        let number = *count;
        *count += 1;
        while script.held.contains(&op) {
            script = self.shared.changed.wait(script).unwrap_or_else(PoisonError::into_inner);
        }
        let fault = script.draw(op, number)?;
        script.injected += 1;
        drop(script);
        match fault {
            Fault::Delay(duration) => {
                self.delay(duration);
                None
            }
            fault => Some(fault),
        }
    }

    /// An operation that does all or nothing, of so many bytes.
    pub(super) fn operate<T>(&self, op: Op, bytes: u64, act: impl FnOnce() -> crate::Result<T>) -> crate::Result<T> {
        match self.begin(op) {
            None => act(),
            Some(Fault::ErrorAfter) => {
                act()?;
                Err(error(op, Fault::ErrorAfter, bytes))
            }
            Some(fault) => Err(error(op, fault, bytes)),
        }
    }

    fn delay(&self, duration: Duration) {
        let end = Instant::now() + duration;
        let mut script = lock(&self.shared.script);
        let mended = script.mended;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            && script.mended == mended
        {
            (script, _) = self.shared.changed.wait_timeout(script, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Script {
    fn draw(&mut self, op: Op, number: u64) -> Option<Fault> {
        if self.is_full && op.needs_space() {
            return Some(Fault::Full);
        }
        if let Some((_, _, fault)) = self.rules.iter().find(|(of, range, _)| *of == op && range.contains(&number)) {
            return Some(*fault);
        }
        let Script { rng, chances, .. } = self;
        let drawn = chances.iter().find(|(of, probability, _)| *of == op && rng.chance(*probability));
        drawn.map(|(_, _, fault)| *fault)
    }
}

/// What an operation of so many bytes says of a fault.
pub(super) fn error(op: Op, fault: Fault, bytes: u64) -> StorageError {
    match fault {
        Fault::Full => StorageError::Full { place: PLACE.to_owned(), needed: bytes },
        Fault::NoSpace => StorageError::io(op.name(), io::Error::from(io::ErrorKind::StorageFull)),
        _ => StorageError::io(op.name(), io::Error::other("injected")),
    }
}
