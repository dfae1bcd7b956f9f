//! What a replica finds when it starts.

use coracle_core::{Base, GroupId, HardState, Index, Recovered, SnapshotMeta, Term};
use coracle_storage::{Applied, LogBatch, LogStore, RecoveredLog, SnapshotStore, StateMachine, StorageError};

use crate::{Start, state_worker::StoredSnapshot};

/// Reads what the stores hold (C3), and brings the state machine up to the newest stored snapshot when its state is behind the log's start or lives in memory.
/// A damaged snapshot is passed over and put aside: should the state stay behind the log's start, the leader's snapshot mends it (C7).
/// `None` when the log is empty: the node is not founded yet.
///
/// # Errors
/// When a store cannot be read or written, what they hold does not belong together, or nobody else is there to mend it.
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
    if found.memberships.is_empty() && found.base.membership.is_none() {
        return Err(StorageError::damaged("the log", "no entry that holds a membership is whole"));
    }
    let mut damaged = snapshots.damaged()?;
    let snapshot = newest(snapshots, &found, machine, &mut damaged)?;
    if let Some(meta) = snapshot.as_ref().filter(|meta| is_needed(meta, &found, machine)) {
        if !holds(&found, meta.last_included_index, meta.last_included_term) {
            begin_log_at(log, group, &found, meta)?;
            found = log.recover(group, tail_bytes_max)?;
        }
        StoredSnapshot::install(snapshots, meta, machine)?;
    }
    let applied = flushed(machine)?;
    if let Some(meta) = snapshot.as_ref().filter(|meta| stands_for_damage(meta, &found, applied.applied)) {
        log.write(&[LogBatch { base: Some(base_of(meta)), ..LogBatch::append(group, Vec::new()) }])?;
        found = log.recover(group, tail_bytes_max)?;
    }
    if applied.applied > found.last_index {
        let what = format!("it ends at {}, but the state machine has applied {}", found.last_index, applied.applied);
        return Err(StorageError::damaged("the log", what));
    }
    if applied.applied < found.base.index && !has_peers(&found) {
        let what = format!("the log begins after {}, and no whole snapshot leads there", found.base.index);
        let none = || StorageError::damaged("the state", what);
        return Err(damaged.into_iter().next().unwrap_or_else(none));
    }
    let (is_durable, damaged_snapshots) = (machine.is_durable(), damaged.iter().map(StorageError::to_string).collect());
    let recovered = recovered(found, applied.applied);
    Ok(Some(Start { recovered, applied, snapshot, is_durable, damaged_snapshots }))
}

/// The newest snapshot, which is whole if it is needed. Those that turn out to be damaged are put aside.
fn newest(
    snapshots: &dyn SnapshotStore,
    found: &RecoveredLog,
    machine: &dyn StateMachine,
    damaged: &mut Vec<StorageError>,
) -> Result<Option<SnapshotMeta>, StorageError> {
    loop {
        let latest = snapshots.latest()?;
        let Some(meta) = latest.as_ref().filter(|meta| is_needed(meta, found, machine)) else { return Ok(latest) };
        match StoredSnapshot::check(snapshots, meta) {
            Ok(()) => return Ok(latest),
            Err(error) if error.is_damage() => damaged.push(error),
            Err(error) => return Err(error),
        }
        snapshots.discard(meta.content)?;
    }
}

/// Whether the group has other members, as far as this log tells.
fn has_peers(found: &RecoveredLog) -> bool {
    let latest = found.memberships.last().map(|(_, membership)| membership).or(found.base.membership.as_ref());
    latest.is_some_and(|membership| membership.nodes.len() > 1)
}

