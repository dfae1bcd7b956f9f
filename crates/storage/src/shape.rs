//! What a log looks like without its entries: the rules of a write, for adapters.

use coracle_core::{Base, Index, Run, Term};

use crate::{LogBatch, Result, StorageError};

/// Where a log begins and ends, and its terms: what an adapter keeps in memory to refuse a write that would leave a gap.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LogShape {
    base: Index,
    base_term: Term,
    terms: Vec<(Index, Term)>,
    last_index: Index,
}

/// Where a log ends: enough to tell whether a run may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnd {
    last_index: Index,
    last_term: Term,
}

impl LogEnd {
    /// Where the log ends after `run`.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the run does not follow.
    pub fn after(self, run: &Run) -> Result<LogEnd> {
        self.after_span(run.first(), run.last(), run.term())
    }

    fn after_span(self, first: Index, last_index: Index, last_term: Term) -> Result<LogEnd> {
        let expected = self.last_index.next();
        if first != expected {
            return Err(invalid(format!("entries begin at {first}, expected {expected}: the log has no gaps")));
        }
        if last_term < self.last_term {
            let before = self.last_term;
            return Err(invalid(format!("the entry at {expected} has term {last_term}, after term {before}")));
        }
        Ok(LogEnd { last_index, last_term })
    }
}

impl LogShape {
    /// A log without entries that begins after `base`.
    pub fn new(base: &Base) -> LogShape {
        LogShape { base: base.index, base_term: base.term, terms: Vec::new(), last_index: base.index }
    }

    /// A log as it was recovered.
    pub fn recovered(base: &Base, terms: Vec<(Index, Term)>, last_index: Index) -> LogShape {
        LogShape { base: base.index, base_term: base.term, terms, last_index }
    }

    /// The last index that is not there any more.
    pub fn base(&self) -> Index {
        self.base
    }

    /// The last index; the base's when there are no entries.
    pub fn last_index(&self) -> Index {
        self.last_index
    }

    /// The term at the last index.
    pub fn last_term(&self) -> Term {
        self.terms.last().map_or(self.base_term, |(_, term)| *term)
    }

    /// Its end alone, which is cheap to copy.
    pub fn end(&self) -> LogEnd {
        LogEnd { last_index: self.last_index, last_term: self.last_term() }
    }

    /// The first index of each term, in order.
    pub fn terms(&self) -> &[(Index, Term)] {
        &self.terms
    }

    /// What the log looks like after `batch`: cut off, then repaired, then appended to, then compacted up to the base.
    /// A base beyond the end begins the log anew, which is allowed only when everything was cut off.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the batch cannot follow this log; nothing of it may be written then.
    pub fn after(&self, batch: &LogBatch) -> Result<LogShape> {
        let mut next = self.clone();
        let spans = batch.entries.iter().map(|run| (run.first(), run.last(), run.term()));
        let truncated = |next: &LogShape| next.check_repaired(&batch.repaired);
        next.change(batch.truncate_from, truncated, spans, batch.base.as_ref())?;
        Ok(next)
    }

    /// Takes note of a batch that only appends, which most do, without looking at anything but the log's end; says false, and changes nothing, for any other.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when the batch cannot follow this log; nothing of it may be written then.
    pub fn append(&mut self, batch: &LogBatch) -> Result<bool> {
        let LogBatch { group: _, truncate_from: None, repaired, entries, hard_state: _, base: None } = batch else {
            return Ok(false);
        };
        if !repaired.is_empty() {
            return Ok(false);
        }
        entries.iter().try_fold(self.end(), LogEnd::after)?;
        for run in entries {
            self.push_span(run.first(), run.last(), run.term())?;
        }
        Ok(true)
    }

    /// Goes through what a batch did that was written: cut off, append entries of which only first and last index and term are known, begin after the base.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when no such batch can have followed this log; what it looks like then is of no use.
    pub fn replay(
        &mut self,
        truncate_from: Option<Index>,
        spans: impl Iterator<Item = (Index, Index, Term)> + Clone,
        base: Option<&Base>,
    ) -> Result<()> {
        self.change(truncate_from, |_| Ok(()), spans, base)
    }

    fn change(
        &mut self,
        truncate_from: Option<Index>,
        check_truncated: impl FnOnce(&LogShape) -> Result<()>,
        spans: impl Iterator<Item = (Index, Index, Term)> + Clone,
        base: Option<&Base>,
    ) -> Result<()> {
        if let Some(from) = truncate_from {
            self.truncate(from)?;
        }
        check_truncated(self)?;
        if let Some(base) = base {
            self.begin_anew(base, spans.clone().next().map(|(first, ..)| first))?;
        }
        for (first, last, term) in spans {
            self.push_span(first, last, term)?;
        }
        if let Some(base) = base {
            self.compact(base);
        }
        Ok(())
    }

