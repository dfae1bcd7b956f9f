//! Snapshots as ordinary files: large, written once, and synced as a whole.
//!
//! `<content>.snapshot` holds the bytes and `<content>.meta` says what they are; the second makes the first whole.
//! `<content>.part` is half received; `<number>.new` is being taken.
//! What was found damaged gets `.damaged` behind its name, and is deleted once there is a whole one.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{Result, SnapshotStore, SnapshotWriter, StorageError};
use bytes::Bytes;
use coracle_core::SnapshotMeta;

use crate::files::{self, codec};

const META_NAME: &[u8] = b"snapshot";
const DATA: &str = "snapshot";
const META: &str = "meta";
const PART: &str = "part";
const NEW: &str = "new";
const DAMAGED: &str = "damaged";

/// One group's snapshots.
#[derive(Debug)]
pub struct FileSnapshots {
    dir: Dir,
    next_new: AtomicU64,
}

/// Where they lie. Clones are the same.
#[derive(Clone, Debug)]
struct Dir {
    path: PathBuf,
    /// Held while the whole snapshots are listed, and while one is deleted.
    listing: Arc<Mutex<()>>,
}

impl FileSnapshots {
    /// Opens the directory, or makes it, and deletes what a crash left half done and nobody can go on with.
    ///
    /// # Errors
    /// When it cannot be made, listed or tidied.
    pub fn open(path: PathBuf) -> Result<FileSnapshots> {
        files::ensure_dir(&path)?;
        let dir = Dir { path, listing: Arc::default() };
        for path in dir.list(NEW)?.into_iter().chain(dir.list("tmp")?) {
            files::remove(&path)?;
        }
        for data in dir.list(DATA)? {
            if !data.with_extension(META).exists() {
                files::remove(&data)?;
            }
        }
        Ok(FileSnapshots { dir, next_new: AtomicU64::new(0) })
    }
}

impl Dir {
    fn file(&self, content: u64, extension: &str) -> PathBuf {
        self.path.join(format!("{content:016x}.{extension}"))
    }

    /// The files of a kind.
    fn list(&self, extension: &str) -> Result<Vec<PathBuf>> {
        let read = || {
            let mut found = Vec::new();
            for file in fs::read_dir(&self.path)? {
                let path = file?.path();
                if path.extension().is_some_and(|found| found == extension) {
                    found.push(path);
                }
            }
            Ok(found)
        };
        read().map_err(files::io("list", &self.path))
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is there, the newest first.
    fn survey(&self) -> Result<Survey> {
        let mut survey = Survey::default();
        for path in self.list(META)? {
            match read_meta(&path) {
                Ok(meta) => survey.whole.push((meta, path)),
                Err(error @ StorageError::Damaged { .. }) => survey.damaged.push((error, path)),
                Err(error) => return Err(error),
            }
        }
        survey.whole.sort_by_key(|(meta, _)| std::cmp::Reverse((meta.last_included_index, meta.last_included_term)));
        Ok(survey)
    }

    /// Deletes all but the snapshot named `content` and the newest `others_kept` of the others, damaged ones first: whatever is wrong with one, the rest goes.
    fn keep(&self, content: u64, others_kept: usize) -> Result<()> {
        let kept = self.file(content, META);
        let Survey { whole, damaged } = self.survey()?;
        let damaged = damaged.into_iter().map(|(_, path)| path).filter(|path| *path != kept);
        let others = whole.into_iter().map(|(_, path)| path).filter(|path| *path != kept);
        for path in damaged.chain(others.skip(others_kept)) {
            delete(&path)?;
        }
        self.list(DAMAGED)?.iter().try_for_each(|path| files::remove(path))
    }

    /// Deletes what a new snapshot replaces. The newest of the others stays: it may be on its way to a peer (C8).
    fn prune(&self, new: u64) -> Result<()> {
        let _unchanged = self.lock();
        self.keep(new, 1)
    }
}

/// Snapshots, each with the path of its meta data.
#[derive(Default)]
struct Survey {
    /// As far as it can be told without reading all of their bytes.
    whole: Vec<(SnapshotMeta, PathBuf)>,
    damaged: Vec<(StorageError, PathBuf)>,
}

/// Deletes a snapshot by the path of its meta data, which goes first: without it the rest is nothing.
fn delete(meta: &Path) -> Result<()> {
    files::remove(meta)?;
    files::remove(&meta.with_extension(DATA))
}

/// Puts a file aside; that it is absent is no error.
fn put_aside(path: &Path) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(DAMAGED);
    match fs::rename(path, aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(files::io("put aside", path)(error)),
        _ => Ok(()),
    }
}

