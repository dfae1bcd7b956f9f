//! What is fuzzed of rows.

use super::rows::{Row, apart, inline, value_id, value_key};

/// A row under a user's key: what passes its checksum is what was written. The key has the length of the first byte.
pub(crate) fn row(data: &[u8]) {
    if let Some(id) = value_id(data) {
        assert!(value_key(id, 0).starts_with(&data[..9]));
    }
    let Some((len, rest)) = data.split_first() else { return };
    let (key, bytes) = rest.split_at(rest.len().min(usize::from(*len)));
    match Row::parse(bytes) {
        Ok(row @ Row::Inline { value, .. }) if row.check(key, value).is_ok() => {
            assert_eq!(inline(key, value), bytes);
        }
        Ok(Row::Apart { id, len, .. }) => assert_eq!(apart(key, &[], id)[6..14], bytes[6..14], "{len}"),
        _ => {}
    }
    let written = inline(key, bytes);
    let passes = Row::parse(&written).and_then(|row| row.check(key, bytes));
    assert_eq!(passes, Ok(()));
}
