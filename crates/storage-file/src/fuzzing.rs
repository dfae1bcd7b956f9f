//! What is fuzzed of the store; not part of the interface.

use std::sync::Arc;

use coracle_core::{Base, Entry, GroupId, HardState, Index, LogRead, Term};
use coracle_storage::{LogBatch, LogStore, RecoveredLog, Result, StorageError, files::identity};

use crate::{
    disk::Disk,
    format::{
        block, record,
        record::{EntryId, Outline, Record, RunRecord},
        segment::{self, BLOCKS, SegmentHeader},
    },
    log::{FileLog, LogOptions},
    mark,
    segment::Segment,
    sim_disk::SimDisk,
};

/// Segments of the logs that are made here.
const SEGMENT_BYTES: u64 = 8 * 1024;
/// More data than this in a forged block show nothing new.
const DATA_BYTES_MAX: usize = 64 * 1024;
/// How many entries of a forged log are read.
const READS_MAX: u64 = 32;
const SALT: u64 = 7;

/// Headers, marks, identities, records, and segments of any blocks; the first byte says which. What is read can be written, and is the same.
///
/// # Panics
/// When it is not.
pub fn records(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 5 {
        0 => segment::fuzzing::header(rest),
        1 => mark::fuzzing::slot(rest),
        2 => identity::fuzzing::identity(rest),
        3 => drop(record::fuzzing::records(rest)),
        _ => forged(rest),
    }
}

