//! What logs in files have to be, and what can be done to them.

use std::sync::Arc;

use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, LogRead, Membership, NodeId, Run, Term};
use coracle_storage::{LogBatch, LogStore, RecoveredLog, Store};
use coracle_storage_memory::MemoryStore;

use crate::source::Source;

/// The groups that are written to.
const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(7)];
const SECTOR: usize = 512;

/// The same logs, in memory.
pub(crate) struct Oracle {
    log: Arc<dyn LogStore>,
}

impl Oracle {
    pub(crate) fn new() -> Oracle {
        Oracle { log: MemoryStore::new().log() }
    }

    fn group(&self, group: GroupId) -> RecoveredLog {
        let Ok(log) = self.log.recover(group, usize::MAX) else { panic!("an oracle never fails") };
        log
    }

    /// What is next, in words that hold whatever the logs are: one batch, or one of each group.
    pub(crate) fn batches(&self, source: &mut Source<'_>) -> Vec<LogBatch> {
        let which = source.below(3);
        let groups = GROUPS.iter().enumerate().filter(|(number, _)| which == 2 || which == *number);
        groups.map(|(_, group)| self.batch(*group, source)).collect()
    }

    fn batch(&self, group: GroupId, source: &mut Source<'_>) -> LogBatch {
        let log = self.group(group);
        let (base, last, term) = (log.base.index.0, log.last_index.0, log.hard_state.term.0 + 1);
        let (act, amount) = (source.byte(), u64::from(source.byte()));
        let nothing = LogBatch::append(group, Vec::new());
        let hard_state = Some(hard_state(term, base));
        match act % 8 {
            0 => LogBatch { hard_state, ..nothing },
            1 => {
                let from = last.saturating_sub(amount % 8).max(base) + 1;
                let entries = run(from, term, 2, act).into();
                LogBatch { truncate_from: Some(Index(from)), entries, hard_state, ..nothing }
            }
            2 => {
                let index = last.saturating_sub(amount % 16).max(base);
                LogBatch { base: Some(base_at(&log, index)), ..nothing }
            }
            3 => {
                let index = Index(last.saturating_sub(amount % 8).max(base + 1));
                let held = log.tail.iter().find_map(|run| run.slice(index, index));
                LogBatch { repaired: held.into_iter().collect(), ..nothing }
            }
            _ => {
                let state = hard_state.filter(|_| amount % 2 == 1);
                let term = if state.is_some() { term } else { log.terms.last().map_or(term, |(_, term)| term.0) };
                LogBatch { hard_state: state, ..LogBatch::append(group, vec![run(last + 1, term, amount % 9, act)]) }
            }
        }
    }

    pub(crate) fn take(&self, batches: &[LogBatch]) {
        let written = self.log.write(batches);
        assert!(written.is_ok(), "{batches:?} follow: {written:?}");
    }

    /// Whether a log tells what was written, or tells that it is damaged where it does not.
    ///
    /// # Errors
    /// With what it tells instead.
    pub(crate) fn check(&self, log: &dyn LogStore) -> Result<(), String> {
        GROUPS.iter().try_for_each(|group| check(log, *group, &self.group(*group)))
    }

    /// Whether nothing is damaged, so far as it is known.
    pub(crate) fn check_whole(&self, log: &dyn LogStore) -> Result<(), String> {
        let damaged = GROUPS.iter().filter_map(|group| log.recover(*group, 0).ok()).flat_map(|log| log.damaged);
        match damaged.into_iter().next() {
            Some(index) => Err(format!("{index} is said to be damaged")),
            None => self.check(log),
        }
    }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    let voted_for = Some(NodeId(term)).filter(|_| !term.is_multiple_of(3));
    HardState { term: Term(term), voted_for, commit_index: Index(commit), is_repairing: term.is_multiple_of(5) }
}

fn base_at(log: &RecoveredLog, index: u64) -> Base {
    let earlier = log.terms.iter().rev().find(|(first, _)| first.0 <= index);
    let term = earlier.map_or(log.base.term, |(_, term)| *term);
    let membership = Some(Membership::of_voters([NodeId(1)]));
    Base { index: Index(index), term, membership_index: Index::ZERO, membership }
}

