//! The first sectors of a segment: which one it is, twice.

use super::{Fields, SECTOR};

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

const MAGIC: [u8; 4] = *b"CoLS";
const VERSION: u8 = 1;
/// Where the second copy lies.
const COPY: usize = 7 * SECTOR;
/// Where the blocks begin.
pub(crate) const BLOCKS: usize = 8 * SECTOR;
/// Checksum, magic, version, number, first sequence, salt, bytes.
const LEN: usize = 4 + 4 + 1 + 8 * 4;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// One more than the segment's before it.
    pub(crate) number: u64,
    /// The sequence number of its first block.
    pub(crate) first_sequence: u64,
    /// Drawn at random: it enters every checksum of the segment, so that nothing that was stored can pass for a part of the log.
    pub(crate) salt: u64,
    /// The size of the file.
    pub(crate) bytes: u64,
}

impl SegmentHeader {
    /// Everything before the first block.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = vec![0; 4];
        copy.extend_from_slice(&MAGIC);
        copy.push(VERSION);
        for field in [self.number, self.first_sequence, self.salt, self.bytes] {
            copy.extend_from_slice(&field.to_le_bytes());
        }
        copy.resize(SECTOR, 0);
        let checksum = crc32fast::hash(&copy[4..]);
        copy[..4].copy_from_slice(&checksum.to_le_bytes());
        let mut out = vec![0; BLOCKS];
        out[..SECTOR].copy_from_slice(&copy);
        out[COPY..COPY + SECTOR].copy_from_slice(&copy);
        out
    }

    /// Reads one of the copies that is whole; `Err` is a text that says what is wrong.
    pub(crate) fn decode(segment: &[u8]) -> Result<SegmentHeader, String> {
        let copies =
            [0, COPY].map(|at| segment.get(at..at + SECTOR).ok_or("it is cut short".to_owned()).and_then(copy));
        let [first, second] = copies;
        first.or(second)
    }
}

fn copy(sector: &[u8]) -> Result<SegmentHeader, String> {
    let fields = || {
        let mut fields = Fields(&sector[..LEN]);
        let checksum = fields.u32()?;
        let (magic, version) = (fields.bytes(4)?, fields.u8()?);
        let header = SegmentHeader {
            number: fields.u64()?,
            first_sequence: fields.u64()?,
            salt: fields.u64()?,
            bytes: fields.u64()?,
        };
        Some((checksum, magic, version, header))
    };
    let Some((checksum, magic, version, header)) = fields() else { return Err("it is cut short".into()) };
    if magic != MAGIC {
        return Err(format!("its header begins with {magic:02x?}, expected {MAGIC:02x?}"));
    }
    if checksum != crc32fast::hash(&sector[4..]) {
        return Err("the checksum of its header does not match".into());
    }
    if version != VERSION {
        return Err(format!("it is of version {version}, this build reads version {VERSION}"));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_stands_for_the_other() {
        let header = SegmentHeader { number: 3, first_sequence: 70, salt: 0xabcd, bytes: 65536 };
        let whole = header.encode();
        assert_eq!(SegmentHeader::decode(&whole), Ok(header));
        for at in 0..BLOCKS {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            assert_eq!(SegmentHeader::decode(&damaged), Ok(header), "byte {at} was flipped");
            if at < SECTOR {
                damaged[at + COPY] ^= 1;
                assert!(SegmentHeader::decode(&damaged).is_err(), "byte {at} was flipped in both");
            }
        }
    }
}
