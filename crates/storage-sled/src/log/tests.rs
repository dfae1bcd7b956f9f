use std::sync::atomic::Ordering;

use coracle_core::{Base, Entry, NodeId, Term};

use super::*;
use crate::{codec::tests::hex, engine::tests::Faulty};

const GROUP: GroupId = GroupId(1);

struct Fixture {
    faulty: Faulty,
    log: SledLog,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        let (faulty, dir) = (Faulty::new(), tempfile::tempdir().unwrap());
        let log = SledLog::new(faulty.engine.clone(), dir.path().join("marks"), Duration::ZERO).unwrap();
        Fixture { faulty, log, dir }
    }

    fn write(&self, first: u64, data: &[&'static str]) {
        let entries: Vec<Entry> = data.iter().map(|data| Entry::command(*data)).collect();
        self.log.write(&[batch(vec![Run::new(Index(first), Term(3), entries)])]).unwrap();
    }

    fn tree(&self) -> sled::Tree {
        self.log.group(GROUP).unwrap().tree.clone()
    }

    /// The same log, read anew.
    fn recover(&self) -> Result<RecoveredLog> {
        let again = SledLog::new(self.faulty.engine.clone(), self.dir.path().join("marks"), Duration::ZERO)?;
        again.recover(GROUP, usize::MAX)
    }

    fn flip(&self, key: &[u8], at: usize) {
        let mut value = self.tree().get(key).unwrap().unwrap().to_vec();
        value[at] ^= 1;
        self.tree().insert(key, value).unwrap();
    }
}

fn batch(entries: Vec<Run>) -> LogBatch {
    LogBatch::append(GROUP, entries)
}

fn row(first: u64) -> Key {
    rows::from(Index(first))
}

type Key = rows::Key;

fn voted() -> HardState {
    HardState { term: Term(3), voted_for: Some(NodeId(7)), commit_index: Index(0), is_repairing: false }
}

#[test]
fn records_have_exactly_these_bytes() {
    let fixture = Fixture::new();
    let run = Run::new(Index(1), Term(3), [Entry::command("hi")]);
    fixture.log.write(&[LogBatch { hard_state: Some(voted()), ..batch(vec![run]) }]).unwrap();
    let tree = fixture.tree();
    let value = |key: &[u8]| hex(&tree.get(key).unwrap().unwrap());
    let state =
        ["02528a4630", "0100000000000000", "0100000000000000", "0300000000000000010700000000000000000000000000000000"];
    assert_eq!(value(b"a"), state.concat());
    assert_eq!(value(b"z"), state.concat());
    let block = ["0101000000", "0100000000000000030000000000000001000000", "05365b8a0102000000", "6869"];
    assert_eq!(value(&row(1)), block.concat());
    assert_eq!(value(b"o"), "02a94eb14b010000000000000001000000000000000300000000000000010000000000000000");
    let base = Base { index: Index(1), term: Term(3), membership_index: Index(1), membership: None };
    fixture
        .log
        .write(&[LogBatch {
            base: Some(Base { index: Index(4), term: Term(2), ..base.clone() }),
            truncate_from: Some(Index(1)),
            ..batch(vec![])
        }])
        .unwrap();
    assert_eq!(value(b"b"), "02b0ec53c904000000000000000200000000000000010000000000000000");
    assert_eq!(tree.get(row(1)).unwrap(), None);
}

#[test]
fn a_write_of_many_groups_syncs_once() {
    let fixture = Fixture::new();
    let groups = [1, 2, 3].map(GroupId);
    let run = Run::new(Index(1), Term(3), [Entry::command("hi")]);
    let batches = groups.map(|group| LogBatch { group, ..batch(vec![run.clone()]) });
    fixture.log.write(&batches).unwrap();
    assert_eq!(fixture.faulty.syncs.load(Ordering::Relaxed), 1);
    fixture.write(2, &["a"]);
    assert_eq!(fixture.faulty.syncs.load(Ordering::Relaxed), 2);
}

