//! Snapshots as ordinary files: large, written once, and synced as a whole.
//!
//! `<content>.snapshot` holds the bytes and `<content>.meta` says what they are; the second makes the first whole.
//! `<content>.part` is half received; `<number>.new` is being taken.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use coracle_core::SnapshotMeta;
use coracle_storage::{Result, SnapshotStore, SnapshotWriter, StorageError};

use crate::{codec, files};

const META_NAME: &[u8] = b"snapshot";
const DATA: &str = "snapshot";
const META: &str = "meta";
const PART: &str = "part";
const NEW: &str = "new";

/// One group's snapshots.
#[derive(Debug)]
pub(crate) struct SledSnapshots {
    dir: PathBuf,
    next_new: AtomicU64,
}

impl SledSnapshots {
    /// Opens the directory, or makes it, and deletes what a crash left half done and nobody can go on with.
    pub(crate) fn open(dir: PathBuf) -> Result<SledSnapshots> {
        files::ensure_dir(&dir)?;
        let store = SledSnapshots { dir, next_new: AtomicU64::new(0) };
        for path in store.list(NEW)?.into_iter().chain(store.list("tmp")?) {
            files::remove(&path)?;
        }
        for data in store.list(DATA)? {
            if !data.with_extension(META).exists() {
                files::remove(&data)?;
            }
        }
        Ok(store)
    }

    fn path(&self, content: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{content:016x}.{extension}"))
    }

    /// The files of a kind.
    fn list(&self, extension: &str) -> Result<Vec<PathBuf>> {
        let read = || {
            let mut found = Vec::new();
            for file in fs::read_dir(&self.dir)? {
                let path = file?.path();
                if path.extension().is_some_and(|found| found == extension) {
                    found.push(path);
                }
            }
            Ok(found)
        };
        read().map_err(files::io("list", &self.dir))
    }
}

fn read_meta(path: &Path) -> Result<SnapshotMeta> {
    let place = || path.display().to_string();
    let content = files::read(path)?.ok_or_else(|| StorageError::damaged(place(), "it has vanished"))?;
    let meta: SnapshotMeta = codec::open(META_NAME, &content).map_err(|what| StorageError::damaged(place(), what))?;
    let data = path.with_extension(DATA);
    let size = fs::metadata(&data).map_err(files::io("read", &data))?.len();
    if size != meta.size {
        let what = format!("{size} bytes, expected {}", meta.size);
        return Err(StorageError::damaged(data.display().to_string(), what));
    }
    Ok(meta)
}

impl SnapshotStore for SledSnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        let all: Vec<SnapshotMeta> = self.list(META)?.iter().map(|path| read_meta(path)).collect::<Result<_>>()?;
        Ok(all.into_iter().max_by_key(|meta| (meta.last_included_index, meta.last_included_term)))
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        let number = self.next_new.fetch_add(1, Ordering::Relaxed);
        Writer::open(self.dir.clone(), self.path(number, NEW), None)
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let part = self.path(meta.content, PART);
        for other in self.list(PART)?.into_iter().filter(|path| *path != part) {
            files::remove(&other)?;
        }
        Writer::open(self.dir.clone(), part, Some(meta.size))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        if !self.path(content, META).exists() {
            return Ok(None);
        }
        let path = self.path(content, DATA);
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
        let kept = self.path(content, META);
        for meta in self.list(META)?.into_iter().filter(|path| *path != kept) {
            // The meta data goes first: without it the rest is nothing.
            files::remove(&meta)?;
            files::remove(&meta.with_extension(DATA))?;
        }
        files::sync_dir(&self.dir)
    }
}

/// A file that is being written.
struct Writer {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    offset: u64,
    hasher: crc32fast::Hasher,
    /// Whether the file stays when the writer is dropped.
    is_kept: bool,
}

impl Writer {
    /// Opens a new file, or goes on with one that has at most `resumed_max` bytes.
    fn open(dir: PathBuf, path: PathBuf, resumed_max: Option<u64>) -> Result<Box<dyn SnapshotWriter>> {
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
        let name = self.dir.join(format!("{:016x}.{DATA}", meta.content));
        self.finish(&name)?;
        files::replace(&name.with_extension(META), &record)
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
    use crate::codec::tests::hex;

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
        let store = SledSnapshots::open(dir.path().join("1")).unwrap();
        let mut writer = store.begin().unwrap();
        writer.write(b"abc").unwrap();
        writer.commit(&meta(b"abc")).unwrap();
        let (meta_path, data_path) = (store.path(0xc0, META), store.path(0xc0, DATA));
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
    }

    #[test]
    fn what_a_crash_left_behind_is_deleted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0000000000000001.new", "0000000000000002.snapshot", "0000000000000003.meta.tmp"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        fs::write(dir.path().join("0000000000000004.part"), b"kept").unwrap();
        let store = SledSnapshots::open(dir.path().to_owned()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["0000000000000004.part"]);
        let resumed = SnapshotMeta { content: 4, size: 10, ..meta(b"") };
        assert_eq!(store.resume(&resumed).unwrap().offset(), 4);
    }
}
