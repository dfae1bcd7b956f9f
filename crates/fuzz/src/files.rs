//! Logs and whole stores in files that are written, damaged or cut off by a power failure, and opened again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use coracle_core::{ClusterId, GroupId, Index, SnapshotMeta, Term};
use coracle_storage::{Identity, LogStore, SnapshotStore, StorageError, Store};
use coracle_storage_file::{FileOptions, FileStore, fuzzing::LogDisk};
use coracle_storage_memory::MemoryStore;

use crate::{
    consensus::some_membership,
    oracle::{Damage, Oracle},
    source::Source,
    stores::some_identity,
};

/// More steps only repeat what fewer show.
const LOG_STEPS_MAX: usize = 40;
const STORE_STEPS_MAX: usize = 10;
const SEGMENT_BYTES: u64 = 64 * 1024;
/// How far the log is known to be durable; made anew where it is damaged.
const MARK: &str = "mark";

/// A log on a disk in memory: writes, power cuts at any call, damage.
///
/// # Panics
/// When a log is opened that is not what was written, and does not say so.
pub(crate) fn log(data: &[u8]) {
    let disk = LogDisk::default();
    let Ok(log) = disk.open() else { panic!("an empty disk") };
    let mut run =
        Log { source: Source::new(data), disk, log, oracle: Oracle::new(), has_damage: false, has_zeros: false };
    for _ in 0..LOG_STEPS_MAX {
        if run.source.is_empty() || !run.step() {
            break;
        }
    }
}

struct Log<'a> {
    source: Source<'a>,
    disk: LogDisk,
    log: Arc<dyn LogStore>,
    oracle: Oracle,
    has_damage: bool,
    /// Whether some of what was written is as if it had never been: then only the mark tells that it was.
    has_zeros: bool,
}

impl Log<'_> {
    /// Whether there is a log to go on with.
    fn step(&mut self) -> bool {
        match self.source.below(8) {
            0..4 => self.write(),
            4 if !self.has_zeros => return self.cut_while_writing(),
            5 if !self.has_zeros => return self.cut(),
            6 => return self.damage(),
            _ => return self.reopen(),
        }
        true
    }

    fn write(&mut self) {
        let batches = self.oracle.batches(&mut self.source);
        let written = self.log.write(&batches);
        assert!(written.is_ok(), "{batches:?} follow: {written:?}");
        self.oracle.take(&batches);
    }

    /// The power is cut while something is written: it is there as a whole, or not at all.
    fn cut_while_writing(&mut self) -> bool {
        let batches = self.oracle.batches(&mut self.source);
        self.disk.watch();
        let written = self.log.write(&batches);
        assert!(written.is_ok(), "{batches:?} follow: {written:?}");
        let (call, bits) = (usize::from(self.source.byte()), self.source.byte());
        self.disk = self.disk.cut(call, |sector| bits >> (sector % 8) & 1 == 1);
        let Some(log) = self.opened() else { return false };
        if self.oracle.check(&*log).is_err() {
            self.oracle.take(&batches);
        }
        self.go_on(log)
    }

    fn cut(&mut self) -> bool {
        let bits = self.source.byte();
        self.disk = self.disk.cut_now(|sector| bits >> (sector % 8) & 1 == 1);
        self.reopen()
    }

    /// What is in a file is not what was written.
    fn damage(&mut self) -> bool {
        let files = self.disk.files();
        let (name, _) = &files[self.source.below(files.len())];
        // A log whose end is gone is known by the mark alone: not both are damaged at once.
        let times = if name == MARK { 1 } else { 1 + self.source.below(3) };
        for _ in 0..times {
            let damage = Damage::next(&mut self.source);
            if name == MARK && self.has_zeros {
                return true;
            }
            self.has_zeros |= name != MARK && matches!(damage, Damage::Zero);
            self.disk.edit(name, |bytes| damage.apply(bytes, &mut self.source));
        }
        // The mark is made anew where it is damaged, and nobody misses anything.
        self.has_damage |= name != MARK;
        self.reopen()
    }

    fn reopen(&mut self) -> bool {
        let Some(log) = self.opened() else { return false };
        self.go_on(log)
    }

    fn opened(&self) -> Option<Arc<dyn LogStore>> {
        match self.disk.open() {
            Ok(log) => Some(log),
            Err(StorageError::Damaged { .. }) if self.has_damage => None,
            Err(error) => panic!("nothing is damaged: {error}"),
        }
    }

    fn go_on(&mut self, log: Arc<dyn LogStore>) -> bool {
        let checked = if self.has_damage { self.oracle.check(&*log) } else { self.oracle.check_whole(&*log) };
        if let Err(what) = checked {
            panic!("{what}");
        }
        self.log = log;
        true
    }
}

