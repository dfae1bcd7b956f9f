//! The logs of all groups, in one sequence of blocks.

mod read;
mod writer;

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    slice,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use coracle_core::{GroupId, Index, LogRead, Membership, Run};
use coracle_storage::{LogBatch, LogEnd, LogShape, LogStore, RecoveredLog, Result, StorageError};

use self::writer::Writer;
use crate::{
    disk::Disk,
    format::record::{self, Change, ENTRY_BYTES_END},
    group::GroupLog,
    mark::Mark,
    scan,
    spare::{self, Keeper},
};

/// What all entries of one write may have in bytes.
const WRITE_BYTES_MAX: usize = 1 << 30;

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogOptions {
    /// The size of a segment, unless one block needs more.
    pub(crate) segment_bytes: u64,
    /// Whether the next segment is made ready on a thread of its own.
    pub(crate) has_thread: bool,
    /// What enters the checksums, for tests; otherwise drawn at random for each segment.
    pub(crate) salt: Option<u64>,
}

/// The logs of all groups.
pub(crate) struct FileLog {
    place: String,
    /// Changed only after what it says is durable.
    groups: RwLock<Groups>,
    /// Writes go one after another.
    writer: Mutex<Writer>,
    /// Why nothing more is accepted.
    stopped: OnceLock<String>,
}

type Groups = HashMap<GroupId, GroupLog>;

/// What a write that was checked brings along beside its batches.
#[derive(Default)]
struct Planned {
    /// What logs look like afterwards, if the batches do more than append.
    shapes: HashMap<GroupId, LogShape>,
    /// The entries that are moved: written first.
    moved: Vec<(GroupId, Run)>,
}

impl FileLog {
    /// Opens the log of a directory, or makes it.
    pub(crate) fn open(disk: Arc<dyn Disk>, options: LogOptions, must_exist: bool) -> Result<FileLog> {
        let place = disk.place("");
        let names = disk.list().map_err(|error| StorageError::io(format!("list {place}"), error))?;
        disk.sync_names().map_err(|error| StorageError::io(format!("sync {place}"), error))?;
        for name in names.iter().filter(|name| name.ends_with(spare::SUFFIX)) {
            disk.remove(name).map_err(|error| StorageError::io(format!("delete {}", disk.place(name)), error))?;
        }
        let mark = Mark::open(&*disk, &names)?;
        let scanned = scan::scan(&*disk, &names, mark.durable())?;
        if scanned.is_none() && (must_exist || mark.durable() > 0) {
            return Err(StorageError::damaged(place, "its segments are gone"));
        }
        let keeper = Keeper::new(disk.clone(), options.has_thread);
        let keeper = keeper.map_err(|error| StorageError::io("start a thread for segments", error))?;
        let (writer, groups) = Writer::new(disk, options, keeper, mark, scanned)?;
        Ok(FileLog { place, groups: RwLock::new(groups), writer: Mutex::new(writer), stopped: OnceLock::new() })
    }