    /// Appends a run.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] when it does not follow the last entry.
    pub fn push(&mut self, run: &Run) -> Result<()> {
        self.push_span(run.first(), run.last(), run.term())
    }

    fn push_span(&mut self, first: Index, last: Index, term: Term) -> Result<()> {
        self.end().after_span(first, last, term)?;
        let before = self.last_term();
        if self.terms.is_empty() || term > before {
            self.terms.push((first, term));
        }
        self.last_index = last;
        Ok(())
    }

    /// The term of the entry at `index`, if the log has it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index <= self.base || index > self.last_index {
            return None;
        }
        let later = self.terms.partition_point(|(first, _)| *first <= index);
        later.checked_sub(1).map(|at| self.terms[at].1)
    }

    /// Whether repaired entries are in order, and lie where the log has entries of their terms.
    fn check_repaired(&self, repaired: &[Run]) -> Result<()> {
        let is_sorted = repaired.windows(2).all(|pair| pair[0].last() < pair[1].first());
        let is_held =
            |run: &Run| [run.first(), run.last()].iter().all(|index| self.term_at(*index) == Some(run.term()));
        match repaired.iter().find(|run| !is_held(run)) {
            Some(run) => {
                Err(invalid(format!("cannot repair {run:?}: the log does not hold entries of that term there")))
            }
            None if !is_sorted => Err(invalid(format!("repaired entries are not in order: {repaired:?}"))),
            None => Ok(()),
        }
    }

    fn truncate(&mut self, from: Index) -> Result<()> {
        if from <= self.base {
            return Err(invalid(format!("cannot cut off from {from}: the log begins after {}", self.base)));
        }
        if from <= self.last_index {
            self.last_index = from.prev();
            self.terms.retain(|(first, _)| *first < from);
        }
        Ok(())
    }

    fn begin_anew(&mut self, base: &Base, first: Option<Index>) -> Result<()> {
        if base.index < self.base {
            return Err(invalid(format!("base {} lies before the log's, {}", base.index, self.base)));
        }
        let continues = first == Some(self.last_index.next());
        if base.index <= self.last_index || continues {
            return Ok(());
        }
        if self.last_index != self.base {
            let last = self.last_index;
            return Err(invalid(format!(
                "base {} lies beyond the end, {last}, of a log that is not empty",
                base.index
            )));
        }
        *self = LogShape::new(base);
        Ok(())
    }

    fn compact(&mut self, base: &Base) {
        let first = base.index.next();
        let reached = self.terms.partition_point(|(index, _)| *index <= first);
        // The term that holds the first retained index now begins there.
        self.terms.drain(..reached.saturating_sub(1));
        if let Some((index, _)) = self.terms.first_mut() {
            *index = (*index).max(first);
        }
        if base.index >= self.last_index {
            self.terms.clear();
            self.last_index = base.index;
        }
        self.base = base.index;
        self.base_term = base.term;
    }
}

fn invalid(what: String) -> StorageError {
    StorageError::Invalid(what)
}

/// Takes entries up to a limit in bytes, but at least one: what a read of the log returns.
#[derive(Debug)]
pub struct Bounded {
    left: usize,
    taken: Vec<Run>,
    full: bool,
}

impl Bounded {
    /// Takes at most `bytes_max` bytes of entries.
    pub fn new(bytes_max: usize) -> Bounded {
        Bounded { left: bytes_max, taken: Vec::new(), full: false }
    }

    /// Takes as much of `run` as fits; returns whether there is room for more.
    pub fn take(&mut self, run: &Run) -> bool {
        let mut count = 0;
        for entry in run.entries() {
            let is_first = count == 0 && self.taken.is_empty();
            if self.full || (entry.size() > self.left && !is_first) {
                self.full = true;
                break;
            }
            self.left = self.left.saturating_sub(entry.size());
            count += 1;
        }
        if count > 0 {
            self.taken.extend(run.slice(run.first(), run.first().plus(count - 1)));
        }
        !self.full
    }

    /// Whether nothing was taken yet.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// What was taken.
    pub fn into_runs(self) -> Vec<Run> {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Entry, GroupId};

    use super::*;

    fn run(first: u64, term: u64, count: usize) -> Run {
        Run::new(Index(first), Term(term), vec![Entry::command("abc"); count])
    }

    fn batch(entries: Vec<Run>) -> LogBatch {
        LogBatch::append(GroupId(1), entries)
    }

    fn base(index: u64, term: u64) -> Base {
        Base { index: Index(index), term: Term(term), ..Base::default() }
    }

