//! sled, with its panics caught, its syncs completed, and stopped for good by the first failure.

use std::{
    fs::{File, OpenOptions},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use coracle_storage::{Result, StorageError, files};

use crate::SledOptions;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

/// sled's name for its file.
const DATABASE: &str = "db";
/// Values over a quarter of a segment go to files of their own that sled never syncs. This is far above the largest page of full-sized rows.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// sled collects garbage only where it flushes periodically; every write here is flushed anyway.
const FLUSH_EVERY_MS: u64 = 1000;
/// How long a database that this process has just dropped may hold on to its file.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Makes sled's file durable.
pub(crate) type SyncFile = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The database that logs and key-value data share; a failure of one stops all.
pub(crate) struct Engine {
    place: String,
    db: sled::Db,
    sync_file: SyncFile,
    /// Linux reports a failed write-back once to each descriptor: syncs go one after another, so that the first to fail stops the others before they return.
    syncing: Mutex<()>,
    /// Why nothing more is accepted.
    stopped: OnceLock<String>,
    /// Unlocked last, when the database is closed.
    _lock: File,
}

impl Engine {
    /// Opens the database in `path`, which exists.
    pub(crate) fn open(path: &Path, options: &SledOptions) -> Result<Engine> {
        let lock = files::lock(path)?;
        let file = open_database_file(path)?;
        Engine::open_with(path, options, lock, Box::new(move || file.sync_data()))
    }

    fn open_with(path: &Path, options: &SledOptions, lock: File, sync_file: SyncFile) -> Result<Engine> {
        let place = path.display().to_string();
        let db = open_database(path, options)?;
        let engine = Engine { place, db, sync_file, syncing: Mutex::new(()), stopped: OnceLock::new(), _lock: lock };
        engine.sync()?;
        files::sync_dir(path)?;
        Ok(engine)
    }

    /// The directory, for errors.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Opens a tree, or makes it.
    pub(crate) fn tree(&self, name: &str) -> Result<sled::Tree> {
        self.run("open a tree", || self.db.open_tree(name))
    }

    /// Calls sled. Whatever fails stops the engine.
    pub(crate) fn run<T>(&self, operation: &str, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
        self.check()?;
        guarded(&self.place, operation, call).inspect_err(|error| self.stop(error))
    }

    /// Makes everything written so far durable against a power loss: sled's flush leaves the file's size and the drive's cache alone.
    pub(crate) fn sync(&self) -> Result<()> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.run("flush", || self.db.flush())?;
        (self.sync_file)()
            .map_err(|error| StorageError::io(format!("sync {}/{DATABASE}", self.place), error))
            .inspect_err(|error| self.stop(error))
    }

    /// Fails when the engine has stopped.
    pub(crate) fn check(&self) -> Result<()> {
        match self.stopped.get() {
            Some(why) => Err(StorageError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    /// Accepts nothing more.
    pub(crate) fn stop(&self, error: &StorageError) {
        // Only the first reason counts.
        if self.stopped.set(error.to_string()).is_ok() {
            tracing::error!(place = %self.place, %error, "the store has stopped");
        }
    }
}

/// Our own descriptor, from before the first write on: write-back errors that sled's flusher only logs are reported to this one too.
fn open_database_file(path: &Path) -> Result<File> {
    let name = path.join(DATABASE);
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&name);
    file.map_err(files::io("open", &name))
}

fn open_database(path: &Path, options: &SledOptions) -> Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(options.cache_bytes)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    let place = path.display().to_string();
    let deadline = Instant::now() + CLOSING_MAX;
    loop {
        match guarded(&place, "open the database", || config.open()) {
            Err(error) if !is_locked(&error) => return Err(error),
            Err(_) if Instant::now() >= deadline => return Err(StorageError::Locked { place }),
            // The directory is ours: the database is one that this process is about to close.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
            Ok(db) => return Ok(db),
        }
    }
}

/// sled has no kind of error for this.
fn is_locked(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { source, .. } if source.to_string().contains("could not acquire lock"))
}