    /// Fails when the log has stopped.
    pub(crate) fn check(&self) -> Result<()> {
        match self.stopped.get() {
            Some(why) => Err(StorageError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    fn stop(&self, error: &StorageError) {
        // Only the first reason counts.
        if self.stopped.set(error.to_string()).is_ok() {
            tracing::error!(place = %self.place, %error, "the store has stopped");
        }
    }

    fn groups(&self) -> RwLockReadGuard<'_, Groups> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn groups_mut(&self) -> RwLockWriteGuard<'_, Groups> {
        self.groups.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks batches, and says what they make of the logs where they do more than append.
    fn plan(&self, writer: &mut Writer, batches: &[LogBatch]) -> Result<Planned> {
        batches.iter().try_for_each(check)?;
        if batches.iter().map(|batch| Change::of(batch).data_len()).sum::<usize>() > WRITE_BYTES_MAX {
            return Err(StorageError::Invalid(format!("a write of more than {WRITE_BYTES_MAX} bytes of entries")));
        }
        let shapes = if batches.iter().all(only_appends) {
            self.check_appended(writer.cleared_ends(), batches)?;
            HashMap::new()
        } else {
            self.shapes_after(batches)?
        };
        Ok(Planned { shapes, ..Planned::default() })
    }

    /// Checks batches that only append, which takes no more than the logs' ends.
    fn check_appended(&self, ends: &mut HashMap<GroupId, LogEnd>, batches: &[LogBatch]) -> Result<()> {
        let groups = self.groups();
        for batch in batches.iter().filter(|batch| !batch.entries.is_empty()) {
            let end = || groups.get(&batch.group).map_or(LogShape::default().end(), |group| group.shape.end());
            let end = ends.entry(batch.group).or_insert_with(end);
            *end = batch.entries.iter().try_fold(*end, LogEnd::after)?;
        }
        Ok(())
    }

    /// What the logs look like afterwards, where the batches change that.
    fn shapes_after(&self, batches: &[LogBatch]) -> Result<HashMap<GroupId, LogShape>> {
        let groups = self.groups();
        let mut shapes = HashMap::with_capacity(batches.len());
        for batch in batches.iter().filter(|batch| changes_shape(batch)) {
            let shape = match shapes.entry(batch.group) {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) => {
                    slot.insert(groups.get(&batch.group).map(|group| group.shape.clone()).unwrap_or_default())
                }
            };
            *shape = shape.after(batch)?;
        }
        Ok(shapes)
    }

    /// Writes what was planned, in one block with one sync, and takes it up.
    fn commit(&self, writer: &mut Writer, batches: &[LogBatch], planned: Planned) -> Result<()> {
        let Planned { shapes, moved } = planned;
        let changes = moved.iter().map(moves).chain(batches.iter().map(Change::of));
        let mut encoder = writer.take_encoder();
        let bytes = encoder.begin(changes.clone());
        writer.reserve(bytes, &self.groups())?;
        let (segment, mut offset) = writer.write(&mut encoder, changes.clone())?;
        writer.keep_encoder(encoder);
        let mut groups = self.groups_mut();
        for change in changes {
            let group = groups.entry(change.group).or_default();
            offset = group.apply(&change, &segment, offset);
            if shapes.is_empty() {
                // They were checked to follow.
                change.appended.iter().try_for_each(|run| group.shape.push(run))?;
            }
        }
        for (group, shape) in shapes {
            groups.entry(group).or_default().shape = shape;
        }
        drop(groups);
        writer.reclaim();
        Ok(())
    }
}

impl LogStore for FileLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        // Everything was synced when the log was opened, and by each write since.
        let _no_writes = self.writer();
        self.check()?;
        let memberships = self.memberships(group)?;
        let tail = self.tail(group, tail_bytes_max)?;
        let groups = self.groups();
        let Some(log) = groups.get(&group) else { return Ok(RecoveredLog::default()) };
        Ok(RecoveredLog {
            hard_state: log.hard_state,
            base: log.base.clone(),
            terms: log.shape.terms().to_vec(),
            memberships,
            last_index: log.shape.last_index(),
            tail,
            damaged: log.damaged.iter().copied().collect(),
            is_membership_damaged: log.damaged.iter().any(|index| log.memberships.contains(index)),
        })
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let mut writer = self.writer();
        self.check()?;
        let mut planned = self.plan(&mut writer, batches)?;
        let moved = self.move_old(&mut writer, &mut planned);
        let written = moved.and_then(|()| self.commit(&mut writer, batches, planned));
        if let Err(error) = &written
            && !matches!(error, StorageError::Full { .. })
        {
            self.stop(error);
        }
        written
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        self.check()?;
        let places = {
            let groups = self.groups();
            let empty = GroupLog::default();
            let log = groups.get(&group).unwrap_or(&empty);
            match log.check_read(from, to)? {
                Ok(to) => log.places(from, to, bytes_max),
                Err(answer) => return Ok(answer),
            }
        };
        let (runs, _) = self.entries(group, &places)?;
        Ok(if runs.is_empty() { LogRead::Damaged { at: from } } else { LogRead::Entries(runs) })
    }
}

impl FileLog {
    /// The retained memberships that are whole.
    fn memberships(&self, group: GroupId) -> Result<Vec<(Index, Membership)>> {
        let indexes: Vec<Index> =
            self.groups().get(&group).map(|log| log.memberships.iter().copied().collect()).unwrap_or_default();
        let mut memberships = Vec::with_capacity(indexes.len());
        for index in indexes {
            let places = self.groups().get(&group).map(|log| log.places(index, index, 0)).unwrap_or_default();
            let (runs, _) = self.entries(group, &places)?;
            let Some(entry) = runs.first().and_then(|run| run.entries().first()) else { continue };
            let membership = Membership::decode(entry.data.clone()).map_err(|error| {
                StorageError::damaged(&*self.place, format!("group {group}, the membership at {index}: {error}"))
            })?;
            memberships.push((index, membership));
        }
        Ok(memberships)
    }

    /// The most recent entries, after the last damaged one.
    fn tail(&self, group: GroupId, bytes_max: usize) -> Result<Vec<Run>> {
        loop {
            let places = match self.groups().get(&group) {
                Some(log) => log.places(log.tail_begin(bytes_max), log.shape.last_index(), usize::MAX),
                None => Vec::new(),
            };
            let (runs, damaged) = self.entries(group, &places)?;
            // What was found damaged by this is known now, and the tail begins after it.
            if damaged.is_none() {
                return Ok(runs);
            }
        }
    }
}

fn only_appends(batch: &LogBatch) -> bool {
    batch.truncate_from.is_none() && batch.base.is_none() && batch.repaired.is_empty()
}

fn changes_shape(batch: &LogBatch) -> bool {
    !only_appends(batch) || !batch.entries.is_empty()
}

/// Refuses what could not be read back.
fn check(batch: &LogBatch) -> Result<()> {
    if let Some(base) = batch.base.as_ref().filter(|base| !record::is_sound(base)) {
        return Err(StorageError::Invalid(format!("nobody votes in the membership at {}", base.membership_index)));
    }
    let entries = batch.repaired.iter().chain(&batch.entries).flat_map(Run::entries);
    match entries.map(|entry| entry.data.len()).find(|len| *len >= ENTRY_BYTES_END) {
        Some(len) => {
            Err(StorageError::Invalid(format!("an entry of {len} bytes, fewer than {ENTRY_BYTES_END} are kept")))
        }
        None => Ok(()),
    }
}

/// Puts entries into another place.
fn moves((group, run): &(GroupId, Run)) -> Change<'_> {
    Change { replaced: slice::from_ref(run), ..Change::new(*group) }
}
