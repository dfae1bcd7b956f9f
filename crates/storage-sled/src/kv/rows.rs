//! How keys and values lie in a tree.
//!
//! Three ranges, told apart by the first byte of a row's key: 0 the state, 1 the user's keys as they are, 2 the parts of values that do not fit beside their key.
//! A user's key is followed by nothing and its parts lie elsewhere, so the order of keys is the user's, whatever their bytes.
//! A row under a user's key: `version u8, kind u8, CRC-32 u32 LE of key and value`, then the value (kind 0), or `id u64 LE, length u64 LE` (kind 1).
//! A part: key `2, id u64 BE, number u32 BE`, value the bytes.

use coracle_core::Index;
use coracle_storage::{Result, StorageError};
use serde::{Deserialize, Serialize};
use sled::Batch;

use crate::{ROW_BYTES_MAX, codec};

pub(super) const STATE: &[u8] = &[0];
/// Everything but the state.
pub(super) const DATA_START: &[u8] = &[1];
pub(super) const KEYS_START: &[u8] = &[1];
pub(super) const KEYS_END: &[u8] = &[2];
pub(super) const VALUES_END: &[u8] = &[3];
const VALUES: u8 = 2;

const PART_KEY_BYTES: usize = 1 + 8 + 4;
/// How many bytes of a value a part holds.
pub(super) const PART_BYTES: usize = ROW_BYTES_MAX - PART_KEY_BYTES;
/// Version, kind, checksum.
const HEADER: usize = 1 + 1 + 4;
/// sled's index pages hold up to 256 keys, and must stay below a quarter of a segment.
const KEY_BYTES_MAX: usize = 6 * 1024;
const VALUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The applied index; `None` while the data is being replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) applied: Option<Index>,
}

impl Default for State {
    fn default() -> State {
        State { applied: Some(Index::ZERO) }
    }
}

pub(super) fn put_state(changes: &mut Batch, state: &State) -> Result<()> {
    let mut record = Vec::new();
    codec::seal(STATE, state, &mut record)?;
    changes.insert(STATE, record);
    Ok(())
}

pub(super) fn check_limits(key: &[u8], value: &[u8]) -> Result<()> {
    let check = |what, len, max| {
        if len <= max {
            Ok(())
        } else {
            Err(StorageError::Invalid(format!("a {what} of {len} bytes; this store takes {max}")))
        }
    };
    check("key", key.len(), KEY_BYTES_MAX)?;
    check("value", value.len(), VALUE_BYTES_MAX)
}

/// The row's key of a user's key.
pub(super) fn key(key: &[u8]) -> Vec<u8> {
    [KEYS_START, key].concat()
}

