//! What is fuzzed of snapshots.

use super::{Catalog, FIELD};
use crate::fuzzing::record;

/// The record of which snapshots there are.
///
/// # Panics
/// When it is another one once it is written.
pub fn catalog(data: &[u8]) {
    record::<Catalog>(FIELD, data);
}
