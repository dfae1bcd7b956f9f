//! The store in files passes the suite that every store passes.

use std::{fs, path::PathBuf, sync::Arc};

use coracle_core::{GroupId, Index, LogRead};
use coracle_storage::{
    Durability, Identity, KvStore, LogStore, Result, SnapshotStore, Store,
    conformance::{self, Subject},
};
use coracle_storage_file::{FileOptions, FileStore};
use coracle_storage_memory::MemoryStore;

/// Segments so small that most tests fill several.
const SEGMENT_BYTES: u64 = 64 * 1024;
const SECTOR: usize = 512;

/// Key-value data in memory that outlive the store, and so stand for durable ones.
#[derive(Clone)]
struct Durable(MemoryStore);

impl Store for Durable {
    fn engine(&self) -> &'static str {
        self.0.engine()
    }

    fn durability(&self) -> Durability {
        Durability::PowerLoss
    }

    fn identity(&self) -> Result<Option<Identity>> {
        self.0.identity()
    }

    fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.0.set_identity(identity)
    }

    fn log(&self) -> Arc<dyn LogStore> {
        self.0.log()
    }

    fn snapshots(&self, group: GroupId) -> Result<Arc<dyn SnapshotStore>> {
        self.0.snapshots(group)
    }

    fn kv(&self, group: GroupId) -> Result<Arc<dyn KvStore>> {
        self.0.kv(group)
    }
}

struct Files {
    store: FileStore,
    kv: Durable,
    dir: tempfile::TempDir,
}

impl Files {
    fn open(dir: tempfile::TempDir, kv: Durable) -> Files {
        let options = FileOptions { segment_bytes: SEGMENT_BYTES };
        let store = FileStore::open(dir.path(), options, Arc::new(kv.clone())).expect("open the store");
        Files { store, kv, dir }
    }

    /// The log's files, the oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.path().join("log")).expect("list the log");
        let paths = files.map(|file| file.expect("a file").path());
        let mut segments: Vec<PathBuf> =
            paths.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
        segments.sort();
        segments
    }
}

impl Subject for Files {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    fn reopen(self) -> Self {
        let Files { store, kv, dir } = self;
        drop(store);
        Files::open(dir, kv)
    }

    fn open_again(&self) -> Option<Result<Arc<dyn Store>>> {
        let options = FileOptions { segment_bytes: SEGMENT_BYTES };
        let again = FileStore::open(self.dir.path(), options, Arc::new(self.kv.clone()));
        Some(again.map(|store| Arc::new(store) as Arc<dyn Store>))
    }

    fn damage_entry(&mut self, group: GroupId, index: Index) -> bool {
        let Ok(LogRead::Entries(runs)) = self.store.log().read(group, index, index, 0) else { return false };
        let data = &runs[0].entries()[0].data;
        self.segments().into_iter().any(|path| {
            let mut bytes = fs::read(&path).expect("read a segment");
            let Some(at) = bytes.windows(data.len()).position(|part| part == data) else { return false };
            bytes[at + data.len() / 2] ^= 0x20;
            fs::write(&path, bytes).is_ok()
        })
    }

    /// The second header and some data of the last block never came to the disk, and neither did the mark that says that it was durable.
    fn tear_last_write(&mut self) -> bool {
        let Some(path) = self.segments().pop() else { return false };
        let mut bytes = fs::read(&path).expect("read a segment");
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else { return false };
        let end = last / SECTOR * SECTOR + SECTOR;
        bytes[end - 2 * SECTOR..end].fill(0);
        fs::write(&path, bytes).expect("write a segment");
        fs::remove_file(self.dir.path().join("log/mark")).is_ok()
    }
}

fn subject() -> Files {
    Files::open(tempfile::tempdir().expect("a directory"), Durable(MemoryStore::new()))
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
fn snapshots_conform() {
    conformance::snapshot_store(subject);
}

#[test]
fn kv_conforms() {
    conformance::kv_store(subject);
}

/// Syncs that fail and a disk without space are brought about on a disk in memory, beside the code.
#[test]
fn recovery_conforms() {
    assert_eq!(conformance::recovery(subject), ["fail_syncs", "fill_up"]);
}
