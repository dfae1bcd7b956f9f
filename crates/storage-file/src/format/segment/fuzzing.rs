//! What is fuzzed of a segment's header.

use super::{BLOCKS, COPY, SECTOR, SegmentHeader};

/// The sectors before the first block as they are, and with checksums that match: fuzzers do not guess them.
///
/// # Panics
/// When what is read is another header once it is written.
pub(crate) fn header(data: &[u8]) {
    let mut sector = data.to_vec();
    sector.resize(SECTOR, 0);
    let checksum = crc32fast::hash(&sector[4..]);
    sector[..4].copy_from_slice(&checksum.to_le_bytes());
    let mut mended = vec![0; BLOCKS];
    let at = if data.len().is_multiple_of(2) { 0 } else { COPY };
    mended[at..at + SECTOR].copy_from_slice(&sector);
    for bytes in [data, &mended] {
        if let Ok(header) = SegmentHeader::decode(bytes) {
            assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }
    }
}

/// What a header says, without its checksum and the zeros.
pub(crate) fn body(header: &SegmentHeader) -> Vec<u8> {
    header.encode()[..super::LEN].to_vec()
}
