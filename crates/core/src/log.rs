//! What a replica knows of its log without asking the disk.

use alloc::{collections::VecDeque, vec::Vec};

use crate::{
    Base, ConfigError, DecodeError, Entry, EntryKind, Index, Membership, NodeId, NodeRecord, Recovered, Run, Runs,
    Term,
    raft::{Form, entries_of},
};

/// How many of the last runs are looked at one by one.
const RECENT: usize = 8;

/// Terms and memberships of the whole retained log, and its recent entries.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The log begins after this.
    base: Base,
    /// The first index of each term after the base, in order.
    terms: Vec<(Index, Term)>,
    /// The membership entries after the base, in order.
    memberships: Vec<(Index, Membership)>,
    /// The last membership that was known, when the founding entry is damaged and all later ones were cut off: it tells whom to ask for it.
    forgotten: Option<Membership>,
    last_index: Index,
    /// Consecutive runs that end at `last_index`; those before are only on disk.
    tail: VecDeque<Run>,
    tail_bytes: usize,
    tail_bytes_max: usize,
}

impl Log {
    pub(crate) fn new(recovered: &mut Recovered, tail_bytes_max: usize) -> Result<Log, ConfigError> {
        let mut log = Log {
            base: core::mem::take(&mut recovered.base),
            terms: core::mem::take(&mut recovered.terms),
            memberships: core::mem::take(&mut recovered.memberships),
            forgotten: None,
            last_index: recovered.last_index,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_bytes_max,
        };
        for run in core::mem::take(&mut recovered.tail) {
            log.tail_bytes += run.size();
            log.tail.push_back(run);
        }
        log.check()?;
        Ok(log)
    }

    /// What of it makes a difference (C25).
    pub(crate) fn canonical(&self) -> impl Form {
        let Log {
            base,
            terms,
            memberships,
            last_index,
            tail,
            // Follows from the entries.
            tail_bytes: _,
            forgotten,
            // An option.
            tail_bytes_max: _,
        } = self;
        (base, terms, memberships, forgotten, *last_index, entries_of(tail))
    }

    /// Whether what was recovered is a log.
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what| Err(ConfigError::Recovered { what });
        if self.last_index < self.base.index {
            return wrong("it ends before its base");
        }
        let terms_rise = self.terms.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let first_term = self.terms.first();
        if !terms_rise
            || first_term.is_some_and(|(index, term)| *index != self.base.index.next() || *term < self.base.term)
            || first_term.is_none() != (self.last_index == self.base.index)
            || self.terms.last().is_some_and(|(index, _)| *index > self.last_index)
        {
            return wrong("its terms are not in order");
        }
        if self.memberships.is_empty() && self.base.membership.is_none() {
            return wrong("it holds no membership");
        }
        let tail_follows = self.tail.iter().zip(self.tail.iter().skip(1)).all(|(a, b)| b.follows(a));
        if !tail_follows || self.tail.back().is_some_and(|run| run.last() != self.last_index) {
            return wrong("its recent entries do not end it");
        }
        Ok(())
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    pub(crate) fn last_index(&self) -> Index {
        self.last_index
    }

    pub(crate) fn last_term(&self) -> Term {
        self.terms.last().map_or(self.base.term, |(_, term)| *term)
    }

