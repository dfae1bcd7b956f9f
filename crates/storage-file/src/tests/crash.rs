//! After every call, with every set of un-synced sectors that a power cut may leave.

use coracle_core::Run;
use coracle_storage::{LogBatch, LogStore, RecoveredLog};

use super::{Act, GROUPS, Oracle, SimDisk, expect_same, open, singles, states};
use crate::{log::FileLog, sim_disk::State};

/// Up to so many sectors every subset is tried; beyond, each one alone, all but each one, each beginning, each end.
const SUBSETS_MAX: usize = 6;

/// What a workload is made of; the last fills a segment.
const STEPS: [&[(usize, Act)]; 7] = [
    &[(0, Act::Append(2, 20))],
    &[(0, Act::Append(1, 600)), (1, Act::Append(1, 0)), (2, Act::Vote)],
    &[(0, Act::Cut(1))],
    &[(0, Act::Compact(1)), (1, Act::Compact(0))],
    &[(1, Act::Vote)],
    &[(0, Act::Repair(0))],
    &[(1, Act::Append(3, 900))],
];

fn batches(oracle: &Oracle, step: &[(usize, Act)]) -> Vec<LogBatch> {
    step.iter().map(|(group, act)| oracle.batch(GROUPS[*group], *act)).collect()
}

/// Runs all steps but the last, then the last with a crash after each of its calls.
fn check(workload: &[usize]) -> usize {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    let (last, before) = workload.split_last().unwrap();
    for step in before {
        let batches = batches(&oracle, STEPS[*step]);
        log.write(&batches).unwrap();
        oracle.log.write(&batches).unwrap();
    }
    let old = oracle.state();
    disk.begin_history();
    let batches = batches(&oracle, STEPS[*last]);
    log.write(&batches).unwrap();
    oracle.log.write(&batches).unwrap();
    let new = oracle.state();
    let history = disk.lock().history.take().unwrap();
    let mut tried = 0;
    for (call, state) in history.iter().enumerate() {
        kill(state, (&old, &new), &format!("{workload:?}, killed at call {call}"));
        for subset in subsets(state.cached()) {
            crash(state, &subset, (&old, &new), &format!("{workload:?}, call {call}, {subset:?}"));
            tried += 1;
        }
    }
    let acknowledged = disk.lock().clone();
    for subset in subsets(acknowledged.cached()) {
        crash(&acknowledged, &subset, (&new, &new), &format!("{workload:?}, acknowledged, {subset:?}"));
        tried += 1;
    }
    tried
}

fn subsets(count: usize) -> Vec<Vec<bool>> {
    if count <= SUBSETS_MAX {
        return (0..1_usize << count).map(|bits| (0..count).map(|at| bits >> at & 1 == 1).collect()).collect();
    }
    let shapes = |at: usize| {
        let shape = |survives: fn(usize, usize) -> bool| (0..count).map(|other| survives(other, at)).collect();
        [shape(|a, b| a == b), shape(|a, b| a != b), shape(|a, b| a < b), shape(|a, b| a >= b)]
    };
    (0..count).flat_map(shapes).collect()
}

fn crash(state: &State, subset: &[bool], (old, new): (&[RecoveredLog], &[RecoveredLog]), what: &str) {
    let disk = state.cut(|number| subset[number]);
    let log = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = states(&log).unwrap();
    assert!(found == old || found == new, "{what}: {found:#?}, expected {old:#?} or {new:#?}");
    drop(log);
    // Every other subset, for they share most of what follows.
    if subset.iter().filter(|survives| **survives).count().is_multiple_of(2) {
        go_on(&disk, &found, what);
    }
}

/// What a killed process left in caches is durable before the next one tells it (C3).
fn kill(state: &State, (old, new): (&[RecoveredLog], &[RecoveredLog]), what: &str) {
    let disk = state.kill();
    let log = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = states(&log).unwrap();
    assert!(found == old || found == new, "{what}: {found:#?}, expected {old:#?} or {new:#?}");
    go_on(&disk, &found, what);
    append(&log, &found, what);
    drop(log);
    expect_appended(&disk, &found, what);
}

/// What was found is durable, and stays so when the log goes on and the power is cut again.
fn go_on(disk: &SimDisk, found: &[RecoveredLog], what: &str) {
    let disk = disk.lock().cut(|_| false);
    let log = open(&disk).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    expect_same(&log, found, what);
    append(&log, found, what);
    drop(log);
    expect_appended(&disk, found, what);
}

fn next_entry(found: &[RecoveredLog]) -> Run {
    super::run(found[0].last_index.0 + 1, found[0].hard_state.term.0 + 1, 1, 10)
}

fn append(log: &FileLog, found: &[RecoveredLog], what: &str) {
    let written = log.write(&[LogBatch::append(GROUPS[0], vec![next_entry(found)])]);
    written.unwrap_or_else(|error| panic!("{what}, continued: {error}"));
}

/// It was acknowledged, and so it survives a power cut that loses all that may be lost.
fn expect_appended(disk: &SimDisk, found: &[RecoveredLog], what: &str) {
    let log = open(&disk.lock().cut(|_| false)).unwrap_or_else(|error| panic!("{what}, continued: {error}"));
    let continued = log.recover(GROUPS[0], usize::MAX).unwrap();
    let entry = next_entry(found);
    assert_eq!((continued.last_index, singles(&continued.tail).last()), (entry.last(), Some(&entry)), "{what}");
}

#[test]
fn every_acknowledged_write_survives_every_crash() {
    let all: Vec<usize> = (0..STEPS.len()).collect();
    let mut workloads: Vec<Vec<usize>> = all.iter().map(|step| vec![*step]).collect();
    let longer = |shorter: &[Vec<usize>]| -> Vec<Vec<usize>> {
        let extend = |before: &Vec<usize>| all.iter().map(|step| [&before[..], &[*step]].concat()).collect::<Vec<_>>();
        shorter.iter().flat_map(extend).collect()
    };
    let two = longer(&workloads);
    let three = longer(&two);
    workloads.extend(two);
    workloads.extend(three);
    let tried: usize = workloads.iter().map(|workload| check(workload)).sum();
    assert!(tried > 10_000, "{tried} crashes were tried");
}
