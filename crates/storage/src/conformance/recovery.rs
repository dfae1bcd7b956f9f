//! What a store says of itself after harm: damage, a torn write, a failed sync, no space. A subject that cannot bring the harm about does not show it.

use std::sync::Arc;

use coracle_core::{Entry, Index, LogRead, Run, Term};

use super::{
    GROUP, Subject, batch, hard_state,
    log::{entries, read, recover, write},
    membership_entry, pattern, reopened, run,
};
use crate::{LogBatch, LogStore, RecoveredLog, Result, StorageError};

/// Checks what the subject can show, and names what it cannot.
pub(super) fn check<S: Subject>(factory: &impl Fn() -> S) -> Vec<&'static str> {
    let shown = [
        ("damage_entry", c19_a_damaged_entry_is_named_and_repaired(factory)),
        ("damage_entry", c19_damage_is_cut_off(factory)),
        ("tear_last_write", c18_a_torn_write_is_whole_or_absent(factory)),
        ("fail_syncs", c18_after_a_failed_sync_nothing_is_accepted(factory)),
        ("fill_up", c18_without_space_nothing_is_written(factory)),
        ("open_again", a_store_is_open_only_once(&factory())),
    ];
    let mut missing: Vec<&str> = shown.into_iter().filter(|(_, is_shown)| !is_shown).map(|(hook, _)| hook).collect();
    missing.dedup();
    missing
}

/// Twelve entries in four writes of two terms, and the state that came with them.
fn fill<S: Subject>(subject: &S) -> Vec<Run> {
    let runs = vec![membership_entry(1, 1, 3), run(2, 1, 4), run(6, 2, 4), run(10, 2, 3)];
    for run in &runs {
        write(&subject.store().log(), LogBatch { hard_state: Some(hard_state(2, 1, 5)), ..batch(vec![run.clone()]) });
    }
    runs
}

/// A store in which the data of one entry is damaged; `None` when the subject cannot do that.
fn damaged<S: Subject>(factory: &impl Fn() -> S, index: u64) -> Option<(S, Vec<Run>)> {
    let mut subject = factory();
    let runs = fill(&subject);
    subject.damage_entry(GROUP, Index(index)).then(|| (reopened(subject), runs))
}

/// What is said of the damage: the entry, perhaps some near it, and nothing else.
fn report(log: &Arc<dyn LogStore>, index: u64) -> RecoveredLog {
    let recovered = log.recover(GROUP, usize::MAX).expect("recover what is damaged");
    assert!(recovered.damaged.contains(&Index(index)), "{index} is damaged, {:?} is said to be", recovered.damaged);
    assert!(recovered.damaged.is_sorted(), "{:?} is in order", recovered.damaged);
    assert_eq!(recovered.terms, [(Index(1), Term(1)), (Index(6), Term(2))]);
    assert_eq!((recovered.last_index, recovered.hard_state), (Index(12), hard_state(2, 1, 5)));
    let after_damage = recovered.damaged.last().map(|last| last.next());
    if let Some(tail) = recovered.tail.first() {
        assert!(Some(tail.first()) >= after_damage, "the tail begins after the last damaged entry");
    }
    let is_membership_lost = recovered.damaged.contains(&Index(1));
    assert_eq!(recovered.memberships.is_empty(), is_membership_lost, "the memberships that are whole are told");
    assert!(!is_membership_lost || recovered.is_membership_damaged, "a membership may be lost");
    recovered
}

/// Every entry that is not named is the one that was written, and one that is named is not read.
fn check_reads(log: &Arc<dyn LogStore>, runs: &[Run], damaged: &[Index]) {
    for (index, term, entry) in entries(runs) {
        let found = log.read(GROUP, index, index, usize::MAX).expect("read");
        if damaged.contains(&index) {
            assert_eq!(found, LogRead::Damaged { at: index });
        } else {
            let LogRead::Entries(found) = found else { panic!("{index} is whole, and reading it gave {found:?}") };
            assert_eq!(entries(&found), [(index, term, entry)]);
        }
    }
    let first = damaged.first().copied().unwrap_or_default();
    if first > Index(1) {
        let before = read(log, 1, 12, usize::MAX);
        assert_eq!(before, entries(runs)[..before.len()]);
        assert!(before.len() < first.0 as usize, "a read ends before the damage");
    }
}

fn c19_a_damaged_entry_is_named_and_repaired<S: Subject>(factory: &impl Fn() -> S) -> bool {
    for index in [1, 3, 5, 6, 12] {
        let Some((subject, runs)) = damaged(factory, index) else { return false };
        let log = subject.store().log();
        let recovered = report(&log, index);
        check_reads(&log, &runs, &recovered.damaged);
        // What follows the log goes on, and the damage stays known.
        write(&log, batch(vec![run(13, 2, 1)]));
        drop(log);
        let subject = reopened(subject);
        let log = subject.store().log();
        let known = log.recover(GROUP, usize::MAX).expect("recover once more").damaged;
        assert_eq!(known, recovered.damaged, "damage does not go away by itself");
        let whole = runs.iter().flat_map(|run| recovered.damaged.iter().filter_map(|index| run.slice(*index, *index)));
        write(&log, LogBatch { repaired: whole.collect(), ..batch(vec![]) });
        drop(log);
        let subject = reopened(subject);
        let log = subject.store().log();
        let expected: Vec<Run> = runs.into_iter().chain([run(13, 2, 1)]).collect();
        assert_eq!(entries(&recover(&log, GROUP).tail), entries(&expected), "the repair is durable");
    }
    true
}

