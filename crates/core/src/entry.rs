//! Entries, and the runs in which they travel.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;

use bytes::{Buf, BufMut, Bytes};

use crate::{Index, Term};

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A new leader's first entry (Raft §8).
    Noop = 0,
    /// A command of the state machine.
    Command = 1,
    /// A [`Membership`](crate::Membership), encoded.
    Membership = 2,
}

/// One entry of the log; its index and term are its run's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What it is for.
    pub kind: EntryKind,
    /// The command, or the encoded membership; empty for a no-op.
    pub data: Bytes,
}

impl Entry {
    /// A leader's first entry.
    pub fn noop() -> Entry {
        Entry { kind: EntryKind::Noop, data: Bytes::new() }
    }

    /// A command.
    pub fn command(data: impl Into<Bytes>) -> Entry {
        Entry { kind: EntryKind::Command, data: data.into() }
    }

    /// What it counts against limits in bytes: its data and what surrounds it when encoded.
    pub fn size(&self) -> usize {
        ENTRY_HEADER + self.data.len()
    }
}

/// Consecutive entries of one term, sealed: cloning and slicing share them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Run {
    first: Index,
    term: Term,
    entries: Arc<[Entry]>,
    start: usize,
    end: usize,
    /// The sum of the sizes of the entries from `start` to `end`: it is asked for by everyone whom the run passes.
    size: usize,
}

impl Run {
    /// Seals `entries`, the first of which is at `first`.
    ///
    /// # Panics
    /// If `entries` is empty.
    pub fn new(first: Index, term: Term, entries: impl Into<Arc<[Entry]>>) -> Run {
        let entries = entries.into();
        assert!(!entries.is_empty(), "a run has at least one entry");
        let (end, size) = (entries.len(), size_of(&entries));
        Run { first, term, entries, start: 0, end, size }
    }

    /// The index of the first entry.
    pub fn first(&self) -> Index {
        self.first
    }

    /// The index of the last entry.
    pub fn last(&self) -> Index {
        self.first.plus(self.len() as u64 - 1)
    }

    /// The term of all its entries.
    pub fn term(&self) -> Term {
        self.term
    }

    /// How many entries it has: at least one.
    #[allow(clippy::len_without_is_empty, reason = "a run is never empty")]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Its entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries[self.start..self.end]
    }

    /// Its entries with their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (Index, &Entry)> {
        self.entries().iter().enumerate().map(|(i, entry)| (self.first.plus(i as u64), entry))
    }

    /// The part from `from` to `to`, both included; `None` when nothing of it is there.
    pub fn slice(&self, from: Index, to: Index) -> Option<Run> {
        let (first, start, end, size) = self.part(from, to)?;
        Some(Run { first, term: self.term, entries: self.entries.clone(), start, end, size })
    }

    /// Like [`slice`](Run::slice), without counting another reference to the entries.
    pub(crate) fn into_slice(mut self, from: Index, to: Index) -> Option<Run> {
        (self.first, self.start, self.end, self.size) = self.part(from, to)?;
        Some(self)
    }

    /// Where the part from `from` to `to` begins, as an index and in `entries`, where it ends there, and its size.
    fn part(&self, from: Index, to: Index) -> Option<(Index, usize, usize, usize)> {
        let (from, to) = (from.max(self.first), to.min(self.last()));
        if from > to {
            return None;
        }
        let start = self.start + (from.0 - self.first.0) as usize;
        let end = start + (to.0 - from.0) as usize + 1;
        let is_whole = end - start == self.len();
        Some((from, start, end, if is_whole { self.size } else { size_of(&self.entries[start..end]) }))
    }

    /// The sum of its entries' sizes, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether `self` continues `earlier` without a gap and in an order that a log can have.
    pub fn follows(&self, earlier: &Run) -> bool {
        self.first == earlier.last().next() && self.term >= earlier.term
    }
}

