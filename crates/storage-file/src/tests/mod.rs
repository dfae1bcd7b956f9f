//! The log on a disk whose power can be cut, whose bytes can be flipped, and which can be full.

mod crash;
mod damage;
mod faults;
mod golden;
mod model;

use std::sync::Arc;

use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, LogRead, Membership, NodeId, Run, Term};
use coracle_storage::{LogBatch, LogStore, RecoveredLog, Result, Store};
use coracle_storage_memory::MemoryStore;

use crate::{
    log::{FileLog, LogOptions},
    sim_disk::SimDisk,
};

const SEGMENT_BYTES: u64 = 8 * 1024;
const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(7)];

fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT_BYTES, has_thread: false, salt: None }
}

fn open(disk: &SimDisk) -> Result<FileLog> {
    FileLog::open(Arc::new(disk.clone()), options(), false)
}

fn membership() -> Membership {
    Membership::of_voters([NodeId(1), NodeId(2)])
}

fn hard_state(term: u64, commit: u64) -> HardState {
    let voted_for = Some(NodeId(term)).filter(|_| !term.is_multiple_of(3));
    HardState { term: Term(term), voted_for, commit_index: Index(commit), is_repairing: term.is_multiple_of(5) }
}

/// Entries of which each has data that only it has.
fn run(first: u64, term: u64, count: u64, bytes: usize) -> Run {
    let entry = |index: u64| match index % 11 {
        0 => Entry { kind: EntryKind::Membership, data: membership().encode() },
        1 if bytes == 0 => Entry::noop(),
        _ => Entry::command(format!("{index}@{term}.").repeat(bytes.div_ceil(8))),
    };
    Run::new(Index(first), Term(term), (first..first + count).map(entry).collect::<Vec<_>>())
}

/// What the logs have to be: in memory.
struct Oracle {
    log: Arc<dyn LogStore>,
}

impl Oracle {
    fn new() -> Oracle {
        Oracle { log: MemoryStore::new().log() }
    }

    fn state(&self) -> Vec<RecoveredLog> {
        states(&*self.log).expect("an oracle never fails")
    }

    fn group(&self, group: GroupId) -> RecoveredLog {
        self.log.recover(group, usize::MAX).expect("an oracle never fails")
    }

    /// What there is to do with a log, in words that hold whatever the log is.
    fn batch(&self, group: GroupId, act: Act) -> LogBatch {
        let log = self.group(group);
        let (base, last, term) = (log.base.index.0, log.last_index.0, log.hard_state.term.0 + 1);
        let nothing = LogBatch::append(group, Vec::new());
        let state = Some(hard_state(term, base));
        match act {
            Act::Append(count, bytes) => {
                LogBatch { hard_state: state, ..LogBatch::append(group, vec![run(last + 1, term, count, bytes)]) }
            }
            Act::Vote => LogBatch { hard_state: state, ..nothing },
            Act::Cut(back) => {
                let from = last.saturating_sub(back).max(base) + 1;
                let entries = run(from, term, 2, 30).into();
                LogBatch { truncate_from: Some(Index(from)), entries, hard_state: state, ..nothing }
            }
            Act::Compact(back) => {
                let index = last.saturating_sub(back).max(base);
                let entry_term =
                    log.terms.iter().rev().find(|(first, _)| first.0 <= index).map_or(log.base.term, |(_, term)| *term);
                let membership = Some(membership());
                let base = Base { index: Index(index), term: entry_term, membership_index: Index::ZERO, membership };
                LogBatch { base: Some(base), ..nothing }
            }
            Act::Repair(back) => {
                let index = Index(last.saturating_sub(back).max(base + 1));
                let held = log.tail.iter().find_map(|run| run.slice(index, index));
                let again = |run: Run| {
                    let data = if run.entries()[0].kind == EntryKind::Membership {
                        membership().encode()
                    } else {
                        "repaired".into()
                    };
                    Run::new(index, run.term(), [Entry { data, ..run.entries()[0].clone() }])
                };
                LogBatch { repaired: held.map(again).into_iter().collect(), ..nothing }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    /// So many entries, of about so many bytes.
    Append(u64, usize),
    Vote,
    /// So far back, and two new entries.
    Cut(u64),
    Compact(u64),
    Repair(u64),
}

/// All there is in the logs of all groups; how entries are cut into runs is not told.
fn states(log: &dyn LogStore) -> Result<Vec<RecoveredLog>> {
    let state = |group: &GroupId| {
        let mut log = log.recover(*group, usize::MAX)?;
        log.tail = singles(&log.tail);
        Ok(log)
    };
    GROUPS.iter().map(state).collect()
}

/// Runs of one entry each, which share nothing: only so are they equal when what they hold is.
fn singles(runs: &[Run]) -> Vec<Run> {
    runs.iter().flat_map(|run| run.iter().map(|(index, entry)| Run::new(index, run.term(), [entry.clone()]))).collect()
}

/// Checks that the logs are what they have to be, read in every way.
fn expect_same(log: &FileLog, expected: &[RecoveredLog], what: &str) {
    assert_eq!(states(log).expect("recover"), expected, "{what}");
    for (group, expected) in GROUPS.iter().zip(expected) {
        for run in &expected.tail {
            match log.read(*group, run.first(), run.first(), 0).expect("read") {
                LogRead::Entries(runs) => assert_eq!(singles(&runs), std::slice::from_ref(run), "{what}"),
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}
