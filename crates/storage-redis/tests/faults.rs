//! What goes wrong with a real server, and what the store makes of it.
#![allow(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{DEADLINE, Server, options, proxy::Proxy, url_of, wait_for};
use coracle_core::{Entry, GroupId, HardState, Index, LogRead, NodeId, Run, Term};
use coracle_storage::{Durability, KvOp, LogBatch, LogStore, ScanRange, StorageError, Store};
use coracle_storage_redis::{RedisOptions, RedisStore};

const GROUP: GroupId = GroupId(1);

fn data(index: u64) -> String {
    format!("entry {index} ").repeat(10)
}

fn append(index: u64) -> LogBatch {
    let run = Run::new(Index(index), Term(1), [Entry::command(data(index))]);
    let hard_state = HardState { term: Term(1), voted_for: Some(NodeId(index)), ..HardState::default() };
    LogBatch { hard_state: Some(hard_state), ..LogBatch::append(GROUP, vec![run]) }
}

/// Options that accept what a server may lose.
fn weaker() -> RedisOptions {
    RedisOptions { allow_weaker_durability: true, ..options() }
}

fn write(store: &RedisStore, index: u64) {
    store.log().write(&[append(index)]).unwrap();
}

/// The last index, after checking that the whole log is what was written.
fn checked(log: &dyn LogStore) -> u64 {
    let recovered = log.recover(GROUP, usize::MAX).unwrap();
    assert_eq!(recovered.damaged, []);
    let entries = recovered.tail.iter().flat_map(Run::iter);
    let found: Vec<_> = entries.map(|(index, entry)| (index, entry.data.clone())).collect();
    let last = recovered.last_index.0;
    let expected: Vec<_> = (1..=last).map(|index| (Index(index), data(index).into())).collect();
    assert_eq!(found, expected);
    assert_eq!(recovered.hard_state.voted_for, (last > 0).then_some(NodeId(last)), "the state of the last write");
    last
}

/// Appends in a thread, until told how many are enough; counts what was acknowledged.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    enough: Arc<AtomicU64>,
    thread: thread::JoinHandle<Result<(), StorageError>>,
}

impl Writer {
    fn start(store: &RedisStore, first: u64) -> Writer {
        let (acknowledged, enough) = (Arc::new(AtomicU64::new(first - 1)), Arc::new(AtomicU64::new(u64::MAX)));
        let (count, until, log) = (acknowledged.clone(), enough.clone(), store.log());
        let thread = thread::spawn(move || {
            let mut index = first;
            while index <= until.load(Ordering::SeqCst) {
                log.write(&[append(index)])?;
                count.store(index, Ordering::SeqCst);
                index += 1;
            }
            Ok(())
        });
        Writer { acknowledged, enough, thread }
    }

    fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    fn wait_for_more(&self, more: u64) {
        let enough = self.count() + more;
        wait_for("more that is acknowledged", || self.count() >= enough || self.thread.is_finished());
        assert!(self.count() >= enough, "the writer ended");
    }

