//! What is durable, what waits for it, and what is written next (C4, C5, C6, C18).

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::mem;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
};
use crate::{
    Base, Body, Bug, Config, Event, HardState, Index, Message, Output, Persist, RejectReason, Term, Ticket, Time,
};

/// The most messages that wait for the disk.
const WITHHELD_MAX: usize = 1024;

/// What is written, what of it is durable, and what waits for that.
#[derive(Clone, Debug)]
pub(super) struct Persistence {
    last_ticket: Ticket,
    /// Issued and not yet durable, in order.
    writes: VecDeque<Write>,
    /// The highest index whose last write is durable; a truncation lowers it at once (C4).
    durable: Index,
    /// The highest index that was ever issued, and not cut off since.
    issued: Index,
    /// Cut this off with the next write: something from here on was issued.
    truncate_from: Option<Index>,
    /// Write this base with the next write.
    base: Option<Base>,
    /// Where the log begins that the writes so far leave behind: below the log's own base until that is written.
    issued_base: Index,
    /// Counts the changes of (term, vote).
    version: u64,
    issued_version: u64,
    durable_version: u64,
    /// Messages of the current term that leave with `durable_version` at the number beside them.
    withheld: VecDeque<(u64, Message)>,
    /// Whether a write has been reported to take too long.
    is_slow: bool,
    /// Whether a write on its way has found no space so far.
    is_full: bool,
}

#[derive(Clone, Debug)]
struct Write {
    ticket: Ticket,
    version: u64,
    /// What the log ends with once this is durable, as far as it has not been cut off since.
    last_index: Index,
    issued_at: Time,
}

impl Write {
    /// `place` is that of its version among all of them.
    fn canonical(&self, clock: Clock, place: usize) -> impl Form + use<> {
        let Write { ticket: _, version: _, last_index, issued_at } = self;
        (place, *last_index, clock.age(*issued_at))
    }
}

