//! What is fuzzed of the identity.

use super::{encode, parse};

/// The file as it is, and with a checksum that matches: fuzzers do not guess them.
///
/// # Panics
/// When what is read is another identity once it is written.
pub fn identity(data: &[u8]) {
    let mut mended = data.to_vec();
    mended.extend_from_slice(format!("checksum = {:08x}\n", crc32fast::hash(data)).as_bytes());
    for bytes in [data, &mended] {
        if let Ok(identity) = parse(bytes) {
            assert_eq!(parse(encode(&identity).as_bytes()), Ok(identity));
        }
    }
}