/// A log whose blocks say anything, with checksums that match, is refused or can be used.
fn forged(data: &[u8]) {
    let disk = SimDisk::default();
    let Some(groups) = put_segment(&disk, data) else { return };
    let log = match open(&disk) {
        Ok(log) => log,
        Err(StorageError::Damaged { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let before: Vec<Option<RecoveredLog>> = groups.iter().map(|group| used(&log, *group)).collect();
    drop(log);
    let log = match open(&disk) {
        Ok(log) => log,
        Err(error) => panic!("what was opened is opened again: {error}"),
    };
    for (group, before) in groups.iter().zip(before) {
        let again = recovered(&log, *group);
        assert_eq!(again.map(|log| (log.base, log.hard_state)), before.map(|log| (log.base, log.hard_state)));
    }
}

/// Writes a segment; each block's length comes first in the bytes. The groups that are in it.
fn put_segment(disk: &SimDisk, mut data: &[u8]) -> Option<Vec<GroupId>> {
    let (mut bytes, mut groups, mut sequence) = (Vec::new(), Vec::new(), 1);
    while let Some((len, rest)) = data.split_first_chunk::<2>() {
        let len = u16::from_le_bytes(*len);
        // The highest bit says whether its entries are whole.
        let (is_whole, len) = (len >> 15 == 0, usize::from(len & 0x7fff));
        let (body, rest) = rest.split_at(len.min(rest.len()));
        data = rest;
        let records = record::fuzzing::records(body)?;
        let sizes = records.iter().map(Record::data_len).try_fold(0, usize::checked_add);
        if sizes.is_none_or(|bytes| bytes > DATA_BYTES_MAX) {
            return None;
        }
        let (mut again, mut content) = (Vec::new(), Vec::new());
        record::fuzzing::encode(&records, &mut again);
        records.iter().for_each(|record| record::fuzzing::put_data(record, is_whole, &mut content));
        bytes.extend_from_slice(&block::fuzzing::forge(SALT, sequence, &again, &content));
        groups.extend(records.iter().map(|record| record.group));
        sequence += 1;
    }
    let size = (BLOCKS + bytes.len()) as u64 + SEGMENT_BYTES;
    let header = SegmentHeader { number: 1, first_sequence: 1, salt: SALT, bytes: size };
    let file = disk.allocate(&Segment::name(1), size).ok()?;
    file.write_at(&header.encode(), 0).and_then(|()| file.write_at(&bytes, BLOCKS as u64)).ok()?;
    groups.sort_unstable();
    groups.dedup();
    Some(groups)
}

fn open(disk: &SimDisk) -> Result<FileLog> {
    let options = LogOptions { segment_bytes: SEGMENT_BYTES, has_thread: false, salt: None };
    FileLog::open(Arc::new(disk.clone()), options, false)
}

fn recovered(log: &FileLog, group: GroupId) -> Option<RecoveredLog> {
    match log.recover(group, usize::MAX) {
        Ok(recovered) => Some(recovered),
        Err(StorageError::Damaged { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Does with a log what is done with one. What it is afterwards.
fn used(log: &FileLog, group: GroupId) -> Option<RecoveredLog> {
    let found = recovered(log, group)?;
    let first = found.base.index.next().0;
    for index in (first..=found.last_index.0).take(READS_MAX as usize).map(Index) {
        let is_damaged = recovered(log, group)?.damaged.contains(&index);
        match log.read(group, index, found.last_index, 1 << 20) {
            Ok(LogRead::Entries(runs)) => assert_eq!(runs.first().map(coracle_core::Run::first), Some(index)),
            Ok(LogRead::Damaged { at }) => assert!(at == index && (is_damaged || is_told(log, group, at))),
            other => panic!("{index} cannot be read: {other:?}"),
        }
    }
    if found.last_index < Index::MAX.prev() && found.terms.last().is_none_or(|(_, term)| term.0 < u64::MAX) {
        go_on(log, group, &found);
    }
    recovered(log, group)
}

fn is_told(log: &FileLog, group: GroupId, index: Index) -> bool {
    recovered(log, group).is_none_or(|log| log.damaged.contains(&index))
}

/// Appends, and begins the log at its end.
fn go_on(log: &FileLog, group: GroupId, found: &RecoveredLog) {
    let term = found.terms.last().map_or(found.base.term, |(_, term)| *term);
    let (next, term) = (found.last_index.next(), Term(term.0.max(1)));
    let run = coracle_core::Run::new(next, term, [Entry::command("next")]);
    let written = log.write(&[LogBatch::append(group, vec![run])]);
    assert!(written.is_ok(), "what follows {found:?} is written: {written:?}");
    let base = Base { index: next, term, ..found.base.clone() };
    let written = log.write(&[LogBatch { base: Some(base), ..LogBatch::append(group, Vec::new()) }]);
    assert!(written.is_ok(), "{found:?} is compacted: {written:?}");
}

/// Real headers, marks, records and segments, for a corpus.
pub fn records_seeds() -> Vec<Vec<u8>> {
    let header = SegmentHeader { number: 3, first_sequence: 70, salt: 0xabcd, bytes: 65536 };
    let of = |which: u8, bytes: &[u8]| [&[which], bytes].concat();
    let encoded = |records: &[Record]| {
        let mut out = Vec::new();
        record::fuzzing::encode(records, &mut out);
        out
    };
    let block = |records: &[Record], flags: u16| {
        let body = encoded(records);
        [&(body.len() as u16 | flags).to_le_bytes()[..], &body].concat()
    };
    let outline = [outline_record(Outline::default(), Base::default())];
    let appended = [appended_record(1, 1, 3), Record { group: GroupId(2), ..appended_record(1, 2, 1) }];
    let cut = [Record { truncate_from: Some(Index(3)), ..appended_record(3, 2, 2) }];
    let base = Base { index: Index(2), term: Term(1), ..Base::default() };
    let compacted = [Record { base: Some(base.clone()), runs: Vec::new(), ..appended_record(5, 2, 1) }];
    let later = Outline { last_index: Index(4), terms: vec![(Index(3), Term(2))], memberships: vec![Index(4)] };
    vec![
        of(0, &segment::fuzzing::body(&header)),
        of(1, &mark::fuzzing::body(9)),
        of(2, b"coracle identity 1\nengine = file\nnode = 0000000000000001\nincarnation = 000000000000000a\ncluster-name = c\ncluster = 0000000000000009\n"),
        of(3, &encoded(&appended)),
        of(3, &encoded(&[outline_record(later.clone(), base.clone())])),
        of(4, &[block(&outline, 0), block(&appended, 0), block(&cut, 0), block(&compacted, 0)].concat()),
        of(4, &[block(&outline, 0), block(&appended, 0x8000)].concat()),
        of(4, &[block(&[outline_record(later, base)], 0), block(&[appended_record(5, 2, 1)], 0)].concat()),
    ]
}

fn outline_record(outline: Outline, base: Base) -> Record {
    let hard_state = HardState { term: Term(2), ..HardState::default() };
    Record {
        group: GroupId(1),
        truncate_from: None,
        hard_state: Some(hard_state),
        base: Some(base),
        outline: Some(outline),
        runs: Vec::new(),
    }
}

fn appended_record(first: u64, term: u64, count: u64) -> Record {
    let entries = (0..count).map(|at| EntryId::of(&Entry::command(vec![0; at as usize * 20]))).collect();
    let runs = vec![RunRecord { replaces: false, first: Index(first), term: Term(term), entries }];
    Record { group: GroupId(1), truncate_from: None, hard_state: None, base: None, outline: None, runs }
}

/// A disk in memory that has a log.
#[derive(Clone, Default)]
pub struct LogDisk(SimDisk);

impl LogDisk {
    /// Opens the log, or makes it.
    ///
    /// # Errors
    /// As [`FileStore::open`](crate::FileStore::open).
    pub fn open(&self) -> Result<Arc<dyn LogStore>> {
        Ok(Arc::new(open(&self.0)?))
    }

    /// From here on it is remembered how the disk is after each call.
    pub fn watch(&self) {
        self.0.begin_history();
    }

    /// How the disk was after one of the calls, if the power was cut then and only those sectors survived for which `survives` says so.
    ///
    /// # Panics
    /// When nothing was watched.
    pub fn cut(&self, call: usize, survives: impl Fn(usize) -> bool) -> LogDisk {
        let history = self.0.lock().history.take().unwrap_or_default();
        assert!(!history.is_empty(), "it was not watched");
        LogDisk(history[call % history.len()].cut(survives))
    }

    /// The power is cut now.
    pub fn cut_now(&self, survives: impl Fn(usize) -> bool) -> LogDisk {
        let state = self.0.lock();
        LogDisk(state.cut(survives))
    }

    /// What is in all files.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        self.0.files().into_iter().collect()
    }

    /// Changes what is in a file.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        self.0.edit(name, edit);
    }
}