/// Whether the state is to be replaced: it is behind the log's start or what is damaged in it, or in memory and behind the snapshot.
fn is_needed(meta: &SnapshotMeta, found: &RecoveredLog, machine: &dyn StateMachine) -> bool {
    let applied = machine.applied().applied;
    let is_damaged = found.damaged.first().is_some_and(|damaged| *damaged <= meta.last_included_index);
    let is_behind = applied < found.base.index || !machine.is_durable() || is_damaged;
    is_behind && meta.last_included_index > applied && meta.last_included_index >= found.base.index
}

/// Whether the snapshot covers damaged entries that the state does not need any more: the log then begins after it (C19).
fn stands_for_damage(meta: &SnapshotMeta, found: &RecoveredLog, flushed: Index) -> bool {
    let index = meta.last_included_index;
    let covers_damage = found.damaged.first().is_some_and(|damaged| *damaged <= index);
    covers_damage && index <= flushed && holds(found, index, meta.last_included_term)
}

/// The base of a log that the snapshot's state continues.
fn base_of(meta: &SnapshotMeta) -> Base {
    Base {
        index: meta.last_included_index,
        term: meta.last_included_term,
        membership_index: meta.membership_index,
        membership: Some(meta.membership.clone()),
    }
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
    let HardState { term, voted_for, .. } = found.hard_state;
    // The term that brought the snapshot may not have been durable yet; taking it up without a vote is always safe.
    let raised = term.max(meta.last_included_term);
    let voted_for = if raised == term { voted_for } else { None };
    // What the log knew to be committed lies below: it does not hold the entry at the snapshot's index.
    let commit_index = meta.last_included_index;
    log.write(&[LogBatch {
        truncate_from: Some(found.base.index.next()),
        hard_state: Some(HardState { term: raised, voted_for, commit_index, is_repairing: false }),
        base: Some(base_of(meta)),
        ..LogBatch::append(group, Vec::new())
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
    let RecoveredLog { hard_state, base, terms, memberships, last_index, tail, damaged, is_membership_damaged } = found;
    Recovered { hard_state, base, terms, memberships, last_index, tail, damaged, is_membership_damaged, applied }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{Entry, Membership, NodeId, Run};

    use super::*;
    use crate::testing::{Disk, List, MemoryLog, MemorySnapshots, list_of};

    const GROUP: GroupId = GroupId(1);

    fn membership() -> Membership {
        Membership::of_voters([NodeId(1), NodeId(2)])
    }

    /// The founding entry, and commands 2 to `last`, in term 1.
    fn log(last: u64) -> MemoryLog {
        let log = MemoryLog::founded(&membership());
        let entries: Vec<Entry> =
            (2..=last).map(|i| Entry::command(Bytes::copy_from_slice(&i.to_be_bytes()))).collect();
        let entries = if entries.is_empty() { Vec::new() } else { vec![Run::new(Index(2), Term(1), entries)] };
        let hard_state =
            Some(HardState { term: Term(1), voted_for: Some(NodeId(1)), commit_index: Index(2), is_repairing: false });
        write(&log, LogBatch { hard_state, ..LogBatch::append(GROUP, entries) });
        log
    }

    fn write(log: &MemoryLog, batch: LogBatch) {
        log.write(&[batch]).unwrap();
    }

    fn compact(log: &MemoryLog, index: u64) {
        let base =
            Base { index: Index(index), term: Term(1), membership_index: Index(1), membership: Some(membership()) };
        write(log, LogBatch { base: Some(base), ..LogBatch::append(GROUP, vec![]) });
    }

    /// A snapshot of three commands.
    fn snapshot(index: u64, term: u64) -> MemorySnapshots {
        let store = MemorySnapshots::default();
        take(&store, 5, index, term);
        store
    }

    fn take(store: &MemorySnapshots, content: u64, index: u64, term: u64) {
        let data: Vec<u8> = [7u64, 8, 9].iter().flat_map(|command| command.to_be_bytes()).collect();
        let mut writer = store.begin().unwrap();
        writer.write(&data).unwrap();
        let meta = SnapshotMeta {
            content,
            last_included_index: Index(index),
            last_included_term: Term(term),
            membership_index: Index(1),
            membership: membership(),
            size: data.len() as u64,
            checksum: crc32fast::hash(&data),
        };
        writer.commit(&meta).unwrap();
    }

    fn recovered(log: &MemoryLog, snapshots: &MemorySnapshots, machine: &mut List) -> Start {
        recover(log, snapshots, machine, GROUP, 1 << 20).unwrap().unwrap()
    }

    fn refused(log: &MemoryLog, snapshots: &MemorySnapshots) -> StorageError {
        recover(log, snapshots, &mut List::new(None), GROUP, 1 << 20).unwrap_err()
    }

    /// The machine takes any bytes: that they are the right ones is not for it to notice.
    #[test]
    fn p07_a_damaged_snapshot_is_noticed_whatever_the_machine() {
        for at in [0, 12, 23] {
            let log = log(5);
            compact(&log, 3);
            let store = snapshot(3, 1);
            store.damage(at);
            let mut machine = List::new(None);
            let start = recovered(&log, &store, &mut machine);
            // The state stays behind the log's start (C7), and empty.
            assert_eq!((start.recovered.applied, start.recovered.base.index), (Index(0), Index(3)), "byte {at}");
            assert!(list_of(&machine.query(&[]).unwrap()).is_empty() && start.snapshot.is_none());
            let what = "the bytes of the snapshot at 3 do not match its checksum";
            assert_eq!(start.damaged_snapshots, [format!("damaged data in the snapshot 0000000000000005: {what}")]);
            assert_eq!(store.latest().unwrap(), None, "it is put aside");
        }
    }

    #[test]
    fn c07_a_damaged_snapshot_gives_way_to_an_older_one_that_the_log_continues() {
        let log = log(10);
        compact(&log, 3);
        let store = snapshot(3, 1);
        take(&store, 6, 8, 1);
        store.damage_one(6, 0);
        let start = recovered(&log, &store, &mut List::new(None));
        assert_eq!((start.recovered.applied, start.damaged_snapshots.len()), (Index(3), 1));
        assert_eq!(start.snapshot.map(|meta| meta.content), Some(5));
    }

    /// What is not needed is not read either: it is noticed when it is sent.
    #[test]
    fn a_durable_state_outlives_a_damaged_snapshot() {
        let disk = Disk::default();
        disk.lock().unwrap().1 = Index(4);
        let log = log(10);
        let store = snapshot(6, 1);
        store.damage(0);
        let start = recovered(&log, &store, &mut List::new(Some(disk.clone())));
        assert_eq!((start.recovered.applied, start.snapshot.is_some()), (Index(4), true));
        // And where damage in the log makes it needed, the state is not replaced by it.
        log.damage(Index(6));
        let start = recovered(&log, &store, &mut List::new(Some(disk)));
        assert_eq!((start.recovered.applied, start.recovered.damaged), (Index(4), vec![Index(6)]));
    }

    #[test]
    fn p07_who_is_alone_is_refused_with_a_damaged_snapshot_each_time() {
        let log = log(5);
        let alone = Membership::of_voters([NodeId(1)]);
        let base = Base { index: Index(3), term: Term(1), membership_index: Index(1), membership: Some(alone) };
        write(&log, LogBatch { base: Some(base), ..LogBatch::append(GROUP, vec![]) });
        let store = snapshot(3, 1);
        store.damage(0);
        for place in ["the snapshot 0000000000000005", "the state"] {
            let StorageError::Damaged { place: found, .. } = refused(&log, &store) else { panic!("not damaged") };
            assert_eq!(found, place);
        }
    }

    #[test]
    fn an_empty_log_is_not_founded() {
        let mut machine = List::new(None);
        let none = recover(&MemoryLog::default(), &MemorySnapshots::default(), &mut machine, GROUP, 1).unwrap();
        assert!(none.is_none());
    }

    #[test]
    fn a_state_in_memory_begins_with_the_snapshot() {
        let mut machine = List::new(None);
        let log = log(10);
        let start = recovered(&log, &snapshot(6, 1), &mut machine);
        assert_eq!(start.applied, Applied { applied: Index(6), flushed: Index(6) });
        assert_eq!((start.recovered.applied, start.recovered.last_index), (Index(6), Index(10)));
        assert_eq!(list_of(&machine.query(&[]).unwrap()), [7, 8, 9]);
        assert!(!start.is_durable);
    }

    #[test]
    fn a_durable_state_that_the_log_continues_is_left_alone() {
        let disk = Disk::default();
        disk.lock().unwrap().1 = Index(4);
        let mut machine = List::new(Some(disk));
        let log = log(10);
        compact(&log, 4);
        let start = recovered(&log, &snapshot(6, 1), &mut machine);
        assert_eq!(start.recovered.applied, Index(4));
    }

    #[test]
    fn c08_a_durable_state_behind_the_log_is_replaced() {
        let mut machine = List::new(Some(Disk::default()));
        let log = log(10);
        compact(&log, 5);
        let start = recovered(&log, &snapshot(6, 1), &mut machine);
        assert_eq!(start.recovered.applied, Index(6));
        assert_eq!(start.recovered.base.index, Index(5));
    }

    #[test]
    fn c08_a_stop_between_the_snapshot_and_the_logs_new_start_is_finished() {
        for (last, snapshot) in [(4, snapshot(20, 3)), (30, snapshot(20, 3))] {
            let mut machine = List::new(None);
            let log = log(last);
            compact(&log, 3);
            let start = recovered(&log, &snapshot, &mut machine);
            let recovered = start.recovered;
            assert_eq!(
                (recovered.base.index, recovered.base.term, recovered.last_index),
                (Index(20), Term(3), Index(20))
            );
            assert_eq!((recovered.hard_state.term, recovered.hard_state.voted_for), (Term(3), None));
            assert_eq!(recovered.hard_state.commit_index, Index(20));
            assert_eq!((recovered.applied, recovered.tail.len()), (Index(20), 0));
        }
    }

    #[test]
    fn c07_a_state_behind_the_log_without_a_snapshot_stays_behind() {
        let mut machine = List::new(None);
        let log = log(10);
        compact(&log, 5);
        let start = recovered(&log, &MemorySnapshots::default(), &mut machine);
        assert_eq!((start.recovered.applied, start.recovered.base.index), (Index(0), Index(5)));
        // One that is too old is no help either.
        assert_eq!(recovered(&log, &snapshot(4, 1), &mut machine).recovered.applied, Index(0));
    }

    #[test]
    fn c19_a_snapshot_stands_for_damage_that_it_covers() {
        for (durable, damaged, base) in [(Some(6), 4, 6), (Some(2), 4, 6), (None, 4, 6), (Some(6), 8, 0)] {
            let disk = durable.map(|applied| {
                let disk = Disk::default();
                disk.lock().unwrap().1 = Index(applied);
                disk
            });
            let mut machine = List::new(disk);
            let log = log(10);
            log.damage(Index(damaged));
            let start = recovered(&log, &snapshot(6, 1), &mut machine);
            assert_eq!((start.recovered.base.index, start.recovered.applied), (Index(base), Index(6)));
            let left: &[Index] = if base == 6 { &[] } else { &[Index(damaged)] };
            assert_eq!(start.recovered.damaged, left);
        }
    }

    #[test]
    fn c18_a_log_that_lost_what_was_applied_is_damaged() {
        let disk = Disk::default();
        disk.lock().unwrap().1 = Index(11);
        let found = recover(&log(10), &MemorySnapshots::default(), &mut List::new(Some(disk)), GROUP, 1);
        assert!(matches!(found, Err(StorageError::Damaged { .. })), "{found:?}");
    }
}
