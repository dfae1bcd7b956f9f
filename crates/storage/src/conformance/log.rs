//! Logs.

use std::sync::Arc;

use coracle_core::{Base, ClusterId, Entry, GroupId, HardState, Index, LogRead, Recovered, Run, Term};

use super::{
    GROUP, OTHER, Subject, base, batch, hard_state, large, membership, membership_entry, pattern, reopened, run,
};
use crate::{LogBatch, LogStore, RecoveredLog, StorageError};

pub(super) fn check<S: Subject>(factory: &impl Fn() -> S) {
    a_new_log_is_empty(factory());
    a_node_that_is_to_join_has_a_base_and_no_entries(factory());
    what_is_written_is_recovered(factory());
    hard_state_comes_with_entries(factory());
    a_truncation_cuts_anywhere(factory);
    several_groups_in_one_write(factory());
    a_hundred_groups_in_one_write(factory());
    one_group_twice_in_one_write(factory());
    reads_are_bounded(factory());
    compaction_cuts_anywhere(factory);
    a_snapshot_begins_the_log_anew(factory);
    gaps_are_refused_and_change_nothing(factory());
    large_and_empty_entries(factory());
    c19_a_repair_replaces_exactly_its_entries(factory);
    c19_a_repair_comes_with_the_rest_of_its_batch(factory());
    c19_a_repair_elsewhere_is_refused(factory());
    c19_that_it_repairs_is_durable(factory());
    the_tail_is_bounded(factory());
    a_long_log_is_compacted_at_once(factory());
    reads_go_on_beside_writes(factory());
    reads_beside_writes_are_bounded(factory());
    many_entries_in_one_write(factory());
}

pub(super) fn write(log: &Arc<dyn LogStore>, batch: LogBatch) {
    log.write(&[batch]).expect("write");
}

pub(super) fn recover(log: &Arc<dyn LogStore>, group: GroupId) -> RecoveredLog {
    let recovered = log.recover(group, usize::MAX).expect("recover");
    assert_eq!((&recovered.damaged[..], recovered.is_membership_damaged), (&[][..], false), "nothing is damaged");
    recovered
}

/// The entries of runs, one by one: how a store cuts its runs is its own affair.
pub(super) fn entries(runs: &[Run]) -> Vec<(Index, Term, Entry)> {
    for pair in runs.windows(2) {
        assert!(pair[1].follows(&pair[0]), "{:?} does not follow {:?}", pair[1], pair[0]);
    }
    runs.iter().flat_map(|run| run.iter().map(|(index, entry)| (index, run.term(), entry.clone()))).collect()
}

pub(super) fn read(log: &Arc<dyn LogStore>, from: u64, to: u64, bytes_max: usize) -> Vec<(Index, Term, Entry)> {
    match log.read(GROUP, Index(from), Index(to), bytes_max).expect("read") {
        LogRead::Entries(runs) => entries(&runs),
        other => panic!("reading {from} to {to} found {other:?}, expected entries"),
    }
}

/// Checks what is read and what is recovered, before and after reopening.
fn expect<S: Subject>(subject: S, expected_base: &Base, expected: &[Run]) -> S {
    let check = |log: Arc<dyn LogStore>| {
        let recovered = recover(&log, GROUP);
        let last = expected.last().map_or(expected_base.index, Run::last);
        assert_eq!(recovered.base, *expected_base);
        assert_eq!(recovered.last_index, last);
        assert_eq!(entries(&recovered.tail), entries(expected));
        let mut terms: Vec<(Index, Term)> = expected.iter().map(|run| (run.first(), run.term())).collect();
        terms.dedup_by_key(|(_, term)| *term);
        assert_eq!(recovered.terms, terms);
        if let Some(first) = expected.first() {
            assert_eq!(read(&log, first.first().0, last.0, usize::MAX), entries(expected));
        }
    };
    check(subject.store().log());
    let subject = reopened(subject);
    // Reading does not need a recovery first.
    if let Some(first) = expected.first() {
        let got = read(&subject.store().log(), first.first().0, first.first().0, 0);
        assert_eq!(got, entries(expected)[..1]);
    }
    check(subject.store().log());
    subject
}

