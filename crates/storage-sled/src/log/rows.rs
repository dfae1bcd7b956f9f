//! Entries as rows of a tree.
//!
//! A block is a run in the core's encoding, with a checksum for each entry.
//! Small entries share a block as long as it fits into one row; a larger entry is a block of its own, in as many rows as it takes.
//! Key: `e`, the block's first index (u64 BE), the row's number within the block (u32 BE).

use bytes::Bytes;
use coracle_core::{DecodeError, Index, Run, decode_runs, encode_runs, encoded_len, salvage_run};
use coracle_storage::{Result, StorageError};
use sled::{Batch, IVec};

use crate::{ROW_BYTES_MAX, engine::Engine};

const PREFIX: u8 = b'e';
const KEY_BYTES: usize = 1 + 8 + 4;
/// How many bytes of a block fit into a row.
const BLOCK_BYTES_MAX: usize = ROW_BYTES_MAX - KEY_BYTES;

pub(super) type Key = [u8; KEY_BYTES];

fn key(first: Index, row: u32) -> Key {
    let mut key = [PREFIX; KEY_BYTES];
    key[1..9].copy_from_slice(&first.0.to_be_bytes());
    key[9..].copy_from_slice(&row.to_be_bytes());
    key
}

/// Below every block.
pub(super) fn start() -> Key {
    key(Index::ZERO, 0)
}

/// All rows from the block at `first` on; as an end, all before it.
pub(super) fn from(first: Index) -> Key {
    key(first, 0)
}

/// Whether a key is that of a row.
pub(super) fn is_row(key: &[u8]) -> bool {
    key.first() == Some(&PREFIX)
}

/// Adds rows for `runs`, and says how many.
pub(super) fn append(changes: &mut Batch, runs: &[Run]) -> usize {
    let (mut buffer, mut count) = (Vec::new(), 0);
    for run in runs {
        let mut rest = Some(run.clone());
        while let Some(run) = rest {
            let block = block(&run);
            rest = run.slice(block.last().next(), Index::MAX);
            buffer.clear();
            encode_runs(std::slice::from_ref(&block), &mut buffer);
            for (row, bytes) in (0..).zip(buffer.chunks(BLOCK_BYTES_MAX)) {
                changes.insert(&key(block.first(), row), bytes);
                count += 1;
            }
        }
    }
    count
}

/// The first entries of a run: as many as fit into one row, at least one.
fn block(run: &Run) -> Run {
    let mut size = encoded_len(std::slice::from_ref(run)) - run.size();
    let fitting = run.entries().iter().take_while(|entry| {
        size += entry.size();
        size <= BLOCK_BYTES_MAX
    });
    let count = fitting.count().max(1) as u64;
    run.slice(run.first(), run.first().plus(count - 1)).unwrap_or_else(|| run.clone())
}

/// Reads a block; `Err` is the first index that is damaged.
pub(super) fn decode(first: Index, block: Bytes) -> std::result::Result<Run, Index> {
    let runs = decode_runs(block).map_err(|error| match error {
        DecodeError::Checksum { index } => index,
        _ => first,
    })?;
    match <[Run; 1]>::try_from(runs) {
        Ok([run]) if run.first() == first => Ok(run),
        _ => Err(first),
    }
}

/// What is whole of a block, which need not be all of it.
pub(super) fn whole(first: Index, block: Bytes) -> Vec<Run> {
    match decode(first, block.clone()) {
        Ok(run) => vec![run],
        Err(_) => salvage_run(block),
    }
}

/// Where the block begins in which `index` lies, if it is there.
pub(super) fn block_of(engine: &Engine, tree: &sled::Tree, index: Index) -> Result<Option<Index>> {
    let found = engine.run("read the log", || tree.get_lt(key(index.next(), 0)))?;
    match found {
        Some((found, _)) if is_row(&found) => Ok(Some(parse(engine, &found)?.0)),
        _ => Ok(None),
    }
}

fn parse(engine: &Engine, key: &[u8]) -> Result<(Index, u32)> {
    let parts = key.split_first_chunk::<1>().and_then(|(_, rest)| rest.split_first_chunk::<8>());
    let parts = parts.and_then(|(first, row)| Some((first, row.try_into().ok()?)));
    let Some((first, row)) = parts else {
        let what = format!("a key of the log has {} bytes, expected {KEY_BYTES}", key.len());
        return Err(StorageError::damaged(engine.place(), what));
    };
    Ok((Index(u64::from_be_bytes(*first)), u32::from_be_bytes(row)))
}

/// The blocks of a log, in order.
pub(super) struct Blocks<'a> {
    engine: &'a Engine,
    rows: sled::Iter,
    /// The first row of the block after the last.
    ahead: Option<(Index, IVec)>,
}

impl<'a> Blocks<'a> {
    /// The blocks from the one at `first` on.
    pub(super) fn new(engine: &'a Engine, tree: &sled::Tree, first: Index) -> Blocks<'a> {
        Blocks { engine, rows: tree.range(from(first)..[PREFIX + 1; KEY_BYTES]), ahead: None }
    }

    /// The next block, as it is stored.
    pub(super) fn next(&mut self) -> Result<Option<(Index, Bytes)>> {
        let head = match self.ahead.take() {
            Some(row) => Some(row),
            None => self.row()?,
        };
        let Some((first, head)) = head else { return Ok(None) };
        let mut block: Option<Vec<u8>> = None;
        while let Some((index, row)) = self.row()? {
            if index != first {
                self.ahead = Some((index, row));
                break;
            }
            block.get_or_insert_with(|| head.to_vec()).extend_from_slice(&row);
        }
        Ok(Some((first, block.map_or_else(|| Bytes::copy_from_slice(&head), Bytes::from))))
    }

    fn row(&mut self) -> Result<Option<(Index, IVec)>> {
        let Blocks { engine, rows, .. } = self;
        let Some((key, value)) = engine.run("read the log", || rows.next().transpose())? else { return Ok(None) };
        Ok(Some((parse(engine, &key)?.0, value)))
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Entry, Term};

    use super::*;

    #[test]
    fn a_key_has_exactly_these_bytes() {
        assert_eq!(key(Index(0x0102), 3), [b'e', 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
    }

    #[test]
    fn a_block_fits_into_a_row_or_is_one_entry() {
        for size in [0, 1, 100, 7_120, 7_121, 7_122, 50_000] {
            let run = Run::new(Index(5), Term(2), vec![Entry::command(vec![7; size]); 300]);
            let block = block(&run);
            let len = encoded_len(std::slice::from_ref(&block));
            assert!(len <= BLOCK_BYTES_MAX || block.len() == 1, "{size} bytes each: {len}");
            if let Some(more) = run.slice(run.first(), block.last().next()).filter(|more| more.len() > block.len()) {
                assert!(encoded_len(&[more]) > BLOCK_BYTES_MAX, "one more entry of {size} bytes would have fitted");
            }
        }
    }
}
