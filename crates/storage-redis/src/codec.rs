//! The bytes of small records: a version, a checksum over the record's name and its body, and bincode's fixed-width encoding.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use coracle_storage::{Result, StorageError};
use serde::{Serialize, de::DeserializeOwned};

/// The version of all records and rows, their first byte.
pub(crate) const VERSION: u8 = 2;
/// Version and checksum.
const HEADER: usize = 1 + 4;
/// No record is larger: a forged length reserves no more.
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

type Config = Configuration<LittleEndian, Fixint, Limit<RECORD_BYTES_MAX>>;

const CONFIG: Config = bincode::config::legacy().with_limit::<RECORD_BYTES_MAX>();

/// The bytes of a record that is kept under `name`.
pub(crate) fn seal(name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut out = vec![VERSION; HEADER];
    bincode::serde::encode_into_std_write(value, &mut out, CONFIG)
        .map_err(|error| StorageError::Invalid(format!("the record \"{name}\" cannot be encoded: {error}")))?;
    if out.len() > RECORD_BYTES_MAX {
        return Err(StorageError::Invalid(format!(
            "the record \"{name}\" has {} bytes, at most {RECORD_BYTES_MAX} are kept",
            out.len()
        )));
    }
    let checksum = checksum(name, &out[HEADER..]);
    out[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

/// Reads what [`seal`] made; `Err` is a text that says what is wrong.
pub(crate) fn open<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> std::result::Result<T, String> {
    let Some((header, body)) = bytes.split_at_checked(HEADER) else {
        return Err(format!("{} bytes, expected at least {HEADER}", bytes.len()));
    };
    if header[0] != VERSION {
        return Err(format!("version {}, this build reads version {VERSION}", header[0]));
    }
    if header[1..] != checksum(name, body).to_le_bytes() {
        return Err("the checksum does not match".into());
    }
    let (value, consumed) =
        bincode::serde::decode_from_slice(body, CONFIG).map_err(|error| format!("does not decode: {error}"))?;
    if consumed != body.len() {
        return Err(format!("{} bytes follow the record", body.len() - consumed));
    }
    Ok(value)
}

pub(crate) fn checksum(name: &str, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_exactly_these_bytes() {
        let record = seal("n", &(7_u64, Some(1_u16))).unwrap();
        assert_eq!(record[..1], [2]);
        assert_eq!(record[HEADER..], [7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(open::<(u64, Option<u16>)>("n", &record), Ok((7, Some(1))));
    }

    #[test]
    fn other_bytes_are_refused_with_a_reason() {
        let record = seal("n", &(7_u64, 8_u64)).unwrap();
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 0x10;
            assert!(open::<(u64, u64)>("n", &damaged).is_err(), "byte {at} was flipped");
            assert!(open::<(u64, u64)>("n", &record[..at]).is_err(), "cut after {at} bytes");
        }
        assert!(open::<(u64, u64)>("m", &record).unwrap_err().contains("checksum"));
        assert!(open::<u64>("n", &record).unwrap_err().contains("8 bytes follow"));
    }
}
