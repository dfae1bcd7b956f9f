//! Reading the whole log when it is opened (C3).

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use coracle_core::GroupId;
use coracle_storage::{Result, StorageError};

use crate::{
    disk::{Disk, DiskFile},
    format::{
        SECTOR,
        block::{self, Found},
        record::{self, Record},
        segment::{BLOCKS, SegmentHeader},
    },
    group::GroupLog,
    segment::Segment,
};

/// More damaged entries than this are no log any more.
const DAMAGED_MAX: usize = 1 << 16;

/// A log as it was found.
pub(crate) struct Scanned {
    pub(crate) groups: HashMap<GroupId, GroupLog>,
    /// The oldest first. Never empty.
    pub(crate) segments: VecDeque<Arc<Segment>>,
    /// Where the last segment's next block goes.
    pub(crate) position: u64,
    /// The next block.
    pub(crate) sequence: u64,
}

/// Reads all segments, makes what is in them durable, and removes what is left of a block that was never written as a whole. `durable` is a block that surely was.
/// `None` when there are no segments.
pub(crate) fn scan(disk: &dyn Disk, names: &[String], durable: u64) -> Result<Option<Scanned>> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| Segment::number(name)).collect();
    numbers.sort_unstable();
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else { return Ok(None) };
    if let Some(missing) = (*first..=*last).zip(&numbers).find(|(expected, found)| expected != *found) {
        return Err(StorageError::damaged(disk.place(&Segment::name(missing.0)), "it is missing"));
    }
    let scanned = Scanned { groups: HashMap::new(), segments: VecDeque::new(), position: 0, sequence: 0 };
    let mut scan = Scan { disk, durable, scanned, buffer: Vec::new(), doubtful: 0 };
    for number in &numbers {
        scan.segment(*number, number == last)?;
    }
    scan.finish().map(Some)
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    durable: u64,
    scanned: Scanned,
    /// The segment that is being read.
    buffer: Vec<u8>,
    /// Where in it the blocks begin of which the mark does not know that they are durable.
    doubtful: usize,
}

impl Scan<'_> {
    fn segment(&mut self, number: u64, is_last: bool) -> Result<()> {
        let place = self.disk.place(&Segment::name(number));
        let (header, file) = self.read(number, &place)?;
        let is_first = self.scanned.segments.is_empty();
        if !is_first && header.first_sequence != self.scanned.sequence {
            let (found, expected) = (header.first_sequence, self.scanned.sequence);
            return damaged(
                &place,
                format!("it begins with block {found}, but the one before it ends before {expected}"),
            );
        }
        self.scanned.sequence = header.first_sequence;
        let segment = Arc::new(Segment::new(header, file));
        self.scanned.segments.push_back(segment.clone());
        let buffer = std::mem::take(&mut self.buffer);
        let read = Reader { scan: self, segment: &segment, bytes: &buffer, place: &place, is_first, is_last }.read();
        self.buffer = buffer;
        self.scanned.position = read? as u64;
        Ok(())
    }

    /// Reads a segment into the buffer and checks that it is what its name and header say.
    fn read(&mut self, number: u64, place: &str) -> Result<(SegmentHeader, Arc<dyn DiskFile>)> {
        let io = |error| StorageError::io(format!("read {place}"), error);
        let file = self.disk.open(&Segment::name(number)).map_err(io)?;
        self.buffer.resize(file.bytes().map_err(io)? as usize, 0);
        file.read_at(&mut self.buffer, 0).map_err(io)?;
        let header = SegmentHeader::decode(&self.buffer).map_err(|what| StorageError::damaged(place, what))?;
        if header.number != number {
            return damaged(place, format!("its header says that it is segment {}, expected {number}", header.number));
        }
        if header.bytes != self.buffer.len() as u64 {
            return damaged(place, format!("it has {} bytes, expected {}", self.buffer.len(), header.bytes));
        }
        Ok((header, file))
    }

    fn finish(self) -> Result<Scanned> {
        let Scan { disk, durable, mut scanned, buffer, doubtful } = self;
        let begin = doubtful as u64;
        let place =
            scanned.segments.back().map_or_else(String::new, |last| disk.place(&Segment::name(last.header.number)));
        if durable >= scanned.sequence {
            return damaged(
                &place,
                format!("it ends before block {}, but block {durable} was durable", scanned.sequence),
            );
        }
        if let Some(last) = scanned.segments.back() {
            // After a sync that failed the system may show what is not on the disk, and have nothing left to sync: it is written again (H35).
            let doubtful = buffer.get(doubtful..scanned.position as usize).unwrap_or_default();
            let written = if doubtful.is_empty() { Ok(()) } else { last.file.write_at(doubtful, begin) };
            written.map_err(|error| StorageError::io(format!("write {place}"), error))?;
            last.file.sync().map_err(|error| StorageError::io(format!("sync {place}"), error))?;
        }
        for (id, group) in &mut scanned.groups {
            group
                .note_gaps(DAMAGED_MAX)
                .map_err(|what| StorageError::damaged(format!("the log of group {id} in {}", disk.place("")), what))?;
        }
        Ok(scanned)
    }
}

/// Goes through the blocks of one segment.
struct Reader<'a, 'b> {
    scan: &'a mut Scan<'b>,
    segment: &'a Arc<Segment>,
    bytes: &'a [u8],
    place: &'a str,
    is_first: bool,
    is_last: bool,
}

