//! Commands that peers forward to this replica: which have been seen, and what is answered.

use std::collections::{BTreeMap, VecDeque};

use coracle_core::{Body, Forwarded, NodeId, Term};

use crate::effects::Effects;

/// How many (peer, boot nonce) pairs are told apart; beyond that the longest unused is forgotten.
const ORIGINS_MAX: usize = 256;
/// How many gaps between seen sequences are told apart per origin; beyond that the oldest counts as seen.
const RANGES_MAX: usize = 1024;
/// What an outcome takes beside its reply, generously.
const OUTCOME_BYTES: usize = 32;

/// A command that a peer forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// Who.
    pub(crate) peer: NodeId,
    /// The term that it was meant for.
    pub(crate) term: Term,
    /// The peer's boot nonce.
    pub(crate) nonce: u64,
    /// The peer's number of it.
    pub(crate) sequence: u64,
}

/// The forwarded commands that were seen in a term, so that none is appended twice (C21).
#[derive(Debug)]
pub(crate) struct Seen {
    /// The last term in which this replica took commands. Sequences of one term can be repeated only in that term.
    term: Term,
    /// Up to this term nothing is known any more of what was taken: by an earlier life, or in a leadership before the last.
    forgotten: Term,
    /// The most recently used last.
    origins: VecDeque<Origin>,
}

#[derive(Debug)]
struct Origin {
    peer: NodeId,
    nonce: u64,
    /// Disjoint, not adjacent: first sequence to the one after the last.
    ranges: BTreeMap<u64, u64>,
}

impl Seen {
    /// Nothing yet, in a life that begins in `term`.
    pub(crate) fn new(term: Term) -> Seen {
        Seen { term: Term(0), forgotten: term, origins: VecDeque::new() }
    }

    /// What to say to a command of a term that this replica does not lead: it is refused only if it was surely never appended.
    /// `None` when it was taken while this replica led, and has got or will get its outcome.
    pub(crate) fn outcome_elsewhere(&mut self, foreign: &Foreign) -> Option<Forwarded> {
        if foreign.term <= self.forgotten {
            return Some(Forwarded::Unknown);
        }
        (foreign.term != self.term || self.insert(foreign)).then_some(Forwarded::NotLeader)
    }

    /// Whether this command is new; it is not, the next time.
    pub(crate) fn insert(&mut self, foreign: &Foreign) -> bool {
        if foreign.term != self.term {
            self.forgotten = self.forgotten.max(self.term);
            self.term = foreign.term;
            self.origins.clear();
        }
        let at = self.origins.iter().rposition(|known| known.peer == foreign.peer && known.nonce == foreign.nonce);
        let known = at.and_then(|at| self.origins.remove(at));
        let mut origin =
            known.unwrap_or_else(|| Origin { peer: foreign.peer, nonce: foreign.nonce, ranges: BTreeMap::new() });
        let is_new = origin.insert(foreign.sequence);
        if self.origins.len() >= ORIGINS_MAX {
            self.origins.pop_front();
        }
        self.origins.push_back(origin);
        is_new
    }
}

impl Origin {
    fn insert(&mut self, sequence: u64) -> bool {
        let before = self.ranges.range(..=sequence).next_back().map(|(first, end)| (*first, *end));
        if before.is_some_and(|(_, end)| sequence < end) {
            return false;
        }
        let end = self.ranges.remove(&(sequence + 1)).unwrap_or(sequence + 1);
        let first = before.filter(|(_, end)| *end == sequence).map_or(sequence, |(first, _)| first);
        self.ranges.insert(first, end);
        if self.ranges.len() > RANGES_MAX {
            self.close_oldest_gap();
        }
        true
    }

    /// A command in the gap that arrives after all is left unanswered, as if it was lost.
    fn close_oldest_gap(&mut self) {
        if let Some((first, _)) = self.ranges.pop_first()
            && let Some((_, end)) = self.ranges.pop_first()
        {
            self.ranges.insert(first, end);
        }
    }
}

/// Answers to peers, collected for one message each.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    by_peer: BTreeMap<NodeId, Vec<(Foreign, Forwarded)>>,
}

impl Answers {
    pub(crate) fn push(&mut self, foreign: Foreign, outcome: Forwarded) {
        self.by_peer.entry(foreign.peer).or_default().push((foreign, outcome));
    }

