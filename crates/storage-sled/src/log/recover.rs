//! Reading a whole log when it is opened (C3).

use std::collections::VecDeque;

use coracle_core::{Base, EntryKind, Index, Membership, Run, Term};
use coracle_storage::{LogShape, RecoveredLog, Result, StorageError};

use super::{
    Head,
    record::{self, Outline, State},
    rows,
};
use crate::engine::Engine;

/// More damaged entries than this are no log any more.
const DAMAGED_MAX: u64 = 1 << 16;

/// Reads a log from its base to its end and checks every entry.
pub(super) fn scan(
    engine: &Engine,
    tree: &sled::Tree,
    place: &str,
    tail_bytes_max: usize,
) -> Result<(Head, RecoveredLog)> {
    let base = record::base(engine, tree, place)?;
    let Some(state) = record::state(engine, tree, place)? else {
        if engine.run("read the log", || tree.iter().next().transpose())?.is_some() {
            return Err(StorageError::damaged(place, "term and vote are missing"));
        }
        let head = Head { memberships: Some(Vec::new()), ..Head::default() };
        return Ok((head, RecoveredLog::default()));
    };
    if state.last_index < base.index {
        let what = format!("it begins after {} and ends at {}", base.index, state.last_index);
        return Err(StorageError::damaged(place, what));
    }
    let mut reader = Reader::new(&base, place, tail_bytes_max);
    reader.read(engine, tree, state.last_index)?;
    let outline = record::outline(engine, tree, place)?;
    reader.finish(base, &state, outline)
}

/// Consecutive entries of one term that are whole.
struct Stretch {
    first: Index,
    last: Index,
    term: Term,
}

struct Reader<'a> {
    place: &'a str,
    /// The last index that was looked at.
    last: Index,
    /// The base, then what is whole, in order; between them lies damage.
    whole: Vec<Stretch>,
    memberships: Vec<(Index, Membership)>,
    tail: VecDeque<Run>,
    tail_bytes: usize,
    tail_bytes_max: usize,
}