    fn end(self) -> u64 {
        self.enough.store(0, Ordering::SeqCst);
        self.thread.join().unwrap().unwrap();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

#[test]
fn c18_a_server_that_is_killed_and_restarted_has_all_that_was_acknowledged() {
    let mut server = Server::start();
    let store = server.open("n1");
    let writer = Writer::start(&store, 1);
    for _ in 0..4 {
        writer.wait_for_more(25);
        server.kill();
        let before = writer.count();
        server.start_again();
        writer.wait_for_more(1);
        assert!(writer.count() > before);
    }
    let acknowledged = writer.end();
    assert_eq!(checked(&*store.log()), acknowledged);
    drop(store);
    // Also for the next process, after one more crash of the server.
    server.kill();
    server.start_again();
    assert_eq!(checked(&*server.open("n1").log()), acknowledged);
}

fn assert_lost<T: std::fmt::Debug>(result: Result<T, StorageError>) {
    assert!(matches!(result, Err(StorageError::Lost { .. })), "{result:?}");
}

fn assert_stopped<T: std::fmt::Debug>(result: Result<T, StorageError>, why: &str) {
    match result {
        Err(StorageError::Stopped(text)) => assert!(text.contains(why), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn c18_a_server_that_comes_back_with_less_is_lost_log() {
    for is_read in [false, true] {
        let mut server = Server::start();
        let store = server.open("n1");
        (1..=3).for_each(|index| write(&store, index));
        let earlier = server.copy_data();
        write(&store, 4);
        server.kill();
        server.put_data(&earlier);
        server.start_again();
        match is_read {
            true => assert_lost(store.log().read(GROUP, Index(1), Index(3), 100)),
            false => assert_lost(store.log().write(&[append(5)])),
        }
        assert_lost(store.log().write(&[append(5)]));
        let text = store.log().recover(GROUP, 0).unwrap_err().to_string();
        let expected = ["lost what it had acknowledged", "write 3 of \"log\", 4 were acknowledged"];
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        drop(store);
        // A node that is started again has forgotten what it acknowledged; it is not let in unless that is accepted.
        for _ in 0..2 {
            let again = RedisStore::open(&server.url("n1"), options());
            match &again {
                Err(StorageError::Lost { what, .. }) => assert!(what.contains("4 were acknowledged"), "{what}"),
                other => panic!("{other:?}"),
            }
        }
        let accepted = RedisStore::open(&server.url("n1"), weaker()).unwrap();
        assert_eq!(checked(&*accepted.log()), 3, "what came back is untouched");
        drop(accepted);
        assert_eq!(checked(&*server.open("n1").log()), 3, "it was accepted once and for all");
    }
}

#[test]
fn c18_a_server_from_before_this_opening_is_lost_log() {
    let mut server = Server::start();
    let store = server.open("n1");
    write(&store, 1);
    drop(store);
    let earlier = server.copy_data();
    let store = server.open("n1");
    server.kill();
    server.put_data(&earlier);
    server.start_again();
    assert_lost(store.log().read(GROUP, Index(1), Index(1), 100));
}

#[test]
fn c18_a_server_that_was_emptied_is_lost_log() {
    let server = Server::start();
    let check = |request: fn(&RedisStore) -> Result<(), StorageError>| {
        let store = server.open("n1");
        // The connections are not interrupted.
        server.ask(&["FLUSHALL"]);
        assert_lost(request(&store));
    };
    check(|store| store.log().write(&[append(1)]));
    check(|store| store.log().read(GROUP, Index(1), Index(1), 100).map(drop));
    check(|store| store.identity().map(drop));
    check(|store| store.kv(GROUP).map(drop));
}

#[test]
fn c18_a_server_that_is_gone_is_a_slow_disk() {
    let mut server = Server::start();
    let store = server.open("n1");
    write(&store, 1);
    server.kill();
    let writer = Writer::start(&store, 2);
    let kv = thread::spawn({
        let store = store.clone();
        move || store.kv(GROUP)?.write(vec![KvOp::Put("a".into(), "1".into())], Index(1))
    });
    // Longer than the first pauses.
    let since = Instant::now();
    wait_for("a while", || since.elapsed() > Duration::from_millis(500));
    assert_eq!((writer.count(), writer.thread.is_finished(), kv.is_finished()), (1, false, false));
    server.start_again();
    writer.wait_for_more(10);
    kv.join().unwrap().unwrap();
    let acknowledged = writer.end();
    assert_eq!(checked(&*store.log()), acknowledged);
    assert_eq!(store.kv(GROUP).unwrap().get(b"a").unwrap().as_deref(), Some(b"1".as_slice()));
}

#[test]
fn closing_ends_a_wait() {
    let mut server = Server::start();
    let store = server.open("n1");
    server.kill();
    let writer = Writer::start(&store, 1);
    let since = Instant::now();
    wait_for("a while", || since.elapsed() > Duration::from_millis(50));
    assert!(!writer.thread.is_finished());
    store.close();
    assert_stopped(writer.thread.join().unwrap(), "closed");
    assert!(since.elapsed() < DEADLINE);
    assert_stopped(store.identity(), "closed");
}

#[test]
fn c18_a_server_without_memory_is_a_slow_disk() {
    let server = Server::start();
    let store = server.open("n1");
    write(&store, 1);
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let writer = Writer::start(&store, 2);
    wait_for("a write that is refused", || server.ask(&["INFO", "errorstats"]).contains("errorstat_OOM:count="));
    assert_eq!((writer.count(), writer.thread.is_finished()), (1, false));
    // Reads go on.
    assert!(matches!(store.log().read(GROUP, Index(1), Index(1), 100), Ok(LogRead::Entries(_))));
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    writer.wait_for_more(10);
    let acknowledged = writer.end();
    assert_eq!(checked(&*store.log()), acknowledged);
}

#[test]
fn a_namespace_whose_owner_is_connected_is_locked() {
    let server = Server::start();
    let store = server.open("n1");
    let second = RedisStore::open(&server.url("n1"), options());
    assert!(matches!(second, Err(StorageError::Locked { .. })), "{second:?}");
    write(&store, 1);
    drop(store);
    assert_eq!(checked(&*server.open("n1").log()), 1);
}

#[test]
fn an_owner_that_lost_the_fence_changes_nothing() {
    let server = Server::start();
    let first = server.open("n1");
    write(&first, 1);
    // As if its machine was gone; it connects again only with its next request.
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let second = server.open("n1");
    assert_stopped(first.log().write(&[append(2)]), "another process");
    assert_stopped(first.log().read(GROUP, Index(1), Index(1), 100), "another process");
    assert_eq!(checked(&*second.log()), 1);
    write(&second, 2);
    assert_eq!(checked(&*second.log()), 2);
}

#[test]
fn the_fence_holds_within_a_connection() {
    let server = Server::start();
    for is_read in [true, false] {
        let store = server.open("n1");
        // What another process's opening does, without an interruption of this one's connections.
        server.ask(&["HINCRBY", "coracle:{n1}:owner", "epoch", "1"]);
        match is_read {
            true => assert_stopped(store.log().read(GROUP, Index(1), Index(1), 100), "another process"),
            false => assert_stopped(store.log().write(&[append(1)]), "another process"),
        }
    }
    assert_eq!(checked(&*server.open("n1").log()), 0);
}

#[test]
fn namespaces_are_apart() {
    let server = Server::start();
    let stores = ["n1", "n2"].map(|namespace| server.open(namespace));
    for (store, count) in stores.iter().zip([2, 5]) {
        (1..=count).for_each(|index| write(store, index));
        let kv = store.kv(GROUP).unwrap();
        kv.write(vec![KvOp::Put("count".into(), count.to_string().into())], Index(count)).unwrap();
    }
    drop(stores);
    for (namespace, count) in [("n1", 2), ("n2", 5)] {
        let store = server.open(namespace);
        assert_eq!(checked(&*store.log()), count);
        let page = store.kv(GROUP).unwrap().scan(&ScanRange::all(), 10, 1000).unwrap();
        assert_eq!(page, [("count".into(), count.to_string().into())]);
    }
}

#[test]
fn what_somebody_else_put_in_place_of_a_key_is_damage_and_changes_nothing() {
    for (command, what) in [
        (vec!["SET", "coracle:{n1}:log:1:rows", "x"], "expected a hash"),
        (vec!["HSET", "coracle:{n1}:log:1", "last", "7"], "expected \"1\""),
    ] {
        let server = Server::start();
        let store = server.open("n1");
        write(&store, 1);
        server.ask(&command);
        let lanes = || server.ask(&["HGETALL", "coracle:{n1}:lanes"]);
        let before = lanes();
        match store.log().write(&[append(2)]) {
            Err(StorageError::Damaged { what: text, .. }) => assert!(text.contains(what), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(lanes(), before);
        assert_stopped(store.log().write(&[append(2)]), what);
    }
}

#[test]
fn c18_an_error_that_is_not_known_to_change_nothing_stops_the_store() {
    let server = Server::start();
    let store = server.open("n1");
    write(&store, 1);
    server.ask(&["ACL", "SETUSER", "default", "-hset"]);
    let refused = store.log().write(&[append(2)]);
    assert!(matches!(refused, Err(StorageError::Io { .. })), "{refused:?}");
    server.ask(&["ACL", "SETUSER", "default", "+hset"]);
    assert_stopped(store.log().write(&[append(2)]), "can't run this command");
    drop(store);
    assert_eq!(checked(&*server.open("n1").log()), 1);
}

#[test]
fn a_server_that_forgot_its_scripts_is_told_them_again() {
    let server = Server::start();
    let store = server.open("n1");
    write(&store, 1);
    server.ask(&["SCRIPT", "FLUSH"]);
    write(&store, 2);
    assert_eq!(checked(&*store.log()), 2);
}

#[test]
fn c19_damaged_rows_are_found_and_repaired() {
    let server = Server::start();
    let store = server.open("n1");
    (1..=6).for_each(|index| write(&store, index));
    server.ask(&["HSET", "coracle:{n1}:log:1:rows", "3", "garbage"]);
    server.ask(&["HDEL", "coracle:{n1}:log:1:rows", "4"]);
    let log = store.log();
    let recovered = log.recover(GROUP, usize::MAX).unwrap();
    assert_eq!((recovered.damaged, recovered.last_index), (vec![Index(3), Index(4)], Index(6)));
    assert_eq!(recovered.terms, [(Index(1), Term(1))]);
    assert!(!recovered.is_membership_damaged);
    assert_eq!(recovered.tail.first().map(Run::first), Some(Index(5)), "the tail begins after what is damaged");
    assert_eq!(log.read(GROUP, Index(3), Index(6), 1000).unwrap(), LogRead::Damaged { at: Index(3) });
    let repaired = Run::new(Index(3), Term(1), [3, 4].map(|index| Entry::command(data(index))));
    log.write(&[LogBatch { repaired: vec![repaired], ..LogBatch::append(GROUP, vec![]) }]).unwrap();
    assert_eq!(checked(&*log), 6);
}

#[test]
fn a_key_or_value_that_somebody_threw_away_is_damage_and_no_answer() {
    for command in [["DEL", "coracle:{n1}:kv:1:values"], ["DEL", "coracle:{n1}:kv:1:keys"]] {
        let server = Server::start();
        let store = server.open("n1");
        let kv = store.kv(GROUP).unwrap();
        kv.write(vec![KvOp::Put("a".into(), "".into())], Index(1)).unwrap();
        assert_eq!(kv.get(b"a").unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(kv.get(b"b").unwrap(), None);
        server.ask(&command);
        let got = kv.get(b"a");
        assert!(matches!(got, Err(StorageError::Damaged { .. })), "{command:?}: {got:?}");
    }
}

#[test]
fn a_scan_reads_no_more_values_than_it_gives() {
    let server = Server::start();
    let store = server.open("n1");
    let kv = store.kv(GROUP).unwrap();
    let value = bytes::Bytes::from(vec![7; 1 << 20]);
    let put = |i: u8| KvOp::Put(vec![i].into(), value.clone());
    kv.write((0..10).map(put).collect(), Index(1)).unwrap();
    server.ask(&["CONFIG", "RESETSTAT"]);
    assert_eq!(kv.scan(&ScanRange::all(), 1_000, 2 << 20).unwrap().len(), 2);
    let stats = server.ask(&["INFO", "commandstats"]);
    let read = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hget:calls=")?.split(',').next());
    // Two values, and the fence of each page.
    assert_eq!(read, Some("4"), "{stats}");
    assert!(!stats.contains("cmdstat_hmget"), "{stats}");
}

#[test]
fn what_was_compacted_is_deleted_in_slices() {
    let server = Server::start();
    let store = server.open("n1");
    let entries: Vec<Entry> = (1..=3_500).map(|index| Entry::command(data(index))).collect();
    let log = store.log();
    log.write(&[LogBatch::append(GROUP, vec![Run::new(Index(1), Term(1), entries)])]).unwrap();
    let base = coracle_core::Base { index: Index(3_000), term: Term(1), ..Default::default() };
    let rows = || server.ask(&["HLEN", "coracle:{n1}:log:1:rows"]);
    log.write(&[LogBatch { base: Some(base), ..LogBatch::append(GROUP, vec![]) }]).unwrap();
    assert_eq!(rows(), ":2500\r\n");
    write(&store, 3_501);
    assert_eq!(rows(), ":1501\r\n");
    drop((store, log));
    let store = server.open("n1");
    (3_502..=3_503).for_each(|index| write(&store, index));
    assert_eq!(rows(), ":503\r\n", "it goes on after a restart");
}

#[test]
fn c18_a_write_whose_answer_is_lost_is_carried_out_once() {
    let server = Server::start();
    let socket = server.dir.path().join("proxy.sock");
    let proxy = Proxy::start(&socket, &server.socket());
    let store = RedisStore::open(&url_of(proxy.socket(), "n1"), options()).unwrap();
    let kv = store.kv(GROUP).unwrap();
    for index in 1..=10 {
        proxy.cut(2, b"entry ");
        write(&store, index);
        proxy.cut(1, b"value ");
        kv.write(vec![KvOp::Put("key".into(), format!("value {index}").into())], Index(index)).unwrap();
    }
    assert_eq!(proxy.cuts(), 30);
    assert_eq!(checked(&*store.log()), 10);
    let lanes = server.ask(&["HMGET", "coracle:{n1}:lanes", "log", "kv:1"]);
    assert_eq!(lanes, "*2\r\n$2\r\n10\r\n$2\r\n10\r\n", "each was carried out once");
}

#[test]
fn less_than_full_durability_is_refused_or_told() {
    let allowed = weaker();
    for (settings, expected) in [
        (&["--appendonly", "no"][..], Durability::Volatile),
        (&["--appendonly", "yes", "--appendfsync", "everysec"], Durability::ProcessCrash),
        (
            &["--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"],
            Durability::ProcessCrash,
        ),
        (&["--appendonly", "yes", "--appendfsync", "always", "--rename-command", "CONFIG", ""], Durability::Volatile),
    ] {
        let server = Server::with(settings);
        match RedisStore::open(&server.url("n1"), options()) {
            Err(StorageError::Invalid(text)) => assert!(text.contains("appendfsync always"), "{text}"),
            other => panic!("{settings:?}: {other:?}"),
        }
        let store = RedisStore::open(&server.url("n1"), allowed.clone()).unwrap();
        assert_eq!(store.durability(), expected, "{settings:?}");
        let is_silent = settings.contains(&"CONFIG");
        assert_eq!(store.durability_doubt().is_some(), is_silent, "{settings:?}");
    }
}

#[test]
fn a_server_that_may_throw_keys_away_is_refused_always() {
    let server = Server::with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--maxmemory",
        "100mb",
        "--maxmemory-policy",
        "allkeys-lru",
    ]);
    match RedisStore::open(&server.url("n1"), weaker()) {
        Err(StorageError::Invalid(text)) => assert!(text.contains("allkeys-lru"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_are_read_again_with_each_connection() {
    let server = Server::start();
    let store = server.open("n1");
    server.ask(&["CONFIG", "SET", "appendfsync", "everysec"]);
    write(&store, 1);
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    match store.log().write(&[append(2)]) {
        Err(StorageError::Invalid(text)) => assert!(text.contains("everysec"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_stopped(store.log().write(&[append(2)]), "everysec");
}

#[test]
fn a_server_that_is_not_there_is_told_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let options = RedisOptions { open_timeout: Duration::from_millis(200), ..options() };
    let opened = RedisStore::open(&url_of(&dir.path().join("none"), "n1"), options);
    assert!(matches!(opened, Err(StorageError::Io { .. })), "{opened:?}");
}

#[test]
fn a_password_that_is_refused_is_told_at_once() {
    let server = Server::with(&["--appendonly", "yes", "--appendfsync", "always"]);
    server.ask(&["CONFIG", "SET", "requirepass", "secret"]);
    let url = |password: &str| format!("redis+unix://{}?namespace=n1{password}", server.socket().display());
    for wrong in ["", "&password=other"] {
        let opened = RedisStore::open(&url(wrong).parse().unwrap(), options());
        assert!(matches!(opened, Err(StorageError::Invalid(_))), "{opened:?}");
    }
    let store = RedisStore::open(&url("&password=secret").parse().unwrap(), options()).unwrap();
    write(&store, 1);
}

#[test]
fn an_identity_belongs_to_one_node() {
    let server = Server::start();
    let store = server.open("n1");
    let identity = coracle_storage::Identity {
        node: NodeId(7),
        incarnation: coracle_core::Incarnation(1),
        engine: "redis".into(),
        cluster_name: "c".into(),
        clusters: Default::default(),
    };
    store.set_identity(&identity).unwrap();
    let other = coracle_storage::Identity { node: NodeId(8), ..identity.clone() };
    assert!(matches!(store.set_identity(&other), Err(StorageError::Invalid(_))));
    let sled = coracle_storage::Identity { engine: "sled".into(), ..identity };
    assert!(matches!(store.set_identity(&sled), Err(StorageError::Engine { .. })));
}