/// The row's key of a part.
pub(super) fn value_key(id: u64, number: u32) -> [u8; PART_KEY_BYTES] {
    let mut key = [VALUES; PART_KEY_BYTES];
    key[1..9].copy_from_slice(&id.to_be_bytes());
    key[9..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Whose part a row is, if it is one.
pub(super) fn value_id(key: &[u8]) -> Option<u64> {
    let (first, rest) = key.split_first()?;
    let id = rest.first_chunk::<8>()?;
    (*first == VALUES).then(|| u64::from_be_bytes(*id))
}

/// How many parts a value of `len` bytes has.
pub(super) fn count(len: u64) -> u32 {
    u32::try_from(len.div_ceil(PART_BYTES as u64)).unwrap_or(u32::MAX)
}

pub(super) fn fits_inline(key: &[u8], value: &[u8]) -> bool {
    KEYS_START.len() + key.len() + HEADER + value.len() <= ROW_BYTES_MAX
}

pub(super) fn inline(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut row = header(0, key, value, value.len());
    row.extend_from_slice(value);
    row
}

pub(super) fn apart(key: &[u8], value: &[u8], id: u64) -> Vec<u8> {
    let mut row = header(1, key, value, 16);
    row.extend_from_slice(&id.to_le_bytes());
    row.extend_from_slice(&(value.len() as u64).to_le_bytes());
    row
}

fn header(kind: u8, key: &[u8], value: &[u8], more: usize) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEADER + more);
    row.extend_from_slice(&[codec::VERSION, kind]);
    row.extend_from_slice(&checksum(key, value).to_le_bytes());
    row
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// What a row under a user's key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row<'a> {
    /// The value is here.
    Inline { checksum: u32, value: &'a [u8] },
    /// The value lies in parts.
    Apart { checksum: u32, id: u64, len: u64 },
}

impl<'a> Row<'a> {
    /// Reads a row; `Err` is a text that says what is wrong.
    pub(super) fn parse(row: &'a [u8]) -> std::result::Result<Row<'a>, String> {
        let Some(([version, kind, checksum @ ..], rest)) = row.split_first_chunk::<HEADER>() else {
            return Err(format!("{} bytes, expected at least {HEADER}", row.len()));
        };
        if *version != codec::VERSION {
            return Err(format!("version {version}, this build reads version {}", codec::VERSION));
        }
        let checksum = u32::from_le_bytes(*checksum);
        match (kind, rest.split_first_chunk::<8>()) {
            (0, _) => Ok(Row::Inline { checksum, value: rest }),
            (1, Some((id, len))) if len.len() == 8 => {
                let len = u64::from_le_bytes(len.try_into().map_err(|_| "a length of 8 bytes is missing")?);
                if len > VALUE_BYTES_MAX as u64 {
                    return Err(format!("{len} bytes, at most {VALUE_BYTES_MAX} are kept"));
                }
                Ok(Row::Apart { checksum, id: u64::from_le_bytes(*id), len })
            }
            (kind, _) => Err(format!("{} bytes of the kind {kind}, which is unknown", rest.len())),
        }
    }

    /// Checks what was read as the value of `key`.
    pub(super) fn check(&self, key: &[u8], value: &[u8]) -> std::result::Result<(), String> {
        let expected = match self {
            Row::Inline { checksum, .. } | Row::Apart { checksum, .. } => *checksum,
        };
        if checksum(key, value) == expected { Ok(()) } else { Err("it does not match its checksum".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::hex;

    #[test]
    fn rows_have_exactly_these_bytes() {
        assert_eq!(key(b"k"), b"\x01k");
        assert_eq!(hex(&inline(b"k", b"value")), "0200f8532eb576616c7565");
        assert_eq!(hex(&apart(b"k", &[7; 300], 5)), "0201f70735b905000000000000002c01000000000000");
        assert_eq!(value_key(5, 1), [2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1]);
        assert_eq!(value_id(&value_key(5, 1)), Some(5));
        let mut record = Vec::new();
        codec::seal(STATE, &State { applied: Some(Index(9)) }, &mut record).unwrap();
        assert_eq!(hex(&record), "021e67beeb010900000000000000");
        codec::seal(STATE, &State { applied: None }, &mut record).unwrap();
        assert_eq!(hex(&record), "02ff12d94100");
    }

    #[test]
    fn damage_is_told() {
        let value = vec![7; 30];
        for row in [inline(b"k", &value), apart(b"k", &value, 5)] {
            let whole = Row::parse(&row).unwrap();
            assert_eq!(whole.check(b"k", &value), Ok(()));
            assert!(whole.check(b"j", &value).is_err(), "another key's row");
            for at in 0..HEADER {
                let mut damaged = row.clone();
                damaged[at] ^= 0x40;
                let found = Row::parse(&damaged).and_then(|row| row.check(b"k", &value));
                assert!(found.is_err(), "byte {at} was flipped");
                assert!(Row::parse(&row[..at]).is_err(), "cut after {at} bytes");
            }
        }
    }

    #[test]
    fn what_is_too_long_names_the_limit() {
        let error = check_limits(&[0; KEY_BYTES_MAX + 1], b"").unwrap_err().to_string();
        assert!(error.contains("6144"), "{error}");
        assert!(check_limits(&[0; KEY_BYTES_MAX], b"").is_ok());
    }
}
