//! The checkers: what all nodes together have said and done, held against the invariants.

use std::collections::{BTreeMap, BTreeSet};

use coracle_core::{AppendResult, Body, Entry, EntryKind, HardState, Index, Membership, Message, NodeId, Run, Term};

use crate::{
    Violation,
    disk::LogState,
    overlap::{Brief, is_quorum},
    report::Invariant::{
        AckDurability, CommitImmutable, CommitOnQuorum, ElectionSafety, LeaderCompleteness, LogMatching, Monotonic,
        Ordering, PreVote, StateMachineSafety,
    },
};

type Checked = Result<(), Violation>;

/// What an outside observer of all nodes and disks knows. It names nodes by numbers that no other life of a machine has.
#[derive(Debug)]
pub(crate) struct Ghost {
    /// Who led in each term.
    leaders: BTreeMap<Term, usize>,
    /// Whose vote was seen on which disk.
    votes: BTreeMap<(Term, usize), NodeId>,
    /// The newest term on each disk.
    terms: BTreeMap<usize, Term>,
    /// Every entry that was ever appended, with the term of the one before it.
    appended: BTreeMap<(Term, Index), (Option<Term>, Entry)>,
    /// What is committed, from index 1 on.
    committed: Vec<(Term, Entry)>,
    /// In which term each was seen to be committed.
    committed_in: Vec<Term>,
    /// Who was offered a vote, or leadership, in a term that nobody is in yet.
    offered: BTreeSet<(Term, NodeId)>,
    /// The newest term that anybody was seen in.
    newest: Term,
    /// The committed memberships, in order.
    memberships: Vec<(Index, Membership)>,
    /// The state's hash by applied index.
    states: BTreeMap<Index, u64>,
}

impl Ghost {
    /// Nothing but who founded the group.
    pub(crate) fn new(founders: Membership) -> Ghost {
        Ghost {
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            terms: BTreeMap::new(),
            appended: BTreeMap::new(),
            committed: Vec::new(),
            committed_in: Vec::new(),
            offered: BTreeSet::new(),
            newest: Term(0),
            memberships: vec![(Index::ZERO, founders)],
            states: BTreeMap::new(),
        }
    }

    /// The newest committed membership.
    pub(crate) fn membership(&self) -> &Membership {
        let Some((_, membership)) = self.memberships.last() else { unreachable!("the founders are always there") };
        membership
    }

    /// Where its entry is.
    pub(crate) fn membership_index(&self) -> Index {
        self.memberships.last().map_or(Index::ZERO, |(index, _)| *index)
    }

    /// Whether a membership is committed at `index`.
    pub(crate) fn membership_at(&self, index: Index) -> bool {
        self.memberships.binary_search_by_key(&index, |(at, _)| *at).is_ok()
    }

    /// How many terms had a leader.
    pub(crate) fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// In how many terms votes went to more than one, and nobody led.
    pub(crate) fn split_votes(&self) -> usize {
        let mut split = BTreeSet::new();
        for ((term, _), vote) in &self.votes {
            let others = self.votes.range((*term, 0)..=(*term, usize::MAX));
            if !self.leaders.contains_key(term) && others.into_iter().any(|(_, other)| other != vote) {
                split.insert(*term);
            }
        }
        split.len()
    }

