//! One group's log as it is in memory: everything but the entries' data.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::Arc,
};

use coracle_core::{Base, HardState, Index, LogRead, Term};
use coracle_storage::{LogShape, Result, StorageError};

use crate::{
    format::record::{Change, EntryId, Extent, Outline, Record, RunRecord},
    segment::{Held, Segment},
};

/// A piece has at most so many entries, and is cut where it has so many bytes: what is read or moved at once is small.
const PIECE_ENTRIES_MAX: usize = 64;
const PIECE_BYTES: u64 = 64 * 1024;

/// One group's log.
#[derive(Debug, Default)]
pub(crate) struct GroupLog {
    pub(crate) hard_state: HardState,
    pub(crate) base: Base,
    pub(crate) shape: LogShape,
    /// Where entries lie, by the index of the first; what is between them is damaged.
    pieces: BTreeMap<Index, Piece>,
    /// The indexes of the retained memberships.
    pub(crate) memberships: BTreeSet<Index>,
    /// The entries whose data are known not to be what was written.
    pub(crate) damaged: BTreeSet<Index>,
}

/// Consecutive entries of one term that lie one after another.
#[derive(Debug)]
struct Piece {
    term: Term,
    held: Held,
    offset: u64,
    /// The size of each entry with its header. Never empty.
    sizes: Sizes,
}

/// A log written entry by entry has one in each piece: that one needs no memory of its own.
#[derive(Debug)]
enum Sizes {
    One(u32),
    Many(Box<[u32]>),
}

impl Sizes {
    fn of(sizes: &[u32]) -> Sizes {
        match sizes {
            [size] => Sizes::One(*size),
            sizes => Sizes::Many(sizes.into()),
        }
    }

    fn as_slice(&self) -> &[u32] {
        match self {
            Sizes::One(size) => slice::from_ref(size),
            Sizes::Many(sizes) => sizes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn iter(&self) -> slice::Iter<'_, u32> {
        self.as_slice().iter()
    }
}

/// Where an entry lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u64,
    pub(crate) size: u32,
}

impl Piece {
    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|size| u64::from(*size)).sum()
    }

    /// Cuts off all entries from the `count`th on and returns them; neither part is empty.
    fn split(&mut self, count: usize) -> Piece {
        let (kept, rest) = self.sizes.as_slice().split_at(count);
        let (kept, sizes) = (Sizes::of(kept), Sizes::of(rest));
        self.sizes = kept;
        let offset = self.offset + self.bytes();
        let held = self.held.split(sizes.iter().map(|size| u64::from(*size)).sum());
        Piece { term: self.term, held, offset, sizes }
    }
}

impl GroupLog {
    /// What a log is that a segment begins with; where its entries lie is not known yet.
    pub(crate) fn begin(record: Record) -> GroupLog {
        let base = record.base.unwrap_or_default();
        let outline = record.outline.unwrap_or_default();
        GroupLog {
            hard_state: record.hard_state.unwrap_or_default(),
            shape: LogShape::recovered(&base, outline.terms, outline.last_index),
            base,
            memberships: outline.memberships.into_iter().collect(),
            ..GroupLog::default()
        }
    }

    /// What a segment begins with.
    pub(crate) fn outline(&self) -> Outline {
        Outline {
            last_index: self.shape.last_index(),
            terms: self.shape.terms().to_vec(),
            memberships: self.memberships.iter().copied().collect(),
        }
    }

    /// Carries out what was written to `segment` with its data at `offset`, and returns the offset behind them. The shape is the caller's affair.
    pub(crate) fn apply(&mut self, change: &Change<'_>, segment: &Arc<Segment>, offset: u64) -> u64 {
        let Change { truncate_from, base, hard_state, .. } = change;
        self.carry_out(*truncate_from, change.extents(), *base, *hard_state, segment, offset)
    }

    /// The same with what was read.
    pub(crate) fn replay(&mut self, record: &Record, segment: &Arc<Segment>, offset: u64) {
        let Record { truncate_from, base, hard_state, runs, .. } = record;
        let runs = runs.iter().map(RunRecord::extent);
        self.carry_out(*truncate_from, runs, base.as_ref(), *hard_state, segment, offset);
    }

    fn carry_out(
        &mut self,
        truncate_from: Option<Index>,
        runs: impl Iterator<Item = Extent<impl ExactSizeIterator<Item = EntryId>>>,
        base: Option<&Base>,
        hard_state: Option<HardState>,
        segment: &Arc<Segment>,
        mut offset: u64,
    ) -> u64 {
        if let Some(from) = truncate_from {
            self.truncate(from);
        }
        for run in runs {
            if run.replaces {
                self.clear(run.first, run.first.plus(run.entries.len() as u64 - 1));
            }
            offset = self.insert(run, segment, offset);
        }
        if let Some(base) = base {
            self.compact(base.index);
            self.base = base.clone();
        }
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        offset
    }

    fn truncate(&mut self, from: Index) {
        self.cut(from);
        self.pieces.split_off(&from);
        self.memberships.split_off(&from);
        self.damaged.split_off(&from);
    }

    fn compact(&mut self, base: Index) {
        let next = base.next();
        self.cut(next);
        self.pieces = self.pieces.split_off(&next);
        self.memberships = self.memberships.split_off(&next);
        self.damaged = self.damaged.split_off(&next);
    }

    /// Forgets where the entries from `first` to `last` lie.
    fn clear(&mut self, first: Index, last: Index) {
        self.cut(first);
        self.cut(last.next());
        // One by one: to put the rest of a map back behind what was split off takes time in proportion to all of it, for each run that is moved.
        let gone: Vec<Index> = self.pieces.range(first..=last).map(|(index, _)| *index).collect();
        for index in &gone {
            self.pieces.remove(index);
        }
        for set in [&mut self.damaged, &mut self.memberships] {
            let gone: Vec<Index> = set.range(first..=last).copied().collect();
            for index in &gone {
                set.remove(index);
            }
        }
    }

