//! The simulated disk's log.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    sync::{Mutex, MutexGuard},
};

use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, LogRead, Membership, Recovered, Rng, Run, Term};
use coracle_storage::{LogBatch, LogStore, RecoveredLog, Result, StorageError};

use super::lock;

/// A log and what goes with it, at some moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogState {
    pub(crate) hard_state: HardState,
    pub(crate) base: Base,
    entries: VecDeque<(Term, Entry)>,
    /// Entries whose data are gone: their checksums tell. What was there is kept, for the checkers.
    damaged: BTreeSet<Index>,
}

impl LogState {
    /// The last index; the base's when there are no entries.
    pub(crate) fn last(&self) -> Index {
        self.base.index.plus(self.entries.len() as u64)
    }

    /// The entry at `index`, if it is retained.
    pub(crate) fn entry(&self, index: Index) -> Option<&(Term, Entry)> {
        let at = index.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(at as usize)
    }

    /// The term at `index`, which may be the base's.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index { Some(self.base.term) } else { self.entry(index).map(|(term, _)| *term) }
    }

    /// Whether it surely holds (`index`, `term`), or has compacted it away.
    pub(crate) fn holds(&self, index: Index, term: Term) -> bool {
        index < self.base.index || self.term_at(index) == Some(term)
    }

    /// Whether the data of the entry at `index` are gone.
    pub(crate) fn is_damaged(&self, index: Index) -> bool {
        self.damaged.contains(&index)
    }

    /// Cuts off, repairs, appends, sets. A base beyond the end begins the log anew, when everything was cut off.
    pub(crate) fn apply(&mut self, batch: &LogBatch) -> Result<()> {
        if let Some(from) = batch.truncate_from {
            self.cut_off(from)?;
        }
        for run in &batch.repaired {
            self.repair(run)?;
        }
        if let Some(base) = batch.base.as_ref().filter(|base| self.begins_anew(base, &batch.entries)) {
            if !self.entries.is_empty() {
                return Err(invalid(format!("a base at {} leaves a gap after {}", base.index, self.last())));
            }
            self.set_base(base);
        }
        for run in &batch.entries {
            if run.first() != self.last().next() {
                return Err(invalid(format!("{run:?} does not follow {}", self.last())));
            }
            self.entries.extend(run.entries().iter().map(|entry| (run.term(), entry.clone())));
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(base) = &batch.base {
            self.set_base(base);
        }
        Ok(())
    }

    fn cut_off(&mut self, from: Index) -> Result<()> {
        if from <= self.base.index {
            return Err(invalid(format!("cannot cut off from {from}: the log begins after {}", self.base.index)));
        }
        self.entries.truncate((from.0 - self.base.index.0 - 1) as usize);
        self.damaged.split_off(&from);
        Ok(())
    }

    fn repair(&mut self, repaired: &Run) -> Result<()> {
        for (index, entry) in repaired.iter() {
            if self.entry(index) != Some(&(repaired.term(), entry.clone())) {
                return Err(invalid(format!("{repaired:?} is not what was there at {index}")));
            }
            self.damaged.remove(&index);
        }
        Ok(())
    }

    fn begins_anew(&self, base: &Base, entries: &[Run]) -> bool {
        base.index > self.last() && entries.first().is_none_or(|run| run.first() == base.index.next())
    }

    fn set_base(&mut self, base: &Base) {
        let gone = base.index.0.saturating_sub(self.base.index.0) as usize;
        self.entries.drain(..gone.min(self.entries.len()));
        self.base = base.clone();
        self.damaged = self.damaged.split_off(&base.index.next());
    }

    fn read(&self, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        if from <= self.base.index {
            return Ok(LogRead::Compacted);
        }
        if from > self.last() {
            return Err(invalid(format!("asked for {from}, the log ends at {}", self.last())));
        }
        let damaged = self.damaged.range(from..).next().copied();
        if damaged == Some(from) {
            return Ok(LogRead::Damaged { at: from });
        }
        let to = damaged.map_or(to, |damaged| to.min(damaged.prev()));
        let mut bytes = 0;
        let mut last = from;
        while last < to.min(self.last()) {
            bytes += self.entry(last).map_or(0, |(_, entry)| entry.size());
            let next = self.entry(last.next()).map_or(0, |(_, entry)| entry.size());
            if bytes + next > bytes_max {
                break;
            }
            last = last.next();
        }
        Ok(LogRead::Entries(self.runs(from, last)))
    }

    fn runs(&self, from: Index, to: Index) -> Vec<Run> {
        let mut runs: Vec<(Index, Term, Vec<Entry>)> = Vec::new();
        for index in from.0..=to.0 {
            let Some((term, entry)) = self.entry(Index(index)) else { break };
            match runs.last_mut() {
                Some((_, last, entries)) if last == term => entries.push(entry.clone()),
                _ => runs.push((Index(index), *term, vec![entry.clone()])),
            }
        }
        runs.into_iter().map(|(first, term, entries)| Run::new(first, term, entries)).collect()
    }

    fn recover(&self, tail_bytes_max: usize) -> Result<RecoveredLog> {
        let mut terms: Vec<(Index, Term)> = Vec::new();
        let mut memberships = Vec::new();
        for (offset, (term, entry)) in self.entries.iter().enumerate() {
            let index = self.base.index.plus(offset as u64 + 1);
            if terms.last().is_none_or(|(_, last)| last != term) {
                terms.push((index, *term));
            }
            if entry.kind == EntryKind::Membership && !self.is_damaged(index) {
                let membership = Membership::decode(entry.data.clone())
                    .map_err(|error| StorageError::damaged("the log", error.to_string()))?;
                memberships.push((index, membership));
            }
        }
        let mut bytes = 0;
        let mut from = self.last().next();
        while let Some((_, entry)) = self.entry(from.prev()) {
            bytes += entry.size();
            if bytes > tail_bytes_max || self.is_damaged(from.prev()) {
                break;
            }
            from = from.prev();
        }
        Ok(RecoveredLog {
            hard_state: self.hard_state,
            base: self.base.clone(),
            terms,
            memberships,
            last_index: self.last(),
            tail: self.runs(from, self.last()),
            damaged: self.damaged.iter().copied().collect(),
            is_membership_damaged: !self.damaged.is_empty(),
        })
    }
}