    /// The last committed index.
    pub(crate) fn committed(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    /// Whom the disk of `node` was seen to vote for in `term`.
    pub(crate) fn vote_of(&self, node: usize, term: Term) -> Option<NodeId> {
        self.votes.get(&(term, node)).copied()
    }

    /// Whether a leader was elected after `term`, at the latest in `last`.
    pub(crate) fn has_led_between(&self, term: Term, last: Term) -> bool {
        term < last && self.leaders.range(term.next()..=last).next().is_some()
    }

    /// A node offers another one its vote in `term`, or leadership.
    pub(crate) fn offers(&mut self, term: Term, to: NodeId) {
        self.offered.insert((term, to));
    }

    /// Thesis §9.6: `id` is in `term` only if it was offered a vote there, or leadership, or needs none, or another node was there before.
    pub(crate) fn enters(&mut self, node: usize, id: NodeId, term: Term, needs_none: impl Fn() -> bool) -> Checked {
        if term <= self.newest {
            return Ok(());
        }
        // A group is founded in its first term.
        if self.newest > Term(0) && !self.offered.contains(&(term, id)) && !needs_none() {
            return fail(PreVote, format!("n{node} begins term {term}, in which nobody has offered it a vote"));
        }
        self.newest = term;
        self.offered = self.offered.split_off(&(term.next(), NodeId(0)));
        Ok(())
    }

    /// I1 and I3: `node` leads in `term`, with `log`.
    pub(crate) fn leads(&mut self, node: usize, term: Term, log: &LogState) -> Checked {
        let leader = *self.leaders.entry(term).or_insert(node);
        if leader != node {
            return fail(ElectionSafety, format!("n{leader} and n{node} both lead in term {term}"));
        }
        // Who was elected before an entry was committed, and learns of it late, need not have that entry.
        let bound = self.committed_in.partition_point(|committed_in| *committed_in < term);
        if log.last().0 < bound as u64 {
            let what = format!("n{node} leads in term {term} with a log up to {}", log.last());
            return fail(LeaderCompleteness, format!("{what}, but {bound} is committed"));
        }
        for index in log.base.index.0.max(1)..=bound as u64 {
            let (committed, _) = &self.committed[index as usize - 1];
            if log.term_at(Index(index)) != Some(*committed) {
                let found = log.term_at(Index(index));
                let what = format!("n{node} leads in term {term} and has {found:?} at {index}");
                return fail(LeaderCompleteness, format!("{what}, but {committed} is committed there"));
            }
        }
        Ok(())
    }

    /// I1 and I7: what lies on a disk.
    pub(crate) fn hard_state(&mut self, node: usize, hard_state: HardState) -> Checked {
        let HardState { term, voted_for, .. } = hard_state;
        let earlier = self.votes.get(&(term, node)).copied();
        if earlier.is_some() && earlier != voted_for {
            let what = format!("n{node} has voted for {voted_for:?} in term {term}, and before that for {earlier:?}");
            return fail(ElectionSafety, what);
        }
        if let Some(vote) = voted_for {
            self.votes.insert((term, node), vote);
        }
        let newest = self.terms.entry(node).or_insert(term);
        if term < *newest {
            return fail(Monotonic, format!("the term on the disk of n{node} falls from {newest} to {term}"));
        }
        *newest = term;
        Ok(())
    }

    /// I2: a node appends `run` after an entry of term `before`.
    pub(crate) fn appends(&mut self, node: usize, before: Option<Term>, run: &Run) -> Checked {
        let mut before = before;
        for (index, entry) in run.iter() {
            match self.appended.get(&(run.term(), index)) {
                None => drop(self.appended.insert((run.term(), index), (before, entry.clone()))),
                Some((earlier, known)) if known != entry || differs(*earlier, before) => {
                    let what = format!("n{node} appends another entry at ({index}, term {})", run.term());
                    return fail(LogMatching, format!("{what} than is known there, or after another one"));
                }
                Some(_) => {}
            }
            before = Some(run.term());
        }
        Ok(())
    }

    /// I5: `node`, whose log is `log`, takes everything up to `to` for committed, having known it up to `from`. Returns whether this is news.
    pub(crate) fn commits(
        &mut self,
        (node, term_now): (usize, Term),
        from: Index,
        to: Index,
        log: &LogState,
    ) -> Result<bool, Violation> {
        let known = self.committed();
        let seen_in = self.committed_in.last().map_or(term_now, |last| term_now.max(*last));
        for index in from.0.max(log.base.index.0) + 1..=to.0 {
            let index = Index(index);
            let Some((term, entry)) = log.entry(index) else {
                let what = format!("n{node} takes {index} for committed, its log ends at {}", log.last());
                return Err(Violation::new(Ordering, what));
            };
            match self.committed.get(index.0 as usize - 1) {
                Some((t, e)) if t != term || e != entry => {
                    let what = format!("n{node} commits an entry of term {term} at {index}; one of term {t} was");
                    return Err(Violation::new(CommitImmutable, what));
                }
                Some(_) => {}
                None if index == self.committed().next() => {
                    if let Some(membership) = log.membership_at(index).filter(|_| entry.kind == EntryKind::Membership) {
                        self.memberships.push((index, membership.clone()));
                    }
                    self.committed.push((*term, entry.clone()));
                    self.committed_in.push(seen_in);
                }
                None => break,
            }
        }
        if to > self.committed() {
            let what = format!("n{node} has a base at {}, only {} is committed", log.base.index, self.committed());
            return Err(Violation::new(CommitOnQuorum, what));
        }
        Ok(self.committed() > known)
    }

    /// I6: what was just committed lies on the disks of a majority of each half of one of `memberships`: that of the entry, that of whoever tells of it, and that by which its leader counts from then on.
    pub(crate) fn on_quorum(&self, memberships: [Option<&Membership>; 3], holds: impl Fn(NodeId) -> bool) -> Checked {
        if memberships.iter().flatten().any(|membership| is_quorum(membership, &holds)) {
            return Ok(());
        }
        let by = |membership: Option<&Membership>| membership.map_or_else(String::new, |m| Brief(m).to_string());
        let ids = memberships.iter().flatten().flat_map(|membership| membership.nodes.iter().map(|node| node.id));
        let holders: BTreeSet<u64> = ids.filter(|id| holds(*id)).map(|id| id.0).collect();
        let [entry, teller, leader] = memberships.map(by);
        let what = format!("{} is committed and durable on {holders:?}", self.committed());
        fail(CommitOnQuorum, format!("{what}: its membership is {entry}, its teller's {teller}, its leader's {leader}"))
    }

    /// The term of the last committed entry.
    pub(crate) fn committed_term(&self) -> Term {
        self.committed.last().map_or(Term(0), |(term, _)| *term)
    }

    /// I4 and C7: `node` applies `run`, having applied everything up to `applied`; its disk holds `durable`.
    pub(crate) fn applies(&self, node: usize, applied: Index, run: &Run, durable: &LogState) -> Checked {
        if run.first() != applied.next() {
            return fail(Ordering, format!("n{node} applies {run:?} after {applied}"));
        }
        if durable.last() < run.last() {
            let what = format!("n{node} applies {run:?}, its disk holds {}", durable.last());
            return fail(Ordering, what);
        }
        for (index, entry) in run.iter() {
            match self.committed.get(index.0 as usize - 1) {
                None => return fail(StateMachineSafety, format!("n{node} applies {index}, which is not committed")),
                Some((term, committed)) if *term != run.term() || committed != entry => {
                    let what = format!("n{node} applies an entry of term {} at {index}", run.term());
                    return fail(StateMachineSafety, format!("{what}, another one of term {term} is committed"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// I4: `node` has applied everything up to `applied`, and its state has the hash `hash`.
    pub(crate) fn state(&mut self, node: usize, applied: Index, hash: u64) -> Checked {
        let earlier = *self.states.entry(applied).or_insert(hash);
        if earlier != hash {
            let what = format!("n{node} has the state {hash:016x} at {applied}, another node had {earlier:016x}");
            return fail(StateMachineSafety, what);
        }
        Ok(())
    }
}

/// I8: what `message` asserts is on the disk of its sender.
pub(crate) fn asserts(node: usize, message: &Message, durable: &LogState) -> Checked {
    let hard_state = durable.hard_state;
    // Neither asking whether one would be elected nor saying yes binds anybody, and nobody takes up a term from it.
    let binds = !matches!(message.body, Body::PreVote { .. } | Body::PreVoteResponse { granted: true, .. });
    if binds && message.term > hard_state.term {
        let what = format!("n{node} speaks in term {}, its disk is in {}: {message:?}", message.term, hard_state.term);
        return fail(AckDurability, what);
    }
    let holds = match &message.body {
        Body::AppendEntriesResponse { result: AppendResult::Matched { index }, .. } => *index <= durable.last(),
        Body::RequestVoteResponse { granted: true } => {
            hard_state.term == message.term && hard_state.voted_for == Some(message.to)
        }
        Body::RequestVote { last_log_index, last_log_term, .. } => {
            hard_state.voted_for == Some(message.from) && durable.holds(*last_log_index, *last_log_term)
        }
        _ => true,
    };
    if holds {
        return Ok(());
    }
    let disk = format!("its disk holds {} and {hard_state:?}", durable.last());
    fail(AckDurability, format!("n{node} says {message:?}, {disk}"))
}

/// C8: the state is replaced by what covers `index` when the log on the disk begins there, or reaches it.
pub(crate) fn installs(node: usize, index: Index, durable: &LogState) -> Checked {
    if durable.last() >= index {
        return Ok(());
    }
    fail(Ordering, format!("n{node} installs the snapshot at {index}, its disk holds {}", durable.last()))
}

fn differs(a: Option<Term>, b: Option<Term>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a != b)
}

fn fail(invariant: crate::Invariant, what: String) -> Checked {
    Err(Violation::new(invariant, what))
}
