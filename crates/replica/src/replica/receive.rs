//! Snapshots that arrive (Raft §7, C8).

use coracle_core::{Index, Input as RaftInput, InstallSnapshot, NodeId, SnapshotMeta, Term};
use coracle_storage::Applied;

use super::Replica;
use crate::{Effect, StateEffect};

/// The most pieces that wait to be stored; a leader that sends more than any window is not listened to.
const STORING_MAX: usize = 64;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// The pieces that are being stored.
    storing: usize,
    /// The snapshot that replaces the state.
    installing: Option<Index>,
}

impl Receiving {
    pub(super) fn is_installing(&self) -> bool {
        self.installing.is_some()
    }

    /// A piece was dropped.
    pub(super) fn stored_none(&mut self) {
        self.storing = self.storing.saturating_sub(1);
    }
}

impl Replica {
    /// A piece that is dropped is sent again.
    pub(super) fn on_store_snapshot(&mut self, from: NodeId, term: Term, piece: Box<InstallSnapshot>) {
        if self.receiving.storing < STORING_MAX {
            self.receiving.storing += 1;
            self.effects.late.push_back(Effect::StoreSnapshot { from, term, piece });
        }
    }

    pub(super) fn on_snapshot_stored(
        &mut self,
        from: NodeId,
        term: Term,
        meta: Box<SnapshotMeta>,
        offset: u64,
        whole: bool,
    ) {
        self.receiving.stored_none();
        let content = meta.content;
        self.tell_core(RaftInput::SnapshotStored { from, term, content, offset, done: whole });
        if whole {
            self.tell_core(RaftInput::SnapshotReceived { meta });
        }
    }

    pub(super) fn on_install_snapshot(&mut self, meta: Box<SnapshotMeta>) {
        self.receiving.installing = Some(meta.last_included_index);
        self.compaction.stored((*meta).clone());
        self.effects.late.push_back(Effect::State(StateEffect::InstallSnapshot { meta }));
    }

    pub(super) fn on_snapshot_installed(&mut self, applied: Applied) {
        let Some(index) = self.receiving.installing.take() else { return };
        self.applying.handed = self.applying.handed.max(applied.applied);
        self.tell_core(RaftInput::SnapshotInstalled { index });
        self.note_applied(applied);
        self.skip_committed(applied.applied);
        self.answer_ready();
    }
}