    /// Sends everything: consecutive outcomes in one message of at most about `bytes_max`.
    /// Each bears the term that was asked for: the asker has it already, so it asserts nothing that might not be durable here (C5).
    pub(crate) fn send(&mut self, effects: &mut Effects, bytes_max: usize) {
        if self.by_peer.is_empty() {
            return;
        }
        for (peer, answers) in std::mem::take(&mut self.by_peer) {
            let mut bytes = 0;
            let mut message: Option<(Foreign, Vec<Forwarded>)> = None;
            for (foreign, outcome) in answers {
                let size = size(&outcome);
                match &mut message {
                    Some((first, outcomes)) if continues(first, outcomes, &foreign) && bytes + size <= bytes_max => {
                        outcomes.push(outcome);
                        bytes += size;
                    }
                    _ => {
                        send_one(effects, peer, message.replace((foreign, vec![outcome])));
                        bytes = size;
                    }
                }
            }
            send_one(effects, peer, message);
        }
    }
}

fn continues(first: &Foreign, outcomes: &[Forwarded], next: &Foreign) -> bool {
    (first.term, first.nonce) == (next.term, next.nonce)
        && first.sequence.checked_add(outcomes.len() as u64) == Some(next.sequence)
}

fn send_one(effects: &mut Effects, peer: NodeId, message: Option<(Foreign, Vec<Forwarded>)>) {
    if let Some((Foreign { term, nonce, sequence, .. }, outcomes)) = message {
        effects.send_late(peer, term, Body::ProposeResponse { nonce, sequence, outcomes });
    }
}

fn size(outcome: &Forwarded) -> usize {
    match outcome {
        Forwarded::Applied { reply, .. } => OUTCOME_BYTES + reply.len(),
        _ => OUTCOME_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Index, Message};
    use proptest::prelude::*;

    use super::*;
    use crate::Effect;

    fn foreign(nonce: u64, sequence: u64) -> Foreign {
        Foreign { peer: NodeId(2), term: Term(3), nonce, sequence }
    }

    proptest! {
        #[test]
        fn a_sequence_is_new_once(sequences in prop::collection::vec(0..60u64, 0..200)) {
            let mut seen = Seen::new(Term(0));
            let mut model = std::collections::BTreeSet::new();
            for sequence in sequences {
                prop_assert_eq!(seen.insert(&foreign(1, sequence)), model.insert(sequence));
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = Seen::new(Term(0));
        for sequence in (0..10_000).step_by(2) {
            assert!(seen.insert(&foreign(1, sequence)));
        }
        assert_eq!(seen.origins[0].ranges.len(), RANGES_MAX);
        assert!(!seen.insert(&foreign(1, 0)));
        for nonce in 0..1000 {
            seen.insert(&foreign(nonce, 0));
        }
        assert_eq!(seen.origins.len(), ORIGINS_MAX);
        assert!(!seen.insert(&foreign(999, 0)));
    }

    #[test]
    fn only_what_was_surely_not_taken_is_refused() {
        let at = |term| Foreign { term: Term(term), ..foreign(1, 5) };
        let mut seen = Seen::new(Term(2));
        assert_eq!(seen.outcome_elsewhere(&at(2)), Some(Forwarded::Unknown));
        assert_eq!(seen.outcome_elsewhere(&at(3)), Some(Forwarded::NotLeader));
        assert!(seen.insert(&at(4)));
        assert_eq!(seen.outcome_elsewhere(&at(4)), None);
        assert_eq!(seen.outcome_elsewhere(&foreign(9, 9)), Some(Forwarded::NotLeader));
        assert!(seen.insert(&at(6)));
        assert_eq!(seen.outcome_elsewhere(&at(4)), Some(Forwarded::Unknown));
        assert_eq!(seen.outcome_elsewhere(&at(5)), Some(Forwarded::NotLeader));
    }

    #[test]
    fn another_term_forgets_what_was_seen() {
        let mut seen = Seen::new(Term(0));
        assert!(seen.insert(&foreign(1, 5)));
        assert!(!seen.insert(&foreign(1, 5)));
        assert!(seen.insert(&Foreign { term: Term(4), ..foreign(1, 5) }));
    }

    #[test]
    fn answers_are_sent_in_runs_of_bounded_size() {
        let mut effects = Effects::new(NodeId(1));
        let mut answers = Answers::default();
        for sequence in [1, 2, 3, 7] {
            answers
                .push(foreign(1, sequence), Forwarded::Applied { index: Index(sequence), reply: vec![0; 10].into() });
        }
        answers.send(&mut effects, 100);
        let sent: Vec<(u64, usize)> = effects
            .late
            .iter()
            .map(|effect| match effect {
                Effect::Send(Message { body: Body::ProposeResponse { sequence, outcomes, .. }, .. }) => {
                    (*sequence, outcomes.len())
                }
                other => panic!("unexpected {other:?}"),
            })
            .collect();
        assert_eq!(sent, [(1, 2), (3, 1), (7, 1)]);
        assert!(answers.by_peer.is_empty());
    }
}
