//! A block: one write, of whole sectors.
//!
//! First the header, then the entries' data, then the header again.
//! Each sector of a header is framed: it has its own checksum and says which block's it is, so that either copy, or parts of both, tell what the block is.
//! The header's body ends with a checksum for each sector of data: for each of them can be told whether it is valid, was never written, or is damaged.

use std::ops::Range;

use super::{
    Fields, SECTOR,
    record::{self, Change, Record},
};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

const MAGIC: [u8; 2] = *b"Cb";
const VERSION: u8 = 1;
/// Checksum, magic, version, copy, sequence, part, parts, sectors.
const FRAME: usize = 4 + 2 + 1 + 1 + 8 + 4 + 4 + 4;
/// What a sector of a header carries of the body.
const PAYLOAD: usize = SECTOR - FRAME;

/// Makes blocks; its buffers are used again and again.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    body: Vec<u8>,
    block: Vec<u8>,
    data_len: usize,
    parts: usize,
}

/// Buffers that have grown beyond this are not kept.
const KEPT_MAX: usize = 4 * 1024 * 1024;

impl Encoder {
    /// Lays out a block and returns its size in bytes.
    pub(crate) fn begin<'a>(&mut self, changes: impl Iterator<Item = Change<'a>> + Clone) -> u64 {
        self.body.clear();
        record::encode(changes.clone(), &mut self.body);
        self.lay_out(changes.map(|change| change.data_len()).sum());
        (self.sectors() * SECTOR) as u64
    }

    /// Divides the body, whose records are there, and so many bytes of data into sectors.
    fn lay_out(&mut self, data_len: usize) {
        self.data_len = data_len;
        let body = self.body.len() + 4 * self.data_sectors();
        self.parts = body.div_ceil(PAYLOAD);
    }

    fn data_sectors(&self) -> usize {
        self.data_len.div_ceil(SECTOR)
    }

    fn sectors(&self) -> usize {
        2 * self.parts + self.data_sectors()
    }

    /// Where the entries' data begin in the block that was laid out.
    pub(crate) fn data_offset(&self) -> u64 {
        (self.parts * SECTOR) as u64
    }

    /// The bytes of the block that was laid out for the same changes.
    pub(crate) fn finish<'a>(&mut self, salt: u64, sequence: u64, changes: impl Iterator<Item = Change<'a>>) -> &[u8] {
        self.block.clear();
        self.block.resize(self.parts * SECTOR, 0);
        for change in changes {
            change.runs().for_each(|run| record::encode_entries(change.group, run, &mut self.block));
        }
        self.seal(salt, sequence)
    }

    /// Frames the body, and the data that are in the block by now.
    fn seal(&mut self, salt: u64, sequence: u64) -> &[u8] {
        let copy = (self.parts + self.data_sectors()) * SECTOR;
        debug_assert_eq!(self.block.len(), self.parts * SECTOR + self.data_len);
        self.block.resize(copy, 0);
        for (number, sector) in self.block[self.parts * SECTOR..].chunks_exact(SECTOR).enumerate() {
            self.body.extend_from_slice(&data_checksum(salt, sequence, number, sector).to_le_bytes());
        }
        let sectors = self.sectors();
        self.block.resize(sectors * SECTOR, 0);
        for (is_copy, at) in [(false, 0), (true, copy)] {
            for (part, payload) in self.body.chunks(PAYLOAD).enumerate() {
                let at = at + part * SECTOR;
                let frame =
                    Frame { is_copy, sequence, part: part as u32, parts: self.parts as u32, sectors: sectors as u32 };
                frame.write(salt, payload, &mut self.block[at..at + SECTOR]);
            }
        }
        &self.block
    }

    /// Gives back the memory of an unusually large block.
    pub(crate) fn trim(&mut self) {
        if self.block.capacity() > KEPT_MAX {
            self.block = Vec::new();
        }
        if self.body.capacity() > KEPT_MAX {
            self.body = Vec::new();
        }
    }
}

fn data_checksum(salt: u64, sequence: u64, number: usize, sector: &[u8]) -> u32 {
    let mut head = [0; 24];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..16].copy_from_slice(&sequence.to_le_bytes());
    head[16..].copy_from_slice(&(number as u64).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(sector);
    hasher.finalize()
}

/// What a sector of a header says of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Whether it belongs to the second header.
    is_copy: bool,
    sequence: u64,
    /// Which sector of the header.
    part: u32,
    /// How many the header has.
    parts: u32,
    /// How many the block has.
    sectors: u32,
}

