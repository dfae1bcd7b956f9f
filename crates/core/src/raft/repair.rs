//! Damaged entries, and how they are repaired from peers (C19).
//!
//! Of a damaged entry index and term are known, and not the data. Nothing from the first such entry on counts as durable, and while there is one this node neither votes nor campaigns. Any node that holds an entry of the same index and term has the same data (Log Matching, Raft §5.3): they are asked one after another, whether or not one of them leads, and a leader's `AppendEntries` is as good. What the state machine has flushed is compacted away instead.
//!
//! When a damaged entry may hold a membership, whom to ask and whom to follow is told by the last one that is known: nothing is decided by it, since nothing is voted on, and nothing is compacted past it until the entry, or a peer's base that lies beyond it, is there.

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    vec::Vec,
};

use super::{
    Raft, RoleState,
    canonical::{Clock, Form, entries_of},
    stand_in::PATIENCE,
};
use crate::{
    Base, Body, ConfigError, Event, Fatal, Index, LogRead, NodeId, Output, Recovered, RejectReason, Run, SnapshotMeta,
    Term, Ticket, Time,
};

/// More damaged entries than this are no log any more.
pub(super) const DAMAGED_MAX: usize = 1 << 16;
/// The most entries in one question.
const WANTED_MAX: u64 = 1024;
/// The most questions of others that wait for the disk; who gets no answer asks somebody else.
const ANSWERS_MAX: usize = 16;

/// What is damaged, and what is done about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    /// Damaged, and their data are not at hand.
    missing: BTreeSet<Index>,
    /// Their data are at hand and not written yet, an entry each.
    received: BTreeMap<Index, Run>,
    received_bytes: usize,
    /// On their way to the disk, with the write of this ticket.
    issued: BTreeSet<Index>,
    /// Below a new base that is not written yet.
    passed: BTreeSet<Index>,
    issued_ticket: Ticket,
    /// What the last write said of `HardState::is_repairing`.
    is_flagged: bool,
    /// Whether the damage was reported, and its end was not.
    is_reported: bool,
    /// When the next peer is asked; `None` when none has been asked that may yet answer.
    deadline: Option<Time>,
    /// Who was asked last.
    asked: Option<NodeId>,
    /// The first entry that was asked for.
    asked_first: Index,
    /// The last entry that was asked for.
    asked_last: Index,
    /// How many questions in a row brought nothing.
    futile: usize,
    /// Until when those who said nothing may yet have something, since questions began to bring nothing.
    patient_until: Option<Time>,
    /// Who said that it holds nothing of what was asked for last.
    lacking: BTreeSet<NodeId>,
    /// A damaged entry that nobody else holds: all have said so.
    lost: Option<Index>,
    /// Questions of others for which the log is being read.
    answers: VecDeque<Answer>,
}

/// A peer's question for which the log is being read.
#[derive(Clone, Debug)]
struct Answer {
    request: u64,
    to: NodeId,
    first: Index,
}

impl Repair {
    /// Checks the damage that was recovered.
    pub(super) fn new(recovered: &Recovered) -> Result<Repair, ConfigError> {
        let damaged = &recovered.damaged;
        let is_sorted = damaged.windows(2).all(|pair| pair[0] < pair[1]);
        let is_inside = damaged.first().is_none_or(|first| *first > recovered.base.index)
            && damaged.last().is_none_or(|last| *last <= recovered.last_index);
        let is_before_tail = match (damaged.last(), recovered.tail.first()) {
            (Some(last), Some(tail)) => *last < tail.first(),
            _ => true,
        };
        if !is_sorted || !is_inside || !is_before_tail {
            return Err(ConfigError::Recovered { what: "its damaged entries are not in order, or not in it" });
        }
        if damaged.len() > DAMAGED_MAX {
            return Err(ConfigError::Recovered { what: "more than 65,536 of its entries are damaged" });
        }
        let is_flagged = recovered.hard_state.is_repairing;
        let missing = damaged.iter().copied().collect();
        Ok(Repair { missing, is_flagged, is_reported: is_flagged, ..Repair::default() })
    }

