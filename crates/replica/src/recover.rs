//! What a replica finds when it starts.

use coracle_core::{Base, GroupId, HardState, Index, Recovered, SnapshotMeta, Term};
use coracle_storage::{Applied, LogBatch, LogStore, RecoveredLog, SnapshotStore, StateMachine, StorageError};

use crate::{Start, state_worker::StoredSnapshot};

/// Reads what the stores hold (C3), and brings the state machine up to the newest stored snapshot when its state is behind the log's start or lives in memory.
/// `None` when the log is empty: the node is not founded yet.
///
/// # Errors
/// When a store cannot be read or written, or what they hold does not belong together.
pub fn recover(
    log: &dyn LogStore,
    snapshots: &dyn SnapshotStore,
    machine: &mut dyn StateMachine,
    group: GroupId,
    tail_bytes_max: usize,
) -> Result<Option<Start>, StorageError> {
    let mut found = log.recover(group, tail_bytes_max)?;
    if found.is_empty() {
        return Ok(None);
    }
    if let Some(at) = found.damaged_at {
        return Err(StorageError::damaged("the log", format!("the entry at {at} does not match its checksum")));
    }
    let snapshot = snapshots.latest()?;
    if let Some(meta) = snapshot.as_ref().filter(|meta| is_needed(meta, &found, machine)) {
        if !holds(&found, meta.last_included_index, meta.last_included_term) {
            begin_log_at(log, group, &found, meta)?;
            found = log.recover(group, tail_bytes_max)?;
        }
        machine.install(meta.last_included_index, &mut StoredSnapshot::new(snapshots, meta))?;
    }
    let applied = flushed(machine)?;
    if applied.applied > found.last_index {
        let what = format!("it ends at {}, but the state machine has applied {}", found.last_index, applied.applied);
        return Err(StorageError::damaged("the log", what));
    }
    let is_durable = machine.is_durable();
    Ok(Some(Start { recovered: recovered(found, applied.applied), applied, snapshot, is_durable }))
}

/// Whether the state is to be replaced: it is behind the log's start, or in memory and behind the snapshot.
fn is_needed(meta: &SnapshotMeta, found: &RecoveredLog, machine: &dyn StateMachine) -> bool {
    let applied = machine.applied().applied;
    let is_behind = applied < found.base.index || !machine.is_durable();
    is_behind && meta.last_included_index > applied && meta.last_included_index >= found.base.index
}

/// Whether the log holds the entry at `index` in `term`, or begins right after it.
fn holds(found: &RecoveredLog, index: Index, term: Term) -> bool {
    if index == found.base.index {
        return term == found.base.term;
    }
    let held = found.terms.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term);
    index <= found.last_index && held == Some(term)
}

/// Finishes what a stop between the snapshot's storing and the log's new start left undone (C8): the snapshot is durable and committed, and the log does not reach it.
fn begin_log_at(
    log: &dyn LogStore,
    group: GroupId,
    found: &RecoveredLog,
    meta: &SnapshotMeta,
) -> Result<(), StorageError> {
    let HardState { term, voted_for, commit_index } = found.hard_state;
    // The term that brought the snapshot may not have been durable yet; taking it up without a vote is always safe.
    let raised = term.max(meta.last_included_term);
    let voted_for = if raised == term { voted_for } else { None };
    let commit_index = commit_index.max(meta.last_included_index);
    let base = Base {
        index: meta.last_included_index,
        term: meta.last_included_term,
        membership_index: meta.membership_index,
        membership: Some(meta.membership.clone()),
    };
    log.write(&[LogBatch {
        group,
        truncate_from: Some(found.base.index.next()),
        entries: Vec::new(),
        hard_state: Some(HardState { term: raised, voted_for, commit_index }),
        base: Some(base),
    }])
}

/// A state that survived the process need not have been on disk yet: after a start both are the same.
fn flushed(machine: &mut dyn StateMachine) -> Result<Applied, StorageError> {
    if machine.is_durable() {
        machine.flush()?;
    }
    Ok(machine.applied())
}

fn recovered(found: RecoveredLog, applied: Index) -> Recovered {
    let RecoveredLog { hard_state, base, terms, memberships, last_index, tail, damaged_at: _ } = found;
    Recovered { hard_state, base, terms, memberships, last_index, tail, applied }
}
