//! What is fuzzed of recovery: whatever is damaged is told, and what is not told is what was written.

use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, LogRead, Membership, NodeId, Run, Term};
use coracle_storage::{LogBatch, LogStore, RecoveredLog, StorageError};

use super::{SledLog, rows};
use crate::engine::{self, Engine};

const GROUP: GroupId = GroupId(1);
/// A database grows as long as it is written to: it is made anew after so many inputs.
const INPUTS_MAX: usize = 2_000;
/// More steps only repeat what fewer show.
const STEPS_MAX: usize = 40;

thread_local! {
    static BENCH: RefCell<Option<(Bench, usize)>> = const { RefCell::new(None) };
}

/// A database, and where it is.
struct Bench {
    engine: Arc<Engine>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let Ok(dir) = tempfile::tempdir() else { panic!("there is no temporary directory") };
        let Ok(engine) = engine::fuzzing::open(dir.path()) else { panic!("an empty database opens") };
        Bench { engine: Arc::new(engine), dir }
    }

    fn marks(&self) -> PathBuf {
        self.dir.path().join("marks")
    }
}

/// Writes, damage and recoveries, as the bytes say.
///
/// # Panics
/// When a log is recovered that is not what was written.
pub fn log(data: &[u8]) {
    let bench = BENCH.take().filter(|(_, inputs)| *inputs < INPUTS_MAX);
    let (bench, inputs) = bench.unwrap_or_else(|| (Bench::new(), 0));
    let tree = bench.engine.tree(&format!("raft/{GROUP}"));
    assert!(tree.is_ok_and(|tree| tree.clear().is_ok()));
    // Absent before the first input.
    drop(std::fs::remove_file(bench.marks()));
    let mut run = Log { bench: &bench, rest: data, store: open(&bench), truth: Truth::default() };
    for _ in 0..STEPS_MAX {
        if run.rest.is_empty() || !run.step() {
            break;
        }
    }
    drop(run);
    BENCH.set(Some((bench, inputs + 1)));
}

fn open(bench: &Bench) -> SledLog {
    let Ok(log) = SledLog::new(bench.engine.clone(), bench.marks(), Duration::ZERO) else {
        panic!("marks that are damaged count for nothing");
    };
    log
}

/// What was written.
#[derive(Default)]
struct Truth {
    base: Base,
    entries: BTreeMap<Index, (Term, Entry)>,
    hard_state: HardState,
    is_damaged: bool,
}

impl Truth {
    fn last(&self) -> Index {
        self.entries.keys().next_back().map_or(self.base.index, |last| *last)
    }

    fn last_term(&self) -> Term {
        self.entries.values().next_back().map_or(self.base.term, |(term, _)| *term)
    }
}

struct Log<'a> {
    bench: &'a Bench,
    rest: &'a [u8],
    store: SledLog,
    truth: Truth,
}

