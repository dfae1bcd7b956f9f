//! What is fuzzed of what a server answers; not part of the interface.

use std::fmt::Debug;

use coracle_core::{Base, Index};
use coracle_storage::Identity;
use serde::{Serialize, de::DeserializeOwned};

use crate::codec;
pub use crate::{
    log::fuzzing::{log_fields, row_bytes, rows},
    snapshot::fuzzing::catalog,
};

/// Records; the first byte says which. What is read can be written, and is the same.
///
/// # Panics
/// When it is not.
pub fn records(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 5 {
        0 => record::<Identity>("identity", rest),
        1 => record::<Base>("start", rest),
        2 => log_fields(rest),
        3 => catalog(rest),
        _ => record::<(Vec<(Index, u64)>, Option<Vec<Index>>)>("outline", rest),
    }
}

/// A record as it is, and one whose checksum is made to match: fuzzers do not guess them.
pub(crate) fn record<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, data: &[u8]) {
    for bytes in [data.to_vec(), sealed(name, data)] {
        if let Ok(value) = codec::open::<T>(name, &bytes) {
            // Maps are sorted, whatever they were read from.
            let again = codec::seal(name, &value).map_err(|error| error.to_string());
            assert_eq!(again.and_then(|again| codec::open(name, &again)), Ok(value));
        }
    }
}

/// `body` as the record of that name.
pub(crate) fn sealed(name: &str, body: &[u8]) -> Vec<u8> {
    let mut out = vec![codec::VERSION];
    out.extend_from_slice(&codec::checksum(name, body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// The bytes of a record, without what seals it.
///
/// # Panics
/// When it cannot be encoded.
pub fn body(value: &impl Serialize) -> Vec<u8> {
    let Ok(mut bytes) = codec::seal("", value) else { panic!("a seed does not encode") };
    bytes.split_off(5)
}
