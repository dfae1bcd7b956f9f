//! Snapshots: pieces in a hash for each, and one record that says which are whole.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use coracle_core::{GroupId, SnapshotMeta};
use coracle_storage::{Result, SnapshotStore, SnapshotWriter, StorageError};
use crc32fast::Hasher;
use redis::Value;
use serde::{Deserialize, Serialize};

use crate::{
    answer, codec, lock,
    script::{Commands, Kind},
    server::{Lane, Server},
};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

/// How long a piece is, but for the last.
const PIECE_BYTES: usize = 256 << 10;
const FIELD: &str = "catalog";
/// What precedes the bytes of a piece: their checksum.
const PIECE_HEADER: usize = 4;

/// Which snapshots there are. What is not in it is nothing.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Catalog {
    /// The number of the next hash of pieces.
    next: u64,
    whole: Vec<Whole>,
    partial: Option<Partial>,
    /// Hashes of snapshots of this node's own that were begun.
    begun: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Whole {
    meta: SnapshotMeta,
    pieces: u64,
}

/// What was received of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Partial {
    content: u64,
    pieces: u64,
}

/// One group's snapshots. Clones are the same.
#[derive(Clone)]
pub(crate) struct RedisSnapshots {
    shared: Arc<Shared>,
}

struct Shared {
    server: Arc<Server>,
    lane: Lane,
    key: String,
    catalog: Mutex<Catalog>,
    /// What was begun and dropped: forgotten with the next change.
    abandoned: Mutex<Vec<u64>>,
}

impl RedisSnapshots {
    /// Opens them; what was begun and never finished is deleted.
    pub(crate) fn open(server: Arc<Server>, group: GroupId) -> Result<RedisSnapshots> {
        let key = server.key(&format!("snapshots:{group}"));
        let mut commands = Commands::default();
        commands.push("HGET", &key, Kind::Hash, [FIELD.into()]);
        let answered = server.read(commands)?.into_iter().next().unwrap_or_default();
        let record = answer::bytes(answered).map_err(|what| server.malformed(&what))?;
        let opened = record.map(|record| codec::open::<Catalog>(FIELD, &record)).transpose();
        let catalog = opened
            .map_err(|what| StorageError::damaged(&server.place, format!("the snapshots of group {group}: {what}")))?;
        let shared = Shared {
            lane: Lane::new(format!("snapshots:{group}")),
            key,
            catalog: Mutex::new(catalog.unwrap_or_default()),
            abandoned: Mutex::default(),
            server,
        };
        let begun = lock(&shared.catalog).begun.clone();
        if !begun.is_empty() {
            shared.change(begun, Commands::default(), |catalog| catalog.begun.clear())?;
        }
        Ok(RedisSnapshots { shared: Arc::new(shared) })
    }

    fn writer(&self, pieces: u64, content: Option<u64>) -> Writer {
        Writer {
            store: self.shared.clone(),
            pieces,
            content,
            count: 0,
            stored: 0,
            hasher: Hasher::new(),
            rest: BytesMut::new(),
            is_over: false,
        }
    }
}

impl Shared {
    fn pieces_key(&self, pieces: u64) -> String {
        format!("{}:{pieces}", self.key)
    }

    /// Changes the catalog, together with `commands`, and deletes the pieces that are named.
    fn change<T>(
        &self,
        mut delete: Vec<u64>,
        mut commands: Commands,
        change: impl FnOnce(&mut Catalog) -> T,
    ) -> Result<T> {
        let mut catalog = lock(&self.catalog);
        let mut next = catalog.clone();
        delete.append(&mut lock(&self.abandoned));
        delete.iter().for_each(|pieces| next.forget(*pieces));
        let changed = change(&mut next);
        let kept = |pieces: &u64| {
            next.whole.iter().any(|whole| whole.pieces == *pieces)
                || next.partial.is_some_and(|partial| partial.pieces == *pieces)
                || next.begun.contains(pieces)
        };
        let held = catalog.whole.iter().map(|whole| whole.pieces);
        let held = held.chain(catalog.partial.map(|partial| partial.pieces)).chain(delete);
        for pieces in held.filter(|pieces| !kept(pieces)) {
            commands.unlink(&self.pieces_key(pieces), Kind::Hash);
        }
        commands.set(&self.key, FIELD, codec::seal(FIELD, &next)?);
        self.server.write(&self.lane, commands)?;
        *catalog = next;
        Ok(changed)
    }