    /// Makes a piece begin at `index` if one goes across it.
    fn cut(&mut self, index: Index) {
        let Some((first, piece)) = self.pieces.range_mut(..index).next_back() else { return };
        let count = (index.0 - first.0) as usize;
        if count < piece.sizes.len() {
            let rest = piece.split(count);
            self.pieces.insert(index, rest);
        }
    }

    fn insert(
        &mut self,
        run: Extent<impl ExactSizeIterator<Item = EntryId>>,
        segment: &Arc<Segment>,
        mut offset: u64,
    ) -> u64 {
        let Extent { first: mut index, term, mut entries, .. } = run;
        while entries.len() > 0 {
            let (sizes, bytes) = self.take_piece(index, &mut entries);
            let next = index.plus(sizes.len() as u64);
            let held = Held::new(segment.clone(), bytes);
            self.pieces.insert(index, Piece { term, held, offset, sizes });
            offset += bytes;
            index = next;
        }
        offset
    }

    /// The sizes of the entries of the next piece, which begins at `first`, one by one and together. Notes which are memberships.
    fn take_piece(&mut self, first: Index, entries: &mut impl ExactSizeIterator<Item = EntryId>) -> (Sizes, u64) {
        let mut sizes = [0; PIECE_ENTRIES_MAX];
        let (mut count, mut bytes) = (0, 0);
        while count < PIECE_ENTRIES_MAX
            && bytes < PIECE_BYTES
            && let Some(entry) = entries.next()
        {
            if entry.is_membership() {
                self.memberships.insert(first.plus(count as u64));
            }
            sizes[count] = entry.size() as u32;
            bytes += entry.size() as u64;
            count += 1;
        }
        (Sizes::of(&sizes[..count]), bytes)
    }

    /// Notes every entry as damaged of which is not known where it lies.
    pub(crate) fn note_gaps(&mut self, damaged_max: usize) -> std::result::Result<(), String> {
        let mut next = self.shape.base().next();
        let end = self.shape.last_index().next();
        let firsts = self.pieces.iter().map(|(first, piece)| (*first, piece.sizes.len() as u64));
        for (first, count) in firsts.chain([(end, 0)]) {
            let missing = first.0.saturating_sub(next.0) as usize;
            if missing + self.damaged.len() > damaged_max {
                return Err(format!("more than {damaged_max} entries are damaged or missing"));
            }
            self.damaged.extend((next.0..first.0).map(Index));
            next = first.plus(count);
        }
        Ok(())
    }

    /// Answers a request that no entry can meet; otherwise the last index to read.
    pub(crate) fn check_read(&self, from: Index, to: Index) -> Result<std::result::Result<Index, LogRead>> {
        let (base, last) = (self.shape.base(), self.shape.last_index());
        if from <= base {
            return Ok(Err(LogRead::Compacted));
        }
        if from > last || from > to {
            return Err(StorageError::Invalid(format!("cannot read from {from} to {to}: the log ends at {last}")));
        }
        Ok(Ok(to.min(last)))
    }

    /// Where the entries from `from` to `to` lie, up to the first that is damaged, and no more than fit in `bytes_max`, but at least one if it is whole.
    pub(crate) fn places(&self, from: Index, to: Index, bytes_max: usize) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        if from > to {
            return places;
        }
        let mut left = bytes_max;
        let begin = self.pieces.range(..=from).next_back().map_or(from, |(first, _)| *first);
        for place in self.pieces.range(begin..=to).flat_map(|(first, piece)| piece.places(*first)) {
            if place.index < from {
                continue;
            }
            let is_next = place.index == from.plus(places.len() as u64);
            let fits = place.size as usize <= left || places.is_empty();
            if place.index > to || !is_next || !fits || self.damaged.contains(&place.index) {
                break;
            }
            left = left.saturating_sub(place.size as usize);
            places.push(place);
        }
        places
    }

    /// The first of the entries that end with the log, are not damaged, and take no more than `bytes_max`.
    pub(crate) fn tail_begin(&self, bytes_max: usize) -> Index {
        let mut begin = self.shape.last_index().next();
        let mut left = bytes_max as u64;
        for (first, piece) in self.pieces.iter().rev() {
            let bytes = piece.bytes();
            if bytes > left || first.plus(piece.sizes.len() as u64) != begin {
                break;
            }
            left -= bytes;
            begin = *first;
        }
        let damaged = self.damaged.last().map_or(Index::ZERO, |damaged| damaged.next());
        begin.max(damaged)
    }

    /// The pieces that lie in a segment, by the index of their first entries.
    pub(crate) fn pieces_in(&self, number: u64) -> impl Iterator<Item = Index> {
        self.pieces
            .iter()
            .filter(move |(_, piece)| piece.held.segment().header.number == number)
            .map(|(first, _)| *first)
    }

    /// The entries of the piece that begins at `first`, if it is in that segment.
    pub(crate) fn piece_in(&self, number: u64, first: Index) -> Vec<Place> {
        let piece = self.pieces.get(&first).filter(|piece| piece.held.segment().header.number == number);
        piece.map(|piece| piece.places(first).collect()).unwrap_or_default()
    }
}

impl Piece {
    fn places(&self, first: Index) -> impl Iterator<Item = Place> {
        let mut offset = self.offset;
        self.sizes.iter().enumerate().map(move |(at, size)| {
            let place = Place {
                index: first.plus(at as u64),
                term: self.term,
                segment: self.held.segment().clone(),
                offset,
                size: *size,
            };
            offset += u64::from(*size);
            place
        })
    }
}
