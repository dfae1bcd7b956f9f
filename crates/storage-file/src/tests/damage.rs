//! Bits that flip, files that are cut or gone: never a wrong value.

use coracle_core::{Index, LogRead};
use coracle_storage::{LogStore, RecoveredLog, StorageError};

use super::{Act, GROUPS, Oracle, SimDisk, expect_same, open, singles};

/// Several blocks in several segments, with everything that a block can hold.
fn small() -> (SimDisk, Oracle) {
    let (disk, oracle) = (SimDisk::default(), Oracle::new());
    let log = open(&disk).unwrap();
    let steps: [&[(usize, Act)]; 8] = [
        &[(0, Act::Append(3, 100)), (1, Act::Append(2, 10))],
        &[(0, Act::Append(9, 300))],
        &[(1, Act::Append(12, 60)), (2, Act::Vote)],
        &[(0, Act::Cut(1))],
        &[(0, Act::Compact(9))],
        &[(1, Act::Append(4, 500))],
        &[(0, Act::Repair(2))],
        &[(0, Act::Append(2, 700)), (1, Act::Append(1, 40))],
    ];
    for step in steps {
        let batches: Vec<_> = step.iter().map(|(group, act)| oracle.batch(GROUPS[*group], *act)).collect();
        log.write(&batches).unwrap();
        oracle.log.write(&batches).unwrap();
    }
    (disk, oracle)
}

/// What a damaged store came to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Same,
    Repairable,
    Refused,
}

/// Opens a damaged store. Whatever it answers is right, or it says that it cannot answer.
fn judge(disk: &SimDisk, expected: &[RecoveredLog], what: &str) -> Outcome {
    let log = match open(disk) {
        Ok(log) => log,
        Err(StorageError::Damaged { place, .. }) => {
            assert!(place.starts_with("sim/"), "{what}: {place}");
            return Outcome::Refused;
        }
        Err(error) => panic!("{what}: {error:?}"),
    };
    let mut outcome = Outcome::Same;
    for (group, expected) in GROUPS.iter().zip(expected) {
        let found = log.recover(*group, usize::MAX).unwrap();
        let tail = singles(&found.tail);
        assert!(expected.tail.ends_with(&tail), "{what}: {tail:?}");
        for entry in &expected.tail {
            let index = entry.first();
            match log.read(*group, index, index, 0).unwrap() {
                LogRead::Entries(runs) => assert_eq!(singles(&runs), std::slice::from_ref(entry), "{what}"),
                LogRead::Damaged { at } => assert!(at == index && found.damaged.contains(&at), "{what}: {found:?}"),
                LogRead::Compacted => panic!("{what}: {index} is compacted"),
            }
        }
        let lost = |index: &Index| found.damaged.contains(index);
        let mut whole = expected.clone();
        whole.memberships.retain(|(index, _)| !lost(index));
        assert_eq!(found.is_membership_damaged, whole.memberships != expected.memberships, "{what}");
        let RecoveredLog { damaged, is_membership_damaged, .. } = found.clone();
        assert_eq!(found, RecoveredLog { tail: found.tail.clone(), damaged, is_membership_damaged, ..whole }, "{what}");
        if !found.damaged.is_empty() {
            outcome = Outcome::Repairable;
        }
    }
    outcome
}

#[test]
fn p7_no_flipped_bit_is_ever_believed() {
    let (disk, oracle) = small();
    let expected = oracle.state();
    let (mut same, mut repairable) = (0, 0);
    for (name, content) in disk.files() {
        for at in 0..content.len() {
            // One byte stands for the others of a sector that was never written.
            let is_written = content[at & !511..][..512] != [0; 512];
            if !is_written && at % 512 != 77 {
                continue;
            }
            let damaged = disk.copy();
            damaged.edit(&name, |bytes| bytes[at] ^= 1 << (at % 8));
            match judge(&damaged, &expected, &format!("{name}, byte {at}")) {
                Outcome::Same => same += 1,
                Outcome::Repairable => repairable += 1,
                // Headers are there twice: one bit never hits both.
                Outcome::Refused => panic!("{name}, byte {at}: refused"),
            }
        }
    }
    assert!(same > 1000 && repairable > 1000, "{same} changed nothing, {repairable} damaged entries");
}