#[test]
fn c18_after_a_failed_sync_nothing_is_accepted() {
    let fixture = Fixture::new();
    fixture.write(1, &["a"]);
    fixture.faulty.fails.store(true, Ordering::Relaxed);
    let run = Run::new(Index(2), Term(3), [Entry::command("b")]);
    assert!(matches!(fixture.log.write(&[batch(vec![run.clone()])]), Err(StorageError::Io { .. })));
    fixture.faulty.fails.store(false, Ordering::Relaxed);
    let syncs = fixture.faulty.syncs.load(Ordering::Relaxed);
    assert!(matches!(fixture.log.write(&[batch(vec![run])]), Err(StorageError::Stopped(_))));
    assert!(matches!(fixture.log.read(GROUP, Index(1), Index(1), 9), Err(StorageError::Stopped(_))));
    assert!(matches!(fixture.log.recover(GROUP, 0), Err(StorageError::Stopped(_))));
    assert_eq!(fixture.faulty.syncs.load(Ordering::Relaxed), syncs, "a sync that failed is not tried again");
}

#[test]
fn c18_one_damaged_copy_of_the_vote_is_made_up_for_and_two_are_not() {
    for (damaged, other) in [(b"a", b"z"), (b"z", b"a")] {
        let fixture = Fixture::new();
        fixture.log.write(&[LogBatch { hard_state: Some(voted()), ..batch(vec![]) }]).unwrap();
        fixture.flip(damaged, 20);
        assert_eq!(fixture.recover().unwrap().hard_state, voted());
        fixture.tree().remove(damaged).unwrap();
        assert_eq!(fixture.recover().unwrap().hard_state, voted());
        fixture.flip(other, 3);
        assert!(matches!(fixture.recover(), Err(StorageError::Damaged { .. })));
    }
}

#[test]
fn c18_of_two_copies_that_differ_the_newer_one_counts() {
    let fixture = Fixture::new();
    fixture.write(1, &["a"]);
    let older = fixture.tree().get(b"a").unwrap().unwrap();
    fixture.log.write(&[LogBatch { hard_state: Some(voted()), ..batch(vec![]) }]).unwrap();
    fixture.tree().insert(b"a", older).unwrap();
    assert_eq!(fixture.recover().unwrap().hard_state, voted());
}

#[test]
fn c18_a_log_that_was_cut_short_is_damaged_and_not_shorter() {
    let fixture = Fixture::new();
    fixture.write(1, &["a"]);
    let older: Vec<_> = fixture.tree().iter().map(|row| row.unwrap()).collect();
    fixture.write(2, &["b", "c"]);
    fixture.tree().clear().unwrap();
    for (key, value) in older {
        fixture.tree().insert(key, value).unwrap();
    }
    let error = fixture.recover().unwrap_err();
    assert!(matches!(error, StorageError::Damaged { .. }));
    assert!(error.to_string().contains("ends at 1 (write 1), but 3 of term 3 (write 2) was durable"), "{error}");
    fixture.tree().clear().unwrap();
    assert!(matches!(fixture.recover(), Err(StorageError::Damaged { .. })), "an empty log is one cut short, too");
}

#[test]
fn c19_damaged_entries_are_named_and_the_others_kept() {
    let fixture = Fixture::new();
    for first in [1, 4, 7] {
        fixture.write(first, &["aaaa", "bbbb", "cccc"]);
    }
    // The data of the second entry of the second block.
    fixture.flip(&row(4), 25 + 13 + 9);
    let recovered = fixture.recover().unwrap();
    assert_eq!((&recovered.damaged[..], recovered.is_membership_damaged), (&[Index(5)][..], false));
    assert_eq!((recovered.last_index, recovered.terms), (Index(9), vec![(Index(1), Term(3))]));
    assert_eq!((recovered.tail[0].first(), recovered.tail.last().unwrap().last()), (Index(6), Index(9)));
    let read = |from, to| fixture.log.read(GROUP, Index(from), Index(to), 1000).unwrap();
    assert_eq!(read(5, 6), LogRead::Damaged { at: Index(5) });
    for (from, to) in [(1, 4), (4, 4), (6, 9)] {
        let LogRead::Entries(before) = read(from, 9) else { panic!("{from} is whole") };
        assert_eq!((before[0].first(), before.last().unwrap().last()), (Index(from), Index(to)));
    }
    // What does not touch the damage goes on.
    fixture.write(10, &["c"]);
}