    /// The term of the entry at `index`, from the base on; `None` when that is not known here.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last_index || index < self.base.index {
            return None;
        }
        if let Some((first, term)) = self.terms.last()
            && *first <= index
        {
            return Some(*term);
        }
        let later = self.terms.partition_point(|(first, _)| *first <= index);
        Some(later.checked_sub(1).map_or(self.base.term, |at| self.terms[at].1))
    }

    /// The largest index, at most `index`, whose term is at most `term`: where a log that has `term` at `index` may agree at the latest. The base when there is none.
    pub(crate) fn agreement_at_most(&self, index: Index, term: Term) -> Index {
        let index = index.min(self.last_index);
        if self.term_at(index).is_none_or(|here| here <= term) {
            return index.max(self.base.index);
        }
        self.term_end(term).max(self.base.index)
    }

    /// The last index whose term is at most `term`.
    pub(crate) fn term_end(&self, term: Term) -> Index {
        let later = self.terms.partition_point(|(_, t)| *t <= term);
        self.terms.get(later).map_or(self.last_index, |(first, _)| first.prev())
    }

    /// The first index of `run` at which this log has another term, or nothing.
    pub(crate) fn first_difference(&self, run: &Run) -> Option<Index> {
        if self.term_at(run.first()) != Some(run.term()) {
            return Some(run.first());
        }
        // Terms never fall: where the run's term ends here, another begins.
        let end = self.term_end(run.term());
        (end < run.last()).then(|| end.next())
    }

    /// Whether `runs` begin at `first`, follow each other, and are what the log holds there (C9).
    pub(crate) fn holds(&self, first: Index, runs: &[Run]) -> bool {
        runs.first().is_some_and(|run| run.first() == first)
            && runs.windows(2).all(|pair| pair[1].follows(&pair[0]))
            && runs.iter().all(|run| self.first_difference(run).is_none())
    }

    /// The effective membership, with the index of its entry.
    pub(crate) fn membership(&self) -> (Index, &Membership) {
        self.membership_at(self.last_index)
    }

    /// The membership effective at `index`, with the index of its entry.
    pub(crate) fn membership_at(&self, index: Index) -> (Index, &Membership) {
        match self.memberships.iter().rev().find(|(at, _)| *at <= index) {
            Some((at, membership)) => (*at, membership),
            None => match (&self.base.membership, self.memberships.first()) {
                (Some(membership), _) => (self.base.membership_index, membership),
                // Before the founding entry there is nobody; the founding members are the only answer.
                (None, Some((at, membership))) => (*at, membership),
                (None, None) => match &self.forgotten {
                    Some(membership) => (Index::ZERO, membership),
                    None => unreachable!("a log holds a membership"),
                },
            },
        }
    }

    /// Everybody in the membership effective at `index`, or in a later one; some of them more than once.
    pub(crate) fn nodes_since(&self, index: Index) -> impl Iterator<Item = &NodeRecord> {
        let later = self.memberships.iter().filter(move |(at, _)| *at > index).map(|(_, membership)| membership);
        core::iter::once(self.membership_at(index).1).chain(later).flat_map(|membership| &membership.nodes)
    }

    /// Whether `id` votes in any membership that may still be in force, as far as `commit_index` tells.
    pub(crate) fn may_vote(&self, id: NodeId, commit_index: Index) -> bool {
        let newer = self.memberships.iter().filter(|(at, _)| *at > commit_index);
        self.membership_at(commit_index).1.is_voter(id) || newer.into_iter().any(|(_, it)| it.is_voter(id))
    }

    /// Appends a run that follows the last entry; nothing of it when a membership in it does not decode.
    pub(crate) fn append(&mut self, run: Run) -> Result<(), DecodeError> {
        assert_eq!(run.first(), self.last_index.next(), "a run follows the log");
        assert!(run.term() >= self.last_term(), "terms never fall");
        let mut memberships = memberships_of(&run)?;
        self.memberships.append(&mut memberships);
        if run.term() > self.last_term() || self.terms.is_empty() {
            self.terms.push((run.first(), run.term()));
        }
        self.last_index = run.last();
        self.tail_bytes += run.size();
        self.tail.push_back(run);
        Ok(())
    }

    /// Takes note of entries of this log whose data were not known; nothing of it when a membership in them does not decode. Says whether there was one that is news.
    pub(crate) fn restore(&mut self, run: &Run) -> Result<bool, DecodeError> {
        let mut is_news = false;
        for (index, membership) in memberships_of(run)? {
            if let Err(at) = self.memberships.binary_search_by_key(&index, |(at, _)| *at) {
                self.memberships.insert(at, (index, membership));
                is_news = true;
            }
        }
        Ok(is_news)
    }

    /// Removes `from` and everything after it.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "what is compacted cannot be cut off");
        while let Some(run) = self.tail.back()
            && run.last() >= from
        {
            let keep = run.slice(run.first(), from.prev());
            self.tail_bytes -= run.size();
            self.tail.pop_back();
            if let Some(keep) = keep {
                self.tail_bytes += keep.size();
                self.tail.push_back(keep);
            }
        }
        self.terms.retain(|(first, _)| *first < from);
        let cut_off = self.memberships.extract_if(.., |(at, _)| *at >= from).last();
        if let Some((_, membership)) = cut_off.filter(|_| self.memberships.is_empty() && self.base.membership.is_none())
        {
            self.forgotten = Some(membership);
        }
        self.last_index = self.last_index.min(from.prev());
    }

    /// Moves the base up to `index`, which is in the log, and forgets everything up to it.
    pub(crate) fn compact(&mut self, index: Index) {
        let Some(term) = self.term_at(index) else { return };
        let (membership_index, membership) = self.membership_at(index);
        self.rebase(Base { index, term, membership_index, membership: Some(membership.clone()) });
    }

    /// Begins the log after `base`, whose entry it holds, and keeps what follows it.
    pub(crate) fn rebase(&mut self, base: Base) {
        let (index, term) = (base.index, base.term);
        debug_assert_eq!(self.term_at(index), Some(term), "the log holds the base's entry");
        self.base = base;
        self.memberships.retain(|(at, _)| *at > index);
        let covering = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.drain(..covering);
        // The term that goes on across the base begins again after it.
        if self.last_index > index && self.terms.first().is_none_or(|(first, _)| *first > index.next()) {
            self.terms.insert(0, (index.next(), term));
        }
        self.forget_tail(index, 0);
    }

    /// Starts anew after `base`.
    pub(crate) fn reset(&mut self, base: Base) {
        self.last_index = base.index;
        self.base = base;
        self.terms.clear();
        self.memberships.clear();
        self.tail.clear();
        self.tail_bytes = 0;
    }

    /// Forgets recent entries up to `limit`, which are on disk, as far as the tail takes more than its share of memory and `extra` bytes.
    pub(crate) fn evict(&mut self, limit: Index, extra: usize) {
        let bytes_max = self.tail_bytes_max.saturating_add(extra);
        if self.tail_bytes > bytes_max {
            self.forget_tail(limit, bytes_max);
        }
    }

    fn forget_tail(&mut self, limit: Index, bytes_max: usize) {
        while self.tail_bytes > bytes_max
            && let Some(run) = self.tail.front()
            && run.first() <= limit
        {
            let size = run.size();
            if run.last() <= limit {
                self.tail_bytes -= size;
                self.tail.pop_front();
            } else if bytes_max == 0
                && let Some(rest) = run.slice(limit.next(), run.last())
            {
                self.tail_bytes -= size - rest.size();
                self.tail[0] = rest;
            } else {
                break;
            }
        }
    }

    /// How many bytes of entries are in memory.
    pub(crate) fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// Where the entries in memory begin; after the last index when there are none.
    pub(crate) fn tail_first(&self) -> Index {
        self.tail.front().map_or(self.last_index.next(), Run::first)
    }

    /// Where the run that holds `from` lies in memory. What is asked for mostly lies at the end, and looking there touches less memory than halving does.
    fn position(&self, from: Index) -> usize {
        let later = self.tail.iter().rev().take(RECENT).take_while(|run| run.first() > from).count();
        if later < RECENT {
            let at = self.tail.len() - later;
            // The run before those that begin later may end earlier: then nothing holds `from`.
            return if at > 0 && self.tail[at - 1].last() >= from { at - 1 } else { at };
        }
        self.tail.partition_point(|run| run.last() < from)
    }

    /// The entries from `from` to `to`, at most `bytes_max` of them but at least one; `None` when the first is not in memory.
    pub(crate) fn slice(&self, from: Index, to: Index, bytes_max: usize) -> Option<(Runs, usize)> {
        if from < self.tail_first() {
            return None;
        }
        let at = self.position(from);
        let mut runs = Runs::new();
        let mut bytes = 0;
        for run in self.tail.range(at..) {
            let Some(part) = run.slice(from, to) else { break };
            let part_bytes = part.size();
            if bytes + part_bytes <= bytes_max {
                bytes += part_bytes;
                runs.push(part);
                continue;
            }
            if let Some((part, part_bytes)) = fitting(&part, bytes_max - bytes, runs.is_empty()) {
                bytes += part_bytes;
                runs.push(part);
            }
            break;
        }
        Some((runs, bytes))
    }
}

/// The memberships in a run.
fn memberships_of(run: &Run) -> Result<Vec<(Index, Membership)>, DecodeError> {
    let entries = run.iter().filter(|(_, entry)| entry.kind == EntryKind::Membership);
    let decode = |(index, entry): (Index, &Entry)| Ok((index, Membership::decode(entry.data.clone())?));
    entries.map(decode).collect()
}

/// As much of the beginning of `run` as fits; at least one entry if `at_least_one`.
fn fitting(run: &Run, bytes_max: usize, at_least_one: bool) -> Option<(Run, usize)> {
    let mut bytes = 0;
    let mut count = 0;
    for entry in run.entries() {
        if bytes + entry.size() > bytes_max && !(at_least_one && count == 0) {
            break;
        }
        bytes += entry.size();
        count += 1;
    }
    let last = Index(run.first().0 + count).prev();
    run.slice(run.first(), last).filter(|_| count > 0).map(|part| (part, bytes))
}
