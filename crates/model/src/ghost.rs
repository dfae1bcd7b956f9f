//! What has ever happened, as far as it must never be contradicted: no part of the system, and known to nobody in it.

use std::hash::{DefaultHasher, Hash, Hasher};

use coracle_core::{Index, NodeId, ReadId, Term};

/// What has ever happened, as far as it must never be contradicted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Ghost {
    /// Who led, by term.
    pub(crate) leaders: Vec<(Term, NodeId)>,
    /// The terms of all entries that were ever committed, from index 1 on.
    pub(crate) committed: Vec<Term>,
    /// The states of the machines that applied them, after each index from 1 on.
    pub(crate) chains: Vec<u64>,
    /// How far the log was committed when a read began.
    pub(crate) reads: Vec<(ReadId, Index)>,
    /// What has been reached that leaves no trace elsewhere.
    pub(crate) reached: Reached,
    /// The first thing that went wrong in a step.
    pub(crate) fault: Option<Fault>,
}

/// What has been reached that leaves no trace elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Reached {
    pub(crate) is_acknowledged: bool,
    pub(crate) is_read: bool,
    pub(crate) is_overwritten: bool,
    pub(crate) is_installed: bool,
    pub(crate) is_joint_left: bool,
}

/// Something that must not happen in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A second node leads a term.
    SecondLeader,
    /// Something else is committed where something was.
    Recommitted,
    /// A leader takes for committed what a majority does not hold durably.
    CommittedTooEarly,
    /// A leader commits entries of earlier terms by counting who has them (Raft §5.4.2).
    CommittedByCounting,
    /// A message or an answer says what is not durable.
    SaidTooEarly,
    /// Replicas apply different entries.
    AppliedDifferently,
    /// A read misses what was committed before it began.
    StaleRead,
    /// A replica stopped.
    Stopped,
    /// A replica takes another for faulty.
    Blamed(&'static str),
    /// The core panicked.
    Panicked,
}

impl Ghost {
    pub(crate) fn blame(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    pub(crate) fn note_leader(&mut self, term: Term, id: NodeId) {
        match self.leaders.iter().find(|(known, _)| *known == term) {
            Some((_, leader)) if *leader != id => self.blame(Fault::SecondLeader),
            Some(_) => {}
            None => {
                self.leaders.push((term, id));
                self.leaders.sort_unstable();
            }
        }
    }

    /// How far the log was ever committed.
    pub(crate) fn commit_index(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// The term in which the entry at `index` was written that was committed.
    pub(crate) fn committed_at(&self, index: Index) -> Option<Term> {
        self.committed.get(index.0.checked_sub(1)? as usize).copied()
    }

    /// A machine is in the state `chain` after `index`.
    pub(crate) fn note_applied(&mut self, index: Index, chain: u64) {
        let at = index.0 as usize - 1;
        match self.chains.get(at) {
            Some(known) if *known != chain => self.blame(Fault::AppliedDifferently),
            Some(_) => {}
            None if at == self.chains.len() => self.chains.push(chain),
            None => self.blame(Fault::AppliedDifferently),
        }
    }
}

/// The same in every run.
pub(crate) fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
