//! What is fuzzed of the mark.

use super::{SECTOR, decode, encode};

/// A slot as it is, and with a checksum that matches: fuzzers do not guess them.
///
/// # Panics
/// When what is read is another block once it is written.
pub(crate) fn slot(data: &[u8]) {
    let mut mended = data.to_vec();
    mended.resize(SECTOR, 0);
    let checksum = crc32fast::hash(&mended[4..]);
    mended[..4].copy_from_slice(&checksum.to_le_bytes());
    for slot in [data, &mended] {
        // A file of any other size is made anew before it is read.
        if let Some(sequence) = (slot.len() == SECTOR).then(|| decode(slot)).flatten() {
            assert_eq!(decode(&encode(sequence)), Some(sequence));
        }
    }
}

/// What a slot says, without the zeros.
pub(crate) fn body(sequence: u64) -> Vec<u8> {
    encode(sequence)[..16].to_vec()
}