    /// What makes a difference (C25): tickets are told apart by what is on its way with them, and questions by how long ago they were asked.
    pub(super) fn canonical(&self, clock: Clock, last_log_request: u64) -> impl Form {
        let Repair {
            missing,
            received,
            received_bytes: _,
            issued,
            passed,
            issued_ticket: _,
            is_flagged,
            // Of the reports to come, not of the protocol.
            is_reported: _,
            deadline,
            asked,
            asked_first,
            asked_last,
            futile,
            patient_until,
            // For reports.
            lacking: _,
            lost: _,
            answers,
        } = self;
        let answers: Vec<_> =
            answers.iter().map(|Answer { request, to, first }| (last_log_request - request, *to, *first)).collect();
        let question = (deadline.map(|deadline| clock.is_armed(deadline)), *asked, *asked_first, *asked_last, *futile);
        let question = (question, patient_until.map(|until| clock.is_armed(until)));
        let received = entries_of(received.values());
        (missing.clone(), received, issued.clone(), passed.clone(), *is_flagged, question, answers)
    }

    /// Whether an entry is damaged on the disk.
    pub(super) fn is_active(&self) -> bool {
        self.first().is_some()
    }

    /// How many entries are damaged on the disk.
    pub(super) fn len(&self) -> usize {
        self.missing.len() + self.received.len() + self.issued.len() + self.passed.len()
    }

    /// The first entry that is damaged on the disk.
    pub(super) fn first(&self) -> Option<Index> {
        self.next_from(Index::ZERO)
    }

    /// Whether an entry at or below `index` is damaged on the disk.
    fn reaches(&self, index: Index) -> bool {
        self.first().is_some_and(|first| first <= index)
    }

    /// Whether the entry at `index` is known to be damaged on the disk.
    fn is_known(&self, index: Index) -> bool {
        self.next_from(index) == Some(index)
    }

    /// The first entry from `index` on that is damaged on the disk.
    fn next_from(&self, index: Index) -> Option<Index> {
        // Almost always: this is asked several times for every message.
        if self.len() == 0 {
            return None;
        }
        let received = self.received.range(index..).next().map(|(index, _)| index);
        let next = |set: &BTreeSet<Index>| set.range(index..).next().copied();
        [next(&self.missing), received.copied(), next(&self.issued), next(&self.passed)].into_iter().flatten().min()
    }

    /// What the hard state says once everything that is at hand is written.
    pub(super) fn flag(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Whether there is something to write.
    pub(super) fn is_due(&self) -> bool {
        !self.received.is_empty() || !self.passed.is_empty() || self.flag() != self.is_flagged
    }

    /// What goes with the next write; the hard state in it says whether more is missing.
    pub(super) fn issue(&mut self, ticket: Ticket) -> Vec<Run> {
        self.is_flagged = self.flag();
        self.received_bytes = 0;
        let received = core::mem::take(&mut self.received);
        self.issued = core::mem::take(&mut self.passed);
        self.issued.extend(received.keys());
        self.issued_ticket = ticket;
        received.into_values().collect()
    }

    pub(super) fn on_persisted(&mut self, ticket: Ticket) {
        if self.issued_ticket <= ticket {
            self.issued.clear();
        }
    }

    /// The entries from `from` on are no longer in the log.
    pub(super) fn on_truncated(&mut self, from: Index) {
        self.missing.split_off(&from);
        self.issued.split_off(&from);
        self.passed.split_off(&from);
        let gone = self.received.split_off(&from);
        self.received_bytes -= gone.values().map(Run::size).sum::<usize>();
    }

    /// The log begins after `base`; what was damaged up to there counts as damaged until that is durable.
    fn on_rebased(&mut self, base: Index) {
        let kept = base.next();
        let mut gone = core::mem::take(&mut self.missing);
        self.missing = gone.split_off(&kept);
        let issued = self.issued.split_off(&kept);
        gone.append(&mut core::mem::replace(&mut self.issued, issued));
        let received = self.received.split_off(&kept);
        gone.extend(core::mem::replace(&mut self.received, received).into_keys());
        self.received_bytes = self.received.values().map(Run::size).sum();
        self.passed.append(&mut gone);
    }

    /// The log begins anew.
    pub(super) fn on_reset(&mut self) {
        self.on_truncated(Index::ZERO);
    }

    fn receive(&mut self, index: Index, entry: Run) {
        self.missing.remove(&index);
        self.received_bytes += entry.size();
        self.received.insert(index, entry);
    }

    /// A damaged entry that nobody else holds, as far as they have said.
    pub(super) fn lost(&self) -> Option<Index> {
        self.lost.filter(|index| self.missing.contains(index))
    }

    /// When the next peer is asked.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.deadline
    }
}

