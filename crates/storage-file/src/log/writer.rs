//! Where blocks are written: the segments, from the oldest to the one that grows.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use coracle_core::{GroupId, Index, Run};
use coracle_storage::{LogEnd, Result, StorageError};

use super::{FileLog, Groups, LogOptions, Planned};
use crate::{
    disk::{Disk, is_full},
    format::{
        SECTOR,
        block::Encoder,
        record::{Change, Outline},
        segment::{BLOCKS, SegmentHeader},
    },
    group::GroupLog,
    mark::Mark,
    scan::Scanned,
    segment::Segment,
    spare::Keeper,
};

/// How much of an old segment a write moves along, in bytes, or one piece.
const MOVED_BYTES: usize = 64 * 1024;
/// Segments are emptied when no more than one part in so many is of use.
const WASTE: u64 = 4;
/// But not so few of them.
const SEGMENTS_MIN: usize = 3;

/// Writes blocks.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    options: LogOptions,
    keeper: Keeper,
    mark: Mark,
    /// The oldest first; blocks are written to the last. Never empty.
    segments: VecDeque<Arc<Segment>>,
    /// Where the next block goes.
    position: u64,
    /// Its number.
    sequence: u64,
    encoder: Encoder,
    /// Where the logs of a write end, while it is checked: kept for its memory alone.
    ends: HashMap<GroupId, LogEnd>,
    /// Pieces of the oldest segment that are to be moved, so that it can go.
    moving: VecDeque<(GroupId, Index)>,
    /// Whether the next segment was asked for.
    is_prepared: bool,
}

