//! Reading entries where they lie, without a lock.

use bytes::Bytes;
use coracle_core::{Entry, GroupId, Index, Run, Term};
use coracle_storage::{Result, StorageError};

use super::FileLog;
use crate::{
    format::record::{self, ENTRY_HEADER},
    group::Place,
    segment::Segment,
};

/// Entries with no more than so many bytes between them are read at once.
const GAP_MAX: u64 = 4096;
/// And no more than so many bytes, unless one entry is larger.
const SPAN_BYTES_MAX: u64 = 4 * 1024 * 1024;

impl FileLog {
    /// Reads consecutive entries, up to the first that is not what was written, whose index comes along and is noted.
    pub(super) fn entries(&self, group: GroupId, mut places: &[Place]) -> Result<(Vec<Run>, Option<Index>)> {
        let mut runs = Runs::default();
        while let Some(first) = places.first() {
            let (span, rest) = places.split_at(span_len(places));
            let end = span.iter().map(|place| place.offset + u64::from(place.size)).max().unwrap_or(first.offset);
            let mut bytes = vec![0; (end - first.offset) as usize];
            first.segment.file.read_at(&mut bytes, first.offset).map_err(|error| {
                StorageError::io(format!("read {}/{}", self.place, Segment::name(first.segment.header.number)), error)
            })?;
            let bytes = Bytes::from(bytes);
            for place in span {
                let at = (place.offset - first.offset) as usize;
                let stored = bytes.slice(at..at + place.size as usize);
                let Some(kind) = record::check_entry(group, place.index, place.term, &stored) else {
                    self.note_damaged(group, place);
                    return Ok((runs.finish(), Some(place.index)));
                };
                runs.push(place, Entry { kind, data: stored.slice(ENTRY_HEADER..) });
            }
            places = rest;
        }
        Ok((runs.finish(), None))
    }

    /// Notes an entry as damaged, unless it lies elsewhere by now.
    fn note_damaged(&self, group: GroupId, place: &Place) {
        let segment = Segment::name(place.segment.header.number);
        tracing::error!(place = %self.place, %segment, %group, index = %place.index, "an entry is damaged");
        let mut groups = self.groups_mut();
        let Some(log) = groups.get_mut(&group) else { return };
        let found = log.places(place.index, place.index, 0);
        if found
            .first()
            .is_some_and(|found| found.offset == place.offset && found.segment.header == place.segment.header)
        {
            log.damaged.insert(place.index);
        }
    }
}

/// How many of the places lie so close together that they are read at once.
fn span_len(places: &[Place]) -> usize {
    let begin = places.first().map_or(0, |first| first.offset);
    let is_next = |pair: &[Place]| {
        let (before, next) = (&pair[0], &pair[1]);
        let end = before.offset + u64::from(before.size);
        before.segment.header.number == next.segment.header.number
            && (end..=end + GAP_MAX).contains(&next.offset)
            && next.offset + u64::from(next.size) - begin <= SPAN_BYTES_MAX
    };
    1 + places.windows(2).take_while(|pair| is_next(pair)).count()
}

/// Gathers entries into runs.
#[derive(Default)]
struct Runs {
    runs: Vec<Run>,
    first: Index,
    term: Term,
    entries: Vec<Entry>,
}

impl Runs {
    fn push(&mut self, place: &Place, entry: Entry) {
        if self.entries.is_empty() || place.term != self.term {
            self.seal();
            (self.first, self.term) = (place.index, place.term);
        }
        self.entries.push(entry);
    }

    fn seal(&mut self) {
        if !self.entries.is_empty() {
            self.runs.push(Run::new(self.first, self.term, std::mem::take(&mut self.entries)));
        }
    }

    fn finish(mut self) -> Vec<Run> {
        self.seal();
        self.runs
    }
}