    /// # Errors
    /// [`StorageError::Invalid`] when these pieces are none that grow: another snapshot took their place.
    fn expect_growing(&self, pieces: u64) -> Result<()> {
        let catalog = lock(&self.catalog);
        let is_partial = catalog.partial.is_some_and(|partial| partial.pieces == pieces);
        if is_partial || catalog.begun.contains(&pieces) {
            return Ok(());
        }
        Err(StorageError::Invalid("another snapshot is received in this one's place".into()))
    }

    /// The bytes of a piece.
    fn piece(&self, pieces: u64, number: u64) -> Result<Bytes> {
        let mut commands = Commands::default();
        commands.push("HGET", &self.pieces_key(pieces), Kind::Hash, [number.to_string().into()]);
        let answered = self.server.read(commands)?.into_iter().next().unwrap_or_default();
        let piece = answer::bytes(answered).map_err(|what| self.server.malformed(&what))?.unwrap_or_default();
        match piece.split_at_checked(PIECE_HEADER) {
            Some((checksum, data)) if checksum == crc32fast::hash(data).to_le_bytes() => {
                Ok(piece.slice(PIECE_HEADER..))
            }
            _ => {
                let what = format!("piece {number} of a snapshot, {}", self.pieces_key(pieces));
                Err(StorageError::damaged(&self.server.place, what))
            }
        }
    }

    fn count(&self, pieces: u64) -> Result<u64> {
        let mut commands = Commands::default();
        commands.push("HLEN", &self.pieces_key(pieces), Kind::Hash, []);
        match self.server.read(commands)?.first() {
            Some(Value::Int(count)) => Ok(u64::try_from(*count).unwrap_or(0)),
            _ => Err(self.server.malformed("no count of pieces")),
        }
    }
}

impl SnapshotStore for RedisSnapshots {
    fn latest(&self) -> Result<Option<SnapshotMeta>> {
        self.shared.server.check()?;
        let catalog = lock(&self.shared.catalog);
        let newest = catalog.whole.iter().map(|whole| &whole.meta).max_by_key(|meta| age(meta));
        Ok(newest.cloned())
    }

    fn begin(&self) -> Result<Box<dyn SnapshotWriter>> {
        let begin = |catalog: &mut Catalog| {
            let pieces = catalog.take_next();
            catalog.begun.push(pieces);
            pieces
        };
        let pieces = self.shared.change(Vec::new(), Commands::default(), begin)?;
        Ok(Box::new(self.writer(pieces, None)))
    }

    fn resume(&self, meta: &SnapshotMeta) -> Result<Box<dyn SnapshotWriter>> {
        let held = lock(&self.shared.catalog).partial.filter(|partial| partial.content == meta.content);
        if let Some(Partial { content, pieces }) = held {
            let mut writer = self.writer(pieces, Some(content));
            if writer.go_on()? {
                return Ok(Box::new(writer));
            }
        }
        let content = meta.content;
        let begin = |catalog: &mut Catalog| {
            let pieces = catalog.take_next();
            catalog.partial = Some(Partial { content, pieces });
            pieces
        };
        let pieces = self.shared.change(Vec::new(), Commands::default(), begin)?;
        Ok(Box::new(self.writer(pieces, Some(content))))
    }

    fn read(&self, content: u64, offset: u64, len: usize) -> Result<Option<Bytes>> {
        self.shared.server.check()?;
        let whole = lock(&self.shared.catalog).whole.iter().find(|whole| whole.meta.content == content).cloned();
        let Some(Whole { meta, pieces }) = whole else { return Ok(None) };
        let start = offset.min(meta.size);
        let end = start.saturating_add(len as u64).min(meta.size);
        let mut data = BytesMut::new();
        let mut at = start;
        while at < end {
            let piece = match self.shared.piece(pieces, at / PIECE_BYTES as u64) {
                // It was replaced by a newer one meanwhile.
                Err(StorageError::Damaged { .. }) if !self.holds(content, pieces) => return Ok(None),
                piece => piece?,
            };
            let from = (at % PIECE_BYTES as u64) as usize;
            let to = piece.len().min(from + (end - at) as usize);
            if from >= to {
                let what = format!("a snapshot of {} bytes ends at {at}", meta.size);
                return Err(StorageError::damaged(&self.shared.server.place, what));
            }
            data.extend_from_slice(&piece[from..to]);
            at += (to - from) as u64;
        }
        Ok(Some(data.freeze()))
    }

    fn keep_only(&self, content: u64) -> Result<()> {
        self.shared.change(Vec::new(), Commands::default(), |catalog| {
            catalog.whole.retain(|whole| whole.meta.content == content);
        })
    }

