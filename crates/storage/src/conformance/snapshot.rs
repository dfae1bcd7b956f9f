//! Snapshots.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{Index, SnapshotMeta, Term};

use super::{GROUP, OTHER, Subject, membership, pattern, reopened};
use crate::{SnapshotStore, StorageError};

pub(super) fn check<S: Subject>(factory: &impl Fn() -> S) {
    a_new_store_has_none(factory());
    a_whole_snapshot_is_read_at_any_offset(factory());
    what_does_not_match_is_forgotten(factory());
    a_half_received_one_is_resumed(factory());
    another_one_drops_what_was_received(factory());
    what_was_begun_and_dropped_is_forgotten(factory());
    the_newest_is_the_latest(factory());
    a_new_one_replaces_all_but_the_one_before(factory());
    one_that_is_discarded_is_neither_the_latest_nor_read(factory());
    a_read_goes_on_after_reopening_and_beside_a_newer_one(factory());
    one_is_taken_while_another_is_received(factory());
}

type Snapshots = Arc<dyn SnapshotStore>;

fn snapshots<S: Subject>(subject: &S) -> Snapshots {
    subject.store().snapshots(GROUP).expect("open the snapshots")
}

fn meta(content: u64, index: u64, data: &[u8]) -> SnapshotMeta {
    SnapshotMeta {
        content,
        last_included_index: Index(index),
        last_included_term: Term(3),
        membership_index: Index(1),
        membership: membership(3),
        size: data.len() as u64,
        checksum: crc32fast::hash(data),
    }
}

fn take(store: &Snapshots, meta: &SnapshotMeta, data: &[u8]) {
    let mut writer = store.begin().expect("begin");
    for piece in data.chunks(1000) {
        writer.write(piece).expect("write");
    }
    assert_eq!(writer.offset(), data.len() as u64);
    writer.commit(meta).expect("commit");
}

fn read_all(store: &Snapshots, content: u64) -> Option<Bytes> {
    store.read(content, 0, usize::MAX >> 1).expect("read")
}

fn a_new_store_has_none<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    assert_eq!(store.latest().expect("latest"), None);
    assert_eq!(store.read(1, 0, 10).expect("read"), None);
    store.keep_only(1).expect("keep only what is not there");
}

fn a_whole_snapshot_is_read_at_any_offset<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let (data, empty) = (pattern(5_500), Bytes::new());
    take(&store, &meta(1, 10, &data), &data);
    take(&store, &meta(2, 11, &empty), &empty);
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    assert_eq!(store.latest().expect("latest"), Some(meta(2, 11, &empty)));
    assert_eq!(read_all(&store, 2), Some(empty.clone()));
    for (offset, len, expected) in
        [(0, 10, &data[..10]), (1000, 2000, &data[1000..3000]), (5_000, 1000, &data[5_000..]), (9_999, 5, &[])]
    {
        assert_eq!(store.read(1, offset, len).expect("read").as_deref(), Some(expected));
    }
    let elsewhere = subject.store().snapshots(OTHER).expect("open another group");
    assert_eq!(elsewhere.latest().expect("latest"), None);
}

fn what_does_not_match_is_forgotten<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let data = pattern(100);
    let right = meta(1, 10, &data);
    for wrong in [
        SnapshotMeta { checksum: right.checksum ^ 1, ..right.clone() },
        SnapshotMeta { size: 99, ..right.clone() },
        SnapshotMeta { size: 101, ..right.clone() },
    ] {
        for mut writer in [store.begin().expect("begin"), store.resume(&wrong).expect("resume")] {
            assert_eq!(writer.offset(), 0, "the bytes that did not match are forgotten");
            writer.write(&data).expect("write");
            assert!(matches!(writer.commit(&wrong), Err(StorageError::Damaged { .. })));
        }
    }
    assert_eq!(store.latest().expect("latest"), None);
    assert_eq!(read_all(&store, 1), None);
    assert_eq!(store.resume(&right).expect("resume").offset(), 0);
}

fn a_half_received_one_is_resumed<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let data = pattern(3_000);
    let meta = meta(5, 10, &data);
    let mut writer = store.resume(&meta).expect("resume");
    assert_eq!(writer.offset(), 0);
    writer.write(&data[..1_200]).expect("write");
    drop(writer);
    assert_eq!(store.latest().expect("latest"), None, "a half one is not whole");
    assert_eq!(read_all(&store, 5), None);
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    let mut writer = store.resume(&meta).expect("resume");
    // A store may forget what it received; it may not invent anything.
    let offset = writer.offset() as usize;
    assert!(offset <= 1_200, "{offset} bytes are said to be there, 1200 were written");
    writer.write(&data[offset..]).expect("write");
    writer.commit(&meta).expect("commit");
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    assert_eq!(store.latest().expect("latest"), Some(meta));
    assert_eq!(read_all(&store, 5), Some(data));
}

