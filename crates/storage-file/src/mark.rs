//! The durable mark: how far the log is known to be on disk, told outside of the log.
//!
//! A log whose last block is gone looks like one that it was never written to; what the mark says was durable tells the two apart (C18).
//! It is written after each sync of the log and never synced itself: it may lag behind, by as much as the system keeps in its cache, and is never ahead.

use std::sync::Arc;

use coracle_storage::{Result, StorageError};

use crate::{
    disk::{Disk, DiskFile},
    format::{Fields, SECTOR},
};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

/// Its file's name.
pub(crate) const NAME: &str = "mark";
const TEMPORARY: &str = "mark.spare";
const MAGIC: [u8; 4] = *b"CoLM";
/// Two, written in turn: one of them is always whole.
const SLOTS: u64 = 2;

/// The mark, open.
pub(crate) struct Mark {
    file: Arc<dyn DiskFile>,
    place: String,
    /// The last block that was durable.
    durable: u64,
    /// Whether a failure was told.
    is_failing: bool,
}

impl Mark {
    /// Reads it, or makes it. One that is damaged counts for nothing: it is not synced, so a power cut may leave it so.
    pub(crate) fn open(disk: &dyn Disk, names: &[String]) -> Result<Mark> {
        let place = disk.place(NAME);
        let io = |error| StorageError::io(format!("open {place}"), error);
        let bytes = SLOTS * SECTOR as u64;
        let found = if names.iter().any(|name| name == NAME) { Some(disk.open(NAME).map_err(io)?) } else { None };
        let whole = match found {
            Some(file) if file.bytes().map_err(io)? == bytes => Some(file),
            _ => None,
        };
        let file = match whole {
            Some(file) => file,
            None => {
                let file = disk.allocate(TEMPORARY, bytes).map_err(io)?;
                disk.rename(TEMPORARY, NAME).map_err(io)?;
                file
            }
        };
        let mut slots = vec![0; bytes as usize];
        file.read_at(&mut slots, 0).map_err(io)?;
        let durable = slots.chunks_exact(SECTOR).filter_map(decode).max().unwrap_or(0);
        Ok(Mark { file, place, durable, is_failing: false })
    }

    /// The last block that was durable; 0 when nothing is known.
    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    /// Notes that a block is durable.
    pub(crate) fn note(&mut self, sequence: u64) {
        self.durable = sequence;
        let written = self.file.write_at(&encode(sequence), sequence % SLOTS * SECTOR as u64);
        // Without a mark nothing is wrong, only less is noticed.
        if let Err(error) = &written
            && !self.is_failing
        {
            tracing::warn!(place = %self.place, %error, "the durable mark could not be written");
        }
        self.is_failing = written.is_err();
    }
}

fn encode(sequence: u64) -> [u8; SECTOR] {
    let mut slot = [0; SECTOR];
    slot[4..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32fast::hash(&slot[4..]);
    slot[..4].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<u64> {
    let mut fields = Fields(slot);
    let is_whole = fields.u32()? == crc32fast::hash(&slot[4..]) && fields.bytes(4)? == MAGIC;
    if is_whole { fields.u64() } else { None }
}