fn read_meta(path: &Path) -> Result<SnapshotMeta> {
    let place = || path.display().to_string();
    let content = files::read(path)?.ok_or_else(|| StorageError::damaged(place(), "it has vanished"))?;
    let meta: SnapshotMeta = codec::open(META_NAME, &content).map_err(|what| StorageError::damaged(place(), what))?;
    let data = path.with_extension(DATA);
    let size = match fs::metadata(&data) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StorageError::damaged(data.display().to_string(), "it is gone"));
        }
        found => found.map_err(files::io("read", &data))?.len(),
    };
    if size != meta.size {
        let what = format!("{size} bytes, expected {}", meta.size);
        return Err(StorageError::damaged(data.display().to_string(), what));
    }
    Ok(meta)
}

impl SnapshotStore for FileSnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        let _unchanged = self.dir.lock();
        Ok(self.dir.survey()?.whole.into_iter().next().map(|(meta, _)| meta))
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        let number = self.next_new.fetch_add(1, Ordering::Relaxed);
        Writer::open(self.dir.clone(), self.dir.file(number, NEW), None)
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let part = self.dir.file(meta.content, PART);
        for other in self.dir.list(PART)?.into_iter().filter(|path| *path != part) {
            files::remove(&other)?;
        }
        Writer::open(self.dir.clone(), part, Some(meta.size))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        if !self.dir.file(content, META).exists() {
            return Ok(None);
        }
        let path = self.dir.file(content, DATA);
        let mut data = Vec::new();
        let read = |data: &mut Vec<u8>| {
            let mut file = File::open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.take(len as u64).read_to_end(data)
        };
        match read(&mut data) {
            Ok(_) => Ok(Some(data.into())),
            // Deleted since it was found.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::io("read", &path)(error)),
        }
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        let _unchanged = self.dir.lock();
        self.dir.keep(content, 0)?;
        files::sync_dir(&self.dir.path)
    }

    fn discard(&self, content: u64) -> Result<()> {
        let _unchanged = self.dir.lock();
        put_aside(&self.dir.file(content, META))?;
        put_aside(&self.dir.file(content, DATA))?;
        files::sync_dir(&self.dir.path)
    }

    fn damaged(&self) -> Result<Vec<StorageError>> {
        let _unchanged = self.dir.lock();
        let seen = self.dir.survey()?.damaged.into_iter().map(|(error, _)| error);
        let aside = self.dir.list(DAMAGED)?;
        // A crash may have come between the two files of one.
        let is_told = |path: &&PathBuf| {
            let path = path.with_extension("");
            path.extension().is_some_and(|kind| kind == DATA)
                || !aside.iter().any(|other| other.with_extension("") == path.with_extension(DATA))
        };
        let aside = aside.iter().filter(is_told);
        let aside = aside.map(|path| StorageError::damaged(path.display().to_string(), "it was put aside"));
        Ok(seen.chain(aside).collect())
    }

    fn place(&self, content: u64) -> String {
        self.dir.file(content, DATA).display().to_string()
    }
}

/// A file that is being written.
struct Writer {
    dir: Dir,
    path: PathBuf,
    file: File,
    offset: u64,
    hasher: crc32fast::Hasher,
    /// Whether the file stays when the writer is dropped.
    is_kept: bool,
}