/// sled panics where it meets damaged data.
fn guarded<T>(place: &str, operation: &str, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(StorageError::io(format!("{operation} in {place}"), error)),
        // sled also says of its own parameters that they are not supported when they are damaged.
        Ok(Err(error @ (sled::Error::Corruption { .. } | sled::Error::Unsupported(_)))) => {
            Err(StorageError::damaged(place, error.to_string()))
        }
        Ok(Err(error)) => Err(StorageError::io(format!("{operation} in {place}"), io::Error::other(error))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(StorageError::damaged(place, format!("sled panicked ({operation}): {text}")))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use super::*;

    /// An engine whose syncs can be made to fail, and are counted.
    pub(crate) struct Faulty {
        pub(crate) engine: Arc<Engine>,
        pub(crate) fails: Arc<AtomicBool>,
        pub(crate) syncs: Arc<AtomicUsize>,
        _dir: tempfile::TempDir,
    }

    /// An engine whose syncs fail while `fails` says so, and are counted.
    pub(crate) fn open_faulty(path: &Path, fails: Arc<AtomicBool>, syncs: Arc<AtomicUsize>) -> Engine {
        let sync: SyncFile = Box::new(move || {
            syncs.fetch_add(1, Ordering::Relaxed);
            if fails.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        });
        Engine::open_with(path, &SledOptions::default(), files::lock(path).unwrap(), sync).unwrap()
    }

    impl Faulty {
        pub(crate) fn new() -> Faulty {
            let dir = tempfile::tempdir().unwrap();
            let (fails, syncs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            let engine = open_faulty(dir.path(), fails.clone(), syncs.clone());
            syncs.store(0, Ordering::Relaxed);
            Faulty { engine: Arc::new(engine), fails, syncs, _dir: dir }
        }
    }

    /// What was written before a kill may lie in the page cache only: it is synced when the store is opened, before anybody reads it.
    #[test]
    fn h55_what_a_kill_left_in_caches_is_synced_before_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let open = |sync: SyncFile| {
            Engine::open_with(dir.path(), &SledOptions::default(), files::lock(dir.path()).unwrap(), sync)
        };
        let syncs = Arc::new(AtomicUsize::new(0));
        let counted = syncs.clone();
        let engine = open(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }));
        drop(engine.unwrap());
        assert_eq!(syncs.load(Ordering::Relaxed), 1);
        let refused = open(Box::new(|| Err(io::Error::from_raw_os_error(5))));
        assert!(matches!(refused, Err(StorageError::Io { .. })), "what cannot be synced is not told");
    }

    #[test]
    fn damaged_parameters_of_sled_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Engine::open(dir.path(), &SledOptions::default());
        drop(open().unwrap());
        let path = dir.path().join("conf");
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, damaged).unwrap();
            let error = open().err();
            // There are bytes that sled does not look at.
            let is_damage = matches!(error, Some(StorageError::Damaged { .. }));
            assert!(is_damage || error.is_none(), "byte {at} was flipped: {error:?}");
            refused += usize::from(is_damage);
        }
        assert!(refused * 2 > whole.len(), "{refused} of {} flips were refused", whole.len());
    }

    #[test]
    fn a_failed_sync_is_never_tried_again() {
        let faulty = Faulty::new();
        faulty.fails.store(true, Ordering::Relaxed);
        assert!(matches!(faulty.engine.sync(), Err(StorageError::Io { .. })));
        faulty.fails.store(false, Ordering::Relaxed);
        assert!(matches!(faulty.engine.sync(), Err(StorageError::Stopped(_))));
        assert!(matches!(faulty.engine.tree("t"), Err(StorageError::Stopped(_))));
        assert_eq!(faulty.syncs.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_panic_is_an_error_and_stops_the_engine() {
        let engine = Faulty::new().engine;
        let result: Result<()> = engine.run("try", || panic!("as sled does"));
        let Err(StorageError::Damaged { what, .. }) = result else { panic!("{result:?}") };
        assert!(what.contains("as sled does"), "{what}");
        assert!(matches!(engine.check(), Err(StorageError::Stopped(_))));
    }
}
