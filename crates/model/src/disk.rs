//! What a node would find again after a crash.

use std::hash::{Hash, Hasher};

use coracle_core::{
    Base, ClusterId, Entry, EntryKind, HardState, Index, Membership, NodeId, Persist, Recovered, Run, SnapshotMeta,
    Term,
};

use crate::ghost::fingerprint;

/// What a node would find again after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    pub(crate) base: Base,
    /// What follows on the base.
    pub(crate) entries: Vec<(Term, Entry)>,
    /// What the state machine would recover to.
    pub(crate) flushed: Machine,
}

/// A state machine that remembers everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Machine {
    pub(crate) applied: Index,
    /// Of everything that was applied, in order.
    pub(crate) chain: u64,
}

impl Machine {
    /// Applies the next entry.
    pub(crate) fn apply(&mut self, term: Term, entry: &Entry) {
        self.applied = self.applied.next();
        self.chain = fingerprint(&(self.chain, term, entry));
    }
}

impl Disk {
    /// The disk of a founder.
    pub(crate) fn founded(founders: u64) -> Disk {
        Disk::of(Recovered::founded(Membership::of_voters((1..=founders).map(NodeId))))
    }

    /// The disk of a node that waits to join.
    pub(crate) fn joining() -> Disk {
        Disk::of(Recovered::joining(ClusterId(0)))
    }

    fn of(recovered: Recovered) -> Disk {
        let entries =
            recovered.tail.iter().flat_map(|run| run.entries().iter().map(|entry| (run.term(), entry.clone())));
        Disk {
            hard_state: recovered.hard_state,
            base: recovered.base,
            entries: entries.collect(),
            flushed: Machine::default(),
        }
    }

    pub(crate) fn last_index(&self) -> Index {
        self.base.index.plus(self.entries.len() as u64)
    }

    /// The term at `index`, from the base on.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entry(index).map(|(term, _)| *term)
    }

    /// The entry at `index`, above the base.
    pub(crate) fn entry(&self, index: Index) -> Option<&(Term, Entry)> {
        let offset = index.0.checked_sub(self.base.index.0 + 1)?;
        self.entries.get(offset as usize)
    }

    /// Whether the entry of `term` at `index` is safe here, in the log or in a snapshot.
    pub(crate) fn holds(&self, index: Index, term: Term) -> bool {
        index <= self.base.index || self.term_at(index) == Some(term)
    }

    /// Cuts off, appends, sets, and moves the base, in that order.
    pub(crate) fn write(&mut self, persist: &Persist) {
        let Persist { ticket: _, truncate_from, repaired, entries, hard_state, base } = persist;
        assert!(repaired.is_empty(), "no entry of this disk is ever damaged");
        if let Some(from) = truncate_from {
            let kept = from.0.saturating_sub(self.base.index.0 + 1);
            self.entries.truncate(kept as usize);
        }
        let appended = entries.iter().flat_map(|run| run.entries().iter().map(|entry| (run.term(), entry.clone())));
        let first = entries.first().map(Run::first);
        match base {
            Some(base) if self.term_at(base.index) != Some(base.term) => {
                // The log starts anew.
                assert!(self.entries.is_empty(), "what a new base does not continue was cut off");
                self.base = (**base).clone();
                self.append(first, appended);
            }
            Some(base) => {
                self.append(first, appended);
                let gone = base.index.0 - self.base.index.0;
                self.entries.drain(..gone as usize);
                self.base = (**base).clone();
            }
            None => self.append(first, appended),
        }
        self.hard_state = hard_state.unwrap_or(self.hard_state);
    }

    fn append(&mut self, first: Option<Index>, entries: impl Iterator<Item = (Term, Entry)>) {
        if let Some(first) = first {
            assert_eq!(first, self.last_index().next(), "what is written follows what is there");
        }
        self.entries.extend(entries);
    }

    /// What the core is told after a crash.
    pub(crate) fn recover(&self) -> Recovered {
        let mut terms: Vec<(Index, Term)> = Vec::new();
        let mut memberships = Vec::new();
        let mut tail = Vec::new();
        let mut index = self.base.index;
        for (term, entry) in &self.entries {
            index = index.next();
            if terms.last().is_none_or(|(_, last)| last < term) {
                terms.push((index, *term));
            }
            if entry.kind == EntryKind::Membership
                && let Ok(membership) = Membership::decode(entry.data.clone())
            {
                memberships.push((index, membership));
            }
            tail.push(Run::new(index, *term, [entry.clone()]));
        }
        Recovered {
            hard_state: self.hard_state,
            base: self.base.clone(),
            terms,
            memberships,
            last_index: index,
            tail,
            damaged: Vec::new(),
            is_membership_damaged: false,
            applied: self.flushed.applied,
        }
    }

    /// What was read of the log.
    pub(crate) fn read(&self, from: Index, to: Index) -> Vec<Run> {
        let indexes = (from.0..=to.0).map(Index);
        indexes
            .map_while(|index| self.entry(index).map(|(term, entry)| Run::new(index, *term, [entry.clone()])))
            .collect()
    }
}

/// A snapshot of a machine, as it travels.
pub(crate) fn snapshot_meta(machine: Machine, term: Term, membership: (Index, &Membership)) -> SnapshotMeta {
    SnapshotMeta {
        content: machine.chain,
        last_included_index: machine.applied,
        last_included_term: term,
        membership_index: membership.0,
        membership: membership.1.clone(),
        size: 16,
        checksum: 0,
    }
}

/// A write on its way, but for its ticket: only one is under way, so that its name makes no difference.
pub(crate) fn hash_write(persist: &Persist, hasher: &mut impl Hasher) {
    let Persist { ticket: _, truncate_from, repaired, entries, hard_state, base } = persist;
    truncate_from.hash(hasher);
    crate::network::hash_runs(repaired, hasher);
    crate::network::hash_runs(entries, hasher);
    hard_state.hash(hasher);
    base.hash(hasher);
}