impl Persistence {
    pub(super) fn new(base_index: Index, last_index: Index) -> Persistence {
        Persistence {
            last_ticket: Ticket(0),
            writes: VecDeque::new(),
            durable: last_index,
            issued: last_index,
            truncate_from: None,
            base: None,
            issued_base: base_index,
            version: 0,
            issued_version: 0,
            durable_version: 0,
            withheld: VecDeque::new(),
            is_slow: false,
            is_full: false,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn withheld_count(&self) -> usize {
        self.withheld.len()
    }

    /// The highest index whose last write is durable, damaged or not.
    pub(super) fn durable_index(&self) -> Index {
        self.durable
    }

    /// The highest index that was ever issued, and not cut off since.
    pub(super) fn issued_index(&self) -> Index {
        self.issued
    }

    /// Whether (term, vote) is durable as it is.
    pub(super) fn is_vote_durable(&self) -> bool {
        self.durable_version == self.version
    }

    /// The term changed: what was withheld dies with the old one.
    pub(super) fn on_term_changed(&mut self) {
        self.version += 1;
        self.withheld.clear();
    }

    pub(super) fn on_voted(&mut self) {
        self.version += 1;
    }

    /// Keeps the message until (term, vote) is durable as it is.
    pub(super) fn withhold(&mut self, message: Message) {
        // While the disk hangs the same is said again and again: the newest counts, and any message may get lost.
        if self.withheld.len() >= WITHHELD_MAX {
            self.withheld.pop_front();
        }
        self.withheld.push_back((self.version, message));
    }

    /// The entries from `from` on are no longer in the log.
    pub(super) fn on_truncated(&mut self, from: Index, has_bug: bool) {
        let last = from.prev();
        if !has_bug {
            self.durable = self.durable.min(last);
            for write in &mut self.writes {
                write.last_index = write.last_index.min(last);
            }
        }
        if self.issued > last {
            self.issued = last;
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
        }
    }

    /// The log begins after `base`, and holds what it held above it.
    pub(super) fn on_compacted(&mut self, base: Base) {
        self.base = Some(base);
    }

    /// The log is empty and begins after `base`. Of what it held, everything up to `known` is committed.
    pub(super) fn on_reset(&mut self, base: Base, known: Index) {
        // A compaction that has not been written leaves more on the disk than in memory: all of it goes.
        let old_first = self.issued_base.next();
        let is_anything_issued = self.issued >= old_first || self.truncate_from.is_some();
        // Until the next write is durable the disk holds the old log, and of that only the committed part still counts.
        self.on_truncated(known.next(), false);
        self.truncate_from = is_anything_issued.then_some(old_first);
        self.issued = base.index;
        self.base = Some(base);
    }

    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        let Persistence {
            // Only the order of writes counts, and they are in order.
            last_ticket: _,
            writes,
            durable,
            issued,
            truncate_from,
            base,
            issued_base,
            version,
            issued_version,
            durable_version,
            withheld,
            is_slow,
            is_full,
        } = self;
        let mut versions: Vec<u64> = writes.iter().map(|write| write.version).collect();
        versions.extend(withheld.iter().map(|(version, _)| *version));
        versions.extend([*version, *issued_version, *durable_version]);
        versions.sort_unstable();
        versions.dedup();
        // How (term, vote) changed counts by what came first alone.
        let place = |version: &u64| versions.partition_point(|other| other < version);
        let writes: Vec<_> = writes.iter().map(|write| write.canonical(clock, place(&write.version))).collect();
        let withheld: Vec<_> = withheld.iter().map(|(version, message)| (place(version), message)).collect();
        let vote = (place(version), place(issued_version), place(durable_version));
        (writes, *durable, *issued, (*truncate_from, base, *issued_base), vote, withheld, (*is_slow, *is_full))
    }

    fn is_due(&self, last_index: Index) -> bool {
        self.version > self.issued_version
            || self.issued < last_index
            || self.truncate_from.is_some()
            || self.base.is_some()
    }
}

impl Raft {
    /// The next write. One at a time is on its way: what arrives meanwhile is the next batch, so that one sync serves all of it.
    pub(super) fn next_write(&mut self) -> Option<Persist> {
        let last_index = self.log.last_index();
        let p = &mut self.persistence;
        if !p.writes.is_empty() || !(p.is_due(last_index) || self.repair.is_due()) {
            return None;
        }
        let entries = match self.log.slice(p.issued.next(), last_index, usize::MAX) {
            Some((runs, _)) => runs,
            None => unreachable!("entries stay in memory until they are written"),
        };
        p.last_ticket.0 += 1;
        p.issued = last_index;
        p.issued_base = p.base.as_ref().map_or(p.issued_base, |base| base.index);
        p.issued_version = p.version;
        p.writes.push_back(Write { ticket: p.last_ticket, version: p.version, last_index, issued_at: self.now });
        Some(Persist {
            ticket: p.last_ticket,
            truncate_from: p.truncate_from.take(),
            repaired: self.repair.issue(p.last_ticket),
            entries,
            hard_state: Some(forgotten(
                &self.config,
                self.log.last_term(),
                HardState {
                    term: self.term,
                    voted_for: self.voted_for,
                    commit_index: self.commit_index.min(last_index),
                    is_repairing: self.repair.flag(),
                },
            )),
            base: p.base.take().map(Box::new),
        })
    }

    pub(super) fn on_persisted(&mut self, ticket: Ticket) {
        let p = &mut self.persistence;
        while let Some(write) = p.writes.front()
            && write.ticket <= ticket
        {
            p.durable = p.durable.max(write.last_index);
            p.durable_version = write.version;
            p.writes.pop_front();
        }
        self.repair.on_persisted(ticket);
        if p.writes.is_empty() {
            if mem::take(&mut p.is_full) {
                self.outputs.events.push(Event::SpaceFound);
            }
            if mem::take(&mut p.is_slow) {
                self.outputs.events.push(Event::DiskRecovered);
            }
        }
        self.evict();
    }