impl Raft {
    /// Whether entries of the log are damaged on the disk (C19): until they are repaired this node neither votes nor campaigns.
    pub fn is_repairing(&self) -> bool {
        self.repair.is_active()
    }

    /// The highest index up to which the log is whole and durable (C4, C19).
    pub(super) fn durable_index(&self) -> Index {
        let durable = self.persistence.durable_index();
        self.repair.first().map_or(durable, |damaged| durable.min(damaged.prev()))
    }

    /// Looks at the damage that the store found when it was opened.
    pub(super) fn begin_repair(&mut self, is_membership_damaged: bool) {
        let Some(at) = self.repair.first() else { return };
        let flushed = self.applying.flushed;
        if !is_membership_damaged && let Some(last) = self.repair.missing.range(..=flushed).next_back().copied() {
            self.compact_damage(last);
        }
        if self.repair.flag() && self.peers_to_ask().is_empty() {
            self.stop(Fatal::Damaged { at });
        }
    }

    /// The log begins after `index`, which the state machine has flushed: what is damaged up to there is not needed any more.
    fn compact_damage(&mut self, index: Index) {
        self.log.compact(index);
        self.on_base_moved();
    }

    fn on_base_moved(&mut self) {
        let base = self.log.base().clone();
        let index = base.index;
        self.repair.on_rebased(index);
        self.persistence.on_compacted(base);
        self.outputs.events.push(Event::Compacted { index });
    }

    /// A read of the log found the entry at `at` damaged.
    pub(super) fn on_damage_found(&mut self, at: Index) {
        // It may have been compacted away, cut off or rewritten since it was read (C9).
        if at <= self.log.base().index || at > self.persistence.issued_index() || self.repair.is_known(at) {
            return;
        }
        if at <= self.applying.flushed && self.installing.is_none() && self.durable_index() >= at {
            self.outputs.events.push(Event::Damaged { at });
            return self.compact_damage(at);
        }
        match self.log.slice(at, at, usize::MAX) {
            Some((runs, _)) => runs.into_iter().for_each(|run| self.repair.receive(at, run)),
            None if self.peers_to_ask().is_empty() => return self.stop(Fatal::Damaged { at }),
            None => drop(self.repair.missing.insert(at)),
        }
        self.step_down(RejectReason::NotLeader { leader: None });
    }

    /// Everybody who may hold what this log lacks, in order: who was in the group at any time that the log tells of, and who leads it.
    fn peers_to_ask(&self) -> Vec<NodeId> {
        let members = self.log.nodes_since(self.log.base().index).map(|node| node.id);
        let peers: BTreeSet<NodeId> = members.chain(self.following.leader).filter(|id| *id != self.config.id).collect();
        peers.into_iter().collect()
    }

    /// Asks the next peer, when no answer is awaited and what came last is on its way to the disk.
    pub(super) fn settle_repair(&mut self) {
        let repair = &self.repair;
        if repair.deadline.is_some() || repair.missing.is_empty() || !repair.received.is_empty() {
            return;
        }
        let peers = self.peers_to_ask();
        let is_later = |peer: &&NodeId| match repair.asked {
            // Who had something has more.
            Some(asked) if repair.futile == 0 => **peer >= asked,
            Some(asked) => **peer > asked,
            None => true,
        };
        let Some(to) = peers.iter().find(is_later).or(peers.first()).copied() else { return };
        // What nobody has is not to keep the rest waiting.
        let is_round_over = repair.futile > 0 && repair.futile.is_multiple_of(peers.len());
        let cursor = if is_round_over { repair.asked_last.next() } else { repair.asked_first };
        let Some((first, last, entry_term)) = self.next_wanted(cursor) else { return };
        let deadline = self.now.plus(self.config.heartbeat_interval);
        self.repair.deadline = Some(deadline);
        if first != self.repair.asked_first {
            self.repair.lacking.clear();
        }
        (self.repair.asked, self.repair.asked_first, self.repair.asked_last) = (Some(to), first, last);
        self.send(to, Body::FetchEntries { first, last, entry_term });
    }

    /// Consecutive entries of one term that are missing.
    fn next_wanted(&self, cursor: Index) -> Option<(Index, Index, Term)> {
        let missing = &self.repair.missing;
        let first = *missing.range(cursor..).next().or(missing.first())?;
        let term = self.log.term_at(first)?;
        let mut last = first;
        while last.0 - first.0 + 1 < WANTED_MAX
            && missing.contains(&last.next())
            && self.log.term_at(last.next()) == Some(term)
        {
            last = last.next();
        }
        Some((first, last, term))
    }