    fn discard(&self, content: u64) -> Result<()> {
        self.shared.change(Vec::new(), Commands::default(), |catalog| {
            catalog.whole.retain(|whole| whole.meta.content != content);
        })
    }

    fn place(&self, content: u64) -> String {
        format!("the snapshot {content:016x} in {}", self.shared.server.place)
    }
}

impl RedisSnapshots {
    fn holds(&self, content: u64, pieces: u64) -> bool {
        let catalog = lock(&self.shared.catalog);
        catalog.whole.iter().any(|whole| whole.meta.content == content && whole.pieces == pieces)
    }
}

impl Catalog {
    fn take_next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes a whole one; of the others the newest stays, which may be on its way to a peer (C8).
    fn add(&mut self, whole: Whole) {
        self.whole.retain(|other| other.meta.content != whole.meta.content);
        let newest = self.whole.drain(..).max_by_key(|other| age(&other.meta));
        self.whole.extend(newest);
        self.forget(whole.pieces);
        self.whole.push(whole);
    }

    /// These pieces are none that grow.
    fn forget(&mut self, pieces: u64) {
        self.begun.retain(|begun| *begun != pieces);
        self.partial = self.partial.filter(|partial| partial.pieces != pieces);
    }
}

fn age(meta: &SnapshotMeta) -> impl Ord + use<> {
    (meta.last_included_index, meta.last_included_term)
}

/// A snapshot that grows: whole pieces are on the server, the rest is here.
struct Writer {
    store: Arc<Shared>,
    pieces: u64,
    /// Which snapshot is received; `None` for one of this node's own.
    content: Option<u64>,
    count: u64,
    stored: u64,
    hasher: Hasher,
    rest: BytesMut,
    /// Whether nothing is to be done when it is dropped.
    is_over: bool,
}

impl Writer {
    /// Takes up what is on the server; `false` when that is not whole.
    fn go_on(&mut self) -> Result<bool> {
        for number in 0..self.store.count(self.pieces)? {
            let piece = match self.store.piece(self.pieces, number) {
                Ok(piece) if piece.len() == PIECE_BYTES => piece,
                Ok(_) | Err(StorageError::Damaged { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            self.count_in(&piece);
        }
        Ok(true)
    }

    fn count_in(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.count += 1;
        self.stored += piece.len() as u64;
    }

    /// The command that stores the next piece.
    fn store(&self, commands: &mut Commands, piece: &[u8]) {
        let sealed = [&crc32fast::hash(piece).to_le_bytes(), piece].concat();
        commands.set(&self.store.pieces_key(self.pieces), &self.count.to_string(), sealed);
    }
}

impl SnapshotWriter for Writer {
    fn offset(&self) -> u64 {
        self.stored + self.rest.len() as u64
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.store.expect_growing(self.pieces)?;
        self.rest.extend_from_slice(data);
        while self.rest.len() >= PIECE_BYTES {
            let piece = self.rest.split_to(PIECE_BYTES);
            let mut commands = Commands::default();
            self.store(&mut commands, &piece);
            self.store.server.write(&self.store.lane, commands)?;
            self.count_in(&piece);
        }
        Ok(())
    }

    fn commit(mut self: Box<Self>, meta: &SnapshotMeta) -> Result<()> {
        self.is_over = true;
        self.store.expect_growing(self.pieces)?;
        let mut commands = Commands::default();
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            self.store(&mut commands, &rest);
            self.count_in(&rest);
        }
        let (size, checksum) = (self.stored, self.hasher.clone().finalize());
        let pieces = self.pieces;
        if (size, checksum) != (meta.size, meta.checksum) {
            self.store.change(vec![pieces], Commands::default(), |catalog| catalog.forget(pieces))?;
            let what = format!(
                "{size} bytes with checksum {checksum:08x}, expected {} bytes with {:08x}",
                meta.size, meta.checksum
            );
            return Err(StorageError::damaged(format!("snapshot {:016x}", meta.content), what));
        }
        let whole = Whole { meta: meta.clone(), pieces };
        self.store.change(Vec::new(), commands, |catalog| catalog.add(whole))
    }
}

impl Drop for Writer {
    /// What was received stays. What was begun is deleted with the next change, or when the snapshots are next opened: a drop does not wait for a server.
    fn drop(&mut self) {
        if self.content.is_none() && !self.is_over {
            lock(&self.store.abandoned).push(self.pieces);
        }
    }
}