fn another_one_drops_what_was_received<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let data = pattern(3_000);
    let mut writer = store.resume(&meta(5, 10, &data)).expect("resume");
    writer.write(&data[..1_200]).expect("write");
    drop(writer);
    drop(store.resume(&meta(6, 12, &data)).expect("resume another"));
    assert_eq!(store.resume(&meta(5, 10, &data)).expect("resume").offset(), 0);
}

fn what_was_begun_and_dropped_is_forgotten<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let mut writer = store.begin().expect("begin");
    writer.write(b"abc").expect("write");
    drop(writer);
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    assert_eq!(store.latest().expect("latest"), None);
    assert_eq!(store.begin().expect("begin").offset(), 0);
}

fn the_newest_is_the_latest<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let data = pattern(10);
    for (content, index) in [(9, 20), (1, 30), (5, 10)] {
        take(&store, &meta(content, index, &data), &data);
    }
    assert_eq!(store.latest().expect("latest").map(|meta| meta.content), Some(1));
    store.keep_only(1).expect("keep only one");
    assert_eq!((read_all(&store, 9), read_all(&store, 5)), (None, None));
    assert_eq!(read_all(&store, 1), Some(data.clone()));
    // The same snapshot again replaces itself.
    take(&store, &meta(1, 30, &data), &data);
    assert_eq!(read_all(&store, 1), Some(data));
}

fn a_new_one_replaces_all_but_the_one_before<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let data = pattern(10);
    for content in 1..=20 {
        take(&store, &meta(content, content * 10, &data), &data);
        assert_eq!(store.latest().expect("latest").map(|meta| meta.content), Some(content));
        let before = content.saturating_sub(1).max(1);
        assert_eq!(read_all(&store, before), Some(data.clone()), "the one before may be on its way to a peer");
    }
    let kept = (1..=20).filter(|content| read_all(&store, *content).is_some()).count();
    assert!(kept <= 5, "{kept} snapshots are kept");
    // What was just stored is there, however old it is.
    take(&store, &meta(99, 5, &data), &data);
    assert_eq!(read_all(&store, 99), Some(data));
    assert_eq!(store.latest().expect("latest").map(|meta| meta.content), Some(20));
}

fn one_that_is_discarded_is_neither_the_latest_nor_read<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let data = pattern(2_000);
    store.discard(1).expect("discard what is not there");
    for (content, index) in [(1, 10), (2, 20)] {
        take(&store, &meta(content, index, &data), &data);
    }
    store.discard(2).expect("discard");
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    assert_eq!(store.latest().expect("latest"), Some(meta(1, 10, &data)), "the one before is the latest again");
    assert_eq!(read_all(&store, 2), None);
    assert_eq!(read_all(&store, 1), Some(data.clone()));
    // It may come again.
    take(&store, &meta(2, 20, &data), &data);
    assert_eq!(store.latest().expect("latest"), Some(meta(2, 20, &data)));
    assert_eq!(read_all(&store, 2), Some(data));
    assert_eq!(store.damaged().expect("what is damaged").len(), 0);
}

fn a_read_goes_on_after_reopening_and_beside_a_newer_one<S: Subject>(subject: S) {
    let (data, newer) = (pattern(5_000), pattern(300));
    let store = snapshots(&subject);
    take(&store, &meta(1, 10, &data), &data);
    let mut got = store.read(1, 0, 1_000).expect("read").expect("it is there").to_vec();
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    while got.len() < data.len() {
        if got.len() == 3_000 {
            take(&store, &meta(2, 20, &newer), &newer);
        }
        let piece = store.read(1, got.len() as u64, 1_000).expect("read");
        got.extend_from_slice(&piece.expect("the one before the newest is there"));
    }
    assert!(got == data, "the pieces are not the snapshot");
}

fn one_is_taken_while_another_is_received<S: Subject>(subject: S) {
    let store = snapshots(&subject);
    let (own, received) = (pattern(2_000), pattern(3_000));
    let mut writers = [store.begin().expect("begin"), store.resume(&meta(2, 20, &received)).expect("resume")];
    for (writer, data) in writers.iter_mut().zip([&own, &received]) {
        writer.write(&data[..1_500]).expect("write half");
    }
    for (writer, data) in writers.iter_mut().zip([&own, &received]) {
        writer.write(&data[1_500..]).expect("write the rest");
    }
    let [taken, other] = writers;
    taken.commit(&meta(1, 10, &own)).expect("commit the own one");
    other.commit(&meta(2, 20, &received)).expect("commit the received one");
    drop(store);
    let subject = reopened(subject);
    let store = snapshots(&subject);
    assert_eq!(store.latest().expect("latest"), Some(meta(2, 20, &received)));
    assert_eq!((read_all(&store, 1), read_all(&store, 2)), (Some(own), Some(received)));
}