impl Writer {
    /// Opens a new file, or goes on with one that has at most `resumed_max` bytes.
    fn open(dir: Dir, path: PathBuf, resumed_max: Option<u64>) -> Result<Box<dyn SnapshotWriter>> {
        let open = || {
            let mut file =
                OpenOptions::new().create(true).truncate(resumed_max.is_none()).read(true).write(true).open(&path)?;
            if resumed_max.is_some_and(|max| file.metadata().is_ok_and(|found| found.len() > max)) {
                file.set_len(0)?;
            }
            let mut hasher = crc32fast::Hasher::new();
            let offset = hash(&mut file, &mut hasher)?;
            Ok((file, offset, hasher))
        };
        let (file, offset, hasher) = open().map_err(files::io("open", &path))?;
        Ok(Box::new(Writer { dir, path, file, offset, hasher, is_kept: resumed_max.is_some() }))
    }

    /// Syncs the data and gives it its name; without the meta data it is not whole yet.
    fn finish(&self, data: &Path) -> Result<()> {
        self.file.sync_all().map_err(files::io("sync", &self.path))?;
        files::rename(&self.path, data)
    }
}

/// Reads to the end and returns how many bytes that were.
fn hash(file: &mut File, hasher: &mut crc32fast::Hasher) -> std::io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(offset);
        }
        hasher.update(&buffer[..count]);
        offset += count as u64;
    }
}