fn a_new_log_is_empty<S: Subject>(subject: S) {
    let log = subject.store().log();
    let recovered = recover(&log, GROUP);
    assert!(recovered.is_empty());
    assert_eq!(recovered, RecoveredLog::default());
    assert!(matches!(log.read(GROUP, Index(1), Index(1), 100), Err(StorageError::Invalid(_))));
    assert_eq!(log.read(GROUP, Index(0), Index(1), 100).expect("read at 0"), LogRead::Compacted);
}

/// Its log is not empty: it was not lost, but is to come.
fn a_node_that_is_to_join_has_a_base_and_no_entries<S: Subject>(subject: S) {
    let joining = Recovered::joining(ClusterId(9));
    let begun = LogBatch { hard_state: Some(joining.hard_state), base: Some(joining.base.clone()), ..batch(vec![]) };
    let log = subject.store().log();
    // Once more after a crash in between.
    write(&log, begun.clone());
    write(&log, begun);
    drop(log);
    let subject = expect(subject, &joining.base, &[]);
    let log = subject.store().log();
    assert!(!recover(&log, GROUP).is_empty());
    write(&log, batch(vec![membership_entry(1, 1, 3), run(2, 1, 4)]));
    drop(log);
    expect(subject, &joining.base, &[membership_entry(1, 1, 3), run(2, 1, 4)]);
}

fn what_is_written_is_recovered<S: Subject>(subject: S) {
    let log = subject.store().log();
    write(&log, batch(vec![membership_entry(1, 1, 3), run(2, 1, 4)]));
    write(&log, batch(vec![run(6, 2, 1), run(7, 4, 2)]));
    write(&log, batch(vec![membership_entry(9, 4, 4)]));
    drop(log);
    let runs = [membership_entry(1, 1, 3), run(2, 1, 4), run(6, 2, 1), run(7, 4, 2), membership_entry(9, 4, 4)];
    let subject = expect(subject, &Base::default(), &runs);
    let memberships = recover(&subject.store().log(), GROUP).memberships;
    assert_eq!(memberships, [(Index(1), membership(3)), (Index(9), membership(4))]);
}

fn hard_state_comes_with_entries<S: Subject>(subject: S) {
    let log = subject.store().log();
    write(&log, LogBatch { hard_state: Some(hard_state(1, 1, 0)), ..batch(vec![]) });
    assert_eq!(recover(&log, GROUP).hard_state, hard_state(1, 1, 0));
    write(&log, LogBatch { hard_state: Some(hard_state(3, 2, 1)), ..batch(vec![run(1, 3, 2)]) });
    // A write without a hard state leaves it as it is.
    write(&log, batch(vec![run(3, 3, 1)]));
    drop(log);
    let subject = expect(subject, &Base::default(), &[run(1, 3, 3)]);
    let log = subject.store().log();
    assert_eq!(recover(&log, GROUP).hard_state, hard_state(3, 2, 1));
    let no_vote = HardState { voted_for: None, ..hard_state(4, 0, 2) };
    write(&log, LogBatch { hard_state: Some(no_vote), ..batch(vec![]) });
    drop(log);
    assert_eq!(recover(&reopened(subject).store().log(), GROUP).hard_state, no_vote);
}

fn a_truncation_cuts_anywhere<S: Subject>(factory: &impl Fn() -> S) {
    for from in 1..=9 {
        let subject = factory();
        let log = subject.store().log();
        write(&log, batch(vec![run(1, 1, 3), run(4, 2, 2)]));
        write(&log, batch(vec![run(6, 2, 3)]));
        let cut = LogBatch { truncate_from: Some(Index(from)), ..batch(vec![run(from, 5, 2)]) };
        write(&log, cut);
        drop(log);
        let kept = [run(1, 1, 3), run(4, 2, 5)].into_iter().filter_map(|run| run.slice(Index(1), Index(from - 1)));
        expect(subject, &Base::default(), &kept.chain([run(from, 5, 2)]).collect::<Vec<_>>());
    }
}