impl Reader<'_, '_> {
    /// Takes all blocks and returns where the next one goes.
    fn read(&mut self) -> Result<usize> {
        let salt = self.segment.header.salt;
        let mut position = BLOCKS;
        self.scan.doubtful = BLOCKS;
        loop {
            let sequence = self.scan.scanned.sequence;
            let Some(found) = block::find(self.bytes, position, salt, sequence) else { break };
            if !found.is_whole() && !self.is_kept(&found, position)? {
                break;
            }
            self.take(&found, position == BLOCKS)?;
            position += found.bytes;
            self.scan.scanned.sequence += 1;
            if sequence <= self.scan.durable {
                self.scan.doubtful = position;
            }
        }
        let sequence = self.scan.scanned.sequence;
        if block::has_later(self.bytes, position, salt, sequence) {
            return damaged(self.place, format!("block {sequence} at {position} is damaged or missing"));
        }
        if self.is_last {
            self.clean(position)?;
        }
        Ok(position)
    }

    /// Whether a block that is not whole was durable once: then it stays, and its entries are damaged. If not, it was being written when the power was cut.
    fn is_kept(&self, found: &Found, position: usize) -> Result<bool> {
        let sequence = self.scan.scanned.sequence;
        let is_last = self.is_last && !block::has_later(self.bytes, position, self.segment.header.salt, sequence);
        if is_last && found.is_torn() && self.scan.durable < sequence {
            tracing::info!(place = self.place, sequence, "the last block was not written as a whole, and goes");
            return Ok(false);
        }
        let Found { unwritten, damaged, .. } = found;
        tracing::warn!(place = self.place, sequence, damaged, unwritten, "sectors of a block are damaged");
        Ok(true)
    }

    /// Carries out a block's records.
    fn take(&mut self, found: &Found, is_outline: bool) -> Result<()> {
        let sequence = self.scan.scanned.sequence;
        let Some(records) = &found.records else {
            return damaged(self.place, format!("both headers of block {sequence} are damaged"));
        };
        if records.iter().any(|record| record.outline.is_some() != is_outline) {
            return damaged(self.place, format!("block {sequence} is not what it should be at its place"));
        }
        if let Some(group) = records.iter().find(|record| !record.is_outline_sound()).map(|record| record.group) {
            return damaged(self.place, format!("block {sequence} tells of no log that group {group} can have"));
        }
        if is_outline {
            // The others repeat what the blocks before them say.
            if self.is_first {
                self.scan.scanned.groups = records.iter().map(|it| (it.group, GroupLog::begin(it.clone()))).collect();
            }
            return Ok(());
        }
        let mut offset = found.data.start;
        for record in records {
            self.apply(record, offset, &found.wrong)?;
            offset += record.data_len();
        }
        Ok(())
    }

    fn apply(&mut self, record: &Record, offset: usize, wrong: &[Range<usize>]) -> Result<()> {
        let group = self.scan.scanned.groups.entry(record.group).or_default();
        let appended = record.runs.iter().filter(|run| !run.replaces);
        let spans = appended.map(|run| (run.first, run.last(), run.term));
        group.shape.replay(record.truncate_from, spans, record.base.as_ref()).map_err(|error| {
            let (group, sequence) = (record.group, self.scan.scanned.sequence);
            StorageError::damaged(self.place, format!("block {sequence}, group {group}: {error}"))
        })?;
        group.replay(record, self.segment, offset as u64);
        if !wrong.is_empty() {
            note_damaged(group, record, self.bytes, offset, wrong);
        }
        Ok(())
    }

    /// Zeros what a block left that was never written as a whole: nothing of it may pass for a part of a later one.
    fn clean(&self, position: usize) -> Result<()> {
        let is_left = |at: &usize| !block::is_zero(&self.bytes[*at..*at + SECTOR]);
        let mut sectors = (position..self.bytes.len()).step_by(SECTOR).filter(is_left);
        let Some(first) = sectors.next() else { return Ok(()) };
        let last = sectors.next_back().unwrap_or(first);
        let zeros = vec![0; last + SECTOR - first];
        let file = &self.segment.file;
        let cleaned = file.write_at(&zeros, first as u64).and_then(|()| file.sync());
        cleaned.map_err(|error| StorageError::io(format!("write {}", self.place), error))
    }
}

/// Notes the entries that are in sectors that are wrong, and are not what was written.
fn note_damaged(group: &mut GroupLog, record: &Record, bytes: &[u8], mut offset: usize, wrong: &[Range<usize>]) {
    for run in &record.runs {
        for (at, entry) in run.entries.iter().enumerate() {
            let (index, range) = (run.first.plus(at as u64), offset..offset + entry.size());
            offset = range.end;
            let is_hit = wrong.iter().any(|sector| sector.start < range.end && range.start < sector.end);
            let is_whole = || record::check_entry(record.group, index, run.term, &bytes[range]).is_some();
            if is_hit && index > group.shape.base() && index <= group.shape.last_index() && !is_whole() {
                group.damaged.insert(index);
            }
        }
    }
}

fn damaged<T>(place: &str, what: String) -> Result<T> {
    Err(StorageError::damaged(place, what))
}