impl SnapshotWriter for Writer {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        let written = self.file.write_all(data);
        if written.is_err() {
            // How much of it is there is not known.
            self.is_kept = false;
        }
        written.map_err(files::io("write", &self.path))?;
        self.hasher.update(data);
        self.offset += data.len() as u64;
        Ok(())
    }

    fn commit(mut self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        // Whatever happens, nobody goes on with this file: its sync is not tried twice.
        self.is_kept = false;
        let checksum = self.hasher.clone().finalize();
        if (self.offset, checksum) != (meta.size, meta.checksum) {
            let found = format!("{} bytes with checksum {checksum:08x}", self.offset);
            let what = format!("{found}, expected {} bytes with {:08x}", meta.size, meta.checksum);
            return Err(StorageError::damaged(self.path.display().to_string(), what));
        }
        let mut record = Vec::new();
        codec::seal(META_NAME, meta, &mut record)?;
        let (path, data) = (self.dir.file(meta.content, META), self.dir.file(meta.content, DATA));
        self.finish(&data)?;
        if let Err(error) = files::replace(&path, &record) {
            if !path.exists() {
                // The data go when this is dropped: where space ran out, the next snapshot needs theirs.
                self.path = data;
            }
            return Err(error);
        }
        if let Err(error) = self.dir.prune(meta.content) {
            tracing::warn!(%error, "older snapshots could not be deleted");
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = files::remove(&self.path)
        {
            tracing::warn!(%error, "an unfinished snapshot could not be deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Index, Membership, NodeId, Term};

    use super::*;
    use crate::files::codec::tests::hex;

    fn meta(data: &[u8]) -> SnapshotMeta {
        SnapshotMeta {
            content: 0xc0,
            last_included_index: Index(9),
            last_included_term: Term(2),
            membership_index: Index(1),
            membership: Membership::of_voters([NodeId(1)]),
            size: data.len() as u64,
            checksum: crc32fast::hash(data),
        }
    }

    #[test]
    fn a_meta_record_has_exactly_these_bytes() {
        let mut record = Vec::new();
        codec::seal(META_NAME, &meta(b"abc"), &mut record).unwrap();
        let fields = [
            "024cb97722",
            "c000000000000000090000000000000002000000000000000100000000000000",
            "00000000000000000100000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000",
            "0000000000000000",
            "0300000000000000c2412435",
        ];
        assert_eq!(hex(&record), fields.concat());
    }

    #[test]
    fn damaged_files_are_told_and_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        let mut writer = store.begin().unwrap();
        writer.write(b"abc").unwrap();
        writer.commit(&meta(b"abc")).unwrap();
        let (meta_path, data_path) = (store.dir.file(0xc0, META), store.dir.file(0xc0, DATA));
        let whole = fs::read(&meta_path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            fs::write(&meta_path, damaged).unwrap();
            assert_eq!(store.latest().unwrap(), None, "byte {at} was flipped");
            assert_eq!(told(&store), [meta_path.display().to_string()], "byte {at} was flipped");
        }
        fs::write(&meta_path, &whole).unwrap();
        fs::write(&data_path, b"ab").unwrap();
        assert_eq!((store.latest().unwrap(), told(&store)), (None, vec![data_path.display().to_string()]));
        fs::remove_file(&data_path).unwrap();
        assert_eq!((store.latest().unwrap(), told(&store)), (None, vec![data_path.display().to_string()]));
        fs::write(&data_path, b"abc").unwrap();
        assert_eq!((store.latest().unwrap(), told(&store)), (Some(meta(b"abc")), vec![]));
    }

    /// The places of what is damaged.
    fn told(store: &FileSnapshots) -> Vec<String> {
        let place = |error| match error {
            StorageError::Damaged { place, .. } => place,
            other => panic!("unexpected {other}"),
        };
        store.damaged().unwrap().into_iter().map(place).collect()
    }

    fn take(store: &FileSnapshots, content: u64, index: u64) {
        let mut writer = store.begin().unwrap();
        writer.write(b"abc").unwrap();
        writer.commit(&SnapshotMeta { content, last_included_index: Index(index), ..meta(b"abc") }).unwrap();
    }

    fn contents(store: &FileSnapshots) -> Vec<u64> {
        store.dir.survey().unwrap().whole.into_iter().map(|(meta, _)| meta.content).collect()
    }

    fn count(store: &FileSnapshots) -> usize {
        fs::read_dir(&store.dir.path).unwrap().count()
    }

    #[test]
    fn damaged_meta_data_of_an_old_snapshot_do_not_keep_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        take(&store, 1, 10);
        fs::write(store.dir.file(1, META), b"rotten").unwrap();
        for content in 2..=5 {
            take(&store, content, content * 10);
            assert_eq!(contents(&store).len(), 2.min(content as usize - 1));
        }
        assert_eq!((contents(&store), count(&store)), (vec![5, 4], 4), "the damaged one goes first");
        fs::write(store.dir.file(4, META), b"rotten").unwrap();
        store.keep_only(5).unwrap();
        assert_eq!((contents(&store), count(&store), told(&store)), (vec![5], 2, vec![]));
    }

    #[test]
    fn what_is_put_aside_stays_until_there_is_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        take(&store, 1, 10);
        store.discard(1).unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        assert_eq!((store.latest().unwrap(), count(&store)), (None, 2));
        assert_eq!(told(&store), [format!("{}.{DAMAGED}", store.place(1))]);
        take(&store, 2, 20);
        assert_eq!((contents(&store), count(&store), told(&store)), (vec![2], 2, vec![]));
    }

    #[test]
    fn what_was_half_put_aside_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        take(&store, 1, 10);
        let meta = store.dir.file(1, META);
        put_aside(&meta).unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        assert_eq!(told(&store), [format!("{}.{DAMAGED}", meta.display())]);
    }

    /// A state's worth of bytes that nobody finds again would be missing where space has just run out.
    #[test]
    fn a_snapshot_whose_meta_data_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileSnapshots::open(dir.path().join("1")).unwrap();
        take(&store, 1, 10);
        let in_the_way = store.dir.path.join("00000000000000c0.meta.tmp");
        fs::create_dir(&in_the_way).unwrap();
        let mut writer = store.begin().unwrap();
        writer.write(b"abc").unwrap();
        assert!(writer.commit(&meta(b"abc")).is_err());
        fs::remove_dir(in_the_way).unwrap();
        assert_eq!((contents(&store), count(&store)), (vec![1], 2));
    }

    #[test]
    fn what_a_crash_left_behind_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0000000000000001.new", "0000000000000002.snapshot", "0000000000000003.meta.tmp"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        fs::write(dir.path().join("0000000000000004.part"), b"kept").unwrap();
        let store = FileSnapshots::open(dir.path().to_owned()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["0000000000000004.part"]);
        let resumed = SnapshotMeta { content: 4, size: 10, ..meta(b"") };
        assert_eq!(store.resume(&resumed).unwrap().offset(), 4);
    }
}