impl Frame {
    fn write(&self, salt: u64, payload: &[u8], sector: &mut [u8]) {
        sector[4..6].copy_from_slice(&MAGIC);
        sector[6] = VERSION;
        sector[7] = u8::from(self.is_copy);
        sector[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        sector[16..20].copy_from_slice(&self.part.to_le_bytes());
        sector[20..24].copy_from_slice(&self.parts.to_le_bytes());
        sector[24..FRAME].copy_from_slice(&self.sectors.to_le_bytes());
        sector[FRAME..FRAME + payload.len()].copy_from_slice(payload);
        let checksum = frame_checksum(salt, sector);
        sector[..4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The frame of a sector that is a whole part of a header.
    fn read(salt: u64, sector: &[u8]) -> Option<Frame> {
        if sector.get(4..6)? != MAGIC {
            return None;
        }
        let mut fields = Fields(sector);
        let checksum = fields.u32()?;
        let (_, version, copy) = (fields.bytes(2)?, fields.u8()?, fields.u8()?);
        let sequence = fields.u64()?;
        let (part, parts, sectors) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let is_sound = version == VERSION && copy < 2 && part < parts && parts <= sectors / 2;
        (is_sound && checksum == frame_checksum(salt, sector)).then_some(Frame {
            is_copy: copy == 1,
            sequence,
            part,
            parts,
            sectors,
        })
    }

    /// How many sectors of the block lie before this one.
    fn before(&self) -> usize {
        let header = if self.is_copy { self.sectors - self.parts } else { 0 };
        (header + self.part) as usize
    }
}

fn frame_checksum(salt: u64, sector: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&sector[4..]);
    hasher.finalize()
}

/// A block as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// How many bytes it takes.
    pub(crate) bytes: usize,
    /// Its records, if the header is known.
    pub(crate) records: Option<Vec<Record>>,
    /// Where its data lie in the segment.
    pub(crate) data: Range<usize>,
    /// The sectors of the data that are not what was written, as ranges of bytes of the segment.
    pub(crate) wrong: Vec<Range<usize>>,
    /// How many sectors are zeros and should not be.
    pub(crate) unwritten: usize,
    /// How many are neither what was written nor zeros.
    pub(crate) damaged: usize,
}

impl Found {
    /// Whether every sector is what was written.
    pub(crate) fn is_whole(&self) -> bool {
        self.unwritten == 0 && self.damaged == 0
    }

    /// Whether each sector is what was written or was never written.
    pub(crate) fn is_torn(&self) -> bool {
        self.unwritten > 0 && self.damaged == 0
    }

    fn judge(&mut self, is_valid: bool, sector: &[u8]) {
        match (is_valid, is_zero(sector)) {
            (true, _) => {}
            (false, true) => self.unwritten += 1,
            (false, false) => self.damaged += 1,
        }
    }
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|chunk| *chunk == [0; 16]) && rest.iter().all(|byte| *byte == 0)
}

/// Finds the block `sequence` at `position`, by any sector of its headers.
pub(crate) fn find(segment: &[u8], position: usize, salt: u64, sequence: u64) -> Option<Found> {
    let of_block = |at: usize| {
        let frame = Frame::read(salt, segment.get(at..at + SECTOR)?)?;
        let is_here = frame.sequence == sequence && position + frame.before() * SECTOR == at;
        (is_here && position + frame.sectors as usize * SECTOR <= segment.len()).then_some(frame)
    };
    let frame = (position..segment.len()).step_by(SECTOR).find_map(of_block)?;
    Some(examine(segment, position, salt, frame))
}

/// Whether a block after `sequence` has left anything at `position` or behind it.
pub(crate) fn has_later(segment: &[u8], position: usize, salt: u64, sequence: u64) -> bool {
    let sectors = segment[position..].chunks_exact(SECTOR);
    sectors.filter_map(|sector| Frame::read(salt, sector)).any(|frame| frame.sequence > sequence)
}

/// Looks at every sector of the block that begins at `position` and has a part `frame`.
fn examine(segment: &[u8], position: usize, salt: u64, frame: Frame) -> Found {
    let (parts, sectors) = (frame.parts as usize, frame.sectors as usize);
    let sector = |number: usize| &segment[position + number * SECTOR..position + (number + 1) * SECTOR];
    let data = position + parts * SECTOR..position + (sectors - parts) * SECTOR;
    let bytes = sectors * SECTOR;
    let mut found = Found { bytes, records: None, data, wrong: Vec::new(), unwritten: 0, damaged: 0 };
    let mut body = Vec::with_capacity(parts * PAYLOAD);
    for part in 0..parts {
        let copies = [(false, part), (true, sectors - parts + part)].map(|(is_copy, number)| {
            let sector = sector(number);
            let is_valid = Frame::read(salt, sector) == Some(Frame { is_copy, part: part as u32, ..frame });
            found.judge(is_valid, sector);
            is_valid.then_some(sector)
        });
        if let Some(sector) = copies.into_iter().flatten().next() {
            body.extend_from_slice(&sector[FRAME..]);
        }
    }
    if body.len() == parts * PAYLOAD {
        examine_data(segment, salt, frame.sequence, &body, &mut found);
    }
    found
}

/// Reads a whole body and holds the data against its checksums.
fn examine_data(segment: &[u8], salt: u64, sequence: u64, body: &[u8], found: &mut Found) {
    let mut fields = Fields(body);
    let Some(records) = record::decode(&mut fields) else { return };
    if records.iter().map(Record::data_len).sum::<usize>().div_ceil(SECTOR) * SECTOR != found.data.len() {
        return;
    }
    for (number, at) in found.data.clone().step_by(SECTOR).enumerate() {
        let sector = &segment[at..at + SECTOR];
        let Some(checksum) = fields.u32() else { return };
        let is_valid = checksum == data_checksum(salt, sequence, number, sector);
        found.judge(is_valid, sector);
        if !is_valid {
            found.wrong.push(at..at + SECTOR);
        }
    }
    found.records = Some(records);
}