fn size_of(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::size).sum()
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}@{}", self.first, self.last(), self.term)
    }
}

/// The version of the encoding, its first byte.
const VERSION: u8 = 1;
/// Version, number of runs.
const BLOCK_HEADER: usize = 1 + 4;
/// First index, term, number of entries.
const RUN_HEADER: usize = 8 + 8 + 4;
/// Checksum, kind, length of the data.
const ENTRY_HEADER: usize = 4 + 1 + 4;

/// Why bytes are not a block of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The block is of another version.
    #[error("the entries are encoded in version {found}; this build reads version 1")]
    Version {
        /// The version found.
        found: u8,
    },
    /// The block ends too early.
    #[error("the entries end too early")]
    Truncated,
    /// Bytes follow the block.
    #[error("{bytes} bytes follow the entries")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A kind that this build does not know.
    #[error("an entry has the unknown kind {kind}")]
    Kind {
        /// The kind found.
        kind: u8,
    },
    /// An entry whose bytes are not those that were written.
    #[error("the entry at {index} does not match its checksum")]
    Checksum {
        /// Where it is.
        index: Index,
    },
    /// Indexes or terms that no log can have.
    #[error("the entries do not follow each other at {index}")]
    Order {
        /// Where the order breaks.
        index: Index,
    },
    /// A membership that does not decode.
    #[error("the membership does not decode")]
    Membership,
}

/// How many bytes [`encode_runs`] writes for `runs`.
pub fn encoded_len(runs: &[Run]) -> usize {
    BLOCK_HEADER + runs.iter().map(|run| RUN_HEADER + run.size()).sum::<usize>()
}

/// Appends the encoding of `runs` to `out`: the same bytes on wire and disk, integers little-endian.
///
/// `version u8, runs u32`, then for each run `first u64, term u64, entries u32`, then for each entry `checksum u32, kind u8, length u32, data`.
/// The checksum (CRC-32, IEEE) covers index, term, kind, length and data, so that an entry in the wrong place does not pass either.
pub fn encode_runs(runs: &[Run], out: &mut impl BufMut) {
    out.put_u8(VERSION);
    out.put_u32_le(runs.len() as u32);
    for run in runs {
        out.put_u64_le(run.first.0);
        out.put_u64_le(run.term.0);
        out.put_u32_le(run.len() as u32);
        for (index, entry) in run.iter() {
            out.put_u32_le(checksum(index, run.term, entry.kind as u8, &entry.data));
            out.put_u8(entry.kind as u8);
            out.put_u32_le(entry.data.len() as u32);
            out.put_slice(&entry.data);
        }
    }
}

/// Reads what [`encode_runs`] wrote; the entries' data are slices of `bytes`.
///
/// # Errors
/// When `bytes` is anything else than one whole block, or an entry's checksum does not match.
pub fn decode_runs(mut bytes: Bytes) -> Result<Vec<Run>, DecodeError> {
    need(&bytes, BLOCK_HEADER)?;
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(DecodeError::Version { found: version });
    }
    let count = bytes.get_u32_le() as usize;
    // A run takes at least its headers: a forged count reserves no more than the block's own size.
    if count > bytes.len() / (RUN_HEADER + ENTRY_HEADER) {
        return Err(DecodeError::Truncated);
    }
    let mut runs: Vec<Run> = Vec::with_capacity(count);
    for _ in 0..count {
        let run = decode_run(&mut bytes)?;
        if runs.last().is_some_and(|earlier| !run.follows(earlier)) {
            return Err(DecodeError::Order { index: run.first });
        }
        runs.push(run);
    }
    if !bytes.is_empty() {
        return Err(DecodeError::Trailing { bytes: bytes.len() });
    }
    Ok(runs)
}