/// One entry and more, each with data that only it has.
fn run(first: u64, term: u64, more: u64, shape: u8) -> Run {
    let repeated = [0, 1, 3, 20, 70][usize::from(shape >> 3) % 5];
    let entry = |index: u64| match (shape >> 6, repeated) {
        (3, _) => Entry { kind: EntryKind::Membership, data: Membership::of_voters([NodeId(index)]).encode() },
        (_, 0) => Entry::noop(),
        _ => Entry::command(format!("{index}@{term}.").repeat(repeated)),
    };
    Run::new(Index(first), Term(term), (first..=first + more).map(entry).collect::<Vec<_>>())
}

/// Runs of one entry each, which share nothing: only so are they equal when what they hold is.
fn singles(runs: &[Run]) -> Vec<Run> {
    runs.iter().flat_map(|run| run.iter().map(|(index, entry)| Run::new(index, run.term(), [entry.clone()]))).collect()
}

fn check(log: &dyn LogStore, group: GroupId, expected: &RecoveredLog) -> Result<(), String> {
    let found = log.recover(group, usize::MAX).map_err(|error| error.to_string())?;
    let entries = singles(&expected.tail);
    let tail = singles(&found.tail);
    if !entries.ends_with(&tail) {
        return Err(format!("{group} ends with {tail:?}, expected {entries:?}"));
    }
    let is_lost = |index: &Index| found.damaged.contains(index);
    let mut whole = RecoveredLog { tail: found.tail.clone(), damaged: found.damaged.clone(), ..expected.clone() };
    whole.memberships.retain(|(index, _)| !is_lost(index));
    whole.is_membership_damaged = whole.memberships != expected.memberships;
    if found != whole {
        return Err(format!("{group} is {found:?}, expected {whole:?}"));
    }
    let missing = entries[..entries.len() - tail.len()].last().is_some_and(|last| !is_lost(&last.last()));
    if missing {
        return Err(format!("{group} lacks an entry before its tail {tail:?} that is not damaged"));
    }
    for entry in entries {
        let index = entry.first();
        match log.read(group, index, index, 0) {
            Ok(LogRead::Entries(runs)) if singles(&runs) == [entry] && !is_lost(&index) => {}
            Ok(LogRead::Damaged { at }) if at == index && is_lost(&index) => {}
            other => return Err(format!("{group}: {index} is {other:?}, and {:?} are damaged", found.damaged)),
        }
    }
    Ok(())
}

/// One way of damaging a file.
#[derive(Clone, Copy)]
pub(crate) enum Damage {
    /// A byte is another one.
    Flip,
    /// A sector lies where another one should.
    Misplace,
    /// A sector is as if it had never been written.
    Zero,
    /// The end is missing.
    CutShort,
}

impl Damage {
    /// By the next byte.
    pub(crate) fn next(source: &mut Source<'_>) -> Damage {
        [Damage::Flip, Damage::Flip, Damage::Flip, Damage::Misplace, Damage::Zero, Damage::CutShort][source.below(6)]
    }

    /// Damages what is in a file, where the next bytes say. Only [`Damage::Zero`] makes a sector be zeros that was not.
    pub(crate) fn apply(self, bytes: &mut Vec<u8>, source: &mut Source<'_>) {
        let at = u16::from_le_bytes([source.byte(), source.byte()]);
        let other = source.byte();
        // Mostly where something was written.
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let len = if other.is_multiple_of(8) { bytes.len() } else { written };
        let Some(at) = usize::from(at).checked_rem(len) else { return };
        let begin = at / SECTOR * SECTOR;
        let sector = begin..(begin + SECTOR).min(bytes.len());
        match self {
            Damage::Flip => {
                bytes[at] ^= other.max(1);
                if is_zero(&bytes[sector]) {
                    bytes[at] = 1;
                }
            }
            Damage::Misplace => {
                let to = usize::from(other) * SECTOR;
                if !is_zero(&bytes[sector.clone()]) && to + sector.len() <= bytes.len() {
                    bytes.copy_within(sector, to);
                }
            }
            Damage::Zero => bytes[sector].fill(0),
            Damage::CutShort => bytes.truncate(at),
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
