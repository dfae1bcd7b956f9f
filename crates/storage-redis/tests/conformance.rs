//! The store on a real Redis server passes the suite that every store passes.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use common::Server;
use coracle_storage::{
    Store,
    conformance::{self, Subject},
};
use coracle_storage_redis::RedisStore;

/// A namespace of its own on the test's server.
struct Redis<'a> {
    server: &'a Server,
    namespace: String,
    store: RedisStore,
}

impl Subject for Redis<'_> {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Self {
        let Redis { server, namespace, store } = self;
        drop(store);
        let store = server.open(&namespace);
        Redis { server, namespace, store }
    }
}

/// Each subject is a namespace; the suite runs on one server.
fn subjects<'a>(server: &'a Server) -> impl Fn() -> Redis<'a> {
    let next = AtomicU64::new(1);
    move || {
        let namespace = format!("n{}", next.fetch_add(1, Ordering::Relaxed));
        let store = server.open(&namespace);
        Redis { server, namespace, store }
    }
}

#[test]
fn identity_conforms() {
    let server = Server::start();
    conformance::store(subjects(&server));
}

#[test]
fn log_conforms() {
    let server = Server::start();
    conformance::log_store(subjects(&server));
}

#[test]
fn kv_conforms() {
    let server = Server::start();
    conformance::kv_store(subjects(&server));
}

#[test]
fn snapshots_conform() {
    let server = Server::start();
    conformance::snapshot_store(subjects(&server));
}