fn several_groups_in_one_write<S: Subject>(subject: S) {
    let log = subject.store().log();
    let other = LogBatch { group: OTHER, hard_state: Some(hard_state(9, 9, 9)), ..batch(vec![run(1, 9, 1)]) };
    log.write(&[batch(vec![run(1, 1, 3)]), other]).expect("write two groups");
    drop(log);
    let subject = expect(subject, &Base::default(), &[run(1, 1, 3)]);
    let recovered = recover(&subject.store().log(), OTHER);
    assert_eq!((recovered.hard_state, entries(&recovered.tail)), (hard_state(9, 9, 9), entries(&[run(1, 9, 1)])));
    assert!(recover(&subject.store().log(), GroupId(3)).is_empty());
}

fn a_hundred_groups_in_one_write<S: Subject>(subject: S) {
    let part = |group: u64, first: u64| LogBatch {
        group: GroupId(group),
        hard_state: Some(hard_state(group, first, 0)),
        ..batch(vec![run(first, group, 2)])
    };
    for first in [1, 3] {
        let batches: Vec<LogBatch> = (1..=100).map(|group| part(group, first)).collect();
        subject.store().log().write(&batches).expect("write a hundred groups");
    }
    let subject = reopened(subject);
    let log = subject.store().log();
    for group in 1..=100 {
        let recovered = recover(&log, GroupId(group));
        assert_eq!(recovered.hard_state, hard_state(group, 3, 0));
        assert_eq!(entries(&recovered.tail), entries(&[run(1, group, 4)]), "group {group}");
    }
}

fn one_group_twice_in_one_write<S: Subject>(subject: S) {
    let log = subject.store().log();
    let cut = LogBatch { truncate_from: Some(Index(2)), ..batch(vec![run(2, 2, 2)]) };
    log.write(&[batch(vec![run(1, 1, 3)]), cut, batch(vec![run(4, 2, 1)])]).expect("write a group three times");
    drop(log);
    expect(subject, &Base::default(), &[run(1, 1, 1), run(2, 2, 3)]);
}

fn reads_are_bounded<S: Subject>(subject: S) {
    let log = subject.store().log();
    let runs = [run(1, 1, 5), run(6, 2, 5)];
    write(&log, batch(runs.to_vec()));
    let all = entries(&runs);
    for from in 1..=10_u64 {
        for to in from..=12 {
            for bytes_max in [0, 40, 100, 10_000] {
                let got = read(&log, from, to, bytes_max);
                let wanted = &all[from as usize - 1..(to as usize).min(10)];
                assert!(!got.is_empty() && wanted.starts_with(&got), "{from} to {to} in {bytes_max}: {got:?}");
                let size: usize = got.iter().map(|(_, _, entry)| entry.size()).sum();
                assert!(size <= bytes_max || got.len() == 1, "{size} bytes, at most {bytes_max} were asked for");
                let next = wanted.get(got.len()).map_or(usize::MAX, |(_, _, entry)| entry.size());
                assert!(size.saturating_add(next) > bytes_max, "more would have fitted in {bytes_max} bytes");
            }
        }
    }
    assert!(matches!(log.read(GROUP, Index(11), Index(12), 100), Err(StorageError::Invalid(_))));
}

fn compaction_cuts_anywhere<S: Subject>(factory: &impl Fn() -> S) {
    for index in 1..=8 {
        let subject = factory();
        let log = subject.store().log();
        write(&log, batch(vec![run(1, 1, 3), run(4, 2, 2)]));
        write(&log, batch(vec![run(6, 2, 3)]));
        let term = if index <= 3 { 1 } else { 2 };
        write(&log, LogBatch { base: Some(base(index, term)), ..batch(vec![run(9, 3, 1)]) });
        let refused = log.read(GROUP, Index(index), Index(9), 100).expect("read below the base");
        assert_eq!(refused, LogRead::Compacted);
        drop(log);
        let all = [run(1, 1, 3), run(4, 2, 5), run(9, 3, 1)].into_iter();
        let kept: Vec<Run> = all.filter_map(|run| run.slice(Index(index + 1), Index::MAX)).collect();
        let subject = expect(subject, &base(index, term), &kept);
        // Appending and cutting off go on above the base.
        let cut = LogBatch { truncate_from: Some(Index(9)), ..batch(vec![run(9, 4, 2)]) };
        write(&subject.store().log(), cut);
        let kept = kept.into_iter().filter_map(|run| run.slice(Index(1), Index(8)));
        expect(subject, &base(index, term), &kept.chain([run(9, 4, 2)]).collect::<Vec<_>>());
    }
}

