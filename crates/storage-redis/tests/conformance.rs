//! The store on a real Redis server passes the suite that every store passes.
#![allow(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

mod common;

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use common::{Server, options};
use coracle_core::{GroupId, Index};
use coracle_storage::{
    Result, Store,
    conformance::{self, Subject},
};
use coracle_storage_redis::RedisStore;

/// A namespace of its own on the test's server.
struct Redis<'a> {
    server: &'a Mutex<Server>,
    namespace: String,
    store: RedisStore,
}

impl Redis<'_> {
    fn open(server: &Mutex<Server>, namespace: String) -> Redis<'_> {
        let store = server.lock().unwrap().open(&namespace);
        Redis { server, namespace, store }
    }
}

impl Subject for Redis<'_> {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Self {
        let Redis { server, namespace, store } = self;
        drop(store);
        Redis::open(server, namespace)
    }

    fn open_again(&self) -> Option<Result<Arc<dyn Store>>> {
        let url = self.server.lock().unwrap().url(&self.namespace);
        let again = RedisStore::open(&url, options());
        Some(again.map(|store| Arc::new(store) as Arc<dyn Store>))
    }

    fn damage_entry(&mut self, group: GroupId, index: Index) -> bool {
        const FLIP: &str = "local row = redis.call('HGET', KEYS[1], ARGV[1]) \
            local last = string.char((row:byte(#row) + 1) % 256) \
            return redis.call('HSET', KEYS[1], ARGV[1], row:sub(1, #row - 1) .. last)";
        let key = format!("coracle:{{{}}}:log:{group}:rows", self.namespace);
        self.server.lock().unwrap().ask(&["EVAL", FLIP, "1", &key, &index.to_string()]) == ":0\r\n"
    }

    /// Cuts the end off the server's append-only file, in the middle of what the last script wrote.
    fn tear_last_write(&mut self) -> bool {
        let mut server = self.server.lock().unwrap();
        server.kill();
        let data = server.dir.path().join("appendonlydir");
        let files = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
        let newest = files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().unwrap();
        let file = fs::OpenOptions::new().write(true).open(newest).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1_000).unwrap();
        server.start_again();
        true
    }
}

#[test]
fn it_conforms() {
    let server = Mutex::new(Server::start());
    let next = AtomicU64::new(1);
    let subject = || Redis::open(&server, format!("n{}", next.fetch_add(1, Ordering::Relaxed)));
    // A server whose sync fails ends: to the store it is away.
    assert_eq!(conformance::all(subject), ["fail_syncs", "fill_up"]);
}
