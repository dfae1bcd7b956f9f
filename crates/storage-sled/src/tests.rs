//! The suite that every store passes, on an engine that can be made to fail, and whose rows can be changed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use coracle_core::{Index, LogRead};
use coracle_storage::conformance::{self, Subject};

use super::*;
use crate::engine::tests::open_faulty;

struct Faulty {
    store: SledStore,
    fails: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl Faulty {
    fn open(dir: tempfile::TempDir) -> Faulty {
        let fails = Arc::new(AtomicBool::new(false));
        let engine = open_faulty(dir.path(), fails.clone(), Arc::new(AtomicUsize::new(0)));
        let options = SledOptions { mark_interval: Duration::ZERO, ..SledOptions::default() };
        Faulty { store: SledStore::on(dir.path(), engine, &options).unwrap(), fails, dir }
    }
}

impl Subject for Faulty {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Faulty {
        let Faulty { store, dir, .. } = self;
        drop(store);
        Faulty::open(dir)
    }

    fn open_again(&self) -> Option<Result<Arc<dyn Store>>> {
        let again = SledStore::open(self.dir.path(), SledOptions::default());
        Some(again.map(|store| Arc::new(store) as Arc<dyn Store>))
    }

    fn damage_entry(&mut self, group: GroupId, index: Index) -> bool {
        let Ok(LogRead::Entries(runs)) = self.store.log().read(group, index, index, 0) else { return false };
        let data = runs[0].entries()[0].data.clone();
        let tree = self.store.shared.engine.tree(&format!("raft/{group}")).unwrap();
        for row in tree.iter() {
            let (key, value) = row.unwrap();
            if let Some(at) = value.windows(data.len()).position(|part| part == data) {
                let mut value = value.to_vec();
                value[at + data.len() / 2] ^= 0x20;
                tree.insert(key, value).unwrap();
                return true;
            }
        }
        false
    }

    fn fail_syncs(&mut self) -> bool {
        self.fails.store(true, Ordering::Relaxed);
        true
    }
}

/// Torn writes to its file are sled's own affair: power is cut under it in a test of its own.
#[test]
fn it_conforms_with_everything_that_can_be_brought_about() {
    let missing = conformance::recovery(|| Faulty::open(tempfile::tempdir().unwrap()));
    assert_eq!(missing, ["tear_last_write", "fill_up"]);
}