fn a_snapshot_begins_the_log_anew<S: Subject>(factory: &impl Fn() -> S) {
    // Below and beyond the end of the log that is cut off, and with entries that follow at once.
    for (index, follow) in [(4, false), (8, false), (20, false), (20, true)] {
        let subject = factory();
        let log = subject.store().log();
        write(&log, batch(vec![run(1, 1, 5)]));
        write(&log, LogBatch { base: Some(base(2, 1)), ..batch(vec![run(6, 1, 3)]) });
        let entries = if follow { vec![run(index + 1, 7, 2)] } else { vec![] };
        let install = LogBatch {
            truncate_from: Some(Index(3)),
            base: Some(base(index, 7)),
            hard_state: Some(hard_state(7, 1, index)),
            ..batch(entries.clone())
        };
        write(&log, install);
        drop(log);
        let subject = expect(subject, &base(index, 7), &entries);
        let next = index + 1 + entries.iter().map(|run| run.len() as u64).sum::<u64>();
        write(&subject.store().log(), batch(vec![run(next, 8, 3)]));
        let expected: Vec<Run> = entries.into_iter().chain([run(next, 8, 3)]).collect();
        expect(subject, &base(index, 7), &expected);
    }
}

fn gaps_are_refused_and_change_nothing<S: Subject>(subject: S) {
    let log = subject.store().log();
    write(&log, batch(vec![run(1, 2, 3)]));
    write(&log, LogBatch { base: Some(base(1, 2)), ..batch(vec![]) });
    let refused = [
        batch(vec![run(5, 2, 1)]),
        batch(vec![run(3, 2, 1)]),
        batch(vec![run(4, 1, 1)]),
        batch(vec![run(4, 2, 1), run(6, 2, 1)]),
        LogBatch { truncate_from: Some(Index(3)), ..batch(vec![run(4, 2, 1)]) },
        LogBatch { truncate_from: Some(Index(1)), ..batch(vec![run(1, 2, 1)]) },
        LogBatch { base: Some(base(9, 2)), ..batch(vec![]) },
        LogBatch { base: Some(Base::default()), ..batch(vec![]) },
    ];
    for gap in refused {
        let gap = LogBatch { hard_state: Some(hard_state(99, 9, 9)), ..gap };
        let other = LogBatch { group: OTHER, ..batch(vec![run(1, 1, 1)]) };
        let result = log.write(&[other, gap.clone()]);
        assert!(matches!(result, Err(StorageError::Invalid(_))), "{gap:?} gave {result:?}");
    }
    assert!(recover(&log, OTHER).is_empty(), "a write that is refused changes no group");
    drop(log);
    let kept: Vec<Run> = run(1, 2, 3).slice(Index(2), Index(3)).into_iter().collect();
    let subject = expect(subject, &base(1, 2), &kept);
    let log = subject.store().log();
    assert_eq!(recover(&log, GROUP).hard_state, HardState::default(), "what is refused sets no hard state");
    write(&log, batch(vec![run(4, 2, 1)]));
    for (from, to) in [(5, 9), (4, 3)] {
        let result = log.read(GROUP, Index(from), Index(to), 100);
        assert!(matches!(result, Err(StorageError::Invalid(_))), "reading {from} to {to} gave {result:?}");
    }
}

