//! The store on sled passes the suite that every store passes.

use std::sync::Arc;

use coracle_storage::{
    Store,
    conformance::{self, Subject},
};
use coracle_storage_sled::{SledOptions, SledStore};

struct Sled {
    store: SledStore,
    dir: tempfile::TempDir,
}

impl Sled {
    fn open(dir: tempfile::TempDir) -> Sled {
        let store = SledStore::open(dir.path(), SledOptions::default()).expect("open the store");
        Sled { store, dir }
    }
}

impl Subject for Sled {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Self {
        let Sled { store, dir } = self;
        drop(store);
        Sled::open(dir)
    }
}

fn subject() -> Sled {
    Sled::open(tempfile::tempdir().expect("a directory"))
}

#[test]
fn identity_conforms() {
    conformance::store(subject);
}

#[test]
fn log_conforms() {
    conformance::log_store(subject);
}

#[test]
fn kv_conforms() {
    conformance::kv_store(subject);
}

#[test]
fn snapshots_conform() {
    conformance::snapshot_store(subject);
}