/// A whole store in a directory: the log, its mark, the identity, snapshots; any of their files is damaged.
///
/// # Panics
/// When it is opened and is not what was written, and does not say so.
pub(crate) fn recovery(data: &[u8]) {
    let Ok(dir) = directory() else { panic!("there is no temporary directory") };
    let Ok(store) = open(dir.path()) else { panic!("an empty directory is opened") };
    let mut truth = Truth { identity: some_identity("file"), snapshots: Vec::new(), logs: Oracle::new() };
    assert!(store.set_identity(&truth.identity).is_ok());
    let (mut source, mut store, mut damaged) = (Source::new(data), store, Vec::new());
    for _ in 0..STORE_STEPS_MAX {
        if source.is_empty() {
            break;
        }
        match source.below(8) {
            0..4 => truth.write(&store, &mut source),
            4 => truth.take_snapshot(&store, &mut source, !damaged.is_empty()),
            5 => truth.rename(&store, &mut source),
            _ => {
                drop(store);
                damaged.extend(damage(dir.path(), &mut source, &damaged));
                let Some(opened) = reopened(dir.path(), &damaged) else { return };
                truth.check(&opened, &damaged);
                store = opened;
            }
        }
    }
}

/// In memory where there is such a place: nothing here is about what a disk does with it.
fn directory() -> io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("coracle-fuzz-");
    if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }
}

fn open(dir: &Path) -> coracle_storage::Result<FileStore> {
    FileStore::open(dir, FileOptions { segment_bytes: SEGMENT_BYTES }, Arc::new(MemoryStore::new()))
}

fn reopened(dir: &Path, damaged: &[PathBuf]) -> Option<FileStore> {
    match open(dir) {
        Ok(store) => Some(store),
        Err(StorageError::Damaged { place, what }) => {
            let is_told = damaged.iter().any(|path| path.starts_with(dir) && !is(path, MARK));
            assert!(is_told, "{place}: {what}, but {damaged:?} are damaged");
            None
        }
        Err(error) => panic!("{damaged:?} are damaged: {error}"),
    }
}

fn is(path: &Path, name: &str) -> bool {
    path.ends_with(name)
}

/// Damages some file, and says which.
fn damage(dir: &Path, source: &mut Source<'_>, damaged: &[PathBuf]) -> Option<PathBuf> {
    let files = files(dir);
    let path = files.get(source.below(files.len()))?;
    let is_log = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "segment");
    // A log whose end is gone is known by the mark alone: not both are damaged.
    let clashes = if is_log(path) { damaged.iter().any(|path| is(path, MARK)) } else { damaged.iter().any(is_log) };
    if clashes && (is_log(path) || is(path, MARK)) {
        return None;
    }
    if source.below(8) == 0 && (is_log(path) || is(path, MARK) || is_snapshot(path)) {
        fs::remove_file(path).ok()?;
        return Some(path.clone());
    }
    let mut bytes = fs::read(path).ok()?;
    for _ in 0..=source.below(3) {
        Damage::next(source).apply(&mut bytes, source);
    }
    fs::write(path, bytes).ok()?;
    Some(path.clone())
}

fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "snapshot")
}

/// All files below a directory, in order.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What was written.
struct Truth {
    identity: Identity,
    /// The newest last.
    snapshots: Vec<(SnapshotMeta, Vec<u8>)>,
    logs: Oracle,
}

impl Truth {
    fn write(&self, store: &FileStore, source: &mut Source<'_>) {
        let batches = self.logs.batches(source);
        let written = store.log().write(&batches);
        assert!(written.is_ok(), "{batches:?} follow: {written:?}");
        self.logs.take(&batches);
    }

    fn take_snapshot(&mut self, store: &FileStore, source: &mut Source<'_>, has_damage: bool) {
        let number = self.snapshots.len() as u64 + 1;
        let data = source.bytes().to_vec();
        let meta = SnapshotMeta {
            content: number,
            last_included_index: Index(number),
            last_included_term: Term(1),
            membership_index: Index::ZERO,
            membership: some_membership(),
            size: data.len() as u64,
            checksum: crc32fast::hash(&data),
        };
        let taken = snapshots(store).begin().and_then(|mut writer| {
            writer.write(&data)?;
            writer.commit(&meta)
        });
        assert!(taken.is_ok() || has_damage, "a snapshot is taken: {taken:?}");
        self.snapshots.extend(taken.is_ok().then_some((meta, data)));
    }

    fn rename(&mut self, store: &FileStore, source: &mut Source<'_>) {
        self.identity.clusters.insert(GroupId(u64::from(source.byte())), ClusterId(u64::from(source.byte())));
        let written = store.set_identity(&self.identity);
        assert!(written.is_ok(), "an identity is written: {written:?}");
    }

