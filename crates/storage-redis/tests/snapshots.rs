//! Snapshots of several pieces on a real server.
#![allow(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod common;

use common::{Server, options, proxy::Proxy, url_of};
use coracle_core::{GroupId, Index, Membership, NodeId, SnapshotMeta, Term};
use coracle_storage::{SnapshotStore, StorageError, Store};
use coracle_storage_redis::RedisStore;

const GROUP: GroupId = GroupId(1);
const PIECE: usize = 256 << 10;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

fn meta(content: u64, data: &[u8]) -> SnapshotMeta {
    SnapshotMeta {
        content,
        last_included_index: Index(content),
        last_included_term: Term(1),
        membership_index: Index(1),
        membership: Membership::of_voters([NodeId(1)]),
        size: data.len() as u64,
        checksum: crc32fast::hash(data),
    }
}

fn read_all(snapshots: &dyn SnapshotStore, content: u64) -> Option<Vec<u8>> {
    snapshots.read(content, 0, usize::MAX).unwrap().map(Vec::from)
}

/// How many hashes of pieces there are.
fn hashes(server: &Server) -> String {
    server.ask(&["EVAL", "return #redis.call('KEYS', ARGV[1])", "0", "coracle:{n1}:snapshots:1:*"])
}

#[test]
fn whole_pieces_that_were_received_outlast_the_process() {
    let server = Server::start();
    let data = bytes(3 * PIECE + 1_000);
    let meta = meta(5, &data);
    let store = server.open("n1");
    let mut writer = store.snapshots(GROUP).unwrap().resume(&meta).unwrap();
    writer.write(&data[..2 * PIECE + 7]).unwrap();
    drop((writer, store));
    let store = server.open("n1");
    let snapshots = store.snapshots(GROUP).unwrap();
    let mut writer = snapshots.resume(&meta).unwrap();
    assert_eq!(writer.offset(), 2 * PIECE as u64);
    writer.write(&data[2 * PIECE..]).unwrap();
    writer.commit(&meta).unwrap();
    assert_eq!(read_all(&*snapshots, 5), Some(data.clone()));
    let part = snapshots.read(5, PIECE as u64 - 3, 10).unwrap();
    assert_eq!(part.as_deref(), Some(&data[PIECE - 3..PIECE + 7]));
}

#[test]
fn what_a_crash_left_half_done_is_deleted() {
    let server = Server::start();
    let store = server.open("n1");
    let mut writer = store.snapshots(GROUP).unwrap().begin().unwrap();
    writer.write(&bytes(2 * PIECE)).unwrap();
    assert_eq!(hashes(&server), ":1\r\n");
    // The process ends here: the writer is never told.
    drop((store, writer));
    let store = server.open("n1");
    store.snapshots(GROUP).unwrap();
    assert_eq!(hashes(&server), ":0\r\n");
}

#[test]
fn what_was_replaced_is_deleted() {
    let server = Server::start();
    let store = server.open("n1");
    let snapshots = store.snapshots(GROUP).unwrap();
    for content in 1..=5 {
        let data = bytes(PIECE + content as usize);
        let mut writer = snapshots.begin().unwrap();
        writer.write(&data).unwrap();
        writer.commit(&meta(content, &data)).unwrap();
    }
    assert_eq!(hashes(&server), ":2\r\n", "the newest and the one before");
    let abandoned = snapshots.resume(&meta(9, &[])).unwrap();
    let mut other = snapshots.resume(&meta(10, &[])).unwrap();
    other.write(&bytes(PIECE)).unwrap();
    assert!(matches!(abandoned.commit(&meta(9, &[])), Err(StorageError::Invalid(_))), "its pieces are gone");
    snapshots.keep_only(5).unwrap();
    assert_eq!(hashes(&server), ":2\r\n", "one whole, one that is received");
}

#[test]
fn p07_a_damaged_piece_is_noticed() {
    let server = Server::start();
    let store = server.open("n1");
    let snapshots = store.snapshots(GROUP).unwrap();
    let data = bytes(2 * PIECE);
    let mut writer = snapshots.begin().unwrap();
    writer.write(&data).unwrap();
    writer.commit(&meta(1, &data)).unwrap();
    server.ask(&["HSET", "coracle:{n1}:snapshots:1:1", "1", "garbage"]);
    assert_eq!(snapshots.read(1, 0, PIECE).unwrap().as_deref(), Some(&data[..PIECE]));
    let damaged = snapshots.read(1, PIECE as u64, 10);
    assert!(matches!(damaged, Err(StorageError::Damaged { .. })), "{damaged:?}");
}

#[test]
fn c18_pieces_whose_answers_are_lost_are_there_once() {
    let server = Server::start();
    let socket = server.dir.path().join("proxy.sock");
    let proxy = Proxy::start(&socket, &server.socket());
    let store = RedisStore::open(&url_of(proxy.socket(), "n1"), options()).unwrap();
    let snapshots = store.snapshots(GROUP).unwrap();
    let data = bytes(2 * PIECE + 5);
    let mut writer = snapshots.begin().unwrap();
    proxy.cut(2, b"snapshots:1:1");
    writer.write(&data).unwrap();
    proxy.cut(2, b"catalog");
    writer.commit(&meta(1, &data)).unwrap();
    assert_eq!(proxy.cuts(), 4);
    assert_eq!(read_all(&*snapshots, 1), Some(data));
}