#[test]
fn p7_no_zeroed_or_misplaced_sector_is_ever_believed() {
    let (disk, oracle) = small();
    let expected = oracle.state();
    for (name, content) in disk.files() {
        for at in (0..content.len()).step_by(512) {
            let zeroed = disk.copy();
            zeroed.edit(&name, |bytes| bytes[at..at + 512].fill(0));
            judge(&zeroed, &expected, &format!("{name}, zeros at {at}"));
            let misplaced = disk.copy();
            misplaced.edit(&name, |bytes| bytes.copy_within(at..at + 512, (at + 1536) % content.len()));
            judge(&misplaced, &expected, &format!("{name}, {at} again behind it"));
        }
    }
}

#[test]
fn p7_a_file_that_is_cut_or_gone_is_refused() {
    let (disk, oracle) = small();
    let expected = oracle.state();
    for (name, content) in disk.files() {
        for len in (0..content.len()).step_by(3) {
            let cut = disk.copy();
            cut.edit(&name, |bytes| bytes.truncate(len));
            let outcome = judge(&cut, &expected, &format!("{name}, cut at {len}"));
            // The mark is no more than a hint.
            let hoped = if name == "mark" { Outcome::Same } else { Outcome::Refused };
            assert_eq!(outcome, hoped, "{name}, cut at {len}");
        }
        let gone = disk.copy();
        crate::disk::Disk::remove(&gone, &name).unwrap();
        judge(&gone, &expected, &format!("{name} is gone"));
    }
}

#[test]
fn c18_a_durable_block_that_is_gone_is_damage_and_not_a_torn_tail() {
    let (disk, oracle) = small();
    let expected = oracle.state();
    let (name, content) = disk.files().into_iter().rev().find(|(name, _)| name != "mark").unwrap();
    let last = (0..content.len()).step_by(512).rev().find(|at| content[*at..*at + 512] != [0; 512]).unwrap();
    // More than the second header, which is not missed: as if it had never been written.
    for from in (4096..last).step_by(512) {
        let cut = disk.copy();
        cut.edit(&name, |bytes| bytes[from..].fill(0));
        assert_ne!(judge(&cut, &expected, &format!("zeros from {from}")), Outcome::Same);
    }
}

#[test]
fn c19_repaired_entries_are_whole_again() {
    let (disk, oracle) = small();
    let expected = oracle.state();
    let mut repairs = 0;
    for (name, content) in disk.files().into_iter().filter(|(name, _)| name != "mark") {
        for at in (4096 + 300..content.len()).step_by(512) {
            let damaged = disk.copy();
            damaged.edit(&name, |bytes| bytes[at] ^= 4);
            let log = open(&damaged).unwrap();
            for (group, expected) in GROUPS.iter().zip(&expected) {
                let lost = log.recover(*group, 0).unwrap().damaged;
                let repaired: Vec<_> =
                    expected.tail.iter().filter(|run| lost.contains(&run.first())).cloned().collect();
                repairs += repaired.len();
                log.write(&[coracle_storage::LogBatch {
                    repaired,
                    ..coracle_storage::LogBatch::append(*group, vec![])
                }])
                .unwrap();
            }
            expect_same(&log, &expected, "repaired");
            drop(log);
            expect_same(&open(&damaged).unwrap(), &expected, "repaired and opened again");
        }
    }
    assert!(repairs > 5, "{repairs} entries were repaired");
}

#[test]
fn c09_damage_that_comes_while_the_log_is_open_is_met_when_it_is_read() {
    let (disk, oracle) = small();
    let log = open(&disk).unwrap();
    let entry = oracle.group(GROUPS[0]).tail.last().unwrap().clone();
    let (index, data) = (entry.last(), entry.entries().last().unwrap().data.clone());
    let name = disk.files().into_keys().rev().find(|name| name != "mark").unwrap();
    disk.edit(&name, |bytes| {
        let at = (0..bytes.len() - data.len()).find(|at| bytes[*at..].starts_with(&data)).unwrap();
        bytes[at] ^= 1;
    });
    assert_eq!(log.read(GROUPS[0], index, index, 0).unwrap(), LogRead::Damaged { at: index });
    assert_eq!(log.recover(GROUPS[0], usize::MAX).unwrap().damaged, [index]);
}
