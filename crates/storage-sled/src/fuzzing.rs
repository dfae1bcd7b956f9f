//! What is fuzzed of the store; not part of the interface.

use std::{collections::BTreeMap, fmt::Debug};

use coracle_core::{Base, GroupId, SnapshotMeta};
use serde::{Serialize, de::DeserializeOwned};

pub use crate::log::fuzzing::{log, log_seeds};
use coracle_storage::files::identity;

use crate::{codec, kv, mark::Mark};

/// Records, the identity and rows; the first byte says which. What is read can be written, and is the same.
///
/// # Panics
/// When it is not.
pub fn records(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 5 {
        0 => identity::fuzzing::identity(rest),
        1 => record::<BTreeMap<GroupId, Mark>>(b"marks", rest),
        2 => record::<SnapshotMeta>(b"snapshot", rest),
        3 => record::<Base>(b"b", rest),
        _ => kv::fuzzing::row(rest),
    }
}

/// A record as it is, and one whose checksum is made to match: fuzzers do not guess them.
fn record<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &[u8], data: &[u8]) {
    for bytes in [data.to_vec(), sealed(name, data)] {
        let Ok(value) = codec::open::<T>(name, &bytes) else { continue };
        let mut again = Vec::new();
        assert!(codec::seal(name, &value, &mut again).is_ok());
        // Maps are sorted, whatever they were read from.
        assert_eq!(codec::open(name, &again), Ok(value));
    }
}

/// `body` as the record of that name.
pub(crate) fn sealed(name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(body);
    [&[codec::VERSION], &hasher.finalize().to_le_bytes()[..], body].concat()
}

/// The bytes of a record, without what seals it.
///
/// # Panics
/// When it cannot be encoded.
pub fn body(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(codec::seal(b"", value, &mut bytes).is_ok());
    bytes.split_off(5)
}
