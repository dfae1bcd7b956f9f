//! The store on sled passes the suite that every store passes.

use std::sync::Arc;

use coracle_storage::{
    Result, Store,
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

    fn open_again(&self) -> Option<Result<Arc<dyn Store>>> {
        let again = SledStore::open(self.dir.path(), SledOptions::default());
        Some(again.map(|store| Arc::new(store) as Arc<dyn Store>))
    }
}

fn subject() -> Sled {
    Sled::open(tempfile::tempdir().expect("a directory"))
}

#[test]
fn it_conforms() {
    // What is missing is shown on an engine that can be made to fail, and by cutting the power.
    assert_eq!(conformance::all(subject), ["damage_entry", "tear_last_write", "fail_syncs", "fill_up"]);
}