    fn check(&self, store: &FileStore, damaged: &[PathBuf]) {
        match store.identity() {
            Ok(identity) => assert_eq!(identity.as_ref(), Some(&self.identity)),
            Err(error) => assert!(is_told(&error, damaged), "{error}"),
        }
        match snapshots(store).latest() {
            Ok(latest) => self.check_snapshot(store, latest, damaged),
            Err(error) => assert!(is_told(&error, damaged), "{error}"),
        }
        if let Err(what) = self.logs.check(&*store.log()) {
            panic!("{what}");
        }
    }

    /// The newest one is there, or what is damaged is told and one of the others may be in its place. Whoever reads a snapshot holds it against its checksum.
    fn check_snapshot(&self, store: &FileStore, latest: Option<SnapshotMeta>, damaged: &[PathBuf]) {
        let told = match snapshots(store).damaged() {
            Ok(told) => told,
            Err(error) => panic!("what is damaged is told: {error}"),
        };
        told.iter().for_each(|error| assert!(is_told(error, damaged), "{error}"));
        if told.is_empty() {
            assert_eq!(latest.as_ref(), self.snapshots.last().map(|(meta, _)| meta));
        }
        let Some(meta) = latest else { return };
        let Some((_, data)) = self.snapshots.iter().rev().find(|(taken, _)| *taken == meta) else {
            panic!("nobody took {meta:?}");
        };
        match snapshots(store).read(meta.content, 0, usize::MAX) {
            Ok(Some(bytes)) => {
                let is_same = bytes == data;
                assert!(is_same || damaged.iter().any(|path| is_snapshot(path)));
                assert!(is_same || crc32fast::hash(&bytes) != meta.checksum, "{bytes:?} pass for {data:?}");
            }
            other => panic!("the latest snapshot is read: {other:?}"),
        }
    }
}

fn is_told(error: &StorageError, damaged: &[PathBuf]) -> bool {
    matches!(error, StorageError::Damaged { place, .. } if damaged.iter().any(|path| Path::new(place).ends_with(path)
        || path.with_extension("") == Path::new(place).with_extension("")))
}

fn snapshots(store: &FileStore) -> Arc<dyn SnapshotStore> {
    match store.snapshots(GroupId(1)) {
        Ok(snapshots) => snapshots,
        Err(error) => panic!("there is a directory: {error}"),
    }
}

pub(crate) fn log_seeds() -> Vec<Vec<u8>> {
    vec![
        // Appends of different kinds to both groups, then the log is opened again.
        vec![0, 0, 0x1c, 5, 1, 2, 0x24, 7, 0xdc, 3, 7],
        // Large entries, so that segments are filled, emptied and deleted.
        vec![0, 0, 0x24, 9, 0, 0, 0x24, 9, 0, 0, 0x24, 9, 0, 0, 2, 3, 0, 0, 0x24, 9, 0, 0, 0x24, 9, 7],
        // The power is cut while a batch is written, and after it.
        vec![0, 0, 0x14, 5, 4, 2, 0x24, 7, 0x14, 3, 1, 0x55, 0, 0, 1, 2, 5, 0x0f],
        // Flipped bytes and a misplaced sector in a segment, and a repair.
        vec![0, 0, 0x1c, 5, 6, 0, 1, 0, 0x40, 0x12, 3, 3, 0x20, 0x12, 9, 0, 0, 3, 2, 7],
        // The mark is damaged; a sector is zeroed.
        vec![0, 0, 0x1c, 5, 6, 1, 0, 9, 0, 3, 0, 0, 0x1c, 4, 6, 0, 0, 4, 0, 0x12, 1],
        // A segment is cut short.
        vec![0, 0, 0x1c, 5, 6, 0, 0, 5, 0, 0x12, 1],
    ]
}

pub(crate) fn recovery_seeds() -> Vec<Vec<u8>> {
    vec![
        // Writes, a snapshot, another identity, and a byte flipped in each of the files in turn.
        vec![0, 2, 0x1c, 5, 0x24, 7, 4, 3, b'a', b'b', b'c', 5, 3, 9, 6, 0, 1, 0, 0, 30, 0, 1],
        vec![0, 2, 0x1c, 5, 0x24, 7, 4, 3, b'a', b'b', b'c', 6, 1, 1, 0, 0, 0, 0x12, 9],
        vec![0, 2, 0x1c, 5, 0x24, 7, 4, 3, b'a', b'b', b'c', 6, 2, 1, 0, 0, 30, 0, 1],
        vec![0, 2, 0x1c, 5, 0x24, 7, 4, 3, b'a', b'b', b'c', 6, 4, 1, 0, 0, 1, 0, 2],
        vec![0, 2, 0x1c, 5, 0x24, 7, 4, 3, b'a', b'b', b'c', 6, 5, 1, 0, 0, 1, 0, 2],
        // The only segment is gone; a snapshot's data are gone.
        vec![0, 0, 0x1c, 5, 6, 1, 0],
        vec![4, 1, b'a', 4, 2, b'b', b'c', 6, 6, 8],
    ]
}
