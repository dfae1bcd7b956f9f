//! The simulated disk's log.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard},
};

use coracle_core::{Base, Entry, EntryKind, GroupId, HardState, Index, LogRead, Membership, Recovered, Rng, Run, Term};
use coracle_storage::{LogBatch, LogStore, RecoveredLog, Result, StorageError};

use super::{
    lock,
    switch::{DiskOp, Switch},
};

/// A log and what goes with it, at some moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogState {
    pub(crate) hard_state: HardState,
    pub(crate) base: Base,
    entries: VecDeque<(Term, Entry)>,
    /// Entries whose data are gone: their checksums tell. What was there is kept, for the checkers.
    damaged: BTreeSet<Index>,
    /// The memberships among the entries, in order.
    memberships: Vec<(Index, Membership)>,
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

    /// The membership in force at the end.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.memberships.last().map(|(_, membership)| membership).or(self.base.membership.as_ref())
    }

    /// Where the entry of the membership in force at the end is.
    pub(crate) fn membership_index(&self) -> Index {
        self.memberships.last().map_or(self.base.membership_index, |(index, _)| *index)
    }

    /// The membership in force at `index`, which lies not below the base.
    pub(crate) fn membership_at(&self, index: Index) -> Option<&Membership> {
        let found = self.memberships.iter().rev().find(|(at, _)| *at <= index);
        found.map(|(_, membership)| membership).or(self.base.membership.as_ref())
    }

    /// The memberships whose entries lie at `from` or above, also the base's.
    pub(crate) fn memberships_from(&self, from: Index) -> Vec<Membership> {
        let base = self.base.membership.iter().filter(|_| self.base.membership_index >= from);
        let entries = self.memberships.iter().filter(|(at, _)| *at >= from).map(|(_, membership)| membership);
        base.chain(entries).cloned().collect()
    }

    /// How many membership entries lie above `index`.
    pub(crate) fn memberships_above(&self, index: Index) -> usize {
        self.memberships.iter().rev().take_while(|(at, _)| *at > index).count()
    }

    /// The term and the index of the last entry.
    pub(crate) fn last_position(&self) -> (Term, Index) {
        (self.term_at(self.last()).unwrap_or_default(), self.last())
    }

    fn push(&mut self, term: Term, entry: &Entry) -> Result<()> {
        if entry.kind == EntryKind::Membership {
            let membership = Membership::decode(entry.data.clone())
                .map_err(|error| StorageError::damaged("the log", error.to_string()))?;
            self.memberships.push((self.last().next(), membership));
        }
        self.entries.push_back((term, entry.clone()));
        Ok(())
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
            for entry in run.entries() {
                self.push(run.term(), entry)?;
            }
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
        self.memberships.retain(|(at, _)| *at < from);
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
        self.memberships.retain(|(at, _)| *at > base.index);
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
        for (offset, (term, _)) in self.entries.iter().enumerate() {
            let index = self.base.index.plus(offset as u64 + 1);
            if terms.last().is_none_or(|(_, last)| last != term) {
                terms.push((index, *term));
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
            memberships: self.memberships.iter().filter(|(index, _)| !self.is_damaged(*index)).cloned().collect(),
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
pub(crate) struct SimLog {
    state: Mutex<State>,
    switch: Arc<Switch>,
}

#[derive(Debug, Default)]
struct State {
    durable: LogState,
    /// What a read sees: what is durable, and what is not yet.
    seen: LogState,
    /// What is not durable, in order.
    unsynced: Vec<LogBatch>,
    /// The last batch on the disk, of which some blocks are valid and some were never written: a recovery finds it and cuts it off.
    torn: Option<Torn>,
    /// How many torn batches recoveries have cut off.
    torn_tails: u64,
    /// A write has failed: nothing more is accepted.
    has_failed: bool,
}

/// A batch that was being written when the power failed.
#[derive(Debug)]
struct Torn {
    batch: LogBatch,
    /// Which of its blocks were written: one for each entry, and one for the rest.
    blocks: Vec<bool>,
}

impl Torn {
    /// A batch of which any subset of the blocks was written.
    fn draw(batch: LogBatch, rng: &mut Rng) -> Torn {
        let entries: usize = batch.entries.iter().map(|run| run.entries().len()).sum();
        let blocks = (0..=entries).map(|_| rng.chance(0.5)).collect();
        Torn { batch, blocks }
    }

    fn is_whole(&self) -> bool {
        self.blocks.iter().all(|is_valid| *is_valid)
    }
}

impl SimLog {
    pub(super) fn founded(founded: &Recovered, switch: Arc<Switch>) -> SimLog {
        let mut state = LogState { hard_state: founded.hard_state, base: founded.base.clone(), ..LogState::default() };
        state.memberships.clone_from(&founded.memberships);
        for run in &founded.tail {
            state.entries.extend(run.entries().iter().map(|entry| (run.term(), entry.clone())));
        }
        let state = State { durable: state.clone(), seen: state, ..State::default() };
        SimLog { state: Mutex::new(state), switch }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Looks at what is durable.
    pub(crate) fn durable<T>(&self, look: impl FnOnce(&LogState) -> T) -> T {
        look(&self.state().durable)
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let state = &mut *self.state();
        for batch in mem::take(&mut state.unsynced) {
            state.durable.apply(&batch)?;
        }
        Ok(())
    }

    /// Damages one of the durable entries, and says which; none when there is none.
    pub(crate) fn rot(&self, rng: &mut Rng) -> Option<Index> {
        let state = &mut *self.state();
        let count = state.durable.entries.len() as u64;
        let index = state.durable.base.index.plus(1 + rng.below(count));
        state.durable.entry(index)?;
        for log in [&mut state.durable, &mut state.seen] {
            if log.entry(index).is_some() {
                log.damaged.insert(index);
            }
        }
        Some(index)
    }

    /// The damaged entries that have not been repaired, cut off or compacted away, with their terms.
    pub(crate) fn damaged(&self) -> Vec<(Index, Term)> {
        let log = &self.state().durable;
        log.damaged.iter().filter_map(|index| Some((*index, log.term_at(*index)?))).collect()
    }

    /// How many torn batches were found and cut off, since this was last asked.
    pub(crate) fn take_torn_tails(&self) -> u64 {
        mem::take(&mut self.state().torn_tails)
    }

    /// Forgets the last `count` entries, as no correct disk does.
    pub(crate) fn lose_entries(&self, count: usize) {
        let state = &mut *self.state();
        let keep = state.durable.entries.len().saturating_sub(count);
        state.durable.entries.truncate(keep);
        let last = state.durable.last();
        state.durable.memberships.retain(|(at, _)| *at <= last);
        let hard_state = &mut state.durable.hard_state;
        hard_state.commit_index = hard_state.commit_index.min(last);
        state.seen = state.durable.clone();
    }

    /// A prefix of what is not synced survives; the next batch may be there in part.
    pub(super) fn crash(&self, rng: &mut Rng, torn: f64) {
        let state = &mut *self.state();
        let survive = rng.below(state.unsynced.len() as u64 + 1) as usize;
        let mut lost = mem::take(&mut state.unsynced).into_iter();
        for batch in lost.by_ref().take(survive) {
            state.keep(&batch);
        }
        if let Some(batch) = lost.next()
            && rng.chance(torn)
        {
            let torn = Torn::draw(batch, rng);
            if torn.is_whole() {
                state.keep(&torn.batch);
            } else {
                state.torn = Some(torn);
            }
        }
        state.seen = state.durable.clone();
        state.has_failed = false;
    }
}

impl State {
    /// A batch has come to the disk: it was applied to what is seen already, on top of the same state.
    fn keep(&mut self, batch: &LogBatch) {
        let applied = self.durable.apply(batch);
        debug_assert!(applied.is_ok(), "{applied:?}");
    }
}

impl LogStore for SimLog {
    fn recover(&self, _group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        self.switch.operate(DiskOp::LogRead)?;
        self.sync()?;
        let state = &mut *self.state();
        state.torn_tails += u64::from(state.torn.take().is_some());
        state.seen.recover(tail_bytes_max)
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let state = &mut *self.state();
        if state.has_failed {
            return Err(StorageError::Stopped("an earlier write failed".into()));
        }
        self.switch.reserve(DiskOp::LogWrite)?;
        for batch in batches {
            state.seen.apply(batch)?;
            state.unsynced.push(batch.clone());
        }
        let written = self.switch.operate(DiskOp::LogWrite);
        state.has_failed = written.is_err();
        written
    }

    fn read(&self, _group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.switch.operate(DiskOp::LogRead)?;
        self.state().seen.read(from, to, bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{NodeId, Runs};

    use super::{super::GROUP, *};

    fn log() -> SimLog {
        SimLog::founded(&Recovered::founded(Membership::of_voters([NodeId(1)])), Arc::default())
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
            log.crash(&mut Rng::new(seed), 0.5);
            let last = log.recover(GROUP, usize::MAX).unwrap().last_index.0;
            assert!([2, 4, 6].contains(&last), "{last}");
        }
    }

    #[test]
    fn a_torn_batch_is_cut_off_as_a_whole() {
        let mut torn_tails = 0;
        for seed in 0..50 {
            let log = log();
            log.write(&[append(2, 1, 3)]).unwrap();
            log.crash(&mut Rng::new(seed), 1.0);
            let last = log.recover(GROUP, usize::MAX).unwrap().last_index.0;
            let torn = log.take_torn_tails();
            assert!(last == 1 || (last == 4 && torn == 0), "{last}, {torn} torn");
            torn_tails += torn;
        }
        assert!((10..50).contains(&torn_tails), "{torn_tails}");
    }

    #[test]
    fn a_new_base_drops_what_lies_below_it() {
        let log = log();
        log.write(&[append(2, 1, 3)]).unwrap();
        let base = Base { index: Index(3), term: Term(1), ..Base::default() };
        log.write(&[LogBatch { entries: Runs::new(), base: Some(base), ..append(5, 1, 1) }]).unwrap();
        assert_eq!(log.read(GROUP, Index(3), Index(4), 100).unwrap(), LogRead::Compacted);
        assert!(matches!(log.read(GROUP, Index(4), Index(9), 100).unwrap(), LogRead::Entries(runs) if runs.len() == 1));
        assert!(log.read(GROUP, Index(5), Index(5), 100).is_err());
    }

    #[test]
    fn a_failed_write_is_the_last() {
        let log = log();
        log.switch.fail_next(DiskOp::LogWrite);
        assert!(log.write(&[append(2, 1, 1)]).is_err());
        assert!(log.write(&[append(2, 1, 1)]).is_err());
    }

    #[test]
    fn damage_is_found_and_ends_where_it_was_written_over() {
        let log = log();
        log.write(&[append(2, 1, 3)]).unwrap();
        log.sync().unwrap();
        let index = log.rot(&mut Rng::new(5)).unwrap();
        assert_eq!(log.damaged(), [(index, Term(1))]);
        let found = log.recover(GROUP, usize::MAX).unwrap();
        assert_eq!((found.damaged, found.last_index), (vec![index], Index(4)));
        assert!(found.tail.first().is_none_or(|run| run.first() > index));
        assert_eq!(log.read(GROUP, index, Index(4), 100).unwrap(), LogRead::Damaged { at: index });
        let cut = LogBatch { truncate_from: Some(index), ..append(index.0, 2, 1) };
        log.write(&[cut]).unwrap();
        log.sync().unwrap();
        assert_eq!(log.recover(GROUP, usize::MAX).unwrap().damaged, []);
    }

    #[test]
    fn c18_a_full_disk_writes_nothing_and_the_same_write_later() {
        let log = log();
        log.switch.set_full(true);
        assert!(matches!(log.write(&[append(2, 1, 1)]), Err(StorageError::Full { .. })));
        log.sync().unwrap();
        assert_eq!(log.durable(LogState::last), Index(1));
        log.switch.set_full(false);
        log.write(&[append(2, 1, 1)]).unwrap();
        log.sync().unwrap();
        assert_eq!(log.durable(LogState::last), Index(2));
    }
}
