//! Snapshots as ordinary files: large, written once, and synced as a whole.
//!
//! `<content>.snapshot` holds the bytes and `<content>.meta` says what they are; the second makes the first whole.
//! `<content>.part` is half received; `<number>.new` is being taken.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
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

    /// All whole snapshots but one, the newest first.
    fn others(&self, content: u64) -> Result<Vec<SnapshotMeta>> {
        let kept = self.file(content, META);
        let others = self.list(META)?.into_iter().filter(|path| *path != kept);
        let mut metas: Vec<SnapshotMeta> = others.map(|path| read_meta(&path)).collect::<Result<_>>()?;
        metas.sort_by_key(|meta| std::cmp::Reverse((meta.last_included_index, meta.last_included_term)));
        Ok(metas)
    }

    /// The meta data goes first: without it the rest is nothing.
    fn delete(&self, content: u64) -> Result<()> {
        files::remove(&self.file(content, META))?;
        files::remove(&self.file(content, DATA))
    }

    /// Deletes what a new snapshot replaces. The newest of the others stays: it may be on its way to a peer (C8).
    fn prune(&self, new: u64) -> Result<()> {
        let _unchanged = self.lock();
        for old in self.others(new)?.iter().skip(1) {
            self.delete(old.content)?;
        }
        Ok(())
    }
}

fn read_meta(path: &Path) -> Result<SnapshotMeta> {
    let place = || path.display().to_string();
    let content = files::read(path)?.ok_or_else(|| StorageError::damaged(place(), "it has vanished"))?;
    let meta: SnapshotMeta = codec::open(META_NAME, &content).map_err(|what| StorageError::damaged(place(), what))?;
    let data = path.with_extension(DATA);
    let size = match fs::metadata(&data) {
        Ok(found) => found.len(),
        // The meta data is written after it, and deleted before it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StorageError::damaged(data.display().to_string(), "it is missing"));
        }
        Err(error) => return Err(files::io("read", &data)(error)),
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
        let all: Vec<SnapshotMeta> = self.dir.list(META)?.iter().map(|path| read_meta(path)).collect::<Result<_>>()?;
        Ok(all.into_iter().max_by_key(|meta| (meta.last_included_index, meta.last_included_term)))
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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::io("read", &path)(error)),
        }
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        let _unchanged = self.dir.lock();
        for other in self.dir.others(content)? {
            self.dir.delete(other.content)?;
        }
        files::sync_dir(&self.dir.path)
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
        self.finish(&self.dir.file(meta.content, DATA))?;
        files::replace(&self.dir.file(meta.content, META), &record)?;
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
            "010a56ab73",
            "c000000000000000090000000000000002000000000000000100000000000000",
            "00000000000000000100000000000000",
            "0100000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000",
            "0300000000000000c2412435",
        ];
        assert_eq!(hex(&record), fields.concat());
    }

    #[test]
    fn damaged_files_are_told() {
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
            assert!(matches!(store.latest(), Err(StorageError::Damaged { .. })), "byte {at} was flipped");
        }
        fs::write(&meta_path, &whole).unwrap();
        fs::write(&data_path, b"ab").unwrap();
        assert!(matches!(store.latest(), Err(StorageError::Damaged { .. })));
        fs::write(&data_path, b"abc").unwrap();
        assert_eq!(store.latest().unwrap(), Some(meta(b"abc")));
        fs::remove_file(&data_path).unwrap();
        assert!(matches!(store.latest(), Err(StorageError::Damaged { place, .. }) if place.ends_with(DATA)));
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
