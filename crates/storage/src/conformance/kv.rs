//! Key-value data.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use coracle_core::Index;

use super::{GROUP, OTHER, Subject, pattern, reopened};
use crate::{KvOp, KvStore, Page, ScanRange, StorageError};

pub(super) fn check<S: Subject>(factory: &impl Fn() -> S) {
    a_new_store_is_empty(factory());
    batches_come_with_their_index(factory());
    the_last_change_to_a_key_wins(factory());
    scans_go_both_ways(factory());
    changes_hide_what_was_flushed(factory());
    scans_are_bounded(factory());
    values_of_every_size(factory());
    what_is_over_a_limit_changes_nothing(factory());
    what_survives_is_a_prefix_of_the_batches(factory);
    groups_are_apart(factory());
    a_replacement_is_all_or_nothing(factory());
    a_replacement_deletes_everything(factory());
}

type Kv = Arc<dyn KvStore>;

fn kv<S: Subject>(subject: &S) -> Kv {
    subject.store().kv(GROUP).expect("open the key-value data")
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> KvOp {
    KvOp::Put(key.into(), value.into())
}

fn delete(key: impl Into<Bytes>) -> KvOp {
    KvOp::Delete(key.into())
}

fn scan_all(kv: &Kv) -> Page {
    kv.scan(&ScanRange::all(), usize::MAX, usize::MAX).expect("scan")
}

fn a_new_store_is_empty<S: Subject>(subject: S) {
    let kv = kv(&subject);
    assert_eq!(kv.applied().expect("applied"), Some(Index::ZERO));
    assert_eq!(kv.get(b"").expect("get"), None);
    assert_eq!(scan_all(&kv), Page::new());
    assert_eq!(kv.flush().expect("flush"), Index::ZERO);
}

fn batches_come_with_their_index<S: Subject>(subject: S) {
    let data = kv(&subject);
    data.write(vec![put("a", "1"), put("b", "2")], Index(3)).expect("write");
    data.write(vec![delete("a"), delete("absent"), put("c", "3")], Index(5)).expect("write");
    data.write(vec![], Index(6)).expect("write nothing but the index");
    assert_eq!(data.applied().expect("applied"), Some(Index(6)));
    assert_eq!(data.flush().expect("flush"), Index(6));
    drop(data);
    let subject = reopened(subject);
    let data = kv(&subject);
    assert_eq!(data.applied().expect("applied"), Some(Index(6)));
    assert_eq!(data.get(b"a").expect("get"), None);
    assert_eq!(data.get(b"b").expect("get").as_deref(), Some(b"2".as_slice()));
    assert_eq!(scan_all(&data), [("b".into(), "2".into()), ("c".into(), "3".into())]);
}

fn the_last_change_to_a_key_wins<S: Subject>(subject: S) {
    let data = kv(&subject);
    let big = pattern(50_000);
    let ops = vec![put("a", "1"), put("a", big.clone()), delete("a"), put("a", "2"), put("b", big), delete("b")];
    data.write(ops, Index(1)).expect("write");
    assert_eq!(scan_all(&data), [("a".into(), "2".into())]);
    data.write(vec![delete("a"), put("a", "3")], Index(2)).expect("write");
    assert_eq!(scan_all(&data), [("a".into(), "3".into())]);
}

/// Keys that an encoding might confuse: prefixes of each other, zeros, the largest bytes, the empty one.
fn tricky_keys() -> Vec<Bytes> {
    let keys: [&[u8]; 16] = [
        b"",
        b"\0",
        b"\0\0",
        b"\0\x01",
        b"\0\xff",
        b"\x01",
        b"\x01\0",
        b"\x02",
        b"a",
        b"a\0",
        b"a\0\0",
        b"a\x01",
        b"ab",
        b"b",
        b"\xff",
        b"\xff\xff",
    ];
    keys.into_iter().map(Bytes::from_static).collect()
}

/// Values of every way in which a store may keep them.
fn fill(data: &Kv) -> BTreeMap<Bytes, Bytes> {
    let sizes = [0, 1, 9_000, 40_000];
    let keys = tricky_keys().into_iter().enumerate();
    let rows: BTreeMap<Bytes, Bytes> = keys.map(|(i, key)| (key, pattern(sizes[i % 4] + i))).collect();
    let ops = rows.iter().rev().map(|(key, value)| put(key.clone(), value.clone())).collect();
    data.write(ops, Index(1)).expect("write");
    rows
}

fn scans_go_both_ways<S: Subject>(subject: S) {
    let data = kv(&subject);
    let rows = fill(&data);
    data.flush().expect("flush");
    drop(data);
    let subject = reopened(subject);
    check_ranges(&kv(&subject), &rows);
}

fn changes_hide_what_was_flushed<S: Subject>(subject: S) {
    let data = kv(&subject);
    let mut rows = fill(&data);
    data.flush().expect("flush");
    let mut ops = vec![put("aa", "new")];
    rows.insert("aa".into(), "new".into());
    for (i, key) in tricky_keys().into_iter().enumerate() {
        match i % 3 {
            0 => {
                rows.remove(&key);
                ops.push(delete(key));
            }
            1 => {
                rows.insert(key.clone(), pattern(i));
                ops.push(put(key, pattern(i)));
            }
            _ => {}
        }
    }
    data.write(ops, Index(2)).expect("write");
    for key in tricky_keys() {
        assert!(data.get(&key).expect("get") == rows.get(&key).cloned(), "the value of {key:?} is another one");
        let mut shown = 0;
        let mut see = |value: Option<&[u8]>| {
            shown += 1;
            assert!(value == rows.get(&key).map(|value| &value[..]), "another value of {key:?} is shown");
        };
        data.inspect(&key, &mut see).expect("inspect");
        assert_eq!(shown, 1, "a value is shown once");
    }
    check_ranges(&data, &rows);
    data.flush().expect("flush");
    drop(data);
    let subject = reopened(subject);
    check_ranges(&kv(&subject), &rows);
}

fn check_ranges(data: &Kv, rows: &BTreeMap<Bytes, Bytes>) {
    let mut bounds = vec![Bound::Unbounded];
    for key in tricky_keys().into_iter().chain([Bytes::from_static(b"aa")]) {
        bounds.push(Bound::Included(key.clone()));
        bounds.push(Bound::Excluded(key));
    }
    for from in &bounds {
        for to in &bounds {
            check_range(data, rows, from, to);
        }
    }
}

fn check_range(data: &Kv, rows: &BTreeMap<Bytes, Bytes>, from: &Bound<Bytes>, to: &Bound<Bytes>) {
    let range = ScanRange { from: from.clone(), to: to.clone(), reverse: false };
    let above = |key: &Bytes| match from {
        Bound::Included(from) => key >= from,
        Bound::Excluded(from) => key > from,
        Bound::Unbounded => true,
    };
    let below = |key: &Bytes| match to {
        Bound::Included(to) => key <= to,
        Bound::Excluded(to) => key < to,
        Bound::Unbounded => true,
    };
    let inside = rows.iter().filter(|(key, _)| above(key) && below(key));
    let mut expected: Page = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
    let forwards = data.scan(&range, usize::MAX, usize::MAX).expect("scan");
    assert!(forwards == expected, "scan of {range:?} gave {:?}", keys(&forwards));
    expected.reverse();
    let range = ScanRange { reverse: true, ..range };
    let backwards = data.scan(&range, usize::MAX, usize::MAX).expect("scan");
    assert!(backwards == expected, "scan of {range:?} gave {:?}", keys(&backwards));
}

fn keys(page: &Page) -> Vec<&Bytes> {
    page.iter().map(|(key, _)| key).collect()
}

fn scans_are_bounded<S: Subject>(subject: S) {
    let data = kv(&subject);
    let ops = (0..100).map(|i| put(format!("{i:03}"), pattern(97))).collect();
    data.write(ops, Index(1)).expect("write");
    let count = |count_max, bytes_max| data.scan(&ScanRange::all(), count_max, bytes_max).expect("scan").len();
    assert_eq!(count(7, usize::MAX), 7);
    assert_eq!(count(usize::MAX, usize::MAX), 100);
    assert_eq!(count(usize::MAX, 0), 1, "at least one");
    assert_eq!(count(usize::MAX, 100), 1, "no more once the limit is reached");
    assert_eq!(count(usize::MAX, 101), 2);
    assert_eq!(count(usize::MAX, 1000), 10);
    let range = ScanRange { reverse: true, ..ScanRange::all() };
    let last = data.scan(&range, 2, usize::MAX).expect("scan");
    assert_eq!(keys(&last), ["099", "098"]);
}

fn values_of_every_size<S: Subject>(subject: S) {
    let data = kv(&subject);
    let sizes = [0, 1, 6_000, 7_000, 7_160, 7_168, 7_169, 8_192, 14_336, 100_000, 1 << 20];
    let long = |size: usize| Bytes::from(format!("{size:07}").repeat(585));
    for (i, size) in sizes.into_iter().enumerate() {
        let ops = vec![put(format!("{size}"), pattern(size)), put(long(size), pattern(size))];
        data.write(ops, Index(i as u64 + 1)).expect("write");
    }
    // Shrink, grow and delete what was large.
    let ops = vec![put("100000", "small"), delete("14336"), put("1", pattern(30_000)), put("8192", pattern(9_000))];
    data.write(ops, Index(20)).expect("write");
    data.flush().expect("flush");
    drop(data);
    let subject = reopened(subject);
    let data = kv(&subject);
    for size in sizes {
        let value = data.get(format!("{size}").as_bytes()).expect("get");
        let expected = match size {
            100_000 => Some(Bytes::from("small")),
            14_336 => None,
            1 => Some(pattern(30_000)),
            8_192 => Some(pattern(9_000)),
            _ => Some(pattern(size)),
        };
        assert!(value == expected, "the value of {size} bytes is another one");
        assert!(data.get(&long(size)).expect("get") == Some(pattern(size)), "{size} bytes under a long key differ");
    }
}

/// Every store has a limit or none; what is over it is refused as a whole.
fn what_is_over_a_limit_changes_nothing<S: Subject>(subject: S) {
    let data = kv(&subject);
    data.write(vec![put("a", "1")], Index(1)).expect("write");
    let (mut rows, mut applied) = (BTreeMap::from([(Bytes::from("a"), Bytes::from("1"))]), Index(1));
    for (key_len, value_len) in [(8 << 10, 1), (64 << 10, 1), (1 << 20, 1), (1, 17 << 20)] {
        let (key, value) = (Bytes::from(vec![b'k'; key_len]), pattern(value_len));
        let batch = vec![put("b", format!("{key_len}")), put(key.clone(), value.clone()), delete("a")];
        match data.write(batch, applied.next()) {
            Ok(()) => {
                rows.insert(key, value);
                rows.insert("b".into(), format!("{key_len}").into());
                rows.remove("a".as_bytes());
                applied = applied.next();
            }
            Err(StorageError::Invalid(why)) => assert!(why.contains("bytes"), "\"{why}\" names no limit"),
            Err(other) => panic!("a key of {key_len} bytes and a value of {value_len} gave {other}"),
        }
        assert_eq!(data.applied().expect("applied"), Some(applied));
        let found = scan_all(&data);
        assert!(found == rows.clone().into_iter().collect::<Page>(), "the data are {:?}", keys(&found));
    }
    data.write(vec![put("c", "1")], applied.next()).expect("what is within the limits goes on");
}

/// Batch `index` of a history in which every prefix can be told by what it leaves.
fn step(index: u64) -> Vec<KvOp> {
    let size = [3, 9_000, 0, 200][index as usize % 4];
    let old = format!("{:03}", index.saturating_sub(5));
    vec![put(format!("{index:03}"), pattern(size)), put("last", format!("{index}")), delete(old)]
}

/// A batch is never there without its index, and never without the batches before it (C7).
fn what_survives_is_a_prefix_of_the_batches<S: Subject>(factory: &impl Fn() -> S) {
    for flushed in [0, 1, 17, 40] {
        let subject = factory();
        let data = kv(&subject);
        for index in 1..=40 {
            data.write(step(index), Index(index)).expect("write");
            if index == flushed {
                assert_eq!(data.flush().expect("flush"), Index(flushed));
            }
        }
        drop(data);
        let subject = reopened(subject);
        let data = kv(&subject);
        let applied = data.applied().expect("applied").expect("no replacement was begun");
        assert!(Index(flushed) <= applied && applied <= Index(40), "{flushed} was flushed, {applied} is there");
        let mut rows = BTreeMap::new();
        for op in (1..=applied.0).flat_map(step) {
            match op {
                KvOp::Put(key, value) => drop(rows.insert(key, value)),
                KvOp::Delete(key) => drop(rows.remove(&key)),
            }
        }
        let found = scan_all(&data);
        assert!(found == rows.into_iter().collect::<Page>(), "after {applied} there are {:?}", keys(&found));
    }
}

fn groups_are_apart<S: Subject>(subject: S) {
    let data = kv(&subject);
    let other = subject.store().kv(OTHER).expect("open another group");
    data.write(vec![put("a", "1")], Index(1)).expect("write");
    other.write(vec![put("a", "2")], Index(9)).expect("write");
    assert_eq!(data.get(b"a").expect("get").as_deref(), Some(b"1".as_slice()));
    assert_eq!((data.applied().expect("applied"), other.applied().expect("applied")), (Some(Index(1)), Some(Index(9))));
    // A group opened twice is the same.
    assert_eq!(kv(&subject).get(b"a").expect("get").as_deref(), Some(b"1".as_slice()));
}

fn a_replacement_is_all_or_nothing<S: Subject>(subject: S) {
    let data = kv(&subject);
    fill(&data);
    assert!(matches!(data.replace_add(vec![]), Err(StorageError::Invalid(_))), "nothing was begun");
    assert!(matches!(data.replace_end(Index(1)), Err(StorageError::Invalid(_))), "nothing was begun");
    data.replace_begin().expect("begin");
    data.replace_add(vec![("half".into(), "done".into())]).expect("add");
    assert_eq!(data.applied().expect("applied"), None);
    assert!(matches!(data.write(vec![], Index(2)), Err(StorageError::Invalid(_))), "a replacement is under way");
    drop(data);
    // After a crash, the marker is still there, and the replacement begins again.
    let subject = reopened(subject);
    let data = kv(&subject);
    assert_eq!(data.applied().expect("applied"), None);
    data.replace_begin().expect("begin again");
    data.replace_add(vec![("a".into(), pattern(20_000)), ("b".into(), "2".into())]).expect("add");
    data.replace_add(vec![("".into(), "0".into())]).expect("add");
    data.replace_end(Index(7)).expect("end");
    drop(data);
    let subject = reopened(subject);
    let data = kv(&subject);
    assert_eq!(data.applied().expect("applied"), Some(Index(7)));
    let expected = [("".into(), "0".into()), ("a".into(), pattern(20_000)), ("b".into(), "2".into())];
    assert!(scan_all(&data) == expected, "the replacement is another one");
    data.write(vec![delete("a")], Index(8)).expect("write goes on");
}

fn a_replacement_deletes_everything<S: Subject>(subject: S) {
    let data = kv(&subject);
    for index in 0..5_u64 {
        let ops = (0..500).map(|i| put(format!("{index}-{i}"), "x")).collect();
        data.write(ops, Index(index + 1)).expect("write");
    }
    data.replace_begin().expect("begin");
    data.replace_end(Index(9)).expect("end");
    assert_eq!(scan_all(&data), Page::new());
    assert_eq!(data.flush().expect("flush"), Index(9));
}
