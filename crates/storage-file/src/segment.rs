//! A segment: a file of the log, and how much of it is still of use.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{disk::DiskFile, format::segment::SegmentHeader};

/// An open segment.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
    /// How many bytes of entries in it the logs still refer to.
    live: AtomicU64,
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, file: Arc<dyn DiskFile>) -> Segment {
        Segment { header, file, live: AtomicU64::new(0) }
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// The file's name.
    pub(crate) fn name(number: u64) -> String {
        format!("{number:016x}.segment")
    }

    /// The number in a file's name, if it is a segment's.
    pub(crate) fn number(name: &str) -> Option<u64> {
        let number = u64::from_str_radix(name.strip_suffix(".segment")?, 16).ok()?;
        (Segment::name(number) == name).then_some(number)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("header", &self.header).field("live", &self.live()).finish_non_exhaustive()
    }
}

/// Bytes of a segment that a log refers to: counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    segment: Arc<Segment>,
    bytes: u64,
}

impl Held {
    pub(crate) fn new(segment: Arc<Segment>, bytes: u64) -> Held {
        segment.live.fetch_add(bytes, Ordering::Relaxed);
        Held { segment, bytes }
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Gives up some of them and returns those.
    pub(crate) fn split(&mut self, bytes: u64) -> Held {
        debug_assert!(bytes <= self.bytes);
        self.bytes -= bytes;
        Held { segment: self.segment.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.segment.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
