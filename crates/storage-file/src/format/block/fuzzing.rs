//! Blocks that say what nobody would write.

use super::{Encoder, SECTOR};

/// The block whose body has these records, with checksums that match: fuzzers do not guess them.
pub(crate) fn forge(salt: u64, sequence: u64, records: &[u8], data: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder { body: records.to_vec(), ..Encoder::default() };
    encoder.lay_out(data.len());
    encoder.block.resize(encoder.parts * SECTOR, 0);
    encoder.block.extend_from_slice(data);
    encoder.seal(salt, sequence).to_vec()
}
