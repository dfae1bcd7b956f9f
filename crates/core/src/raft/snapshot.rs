//! Snapshots that arrive (C8; Raft §7).

use alloc::boxed::Box;

use super::{Raft, RoleState, canonical::Form};
use crate::{Base, Body, Bug, Event, Index, InstallSnapshot, NodeId, Output, SnapshotMeta, Term};

/// A whole snapshot on its way into the state machine.
#[derive(Clone, Debug)]
pub(super) struct Installing {
    meta: Box<SnapshotMeta>,
    /// Whether the state machine has been told; before that the log's base has to be durable.
    is_handed_out: bool,
}

impl SnapshotMeta {
    /// The base of a log that the snapshot's state continues.
    fn base(&self) -> Base {
        Base {
            index: self.last_included_index,
            term: self.last_included_term,
            membership_index: self.membership_index,
            membership: Some(self.membership.clone()),
        }
    }
}

impl Installing {
    pub(super) fn canonical(&self) -> impl Form {
        let Installing { meta, is_handed_out } = self;
        (meta, *is_handed_out)
    }
}

impl Raft {
    /// Whether the state is behind the log's start, and nothing is under way that mends it.
    pub(super) fn needs_snapshot(&self) -> bool {
        self.applying.applied < self.log.base().index && self.installing.is_none()
    }

    /// Whether the log holds what the snapshot ends with.
    fn log_covers(&self, meta: &SnapshotMeta) -> bool {
        let index = meta.last_included_index;
        index <= self.commit_index || self.log.term_at(index) == Some(meta.last_included_term)
    }

    /// Whether an entry of another term is known to be committed there.
    pub(super) fn contradicts_committed(&self, index: Index, term: Term) -> bool {
        (self.log.base().index..=self.commit_index).contains(&index) && self.log.term_at(index) != Some(term)
    }

    fn wants(&self, meta: &SnapshotMeta) -> bool {
        let index = meta.last_included_index;
        if index <= self.applying.applied {
            return false;
        }
        let is_state_behind = self.applying.applied < self.log.base().index || self.is_damaged_up_to(meta);
        let covers = self.log_covers(meta) && !self.config.has_bug(Bug::SnapshotOverNewerLog);
        if is_state_behind { index >= self.log.base().index } else { !covers }
    }

    pub(super) fn on_install_snapshot(&mut self, from: NodeId, term: Term, piece: Box<InstallSnapshot>) {
        let meta = &piece.meta;
        if !meta.membership.is_valid() || meta.last_included_index == Index::ZERO {
            return self.fault(from, "a snapshot without valid members");
        }
        if meta.last_included_term > term || meta.membership_index > meta.last_included_index {
            return self.fault(from, "a snapshot of what cannot be committed");
        }
        if self.contradicts_committed(meta.last_included_index, meta.last_included_term) {
            return self.fault(from, "a snapshot that contradicts what is committed");
        }
        if self.installing.is_none() && self.wants(&piece.meta) {
            return self.outputs.results.push(Output::StoreSnapshot { from, term, piece });
        }
        // Whole already, or not needed: the leader may stop sending, and learns what this log holds.
        if self.installing.is_none() && self.log_covers(&piece.meta) {
            if piece.meta.last_included_index <= self.applying.flushed {
                self.begin_at(piece.meta.base());
            }
            self.verify_up_to(piece.meta.last_included_index);
        }
        let (content, offset) = (piece.meta.content, piece.meta.size);
        self.send(from, Body::InstallSnapshotResponse { content, offset, done: true });
    }

    /// A snapshot covers only what is committed: up to there this log equals every leader's.
    fn verify_up_to(&mut self, index: Index) {
        self.following.verified = self.following.verified.max(index);
        self.learn_commit(index);
        self.want_ack();
    }

    pub(super) fn on_snapshot_stored(&mut self, from: NodeId, term: Term, content: u64, offset: u64, done: bool) {
        if term == self.term && self.following.leader == Some(from) {
            self.send(from, Body::InstallSnapshotResponse { content, offset, done });
        }
    }

    pub(super) fn on_snapshot_received(&mut self, meta: Box<SnapshotMeta>) {
        // More may have been committed since its first piece came.
        let is_contradicted = self.contradicts_committed(meta.last_included_index, meta.last_included_term);
        if self.is_leader() || self.installing.is_some() || !self.wants(&meta) || is_contradicted {
            return self.want_ack();
        }
        if !self.log_covers(&meta) || self.config.has_bug(Bug::SnapshotOverNewerLog) {
            self.restart_log(meta.base());
        } else if self.is_damaged_up_to(&meta) {
            // What the state will hold is not needed in the log.
            self.begin_at(meta.base());
            if self.log.base().index < meta.last_included_index {
                return self.want_ack();
            }
        }
        self.verify_up_to(meta.last_included_index);
        self.installing = Some(Installing { meta, is_handed_out: false });
        // Whoever asked for votes without its state waits for it.
        self.role = RoleState::Follower;
    }

    /// The log makes way for what is committed up to `base`.
    pub(super) fn restart_log(&mut self, base: Base) {
        let index = base.index;
        let last = self.log.last_index();
        if last > self.commit_index {
            self.outputs.events.push(Event::Truncated { from: self.commit_index.next(), last });
        }
        self.persistence.on_reset(base.clone(), self.commit_index);
        self.repair.on_reset();
        self.log.reset(base);
        self.commit_index = index;
        self.following.verified = index;
        self.on_membership_changed();
    }

    /// Hands the snapshot to the state machine once the log's base is durable.
    pub(super) fn settle_install(&mut self) {
        let is_base_needless = self.config.has_bug(Bug::InstallBeforeBase);
        let durable = if is_base_needless { self.log.last_index() } else { self.durable_index() };
        let Some(installing) = &mut self.installing else { return };
        if !installing.is_handed_out && durable >= installing.meta.last_included_index {
            installing.is_handed_out = true;
            let meta = installing.meta.clone();
            self.outputs.ready.push_back(Output::InstallSnapshot { meta });
        }
    }

    pub(super) fn on_snapshot_installed(&mut self, index: Index) {
        let is_awaited = |i: &Installing| i.is_handed_out && i.meta.last_included_index == index;
        if !self.installing.as_ref().is_some_and(is_awaited) {
            return;
        }
        self.installing = None;
        self.applying.restart_at(index);
        self.outputs.events.push(Event::SnapshotInstalled { index });
        self.want_ack();
    }
}