fn c19_damage_is_cut_off<S: Subject>(factory: &impl Fn() -> S) -> bool {
    for from in [3, 7, 8] {
        let Some((subject, runs)) = damaged(factory, 8) else { return false };
        let log = subject.store().log();
        let before = report(&log, 8).damaged;
        write(&log, LogBatch { truncate_from: Some(Index(from)), ..batch(vec![run(from, 5, 2)]) });
        let left: Vec<Index> = before.into_iter().filter(|index| index.0 < from).collect();
        drop(log);
        let subject = reopened(subject);
        let log = subject.store().log();
        let recovered = log.recover(GROUP, usize::MAX).expect("recover what was cut off");
        assert_eq!((recovered.damaged, recovered.last_index), (left.clone(), Index(from + 1)));
        let kept = runs.iter().filter_map(|run| run.slice(Index(1), Index(from - 1)));
        check_reads(&log, &kept.collect::<Vec<_>>(), &left);
    }
    true
}

fn c18_a_torn_write_is_whole_or_absent<S: Subject>(factory: &impl Fn() -> S) -> bool {
    let mut subject = factory();
    let mut runs = fill(&subject);
    let last = LogBatch { hard_state: Some(hard_state(7, 3, 5)), ..batch(vec![run(13, 7, 40)]) };
    write(&subject.store().log(), last);
    if !subject.tear_last_write() {
        return false;
    }
    let subject = reopened(subject);
    let log = subject.store().log();
    let recovered = recover(&log, GROUP);
    let expected = if recovered.last_index == Index(12) {
        hard_state(2, 1, 5)
    } else {
        runs.push(run(13, 7, 40));
        hard_state(7, 3, 5)
    };
    assert_eq!((recovered.hard_state, entries(&recovered.tail)), (expected, entries(&runs)));
    // What lies behind the tear is never taken for what comes after it.
    let next = recovered.last_index.next().0;
    write(&log, batch(vec![run(next, 8, 1)]));
    drop(log);
    let subject = reopened(subject);
    runs.push(run(next, 8, 1));
    assert_eq!(entries(&recover(&subject.store().log(), GROUP).tail), entries(&runs));
    true
}

fn c18_after_a_failed_sync_nothing_is_accepted<S: Subject>(factory: &impl Fn() -> S) -> bool {
    let mut subject = factory();
    let mut runs = fill(&subject);
    if !subject.fail_syncs() {
        return false;
    }
    let log = subject.store().log();
    let next = || batch(vec![Run::new(Index(13), Term(2), [Entry::command("not synced")])]);
    let failed = log.write(&[next()]);
    assert!(matches!(failed, Err(StorageError::Io { .. })), "a sync that fails is an error: {failed:?}");
    for _ in 0..2 {
        let refused = log.write(&[next()]);
        assert!(matches!(refused, Err(StorageError::Stopped(_))), "the store has stopped: {refused:?}");
    }
    assert!(log.recover(GROUP, 0).is_err(), "what may not be on disk is not told");
    drop(log);
    let subject = reopened(subject);
    let recovered = recover(&subject.store().log(), GROUP);
    if recovered.last_index != Index(12) {
        runs.extend(next().entries);
    }
    assert_eq!(entries(&recovered.tail), entries(&runs), "what was acknowledged is there");
    true
}

/// How often a log is written to that is to be full: what was reserved before may take some.
const FILLING: u64 = 10_000;

/// `Full` is said before anything was written: the log is as it was, is read, and takes the very same write once there is space.
fn c18_without_space_nothing_is_written<S: Subject>(factory: &impl Fn() -> S) -> bool {
    let mut subject = factory();
    let mut runs = fill(&subject);
    if !subject.fill_up() {
        return false;
    }
    let log = subject.store().log();
    let next = |at: u64| {
        let entries = [Entry::command(pattern(40_000)), Entry::command("small")];
        LogBatch { hard_state: Some(hard_state(at, 2, 5)), ..batch(vec![Run::new(Index(at), Term(at), entries)]) }
    };
    let is_full = |written: Result<()>, at: u64| match written {
        Ok(()) => false,
        Err(StorageError::Full { needed, .. }) if needed > 0 => true,
        Err(other) => panic!("without space for entry {at} the error is Full, not {other}"),
    };
    let mut at = 13;
    while !is_full(log.write(&[next(at)]), at) {
        runs.extend(next(at).entries);
        at += 2;
        assert!(at < FILLING, "it takes whatever comes: there is space");
    }
    for _ in 0..2 {
        assert!(is_full(log.write(&[next(at)]), at), "space does not come by itself");
        let recovered = recover(&log, GROUP);
        assert_eq!(recovered.last_index, Index(at - 1), "nothing of it was written");
        assert_ne!(recovered.hard_state.term, Term(at), "the hard state comes with the entries, or not at all");
        assert_eq!(read(&log, 1, 12, usize::MAX), entries(&runs[..4]), "it is read meanwhile");
    }
    subject.make_room();
    write(&log, next(at));
    runs.extend(next(at).entries);
    drop(log);
    let recovered = recover(&reopened(subject).store().log(), GROUP);
    assert_eq!((entries(&recovered.tail), recovered.hard_state), (entries(&runs), hard_state(at, 2, 5)));
    true
}

fn a_store_is_open_only_once<S: Subject>(subject: &S) -> bool {
    let _open = subject.store();
    match subject.open_again() {
        None => false,
        Some(Err(StorageError::Locked { .. })) => true,
        Some(Err(other)) => panic!("a store that is open is refused as locked, not with {other}"),
        Some(Ok(_)) => panic!("a store is open twice"),
    }
}
