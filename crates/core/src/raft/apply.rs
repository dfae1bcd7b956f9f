//! What is handed to the state machine, and compaction (C7).

use alloc::{collections::VecDeque, vec::Vec};

use super::{Raft, RoleState, canonical::Form};
use crate::{Bug, Event, Fatal, Index, LogRead, Output, Run, Runs};

/// How far the state machine is.
#[derive(Clone, Debug)]
pub(super) struct Applying {
    /// What it has applied.
    pub(super) applied: Index,
    /// What it would still have applied after a power cut. At most `applied`.
    pub(super) flushed: Index,
    /// The last entry handed out. At least `applied`.
    sent: Index,
    /// What is handed out and not applied: the last index and the bytes of each portion.
    outstanding: VecDeque<(Index, usize)>,
    outstanding_bytes: usize,
    /// The question to the log for what comes next.
    log_request: Option<u64>,
}

impl Applying {
    pub(super) fn new(applied: Index) -> Applying {
        Applying {
            applied,
            flushed: applied,
            sent: applied,
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            log_request: None,
        }
    }

    pub(super) fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    pub(super) fn is_for(&self, request: u64) -> bool {
        self.log_request == Some(request)
    }

    pub(super) fn canonical(&self, last_log_request: u64) -> impl Form {
        let Applying { applied, flushed, sent, outstanding, outstanding_bytes, log_request } = self;
        let outstanding: Vec<_> = outstanding.iter().copied().collect();
        let request = log_request.map(|request| last_log_request - request);
        (*applied, *flushed, *sent, outstanding, *outstanding_bytes, request)
    }

    /// The state was replaced: what was handed out before is in it.
    pub(super) fn restart_at(&mut self, index: Index) {
        *self = Applying::new(index.max(self.applied));
    }
}

impl Raft {
    /// Hands out what is committed and durable, up to the limit of what may be outstanding.
    pub(super) fn settle_apply(&mut self) {
        let is_unwritten_enough = self.config.has_bug(Bug::ApplyBeforeDurable);
        let durable = if is_unwritten_enough { self.commit_index } else { self.durable_index() };
        let limit = self.commit_index.min(durable);
        let is_blocked = self.installing.is_some() || self.applying.sent < self.log.base().index;
        while !is_blocked
            && self.applying.sent < limit
            && self.applying.outstanding_bytes < self.config.apply_bytes_max
            && self.applying.log_request.is_none()
        {
            let room = self.config.apply_bytes_max - self.applying.outstanding_bytes;
            match self.log.slice(self.applying.sent.next(), limit, room) {
                Some((entries, bytes)) => self.hand_out(entries, bytes),
                None => self.read_to_apply(limit, room),
            }
        }
    }

    /// Whether progress of the state machine can make a difference to what is handed to it. It makes none to anything else.
    pub(super) fn is_more_to_apply(&self) -> bool {
        self.applying.sent < self.commit_index || self.installing.is_some()
    }

    fn hand_out(&mut self, entries: Runs, bytes: usize) {
        let Some(last) = entries.last().map(Run::last) else { return };
        self.applying.sent = last;
        self.applying.outstanding.push_back((last, bytes));
        self.applying.outstanding_bytes += bytes;
        self.outputs.ready.push_back(Output::Apply { entries });
    }

    fn read_to_apply(&mut self, to: Index, bytes_max: usize) {
        self.last_log_request += 1;
        let request = self.last_log_request;
        self.applying.log_request = Some(request);
        let from = self.applying.sent.next();
        self.outputs.ready.push_back(Output::ReadEntries { request, from, to, bytes_max });
    }

    pub(super) fn on_entries_read_to_apply(&mut self, result: LogRead) {
        self.applying.log_request = None;
        let next = self.applying.sent.next();
        match result {
            LogRead::Entries(entries) if self.log.holds(next, &entries) => {
                let bytes = entries.iter().map(Run::size).sum();
                self.hand_out(entries.into(), bytes);
            }
            // A snapshot has taken the place of what was asked for.
            _ if self.installing.is_some() || self.applying.sent < self.log.base().index => {}
            LogRead::Damaged { at } => self.on_damage_found(at),
            LogRead::Entries(_) | LogRead::Compacted => self.stop(Fatal::Damaged { at: next }),
        }
    }

    pub(super) fn on_applied(&mut self, applied: Index, flushed: Index) {
        let a = &mut self.applying;
        a.applied = a.applied.max(applied.min(a.sent));
        a.flushed = a.flushed.max(flushed.min(a.applied));
        while let Some((last, bytes)) = a.outstanding.front()
            && *last <= a.applied
        {
            a.outstanding_bytes -= bytes;
            a.outstanding.pop_front();
        }
        if let RoleState::Leader(leader) = &mut self.role {
            while let Some((last, bytes)) = leader.unapplied.front()
                && *last <= a.applied
            {
                leader.unapplied_bytes -= bytes;
                leader.unapplied.pop_front();
            }
        }
        self.evict();
    }

    /// Keeps in memory no more than their share of the entries that are on disk.
    /// Those not applied yet stay for longer, up to as many bytes as may be uncommitted; beyond that they are read again: a state machine that is slow may be behind by any amount.
    pub(super) fn evict(&mut self) {
        let durable = self.durable_index();
        self.log.evict(self.applying.applied.min(durable), 0);
        self.log.evict(self.commit_index.min(durable), self.config.uncommitted_bytes_max);
    }

    /// Moves the log's base up to what is flushed, and leaves what a snapshot in transfer is continued by.
    pub(super) fn on_compact(&mut self, up_to: Index) {
        let floor = self.installing_floor().unwrap_or(up_to);
        let is_flush_needless = self.config.has_bug(Bug::CompactUnflushed);
        let flushed = if is_flush_needless { self.applying.applied } else { self.applying.flushed };
        let index = up_to.min(flushed).min(floor).min(self.durable_index());
        if index <= self.log.base().index || self.installing.is_some() {
            return;
        }
        self.log.compact(index);
        self.persistence.on_compacted(self.log.base().clone());
        self.outputs.events.push(Event::Compacted { index });
    }
}