fn large_and_empty_entries<S: Subject>(subject: S) {
    let log = subject.store().log();
    let empty = Run::new(Index(2), Term(1), [Entry::noop(), Entry::command("")]);
    let mut runs = vec![large(1, 1, 1_000_000), empty, large(4, 2, 7 * 1024), large(5, 2, 3_000_000), run(6, 2, 300)];
    write(&log, batch(runs.clone()));
    assert_eq!(read(&log, 1, 5, 1_500_000).len(), 4);
    drop(log);
    let subject = expect(subject, &Base::default(), &runs);
    let cut = LogBatch { truncate_from: Some(Index(5)), ..batch(vec![large(5, 3, 20_000)]) };
    write(&subject.store().log(), cut);
    runs.truncate(3);
    runs.push(large(5, 3, 20_000));
    let subject = expect(subject, &Base::default(), &runs);
    write(&subject.store().log(), LogBatch { base: Some(base(4, 2)), ..batch(vec![]) });
    expect(subject, &base(4, 2), &runs[3..]);
}

/// What a repair writes: other data than `run` has, of another size, to tell it apart.
fn other(first: u64, term: u64, count: u64) -> Run {
    let entries: Vec<Entry> = (first..first + count).map(|index| Entry::command(format!("repaired {index}"))).collect();
    Run::new(Index(first), Term(term), entries)
}

fn c19_a_repair_replaces_exactly_its_entries<S: Subject>(factory: &impl Fn() -> S) {
    let kept = [run(1, 1, 4), run(5, 2, 4)];
    for (first, count) in [(1, 1), (1, 4), (2, 1), (3, 2), (5, 1), (6, 2), (8, 1)] {
        let subject = factory();
        let log = subject.store().log();
        write(&log, batch(vec![kept[0].clone()]));
        write(&log, batch(vec![kept[1].clone()]));
        let repaired = other(first, if first < 5 { 1 } else { 2 }, count);
        write(&log, LogBatch { repaired: vec![repaired.clone()], ..batch(vec![]) });
        drop(log);
        let part = |from: u64, to: u64| kept.iter().filter_map(move |run| run.slice(Index(from), Index(to)));
        let expected: Vec<Run> = part(0, first - 1).chain([repaired]).chain(part(first + count, 99)).collect();
        let subject = expect(subject, &Base::default(), &expected);
        // Appending and cutting off go on.
        let cut = LogBatch { truncate_from: Some(Index(first + count)), ..batch(vec![run(first + count, 3, 2)]) };
        write(&subject.store().log(), cut);
        let left = expected.iter().filter_map(|run| run.slice(Index(1), Index(first + count - 1)));
        expect(subject, &Base::default(), &left.chain([run(first + count, 3, 2)]).collect::<Vec<_>>());
    }
}

fn c19_a_repair_comes_with_the_rest_of_its_batch<S: Subject>(subject: S) {
    let log = subject.store().log();
    write(&log, batch(vec![run(1, 1, 9)]));
    let large = large(4, 1, 100_000);
    let all = LogBatch {
        truncate_from: Some(Index(7)),
        repaired: vec![other(1, 1, 1), other(3, 1, 1), large.clone(), other(6, 1, 1)],
        hard_state: Some(hard_state(5, 2, 6)),
        base: Some(base(2, 1)),
        ..batch(vec![run(7, 5, 2)])
    };
    write(&log, all);
    drop(log);
    let entry = |index| run(index, 1, 1);
    let subject = expect(subject, &base(2, 1), &[other(3, 1, 1), large, entry(5), other(6, 1, 1), run(7, 5, 2)]);
    assert_eq!(recover(&subject.store().log(), GROUP).hard_state, hard_state(5, 2, 6));
}

fn c19_a_repair_elsewhere_is_refused<S: Subject>(subject: S) {
    let log = subject.store().log();
    write(&log, batch(vec![run(1, 1, 3), run(4, 2, 2)]));
    for (repaired, truncate_from) in [
        (other(4, 1, 1), None),
        (other(3, 1, 2), None),
        (other(5, 2, 2), None),
        (other(6, 2, 1), None),
        (other(4, 2, 1), Some(Index(4))),
    ] {
        let refused = LogBatch { repaired: vec![repaired], truncate_from, ..batch(vec![]) };
        let other = LogBatch { group: OTHER, ..batch(vec![run(1, 1, 1)]) };
        let result = log.write(&[other, refused.clone()]);
        assert!(matches!(result, Err(StorageError::Invalid(_))), "{refused:?} gave {result:?}");
    }
    assert!(recover(&log, OTHER).is_empty(), "a write that is refused changes no group");
    drop(log);
    expect(subject, &Base::default(), &[run(1, 1, 3), run(4, 2, 2)]);
}

