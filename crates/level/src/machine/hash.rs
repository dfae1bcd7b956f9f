//! A hash over the state that all replicas share.

use coracle_storage::{KvStore, Result};

use super::{
    layout::{self, KeyRange},
    read::{self, PageLimits},
    sessions::Sessions,
};

/// FNV-1a, 64 bits: the same on every machine and in every build.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        // The length first, so that no two lists of fields are the same bytes.
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The hash of the current values, the sessions and their replies: all that the log decides, and nothing else.
pub(super) fn state(kv: &dyn KvStore, sessions: &Sessions) -> Result<u64> {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for (row, bytes) in sessions.rows() {
        hash.add(&row);
        hash.add(&bytes);
    }
    let limits = PageLimits { entries: 4096, bytes: 4 << 20, values: true };
    let mut rest = KeyRange::ALL;
    loop {
        let page = read::page(kv, None, &rest, false, limits)?;
        for (key, value) in &page.entries {
            hash.add(key);
            hash.add(&layout::encode_value(value));
        }
        match page.entries.last() {
            Some((last, _)) if page.more => rest = rest.split(last, false).1,
            _ => return Ok(hash.0),
        }
    }
}