    /// A question that got no answer, or one that was of no use, is over after a while.
    pub(super) fn check_repair(&mut self) {
        if self.repair.deadline().is_some_and(|deadline| self.now >= deadline) {
            self.repair.deadline = None;
            self.repair.futile = self.repair.futile.saturating_add(1);
            let patience = self.config.election_timeout_max * PATIENCE;
            self.repair.patient_until.get_or_insert(self.now.plus(patience));
        }
    }

    /// Says what this log holds of what a peer lacks, committed or not.
    pub(super) fn on_fetch_entries(&mut self, from: NodeId, first: Index, last: Index, entry_term: Term) {
        if first > last || last.0 - first.0 >= WANTED_MAX {
            return self.fault(from, "a question for no entries, or too many");
        }
        if self.term == Term(0) {
            // Nobody has told this node anything yet.
            return;
        }
        if first <= self.log.base().index {
            let base = Some(Box::new(self.log.base().clone()));
            return self.send(from, Body::FetchEntriesResponse { first, entries: Vec::new(), base });
        }
        let end = last.min(self.log.last_index()).min(self.log.term_end(entry_term));
        let damaged = self.repair.next_from(first).map_or(end, Index::prev);
        let end = end.min(damaged);
        if end < first || self.log.term_at(first) != Some(entry_term) {
            return self.answer_fetch(from, first, Vec::new());
        }
        match self.log.slice(first, end, self.config.append_bytes_max) {
            Some((entries, _)) => self.answer_fetch(from, first, entries.into_iter().collect()),
            None => self.read_to_answer(from, first, end),
        }
    }

    fn answer_fetch(&mut self, to: NodeId, first: Index, entries: Vec<Run>) {
        self.send(to, Body::FetchEntriesResponse { first, entries, base: None });
    }

    fn read_to_answer(&mut self, to: NodeId, first: Index, last: Index) {
        if self.repair.answers.len() >= ANSWERS_MAX {
            return;
        }
        self.last_log_request += 1;
        let request = self.last_log_request;
        self.repair.answers.push_back(Answer { request, to, first });
        let bytes_max = self.config.append_bytes_max;
        self.outputs.results.push(Output::ReadEntries { request, from: first, to: last, bytes_max });
    }

    /// Whether the log was read to answer a peer; if so it is answered.
    pub(super) fn on_entries_read_to_answer(&mut self, request: u64, result: &LogRead) -> bool {
        let Some(at) = self.repair.answers.iter().position(|answer| answer.request == request) else { return false };
        let Some(Answer { to, first, .. }) = self.repair.answers.remove(at) else { return false };
        match result {
            // What is there by now need not be what was asked for; the asker holds the terms against its own.
            LogRead::Entries(entries) if self.log.holds(first, entries) => {
                self.answer_fetch(to, first, entries.clone());
            }
            LogRead::Damaged { at } => {
                self.on_damage_found(*at);
                self.answer_fetch(to, first, Vec::new());
            }
            LogRead::Entries(_) | LogRead::Compacted => self.answer_fetch(to, first, Vec::new()),
        }
        true
    }

    pub(super) fn on_fetch_entries_response(
        &mut self,
        from: NodeId,
        first: Index,
        entries: &[Run],
        base: Option<Box<Base>>,
    ) {
        let is_awaited =
            self.repair.deadline.is_some() && self.repair.asked == Some(from) && self.repair.asked_first == first;
        let is_empty = entries.is_empty() && base.is_none();
        if self.take_missing(from, entries) > 0 && is_awaited {
            self.repair.deadline = None;
            self.repair.futile = 0;
            self.repair.patient_until = None;
        } else if is_empty && is_awaited {
            self.note_lacking(from, first);
        }
        if let Some(base) = base.filter(|_| is_awaited) {
            self.consider_base(from, *base);
        }
    }

    /// A peer holds nothing of what is damaged from `first` on, or not whole. When that is so of everybody, it is told: where a majority needs this node, nothing but its own disk can bring the entry back.
    fn note_lacking(&mut self, from: NodeId, first: Index) {
        self.repair.lacking.insert(from);
        let is_nowhere = self.peers_to_ask().iter().all(|peer| self.repair.lacking.contains(peer));
        if is_nowhere && self.repair.lost() != Some(first) {
            self.repair.lost = Some(first);
            self.outputs.events.push(Event::Irreparable { at: first });
        }
    }