fn invalid(what: String) -> StorageError {
    StorageError::Invalid(what)
}

/// The log as a store: what is written is seen at once, and durable once it is synced.
#[derive(Debug)]
pub(crate) struct SimLog(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    durable: LogState,
    /// What a read sees: what is durable, and what is not yet.
    seen: LogState,
    /// What is not durable, in order.
    unsynced: Vec<LogBatch>,
    /// The next write fails.
    fails: bool,
    /// A write has failed: nothing more is accepted.
    has_failed: bool,
}

impl SimLog {
    pub(super) fn founded(founded: &Recovered) -> SimLog {
        let mut state = LogState { hard_state: founded.hard_state, base: founded.base.clone(), ..LogState::default() };
        for run in &founded.tail {
            state.entries.extend(run.entries().iter().map(|entry| (run.term(), entry.clone())));
        }
        SimLog(Mutex::new(State { durable: state.clone(), seen: state, ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Looks at what is durable.
    pub(crate) fn durable<T>(&self, look: impl FnOnce(&LogState) -> T) -> T {
        look(&self.state().durable)
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let state = &mut *self.state();
        for batch in state.unsynced.drain(..) {
            state.durable.apply(&batch)?;
        }
        Ok(())
    }

    /// Lets the next write fail.
    pub(crate) fn fail_next(&self) {
        self.state().fails = true;
    }

    /// The data of an entry rot, as long as it is retained.
    pub(crate) fn damage(&self, index: Index) {
        let state = &mut *self.state();
        for log in [&mut state.durable, &mut state.seen] {
            if log.entry(index).is_some() {
                log.damaged.insert(index);
            }
        }
    }

    /// Forgets the last `count` entries, as no correct disk does.
    pub(crate) fn lose_entries(&self, count: usize) {
        let state = &mut *self.state();
        let keep = state.durable.entries.len().saturating_sub(count);
        state.durable.entries.truncate(keep);
        let last = state.durable.last();
        let hard_state = &mut state.durable.hard_state;
        hard_state.commit_index = hard_state.commit_index.min(last);
        state.seen = state.durable.clone();
    }

    pub(super) fn crash(&self, rng: &mut Rng) {
        let state = &mut *self.state();
        let survive = rng.below(state.unsynced.len() as u64 + 1) as usize;
        for batch in state.unsynced.drain(..).take(survive) {
            // It was applied to what is seen already, on top of the same state.
            let applied = state.durable.apply(&batch);
            debug_assert!(applied.is_ok(), "{applied:?}");
        }
        state.unsynced.clear();
        state.seen = state.durable.clone();
        state.fails = false;
        state.has_failed = false;
    }
}

impl LogStore for SimLog {
    fn recover(&self, _group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        self.sync()?;
        self.state().seen.recover(tail_bytes_max)
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let state = &mut *self.state();
        if state.has_failed {
            return Err(StorageError::Stopped("an earlier write failed".into()));
        }
        state.has_failed = std::mem::take(&mut state.fails);
        for batch in batches {
            state.seen.apply(batch)?;
            state.unsynced.push(batch.clone());
        }
        if state.has_failed {
            return Err(StorageError::io("sync the log", io::Error::other("injected by the simulator")));
        }
        Ok(())
    }

    fn read(&self, _group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.state().seen.read(from, to, bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::NodeId;

    use super::{super::GROUP, *};

    fn log() -> SimLog {
        SimLog::founded(&Recovered::founded(Membership::of_voters([NodeId(1)])))
    }

    fn append(first: u64, term: u64, count: usize) -> LogBatch {
        LogBatch::append(GROUP, vec![Run::new(Index(first), Term(term), vec![Entry::command("x"); count])])
    }

    #[test]
    fn a_crash_loses_a_suffix_of_what_is_not_synced() {
        for seed in 0..50 {
            let log = log();
            log.write(&[append(2, 1, 1)]).unwrap();
            log.sync().unwrap();
            log.write(&[append(3, 1, 2), append(5, 2, 2)]).unwrap();
            log.crash(&mut Rng::new(seed));
            let last = log.recover(GROUP, usize::MAX).unwrap().last_index.0;
            assert!([2, 4, 6].contains(&last), "{last}");
        }
    }

    #[test]
    fn a_new_base_drops_what_lies_below_it() {
        let log = log();
        log.write(&[append(2, 1, 3)]).unwrap();
        let base = Base { index: Index(3), term: Term(1), ..Base::default() };
        log.write(&[LogBatch { entries: Vec::new(), base: Some(base), ..append(5, 1, 1) }]).unwrap();
        assert_eq!(log.read(GROUP, Index(3), Index(4), 100).unwrap(), LogRead::Compacted);
        assert!(matches!(log.read(GROUP, Index(4), Index(9), 100).unwrap(), LogRead::Entries(runs) if runs.len() == 1));
        assert!(log.read(GROUP, Index(5), Index(5), 100).is_err());
    }

    #[test]
    fn a_failed_write_is_the_last() {
        let log = log();
        log.fail_next();
        assert!(log.write(&[append(2, 1, 1)]).is_err());
        assert!(log.write(&[append(2, 1, 1)]).is_err());
    }
}
