//! What is fuzzed of records.

use super::{Change, ENTRY_HEADER, Fields, Record, decode, encode_head, encode_run, entry_checksum, put_count};

/// The records that the bytes begin with, if they do. What is read can be written, and is the same.
///
/// # Panics
/// When it is not.
pub(crate) fn records(bytes: &[u8]) -> Option<Vec<Record>> {
    let records = decode(&mut Fields(bytes))?;
    let mut again = Vec::new();
    encode(&records, &mut again);
    let mut rest = Fields(&again);
    assert_eq!(decode(&mut rest).as_ref(), Some(&records));
    assert!(rest.0.is_empty(), "{} bytes follow {records:?}", rest.0.len());
    Some(records)
}

/// Records as a block has them.
pub(crate) fn encode(records: &[Record], out: &mut Vec<u8>) {
    put_count(out, records.len());
    for record in records {
        let Record { group, truncate_from, hard_state, base, outline, runs } = record;
        let (truncate_from, hard_state) = (*truncate_from, *hard_state);
        let (base, outline) = (base.as_ref(), outline.as_ref());
        encode_head(&Change { truncate_from, hard_state, base, outline, ..Change::new(*group) }, out);
        put_count(out, runs.len());
        runs.iter().for_each(|run| encode_run(run.extent(), out));
    }
}

/// Data for the entries of a record: of zeros, and whole or not.
pub(crate) fn put_data(record: &Record, is_whole: bool, out: &mut Vec<u8>) {
    for run in &record.runs {
        for (index, entry) in (run.first.0..).zip(&run.entries) {
            let (kind, data) = ((entry.0 >> super::KIND_SHIFT) as u8, vec![0; entry.len()]);
            let checksum = entry_checksum(record.group, coracle_core::Index(index), run.term, kind, &data);
            let header: [&[u8]; 3] = [&checksum.to_le_bytes(), &[kind], &(data.len() as u32).to_le_bytes()];
            let header = if is_whole { header.concat() } else { vec![0; ENTRY_HEADER] };
            out.extend_from_slice(&header);
            out.extend_from_slice(&data);
        }
    }
}
