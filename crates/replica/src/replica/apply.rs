//! What the state machine does, and the replies that come of it.

use std::collections::VecDeque;

use bytes::Bytes;
use coracle_core::{EntryKind, Index, Input as RaftInput, Run, Runs};
use coracle_storage::Applied;

use super::Replica;
use crate::{Effect, StateEffect};

/// How far the state machine is.
#[derive(Debug)]
pub(super) struct Applying {
    /// What it said last.
    pub(super) applied: Applied,
    /// Where it will be when it has done what it was given.
    pub(super) handed: Index,
    /// What it was given and has not done, in order.
    entries: VecDeque<Runs>,
}

impl Applying {
    pub(super) fn new(applied: Applied) -> Applying {
        Applying { applied, handed: applied.applied, entries: VecDeque::new() }
    }
}

impl Replica {
    pub(super) fn on_apply(&mut self, entries: Runs) {
        let Some(last) = entries.last().map(Run::last) else { return };
        self.applying.handed = last;
        self.applying.entries.push_back(entries.clone());
        self.effects.late.push_back(Effect::State(StateEffect::Apply { entries }));
        self.answer_ready();
    }

    pub(super) fn on_applied(&mut self, applied: Applied, replies: Vec<Bytes>) {
        let entries = self.applying.entries.pop_front().unwrap_or_default();
        let commands = entries
            .iter()
            .flat_map(Run::iter)
            .filter(|(_, entry)| entry.kind == EntryKind::Command)
            .map(|(index, _)| index);
        for (index, reply) in commands.zip(replies) {
            self.on_reply(index, reply);
        }
        self.note_applied(applied);
        self.skip_committed(applied.applied);
    }

    /// The core hears how far the state is; a state in memory has what its newest snapshot covers after a power cut.
    pub(super) fn note_applied(&mut self, applied: Applied) {
        let flushed = applied.flushed.max(self.compaction.snapshotted_index()).min(applied.applied);
        self.applying.applied = Applied { applied: applied.applied, flushed };
        self.tell_core(RaftInput::Applied { applied: applied.applied, flushed });
        self.compaction.look_again();
    }

    /// Whether the state misses entries that the log does not hold any more (C7).
    pub(super) fn is_behind_log(&self) -> bool {
        self.receiving.is_installing() || self.handed_index() < self.compaction.base_index
    }
}