    #[test]
    fn a_compacted_log_keeps_the_term_of_its_first_entry() {
        let shape = LogShape::default().after(&batch(vec![run(1, 1, 3), run(4, 2, 3)])).unwrap();
        for (index, expected) in [
            (1, vec![(Index(2), Term(1)), (Index(4), Term(2))]),
            (3, vec![(Index(4), Term(2))]),
            (4, vec![(Index(5), Term(2))]),
            (6, vec![]),
        ] {
            let cut = LogBatch { base: Some(base(index, 1)), ..batch(vec![]) };
            let after = shape.after(&cut).unwrap();
            assert_eq!(after.terms(), expected, "compacted up to {index}");
            assert_eq!((after.base(), after.last_index()), (Index(index), Index(6)));
        }
    }

    #[test]
    fn a_term_that_falls_is_refused() {
        let shape = LogShape::default().after(&batch(vec![run(1, 3, 1)])).unwrap();
        assert!(matches!(shape.after(&batch(vec![run(2, 2, 1)])), Err(StorageError::Invalid(_))));
        let cut = LogBatch { truncate_from: Some(Index(1)), ..batch(vec![run(1, 2, 1)]) };
        assert_eq!(shape.after(&cut).unwrap().last_term(), Term(2));
    }

    #[test]
    fn a_batch_that_only_appends_is_taken_as_any_other() {
        let before = LogShape::default().after(&batch(vec![run(1, 3, 2)])).unwrap();
        for entries in [vec![], vec![run(3, 3, 1)], vec![run(3, 3, 2), run(5, 4, 1), run(6, 4, 1)]] {
            let (mut shape, batch) = (before.clone(), batch(entries));
            assert!(shape.append(&batch).unwrap());
            assert_eq!(shape, before.after(&batch).unwrap());
        }
        let mut shape = before.clone();
        for wrong in [vec![run(4, 3, 1)], vec![run(3, 2, 1)], vec![run(3, 3, 1), run(5, 3, 1)]] {
            assert!(matches!(shape.append(&batch(wrong)), Err(StorageError::Invalid(_))));
            assert_eq!(shape, before);
        }
        for other in [
            LogBatch { truncate_from: Some(Index(2)), ..batch(vec![run(2, 3, 1)]) },
            LogBatch { base: Some(base(1, 3)), ..batch(vec![run(3, 3, 1)]) },
            LogBatch { repaired: vec![run(1, 3, 1)], ..batch(vec![run(3, 3, 1)]) },
        ] {
            assert!(!shape.append(&other).unwrap());
            assert_eq!(shape, before);
        }
    }

    #[test]
    fn a_base_beyond_the_end_needs_an_empty_log() {
        let shape = LogShape::default().after(&batch(vec![run(1, 1, 5)])).unwrap();
        let beyond = LogBatch { base: Some(base(9, 4)), ..batch(vec![]) };
        assert!(shape.after(&beyond).is_err());
        let cut = LogBatch { truncate_from: Some(Index(1)), ..beyond };
        let after = shape.after(&cut).unwrap();
        assert_eq!((after.base(), after.last_index(), after.last_term()), (Index(9), Index(9), Term(4)));
        assert_eq!(after.after(&batch(vec![run(10, 4, 1)])).unwrap().terms(), [(Index(10), Term(4))]);
    }

    #[test]
    fn c19_only_what_the_log_holds_is_repaired() {
        let shape = LogShape::default().after(&batch(vec![run(1, 1, 3), run(4, 2, 3)])).unwrap();
        let shape = shape.after(&LogBatch { base: Some(base(1, 1)), ..batch(vec![]) }).unwrap();
        let repair = |repaired, truncate_from| LogBatch { repaired, truncate_from, ..batch(vec![]) };
        for whole in [vec![run(2, 1, 2)], vec![run(2, 1, 1), run(3, 1, 1), run(4, 2, 3)]] {
            assert_eq!(shape.after(&repair(whole, None)).unwrap(), shape);
        }
        let cut = Some(Index(4));
        for (wrong, cut) in [
            (vec![run(1, 1, 1)], None),
            (vec![run(3, 1, 2)], None),
            (vec![run(4, 1, 1)], None),
            (vec![run(7, 2, 1)], None),
            (vec![run(3, 1, 1), run(2, 1, 1)], None),
            (vec![run(3, 1, 1), run(3, 1, 1)], None),
            (vec![run(4, 2, 1)], cut),
        ] {
            let refused = shape.after(&repair(wrong.clone(), cut));
            assert!(matches!(refused, Err(StorageError::Invalid(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_read_takes_at_least_one_entry_and_no_more_than_fits() {
        let size = Entry::command("abc").size();
        for (bytes_max, expected) in [(0, 1), (size, 1), (2 * size, 2), (4 * size - 1, 3), (100 * size, 6)] {
            let mut bounded = Bounded::new(bytes_max);
            for part in [run(1, 1, 3), run(4, 2, 3)] {
                bounded.take(&part);
            }
            let taken: usize = bounded.into_runs().iter().map(Run::len).sum();
            assert_eq!(taken, expected, "{bytes_max} bytes");
        }
    }
}