    /// Takes the data of missing entries from runs that hold them, whoever sent those: the same index and term mean the same data. Says how many.
    pub(super) fn take_missing(&mut self, from: NodeId, entries: &[Run]) -> usize {
        let mut taken = 0;
        for run in entries {
            let wanted: Vec<Index> = self.repair.missing.range(run.first()..=run.last()).copied().collect();
            for index in wanted.into_iter().filter_map(|index| run.slice(index, index)) {
                if !self.take_one(from, index) {
                    return taken;
                }
                taken += 1;
            }
        }
        taken
    }

    /// Takes the data of one missing entry; false when they cannot be it, or there is no room.
    fn take_one(&mut self, from: NodeId, entry: Run) -> bool {
        let index = entry.first();
        let is_full = !self.repair.received.is_empty()
            && self.repair.received_bytes + entry.size() > self.config.append_bytes_max;
        if self.log.term_at(index) != Some(entry.term()) || is_full {
            return false;
        }
        match self.log.restore(&entry) {
            Ok(is_membership_new) => {
                self.repair.receive(index, entry);
                if is_membership_new {
                    self.on_membership_changed();
                }
                true
            }
            Err(_) => {
                self.fault(from, "a membership that does not decode");
                false
            }
        }
    }

    /// A peer has compacted away what is missing here: everything up to its base is committed.
    /// If the state machine has flushed that, the log begins there. If it has not, and nobody else has the entries, it begins there nevertheless: the state is then behind the log's start, and comes as a snapshot (C7).
    fn consider_base(&mut self, from: NodeId, base: Base) {
        let is_valid = base.membership.as_ref().is_some_and(|it| it.is_valid()) && base.membership_index <= base.index;
        if !is_valid || base.term > Term::MAX || self.contradicts_committed(base.index, base.term) {
            return self.fault(from, "a base that cannot be");
        }
        let is_last_resort = self.is_repair_futile();
        if base.index <= self.applying.flushed || is_last_resort {
            if base.term > self.term {
                // No log has entries of a later term than its node.
                self.become_follower(base.term);
            }
            self.begin_at(base);
        }
    }

    /// Whether everybody was asked twice, and for so long that who is only late would have answered.
    fn is_repair_futile(&self) -> bool {
        let was_asked = self.repair.futile >= 2 * self.peers_to_ask().len();
        was_asked && self.repair.patient_until.is_some_and(|at| self.now >= at)
    }

    /// Begins the log after what is committed up to `base`, if that takes damage away; what follows stays when it continues that.
    pub(super) fn begin_at(&mut self, base: Base) {
        let is_useful = self.repair.reaches(base.index) && base.index > self.log.base().index;
        if !is_useful || self.installing.is_some() {
            return;
        }
        let index = base.index;
        if self.log.term_at(index) != Some(base.term) {
            self.restart_log(base);
        } else if index <= self.persistence.durable_index() {
            self.log.rebase(base);
            self.on_base_moved();
            self.commit_index = self.commit_index.max(index);
            self.following.verified = self.following.verified.max(index);
            self.on_membership_changed();
        }
        // Otherwise what the base ends with is still on its way to the disk: later.
    }

    /// Whether damage keeps the log from bringing the state to what a snapshot holds.
    pub(super) fn is_damaged_up_to(&self, meta: &SnapshotMeta) -> bool {
        self.repair.reaches(meta.last_included_index)
    }

    /// Reports that damage was found, or is gone; whoever asked for votes does not any more.
    pub(super) fn settle_damage(&mut self) {
        match self.repair.first() {
            Some(at) => {
                if !self.repair.is_reported {
                    self.repair.is_reported = true;
                    self.outputs.events.push(Event::Damaged { at });
                }
                if !matches!(self.role, RoleState::Follower) {
                    self.step_down(RejectReason::NotLeader { leader: None });
                }
            }
            None if self.repair.is_reported => {
                self.repair.is_reported = false;
                self.repair.deadline = None;
                self.repair.futile = 0;
                self.repair.patient_until = None;
                self.outputs.events.push(Event::Repaired);
            }
            None => {}
        }
    }
}