impl Log<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    /// Whether there is a log to go on with.
    fn step(&mut self) -> bool {
        match self.byte() % 8 {
            0..3 => self.append(None),
            3 => {
                let back = u64::from(self.byte() % 8);
                let from = Index(self.truth.last().next().0.saturating_sub(back)).max(self.truth.base.index.next());
                self.append(Some(from));
            }
            4 => self.compact(),
            5 => self.flip(),
            6 => self.lose(),
            _ => return self.recover(),
        }
        true
    }

    fn append(&mut self, truncate_from: Option<Index>) {
        if let Some(from) = truncate_from {
            self.truth.entries.split_off(&from);
        }
        let (shape, len) = (self.byte(), self.byte());
        let term = Term(self.truth.last_term().0.max(1) + u64::from(shape >> 6));
        let entries: Vec<Entry> = (0..=shape % 8).map(|at| entry(shape >> 3 & 7, at, len)).collect();
        let run = Run::new(self.truth.last().next(), term, entries);
        self.truth.entries.extend(run.iter().map(|(index, entry)| (index, (term, entry.clone()))));
        let hard_state = HardState {
            term,
            voted_for: Some(NodeId(u64::from(len))),
            commit_index: self.truth.base.index,
            is_repairing: false,
        };
        self.truth.hard_state = hard_state;
        self.write(LogBatch { truncate_from, hard_state: Some(hard_state), ..LogBatch::append(GROUP, vec![run]) });
    }

    fn compact(&mut self) {
        let (first, last) = (self.truth.base.index, self.truth.last());
        let index = Index(first.0 + u64::from(self.byte()) % (last.0 - first.0 + 1));
        let Some((term, _)) = self.truth.entries.get(&index) else { return };
        let membership = Membership::of_voters([NodeId(1)]);
        let base = Base { index, term: *term, membership_index: Index(1), membership: Some(membership) };
        self.truth.entries = self.truth.entries.split_off(&index.next());
        self.truth.base = base.clone();
        self.write(LogBatch { base: Some(base), ..LogBatch::append(GROUP, Vec::new()) });
    }

    fn write(&mut self, batch: LogBatch) {
        let written = self.store.write(&[batch]);
        assert!(written.is_ok(), "what follows the log is written: {written:?}");
    }

    fn tree(&self) -> sled::Tree {
        let Ok(tree) = self.bench.engine.tree(&format!("raft/{GROUP}")) else { panic!("the tree is open") };
        tree
    }

    /// Some row, by the next byte.
    fn row(&mut self, is_any: bool) -> Option<(sled::IVec, sled::IVec)> {
        let rows: Vec<_> = self.tree().iter().filter_map(Result::ok).collect();
        let rows: Vec<_> = rows.into_iter().filter(|(key, _)| is_any || rows::is_row(key)).collect();
        let at = usize::from(self.byte()).checked_rem(rows.len())?;
        rows.into_iter().nth(at)
    }

    /// One bit of any row is another one.
    fn flip(&mut self) {
        let (at, bit) = (usize::from(self.byte()), self.byte() % 8);
        let Some((key, value)) = self.row(true) else { return };
        let mut value = value.to_vec();
        let Some(at) = at.checked_rem(value.len()) else { return };
        value[at] ^= 1 << bit;
        self.truth.is_damaged = true;
        assert!(self.tree().insert(key, value).is_ok());
    }

    /// A row of entries is gone.
    fn lose(&mut self) {
        let Some((key, _)) = self.row(false) else { return };
        self.truth.is_damaged = true;
        assert!(self.tree().remove(key).is_ok());
    }

    /// Whether it can be.
    fn recover(&mut self) -> bool {
        self.store = open(self.bench);
        match self.store.recover(GROUP, usize::MAX) {
            Ok(recovered) => self.check(&recovered),
            Err(StorageError::Damaged { .. }) if self.truth.is_damaged => return false,
            Err(error) => panic!("nothing is damaged: {error}"),
        }
        true
    }

    fn check(&self, recovered: &RecoveredLog) {
        let truth = &self.truth;
        assert_eq!((recovered.last_index, &recovered.base), (truth.last(), &truth.base));
        assert_eq!(recovered.hard_state, truth.hard_state);
        assert!(recovered.damaged.is_empty() || truth.is_damaged, "{recovered:?}");
        assert!(recovered.damaged.is_sorted());
        for (index, (term, entry)) in &truth.entries {
            let later = recovered.terms.partition_point(|(first, _)| first <= index);
            assert_eq!(later.checked_sub(1).map(|at| recovered.terms[at].1), Some(*term), "the term of {index}");
            let read = self.store.read(GROUP, *index, *index, usize::MAX);
            let is_damaged = recovered.damaged.binary_search(index).is_ok();
            match read {
                Ok(LogRead::Damaged { at }) => assert!(is_damaged && at == *index, "{index} was said to be whole"),
                Ok(LogRead::Entries(runs)) => {
                    assert!(!is_damaged, "{index} was said to be damaged");
                    assert_eq!((runs[0].term(), &runs[0].entries()[0]), (*term, entry), "at {index}");
                }
                other => panic!("{index} cannot be read: {other:?}"),
            }
            let is_known = recovered.memberships.iter().any(|(at, _)| at == index);
            let is_membership = entry.kind == EntryKind::Membership;
            assert!(is_known == (is_membership && !is_damaged), "{index} is a membership or not");
            assert!(!(is_membership && is_damaged) || recovered.is_membership_damaged, "{index} is a membership");
        }
        self.check_tail(recovered);
    }

    /// The tail is what is whole at the end, without a gap.
    fn check_tail(&self, recovered: &RecoveredLog) {
        let after = recovered.damaged.last().map_or(self.truth.base.index, |last| *last).next();
        let tail: Vec<_> = recovered.tail.iter().flat_map(Run::iter).map(|(index, _)| index).collect();
        let expected: Vec<_> = self.truth.entries.range(after..).map(|(index, _)| *index).collect();
        assert_eq!(tail, expected);
    }
}

/// An entry of one of a few kinds and sizes.
fn entry(kind: u8, at: u8, len: u8) -> Entry {
    match kind {
        0 => Entry::noop(),
        1 => Entry { kind: EntryKind::Membership, data: Membership::of_voters([NodeId(u64::from(at) + 1)]).encode() },
        // More than a row holds.
        2 => Entry::command(vec![len; 8_000]),
        _ => Entry::command(vec![at; usize::from(len)]),
    }
}

/// Logs that are written, damaged and recovered, for a corpus.
pub fn log_seeds() -> Vec<Vec<u8>> {
    vec![
        // Appends of different kinds, then a recovery.
        vec![0, 0x1b, 3, 0, 0x4a, 9, 1, 0x10, 1, 7],
        // A log that is cut off, and one that is compacted.
        vec![0, 0x1f, 3, 3, 2, 0x5a, 4, 7, 4, 3, 7, 0, 0x1a, 2, 7],
        // A flipped bit, and a row that is lost.
        vec![0, 0x1f, 3, 0, 0x5f, 3, 5, 40, 1, 3, 7, 0, 0x1f, 3, 6, 1, 7],
        // A large entry of many rows, one of which is lost.
        vec![0, 0x13, 3, 0, 0x5f, 3, 6, 1, 7, 3, 4, 0x1f, 5, 7],
        // The outline, then the state are damaged.
        vec![0, 0x1f, 3, 0, 0x5f, 3, 5, 9, 1, 254, 7, 5, 9, 1, 0, 7],
    ]
}