/// Everything that the log holds, as text.
fn content(recovered: &RecoveredLog) -> Vec<String> {
    let entries = recovered.tail.iter().flat_map(Run::entries);
    entries.map(|entry| String::from_utf8(entry.data.to_vec()).unwrap()).collect()
}

#[test]
fn c19_a_repair_goes_into_a_damaged_block_and_leaves_the_rest() {
    for lost in [vec![4], vec![5], vec![6], vec![4, 6], vec![4, 5, 6]] {
        let fixture = Fixture::new();
        for first in [1, 4, 7] {
            fixture.write(first, &["aaaa", "bbbb", "cccc"]);
        }
        for index in &lost {
            fixture.flip(&row(4), 25 + 13 * (index - 4) as usize + 9);
        }
        let indexes: Vec<Index> = lost.iter().copied().map(Index).collect();
        assert_eq!(fixture.recover().unwrap().damaged, indexes);
        for (at, index) in indexes.iter().enumerate() {
            let repaired = vec![Run::new(*index, Term(3), [Entry::command("again")])];
            fixture.log.write(&[LogBatch { repaired, ..batch(vec![]) }]).unwrap();
            assert_eq!(fixture.recover().unwrap().damaged, indexes[at + 1..], "{lost:?}");
        }
        let mut expected = ["aaaa", "bbbb", "cccc"].repeat(3);
        lost.iter().for_each(|index| expected[*index as usize - 1] = "again");
        assert_eq!(content(&fixture.recover().unwrap()), expected);
    }
}

#[test]
fn c19_a_log_is_cut_off_in_a_damaged_block() {
    for (from, left) in [(4, vec![]), (5, vec![4]), (6, vec![4]), (7, vec![4, 6]), (8, vec![4, 6])] {
        let fixture = Fixture::new();
        for first in [1, 4, 7] {
            fixture.write(first, &["aaaa", "bbbb", "cccc"]);
        }
        for index in [4, 6] {
            fixture.flip(&row(4), 25 + 13 * (index - 4) + 9);
        }
        let cut = LogBatch {
            truncate_from: Some(Index(from)),
            ..batch(vec![Run::new(Index(from), Term(5), [Entry::command("new")])])
        };
        fixture.log.write(&[cut]).unwrap();
        let recovered = fixture.recover().unwrap();
        assert_eq!(recovered.damaged, left.iter().copied().map(Index).collect::<Vec<_>>(), "cut off from {from}");
        assert_eq!((recovered.last_index, recovered.tail.last().unwrap().last()), (Index(from), Index(from)));
        assert_eq!(recovered.terms.last(), Some(&(Index(from), Term(5))));
    }
}

#[test]
fn c19_a_missing_entry_is_damage_and_the_outline_tells_its_term() {
    let fixture = Fixture::new();
    for (first, term) in [(1, 3), (2, 4), (3, 6), (4, 6)] {
        let run = Run::new(Index(first), Term(term), [Entry::command("a")]);
        fixture.log.write(&[batch(vec![run])]).unwrap();
    }
    let terms = [(Index(1), Term(3)), (Index(2), Term(4)), (Index(3), Term(6))];
    for lost in [vec![4], vec![2, 4], vec![1, 2, 4], vec![1, 2, 3, 4]] {
        for index in &lost {
            fixture.tree().remove(row(*index)).unwrap();
        }
        let recovered = fixture.recover().unwrap();
        assert_eq!(recovered.damaged, lost.iter().copied().map(Index).collect::<Vec<_>>());
        assert_eq!((&recovered.terms[..], recovered.last_index), (&terms[..], Index(4)));
        assert!(!recovered.is_membership_damaged);
    }
}