impl Writer {
    /// Goes on with what was found, or begins.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        keeper: Keeper,
        mark: Mark,
        scanned: Option<Scanned>,
    ) -> Result<(Writer, Groups)> {
        let is_new = scanned.is_none();
        let begun = Scanned { groups: HashMap::new(), segments: VecDeque::new(), position: BLOCKS as u64, sequence: 1 };
        let Scanned { groups, segments, position, sequence } = scanned.unwrap_or(begun);
        let mut writer = Writer {
            disk,
            options,
            keeper,
            mark,
            segments,
            position,
            sequence,
            encoder: Encoder::default(),
            ends: HashMap::new(),
            moving: VecDeque::new(),
            is_prepared: false,
        };
        if is_new {
            writer.begin_segment(options.segment_bytes)?;
        } else if sequence > 1 {
            // What was found is synced.
            writer.mark.note(sequence - 1);
        }
        writer.reclaim();
        Ok((writer, groups))
    }

    pub(super) fn take_encoder(&mut self) -> Encoder {
        std::mem::take(&mut self.encoder)
    }

    pub(super) fn keep_encoder(&mut self, mut encoder: Encoder) {
        encoder.trim();
        self.encoder = encoder;
    }

    pub(super) fn cleared_ends(&mut self) -> &mut HashMap<GroupId, LogEnd> {
        self.ends.clear();
        &mut self.ends
    }

    fn current(&self) -> &Arc<Segment> {
        // There is always one: it is made when the log is.
        &self.segments[self.segments.len() - 1]
    }

    /// Makes sure that a block of `bytes` bytes has its place, before anything of it is written.
    pub(super) fn reserve(&mut self, bytes: u64, groups: &Groups) -> Result<()> {
        if self.position == BLOCKS as u64 {
            self.begin_with(groups)?;
        }
        if self.position + bytes <= self.current().header.bytes {
            return Ok(());
        }
        let outlines = outlines(groups);
        let outline = Encoder::default().begin(changes(&outlines));
        let needed = BLOCKS as u64 + outline + bytes;
        self.begin_segment(needed.next_multiple_of(SECTOR as u64).max(self.options.segment_bytes))?;
        self.begin_with(groups)?;
        self.plan_moves(groups);
        Ok(())
    }

    /// Begins a segment.
    fn begin_segment(&mut self, bytes: u64) -> Result<()> {
        let number = self.segments.back().map_or(1, |last| last.header.number + 1);
        let place = self.disk.place(&Segment::name(number));
        let io = |error| StorageError::io(format!("make {place}"), error);
        let salt = match self.options.salt {
            Some(salt) => salt,
            None => random().map_err(io)?,
        };
        let mut held = self.keeper.hold();
        let (file, bytes) = self.keeper.take(&mut held, bytes).map_err(|error| match is_full(&error) {
            true => StorageError::Full { place: self.disk.place(""), needed: bytes },
            false => io(error),
        })?;
        let header = SegmentHeader { number, first_sequence: self.sequence, salt, bytes };
        file.write_at(&header.encode(), 0).and_then(|()| file.sync()).map_err(io)?;
        self.disk.rename(self.keeper.name(), &Segment::name(number)).map_err(io)?;
        drop(held);
        self.segments.push_back(Arc::new(Segment::new(header, file)));
        self.position = BLOCKS as u64;
        self.is_prepared = false;
        Ok(())
    }

    /// Writes what every segment begins with: all logs without their entries, so that what lies before it can go.
    fn begin_with(&mut self, groups: &Groups) -> Result<()> {
        let mut encoder = Encoder::default();
        let outlines = outlines(groups);
        let bytes = encoder.begin(changes(&outlines));
        if self.position + bytes > self.current().header.bytes {
            // Groups were added since the segment was made, without a block in it: it cannot be.
            return Err(StorageError::Invalid(format!("no room for {bytes} bytes at the start of a segment")));
        }
        self.write(&mut encoder, changes(&outlines)).map(|_| ())
    }

    /// Writes the block that was laid out, syncs it, and says where its data lie.
    pub(super) fn write<'a>(
        &mut self,
        encoder: &mut Encoder,
        changes: impl Iterator<Item = Change<'a>>,
    ) -> Result<(Arc<Segment>, u64)> {
        let segment = self.current().clone();
        let block = encoder.finish(segment.header.salt, self.sequence, changes);
        let (len, name) = (block.len() as u64, || self.disk.place(&Segment::name(segment.header.number)));
        let written = segment.file.write_at(block, self.position);
        written.map_err(|error| StorageError::io(format!("write {}", name()), error))?;
        segment.file.sync().map_err(|error| StorageError::io(format!("sync {}", name()), error))?;
        self.mark.note(self.sequence);
        let data = self.position + encoder.data_offset();
        self.position += len;
        self.sequence += 1;
        if !self.is_prepared && self.position > segment.header.bytes / 2 {
            self.keeper.prepare(self.options.segment_bytes);
            self.is_prepared = true;
        }
        Ok((segment, data))
    }

    /// Deletes old segments that nothing refers to, once the last one says what the logs are.
    pub(super) fn reclaim(&mut self) {
        while self.position > BLOCKS as u64 && self.segments.len() > 1 && self.segments[0].live() == 0 {
            if let Some(oldest) = self.segments.pop_front() {
                self.keeper.remove(Segment::name(oldest.header.number));
                self.moving.clear();
            }
        }
    }

    /// Decides whether the oldest segment is to be emptied: when little of it is of use, or little of all of them, for they go in order.
    fn plan_moves(&mut self, groups: &Groups) {
        self.moving.clear();
        let is_waste = |live: u64, bytes: u64| live.saturating_mul(WASTE) < bytes;
        let live: u64 = self.segments.iter().map(|segment| segment.live()).sum();
        let bytes: u64 = self.segments.iter().map(|segment| segment.header.bytes).sum();
        let oldest = &self.segments[0];
        let is_due = is_waste(oldest.live(), oldest.header.bytes) || is_waste(live, bytes);
        if self.segments.len() >= SEGMENTS_MIN && is_due {
            let number = oldest.header.number;
            let pieces = groups.iter().flat_map(|(id, group)| group.pieces_in(number).map(|first| (*id, first)));
            self.moving = pieces.collect();
        }
    }
}

impl FileLog {
    /// Adds a few entries of the oldest segment to a write, if it is to be emptied.
    pub(super) fn move_old(&self, writer: &mut Writer, planned: &mut Planned) -> Result<()> {
        let number = writer.segments[0].header.number;
        let mut bytes = 0;
        while bytes < MOVED_BYTES
            && let Some((group, first)) = writer.moving.pop_front()
        {
            let places = self.groups().get(&group).map(|log| log.piece_in(number, first)).unwrap_or_default();
            // What is damaged stays where it is, until it is repaired.
            let (runs, _) = self.entries(group, &places)?;
            bytes += runs.iter().map(Run::size).sum::<usize>();
            planned.moved.extend(runs.into_iter().map(|run| (group, run)));
        }
        Ok(())
    }
}

/// What all logs are without their entries.
fn outlines(groups: &Groups) -> Vec<(GroupId, &GroupLog, Outline)> {
    groups.iter().map(|(id, group)| (*id, group, group.outline())).collect()
}

fn changes<'a>(outlines: &'a [(GroupId, &'a GroupLog, Outline)]) -> impl Iterator<Item = Change<'a>> + Clone {
    outlines.iter().map(|(id, group, outline)| Change {
        hard_state: Some(group.hard_state),
        base: Some(&group.base),
        outline: Some(outline),
        ..Change::new(*id)
    })
}

fn random() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}