    /// The write on its way waits for space: nothing of it is written, so that nothing is lost but time (C18).
    pub(super) fn on_no_space(&mut self) {
        let p = &mut self.persistence;
        if !p.writes.is_empty() && !p.is_full {
            p.is_full = true;
            self.outputs.events.push(Event::DiskFull);
        }
    }

    /// Whether a write of the log waits for space (C18): until it has some, proposals are refused, and this node does not campaign.
    pub fn is_full(&self) -> bool {
        self.persistence.is_full()
    }

    /// Whether a write of the log takes longer than its limit (C18): this node does not campaign until it is durable.
    pub fn is_disk_slow(&self) -> bool {
        self.persistence.is_slow
    }

    /// Messages that may leave since (term, vote) has become durable.
    pub(super) fn release_withheld(&mut self) {
        let p = &mut self.persistence;
        while let Some((version, _)) = p.withheld.front()
            && *version <= p.durable_version
        {
            if let Some((_, message)) = p.withheld.pop_front() {
                self.outputs.ready.push_back(Output::Send(message));
            }
        }
    }

    /// When the write on its way takes too long.
    pub(super) fn disk_deadline(&self) -> Option<Time> {
        let write = self.persistence.writes.front()?;
        (!self.persistence.is_slow).then(|| write.issued_at.plus(self.config.disk_write_max))
    }

    /// A leader whose disk hangs steps down, and does not campaign until the write is durable (C18).
    /// One that is full and alone goes on: nobody could take over, and it can answer reads.
    pub(super) fn check_disk(&mut self) {
        if self.disk_deadline().is_none_or(|deadline| self.now < deadline) {
            return;
        }
        self.persistence.is_slow = true;
        self.outputs.events.push(Event::DiskSlow);
        let is_useful = self.persistence.is_full && self.quorum.is_sole(self.config.id);
        if self.is_leader() && !is_useful {
            self.step_down(RejectReason::NotLeader { leader: None });
        }
    }

    /// Whether the node may ask for votes: its disk answers, its log is whole, its state is not behind its log's start (C7, C18, C19), and it is a voter.
    /// A node that a membership leaves out which is not known to be committed is still needed: it may be the only one that can be elected (thesis §4.2.2).
    pub(super) fn may_campaign(&self) -> bool {
        self.may_campaign_at_all() && !self.is_state_behind()
    }

    /// The same, whether or not this node could serve.
    pub(super) fn may_campaign_at_all(&self) -> bool {
        !self.persistence.is_slow
            && !self.persistence.is_full
            && self.installing.is_none()
            && !self.is_repairing()
            && self.log.may_vote(self.config.id, self.commit_index)
    }

    /// Asks for the votes of a campaign once (term, vote) and the log that it claims are durable (C5).
    pub(super) fn request_votes_when_durable(&mut self) {
        let last_log_index = self.log.last_index();
        let last_log_term = self.log.last_term();
        let is_durable = self.persistence.is_vote_durable() && self.durable_index() >= last_log_index;
        let is_unwritten_enough = self.config.has_bug(Bug::CampaignBeforeDurable);
        let RoleState::Candidate(campaign) = &mut self.role else { return };
        if campaign.is_requested || !(is_durable || is_unwritten_enough) {
            return;
        }
        campaign.is_requested = true;
        let is_transfer = campaign.is_transfer;
        campaign.record(self.config.id, true);
        let peers: Vec<_> = self.quorum.voters().filter(|id| *id != self.config.id).collect();
        for peer in peers {
            let body = Body::RequestVote { last_log_index, last_log_term, is_transfer };
            if is_unwritten_enough {
                self.send_at_once(peer, body);
            } else {
                self.send(peer, body);
            }
        }
        self.count_votes();
    }
}

/// What a write tells of term and vote: all, without a bug.
fn forgotten(config: &Config, last_term: Term, hard_state: HardState) -> HardState {
    if config.has_bug(Bug::VoteNotPersisted) {
        HardState { voted_for: None, ..hard_state }
    } else if config.has_bug(Bug::TermNotPersisted) {
        HardState { term: last_term, voted_for: None, ..hard_state }
    } else {
        hard_state
    }
}