#[test]
fn c19_without_an_outline_the_neighbours_tell_a_term_or_the_log_is_refused() {
    let lose = |terms: &[u64], lost: u64| {
        let fixture = Fixture::new();
        for (first, term) in (1..).zip(terms) {
            let run = Run::new(Index(first), Term(*term), [Entry::command("a")]);
            fixture.log.write(&[batch(vec![run])]).unwrap();
        }
        fixture.tree().remove(b"o").unwrap();
        fixture.tree().remove(row(lost)).unwrap();
        fixture.recover()
    };
    let recovered = lose(&[3, 3, 3, 4], 2).unwrap();
    assert_eq!((recovered.damaged, recovered.is_membership_damaged), (vec![Index(2)], true));
    assert_eq!(recovered.terms, [(Index(1), Term(3)), (Index(4), Term(4))]);
    for (terms, lost) in [([3, 3, 4, 5], 3), ([3, 3, 3, 3], 4), ([3, 3, 3, 3], 1)] {
        let refused = lose(&terms, lost);
        assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
    }
}

#[test]
fn c19_a_damaged_membership_is_told_from_a_command() {
    let fixture = Fixture::new();
    fixture.write(1, &["a", "b"]);
    let entry = Entry { kind: EntryKind::Membership, data: coracle_core::Membership::of_voters([NodeId(1)]).encode() };
    fixture.log.write(&[batch(vec![Run::new(Index(3), Term(3), [entry])])]).unwrap();
    fixture.write(4, &["c"]);
    fixture.tree().remove(row(1)).unwrap();
    assert!(!fixture.recover().unwrap().is_membership_damaged);
    fixture.tree().remove(row(3)).unwrap();
    assert!(fixture.recover().unwrap().is_membership_damaged);
    fixture.log.write(&[LogBatch { truncate_from: Some(Index(3)), ..batch(vec![]) }]).unwrap();
    assert!(!fixture.recover().unwrap().is_membership_damaged, "it is cut off");
}

#[test]
fn what_a_compaction_left_behind_is_ignored() {
    let fixture = Fixture::new();
    for first in [1, 2, 3] {
        fixture.write(first, &["a"]);
    }
    let left = fixture.tree().get(row(1)).unwrap().unwrap();
    let base = Base { index: Index(2), term: Term(3), ..Base::default() };
    fixture.log.write(&[LogBatch { base: Some(base), ..batch(vec![]) }]).unwrap();
    assert_eq!(fixture.tree().get(row(1)).unwrap(), None);
    fixture.tree().insert(row(1), left).unwrap();
    fixture.flip(&row(1), 30);
    let recovered = fixture.recover().unwrap();
    assert_eq!((recovered.damaged.len(), recovered.tail.len()), (0, 1));
}

#[test]
fn c07_a_compaction_is_spread_over_the_writes_that_follow() {
    let fixture = Fixture::new();
    for first in 1..=100 {
        fixture.write(first, &["a"]);
    }
    // The last block below the base has many rows, which are not deleted together.
    fixture.log.write(&[batch(vec![Run::new(Index(101), Term(3), [Entry::command(vec![7; 100_000])])])]).unwrap();
    let base = Base { index: Index(101), term: Term(3), ..Base::default() };
    let rows_left = || fixture.tree().range(rows::start()..row(102)).count();
    let before = rows_left();
    fixture.log.write(&[LogBatch { base: Some(base), ..batch(vec![]) }]).unwrap();
    assert_eq!(rows_left(), before - PURGE_ROWS);
    let mut index = 102;
    while rows_left() > 0 {
        fixture.write(index, &["b"]);
        let recovered = fixture.recover().unwrap();
        assert_eq!((recovered.damaged.len(), recovered.last_index), (0, Index(index)));
        assert_eq!(recovered.tail.iter().map(Run::len).sum::<usize>() as u64, index - 101);
        index += 1;
        assert!(index < 200, "{} rows are left", rows_left());
    }
    assert_eq!(fixture.log.read(GROUP, Index(101), Index(102), 9).unwrap(), LogRead::Compacted);
}

#[test]
fn small_entries_share_a_row() {
    let fixture = Fixture::new();
    fixture.write(1, &["abc"; 256]);
    assert_eq!(fixture.tree().range(row(0)..row(1000)).count(), 1);
}
