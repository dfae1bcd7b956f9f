//! The bytes of small records: a version, a checksum, and bincode's fixed-width encoding.
//!
//! `version u8, CRC-32 u32 LE, body`; the checksum is over the name under which the record is kept and the body, so that a record in another's place does not pass.

use crate::{Result, StorageError};
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::{Serialize, de::DeserializeOwned};

/// The version of all records, their first byte.
pub const VERSION: u8 = 2;
/// Version and checksum.
const HEADER: usize = 1 + 4;
/// No record is larger: a forged length reserves no more.
const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

type Config = Configuration<LittleEndian, Fixint, Limit<RECORD_BYTES_MAX>>;

const CONFIG: Config = bincode::config::legacy().with_limit::<RECORD_BYTES_MAX>();

/// Writes a record to `out`, replacing what is there.
///
/// # Errors
/// When it is too large, or cannot be encoded.
pub fn seal(name: &[u8], value: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    out.resize(HEADER, VERSION);
    bincode::serde::encode_into_std_write(value, out, CONFIG)
        .map_err(|error| StorageError::Invalid(format!("a record cannot be encoded: {error}")))?;
    if out.len() > RECORD_BYTES_MAX {
        let len = out.len();
        return Err(StorageError::Invalid(format!("a record of {len} bytes, at most {RECORD_BYTES_MAX} are kept")));
    }
    let checksum = checksum(name, &out[HEADER..]);
    out[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// Reads what [`seal`] wrote; `Err` is a text that says what is wrong.
///
/// # Errors
/// When the bytes are anything else.
pub fn open<T: DeserializeOwned>(name: &[u8], bytes: &[u8]) -> std::result::Result<T, String> {
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

fn checksum(name: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_record_has_exactly_these_bytes() {
        let mut out = vec![9; 100];
        seal(b"n", &(7_u64, Some(1_u16)), &mut out).unwrap();
        assert_eq!(out[..1], [2]);
        assert_eq!(out[HEADER..], [7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
        assert_eq!(open::<(u64, Option<u16>)>(b"n", &out), Ok((7, Some(1))));
    }

    #[test]
    fn other_bytes_are_refused_with_a_reason() {
        let mut out = Vec::new();
        seal(b"n", &(7_u64, 8_u64), &mut out).unwrap();
        for at in 0..out.len() {
            let mut damaged = out.clone();
            damaged[at] ^= 0x10;
            assert!(open::<(u64, u64)>(b"n", &damaged).is_err(), "byte {at} was flipped");
            assert!(open::<(u64, u64)>(b"n", &out[..at]).is_err(), "cut after {at} bytes");
        }
        assert!(open::<(u64, u64)>(b"m", &out).unwrap_err().contains("checksum"));
        assert!(open::<u64>(b"n", &out).unwrap_err().contains("8 bytes follow"));
    }
}