/// The entries of a damaged block of one run that are whole, by their checksums: consecutive ones together. Index and term are covered by each checksum, so they are what was written.
pub fn salvage_run(mut bytes: Bytes) -> Vec<Run> {
    if bytes.len() < BLOCK_HEADER + RUN_HEADER || bytes[0] != VERSION {
        return Vec::new();
    }
    bytes.advance(BLOCK_HEADER);
    let (first, term) = (Index(bytes.get_u64_le()), Term(bytes.get_u64_le()));
    let count = (bytes.get_u32_le() as usize).min(bytes.len() / ENTRY_HEADER);
    if first == Index::ZERO || first > Index::MAX || term.0 == 0 || term > Term::MAX {
        return Vec::new();
    }
    let mut stretches: Vec<(Index, Vec<Entry>)> = Vec::new();
    for index in (0..count as u64).map(|i| first.plus(i)) {
        match decode_entry(&mut bytes, index, term) {
            Ok(entry) => match stretches.last_mut() {
                Some((start, entries)) if start.plus(entries.len() as u64) == index => entries.push(entry),
                _ => stretches.push((index, [entry].into())),
            },
            Err(DecodeError::Truncated) => break,
            Err(_) => {}
        }
    }
    stretches.into_iter().map(|(start, entries)| Run::new(start, term, entries)).collect()
}

fn decode_run(bytes: &mut Bytes) -> Result<Run, DecodeError> {
    need(bytes, RUN_HEADER)?;
    let first = Index(bytes.get_u64_le());
    let term = Term(bytes.get_u64_le());
    let count = bytes.get_u32_le() as usize;
    if count > bytes.len() / ENTRY_HEADER {
        return Err(DecodeError::Truncated);
    }
    if count == 0 || first == Index::ZERO || first > Index::MAX || term.0 == 0 || term > Term::MAX {
        return Err(DecodeError::Order { index: first });
    }
    let mut entries = Vec::with_capacity(count);
    for i in 0..count {
        entries.push(decode_entry(bytes, first.plus(i as u64), term)?);
    }
    Ok(Run::new(first, term, entries))
}

fn decode_entry(bytes: &mut Bytes, index: Index, term: Term) -> Result<Entry, DecodeError> {
    need(bytes, ENTRY_HEADER)?;
    let expected = bytes.get_u32_le();
    let kind = bytes.get_u8();
    let len = bytes.get_u32_le() as usize;
    need(bytes, len)?;
    let data = bytes.split_to(len);
    if checksum(index, term, kind, &data) != expected {
        return Err(DecodeError::Checksum { index });
    }
    let kind = match kind {
        0 => EntryKind::Noop,
        1 => EntryKind::Command,
        2 => EntryKind::Membership,
        kind => return Err(DecodeError::Kind { kind }),
    };
    Ok(Entry { kind, data })
}

fn need(bytes: &Bytes, len: usize) -> Result<(), DecodeError> {
    if bytes.len() < len { Err(DecodeError::Truncated) } else { Ok(()) }
}

fn checksum(index: Index, term: Term, kind: u8, data: &[u8]) -> u32 {
    let mut head = [0; 21];
    head[..8].copy_from_slice(&index.0.to_le_bytes());
    head[8..16].copy_from_slice(&term.0.to_le_bytes());
    head[16] = kind;
    head[17..].copy_from_slice(&(data.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(data);
    hasher.finalize()
}

/// Runs travel inside other encodings as one field of bytes.
#[cfg(feature = "serde")]
pub(crate) mod as_bytes {
    use alloc::vec::Vec;

    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Run, decode_runs, encode_runs, encoded_len};

    pub(crate) fn serialize<S: Serializer>(runs: &[Run], serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Vec::with_capacity(encoded_len(runs));
        encode_runs(runs, &mut out);
        serializer.serialize_bytes(&out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: From<Vec<Run>>>(deserializer: D) -> Result<T, D::Error> {
        decode_runs(Bytes::deserialize(deserializer)?).map(T::from).map_err(D::Error::custom)
    }
}