fn c19_that_it_repairs_is_durable<S: Subject>(subject: S) {
    let log = subject.store().log();
    for is_repairing in [true, false] {
        let hard_state = HardState { is_repairing, ..hard_state(3, 2, 1) };
        write(&log, LogBatch { hard_state: Some(hard_state), ..batch(vec![]) });
        assert_eq!(recover(&log, GROUP).hard_state, hard_state);
    }
    let hard_state = HardState { is_repairing: true, voted_for: None, ..hard_state(3, 2, 1) };
    write(&log, LogBatch { hard_state: Some(hard_state), ..batch(vec![run(1, 3, 1)]) });
    drop(log);
    assert_eq!(recover(&reopened(subject).store().log(), GROUP).hard_state, hard_state);
}

fn the_tail_is_bounded<S: Subject>(subject: S) {
    let log = subject.store().log();
    for index in 1..=50 {
        write(&log, batch(vec![Run::new(Index(index), Term(1), [Entry::command(pattern(1000))])]));
    }
    let recovered = log.recover(GROUP, 10_000).expect("recover");
    let size: usize = recovered.tail.iter().map(Run::size).sum();
    assert!(size <= 20_000, "a tail of {size} bytes, about 10000 were asked for");
    assert_eq!(recovered.last_index, Index(50));
    assert_eq!(recovered.terms, [(Index(1), Term(1))]);
    if let Some(run) = recovered.tail.last() {
        assert_eq!(run.last(), Index(50));
    }
}

fn a_long_log_is_compacted_at_once<S: Subject>(subject: S) {
    let log = subject.store().log();
    let blocks = 2_500;
    let runs: Vec<Run> = (1..=blocks).map(|index| large(index, index, 100)).collect();
    write(&log, batch(runs.clone()));
    write(&log, LogBatch { base: Some(base(blocks - 2, blocks - 2)), ..batch(vec![]) });
    drop(log);
    expect(subject, &base(blocks - 2, blocks - 2), &runs[blocks as usize - 2..]);
}

fn reads_go_on_beside_writes<S: Subject>(subject: S) {
    let log = subject.store().log();
    let kept = [run(1, 1, 3), run(4, 2, 2)];
    write(&log, batch(vec![kept[0].clone(), run(4, 2, 9)]));
    std::thread::scope(|scope| {
        // Cuts off and appends in the middle of what the reader's blocks may be.
        let writer = scope.spawn(|| {
            for term in 3..60 {
                write(&log, LogBatch { truncate_from: Some(Index(6)), ..batch(vec![run(6, term, 7)]) });
            }
        });
        while !writer.is_finished() {
            assert_eq!(read(&log, 1, 5, usize::MAX), entries(&kept));
            assert_eq!(read(&log, 5, 6, usize::MAX)[0], entries(&kept)[4]);
        }
    });
}

fn reads_beside_writes_are_bounded<S: Subject>(subject: S) {
    const LIMIT: usize = 10_000;
    let log = subject.store().log();
    write(&log, batch(vec![large(1, 1, 1000)]));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for index in 2..=150 {
                write(&log, batch(vec![large(index, 1, 1000)]));
            }
        });
        while !writer.is_finished() {
            let last = recover(&log, GROUP).last_index.0;
            for from in [1, last.saturating_sub(20).max(1), last] {
                let got = read(&log, from, u64::MAX, LIMIT);
                let size: usize = got.iter().map(|(_, _, entry)| entry.size()).sum();
                assert!(size <= LIMIT, "{size} bytes, at most {LIMIT} were asked for");
                assert!(got.iter().all(|(_, _, entry)| entry.data == pattern(1000)), "another entry's data");
            }
        }
    });
}

fn many_entries_in_one_write<S: Subject>(subject: S) {
    let log = subject.store().log();
    let kept = [run(1, 1, 10_000)];
    write(&log, batch(kept.to_vec()));
    drop(log);
    expect(subject, &Base::default(), &kept);
}