impl<'a> Reader<'a> {
    fn new(base: &Base, place: &'a str, tail_bytes_max: usize) -> Reader<'a> {
        let base = Stretch { first: base.index, last: base.index, term: base.term };
        Reader {
            place,
            last: base.last,
            whole: vec![base],
            memberships: Vec::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
        }
    }

    fn damaged<T>(&self, what: String) -> Result<T> {
        Err(StorageError::damaged(self.place, what))
    }

    /// Takes what is whole up to `last`.
    fn read(&mut self, engine: &Engine, tree: &sled::Tree, last: Index) -> Result<()> {
        // What compaction has not deleted yet is passed over: it may be half there.
        let first = rows::block_of(engine, tree, self.last.next())?.unwrap_or_default();
        let mut blocks = rows::Blocks::new(engine, tree, first);
        while let Some((first, block)) = blocks.next()? {
            for run in rows::whole(first, block) {
                self.take(&run)?;
            }
        }
        if self.last > last {
            return self.damaged(format!("it holds {}, but ends at {last}", self.last));
        }
        self.skip_to(last.next());
        Ok(())
    }

    /// What lies before `next` and was not met is damaged: the tail begins after it.
    fn skip_to(&mut self, next: Index) {
        if next > self.last.next() {
            self.tail.clear();
            self.tail_bytes = 0;
        }
    }

    /// Takes the part of a run that was not met yet.
    fn take(&mut self, run: &Run) -> Result<()> {
        let Some(run) = run.slice(self.last.next(), Index::MAX) else { return Ok(()) };
        self.skip_to(run.first());
        for (index, entry) in run.iter().filter(|(_, entry)| entry.kind == EntryKind::Membership) {
            let Ok(membership) = Membership::decode(entry.data.clone()) else {
                return self.damaged(format!("the membership at {index} does not decode"));
            };
            self.memberships.push((index, membership));
        }
        let is_first = self.whole.len() == 1;
        match self.whole.last_mut() {
            Some(before) if before.term > run.term() => {
                return self
                    .damaged(format!("the entry at {} is of an earlier term than those before it", run.first()));
            }
            Some(before) if !is_first && before.term == run.term() && before.last.next() == run.first() => {
                before.last = run.last();
            }
            _ => self.whole.push(Stretch { first: run.first(), last: run.last(), term: run.term() }),
        }
        self.last = run.last();
        self.keep(run);
        Ok(())
    }

    fn keep(&mut self, run: Run) {
        self.tail_bytes += run.size();
        self.tail.push_back(run);
        while self.tail_bytes > self.tail_bytes_max {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.size();
        }
    }

    fn finish(self, base: Base, state: &State, outline: Option<Outline>) -> Result<(Head, RecoveredLog)> {
        let gaps = self.gaps(state.last_index);
        let count: u64 = gaps.iter().map(|(first, last)| last.0 - first.0 + 1).sum();
        if count > DAMAGED_MAX {
            return self
                .damaged(format!("{count} of its entries are damaged or missing, at most {DAMAGED_MAX} can be"));
        }
        let damaged: Vec<Index> = gaps.iter().flat_map(|(first, last)| (first.0..=last.0).map(Index)).collect();
        let is_whole = damaged.is_empty();
        let terms = match &outline {
            Some(outline) if !is_whole => self.outlined_terms(&base, &outline.terms, state.last_index)?,
            _ => self.told_terms(&base, &gaps)?,
        };
        // Without damage the entries themselves tell which are memberships.
        let met = || self.memberships.iter().map(|(index, _)| *index).collect();
        let memberships: Option<Vec<Index>> =
            if is_whole { Some(met()) } else { outline.and_then(|it| it.memberships) };
        let is_among = |known: &Vec<Index>| damaged.iter().any(|index| known.binary_search(index).is_ok());
        let is_membership_damaged = !is_whole && memberships.as_ref().is_none_or(is_among);
        let head = Head {
            hard_state: state.hard_state,
            shape: LogShape::recovered(&base, terms.clone(), state.last_index),
            memberships,
            generation: state.generation,
            is_purged: false,
        };
        let recovered = RecoveredLog {
            hard_state: state.hard_state,
            base,
            terms,
            memberships: self.memberships,
            last_index: state.last_index,
            tail: self.tail.into(),
            damaged,
            is_membership_damaged,
        };
        Ok((head, recovered))
    }

    /// First and last index of each stretch that is damaged or missing.
    fn gaps(&self, last_index: Index) -> Vec<(Index, Index)> {
        let ends = self.whole.iter().skip(1).map(|stretch| stretch.first).chain([last_index.next()]);
        let between = self.whole.iter().zip(ends).map(|(stretch, next)| (stretch.last.next(), next.prev()));
        between.filter(|(first, last)| first <= last).collect()
    }

    /// The terms by the outline, which the entries that are whole have to agree with.
    fn outlined_terms(&self, base: &Base, terms: &[(Index, Term)], last_index: Index) -> Result<Vec<(Index, Term)>> {
        let first = base.index.next();
        let reached = terms.partition_point(|(index, _)| *index <= first).saturating_sub(1);
        let terms: Vec<(Index, Term)> =
            terms[reached..].iter().map(|(index, term)| ((*index).max(first), *term)).collect();
        let shape = LogShape::recovered(base, terms.clone(), last_index);
        let agrees = |index: Index, term: Term| shape.term_at(index) == Some(term);
        let other = self.whole.iter().skip(1).find(|it| !agrees(it.first, it.term) || !agrees(it.last, it.term));
        match other {
            Some(stretch) => {
                let (found, expected) = (stretch.term, shape.term_at(stretch.first).unwrap_or_default());
                self.damaged(format!("the entry at {} is of term {found}, its outline says {expected}", stretch.first))
            }
            None if shape.term_at(first).is_none() => {
                self.damaged(format!("its outline does not tell the term of {first}"))
            }
            None => Ok(terms),
        }
    }

    /// The terms by the entries that are whole; damaged ones between two of the same term are of that term, too.
    fn told_terms(&self, base: &Base, gaps: &[(Index, Index)]) -> Result<Vec<(Index, Term)>> {
        for (first, last) in gaps {
            let before = self.whole.iter().rev().find(|stretch| stretch.last < *first).map(|stretch| stretch.term);
            let after = self.whole.iter().find(|stretch| stretch.first > *last).map(|stretch| stretch.term);
            if after.is_none() || before != after {
                return self
                    .damaged(format!("the entries from {first} to {last} are damaged, and nothing tells their term"));
            }
        }
        let mut terms: Vec<(Index, Term)> = Vec::new();
        for stretch in &self.whole[1..] {
            if terms.last().is_none_or(|(_, term)| *term != stretch.term) {
                terms.push((stretch.first, stretch.term));
            }
        }
        // What is damaged right after the base is of the base's term.
        if let Some((first, _)) = terms.first_mut() {
            *first = base.index.next();
        }
        Ok(terms)
    }
}
