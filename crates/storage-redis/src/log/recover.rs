//! Reading rows, and a whole log when it is opened (C3).

use std::collections::VecDeque;

use bytes::Bytes;
use coracle_core::{Entry, EntryKind, GroupId, Index, Membership, Run, Term};
use coracle_storage::{LogShape, RecoveredLog, Result, StorageError};
use redis::Value;

use super::{
    Head, Keys, PAGE_BYTES, PAGE_ROWS,
    record::{self, Outline, Record},
    row,
};
use crate::{
    answer,
    script::{Commands, Kind, Script},
    server::Server,
};

/// More damaged entries than this are no log any more.
const DAMAGED_MAX: usize = 1 << 16;

/// Some rows of a log, and where it begins and ends at that moment.
pub(super) struct Page {
    group: GroupId,
    pub(super) base: Index,
    pub(super) last: Index,
    rows: Vec<Bytes>,
}

impl Page {
    /// Its entries from `first`, the index of the first row, up to the first that is damaged.
    pub(super) fn runs(&self, first: Index) -> (Vec<Run>, Option<Index>) {
        let mut entries = Vec::with_capacity(self.rows.len());
        let mut damaged = None;
        for (at, row) in (first.0..).map(Index).zip(&self.rows) {
            let Some((term, entry)) = row::decode(self.group, at, row) else {
                damaged = Some(at);
                break;
            };
            entries.push((at, term, entry));
        }
        (runs(entries), damaged)
    }
}

/// Seals entries that follow each other.
fn runs(entries: impl IntoIterator<Item = (Index, Term, Entry)>) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut open: Option<(Index, Term, Vec<Entry>)> = None;
    for (index, term, entry) in entries {
        match &mut open {
            Some((_, of, entries)) if *of == term => entries.push(entry),
            _ => {
                runs.extend(open.take().map(|(first, term, entries)| Run::new(first, term, entries)));
                open = Some((index, term, vec![entry]));
            }
        }
    }
    runs.extend(open.map(|(first, term, entries)| Run::new(first, term, entries)));
    runs
}

/// Reads rows from `from` on: at most to `to`, and as many as fit in about `bytes`, at least one.
pub(super) fn page(server: &Server, group: GroupId, from: Index, to: Index, bytes: usize) -> Result<Page> {
    let Keys { state, rows } = Keys::of(server, group);
    let numbers = [from.0, to.0, bytes as u64, PAGE_ROWS as u64, row::HEADER as u64];
    let args = numbers.map(|number| number.to_string().into_bytes());
    let answered = server.query(Script::Rows, [state, rows], args)?;
    let malformed = |what: String| server.malformed(&what);
    let [base, last, rows @ ..] = &answered[..] else { return Err(malformed("rows without an end".into())) };
    let base = answer::number(base).map(Index).map_err(malformed)?;
    let last = answer::number(last).map(Index).map_err(malformed)?;
    let rows = rows.iter().map(|row| answer::bytes(row.clone()).map(Option::unwrap_or_default));
    let rows = rows.collect::<std::result::Result<_, _>>().map_err(malformed)?;
    Ok(Page { group, base, last, rows })
}

/// Reads a log from its base to its end and checks every row.
pub(super) fn scan(server: &Server, group: GroupId, tail_bytes_max: usize) -> Result<(Head, RecoveredLog)> {
    let place = format!("the log of group {group} at {}", server.place);
    let keys = Keys::of(server, group);
    let mut commands = Commands::default();
    commands.push("HMGET", &keys.state, Kind::Hash, record::FIELDS.map(Into::into));
    commands.push("HLEN", &keys.rows, Kind::Hash, []);
    let mut answered = server.read(commands)?.into_iter();
    let (Some(Value::Array(fields)), Some(Value::Int(rows))) = (answered.next(), answered.next()) else {
        return Err(server.malformed("no fields"));
    };
    let Some(record) = record::read(fields, &place)? else {
        if rows > 0 {
            return Err(StorageError::damaged(place, "term and vote are missing"));
        }
        return Ok((Head { memberships: Some(Vec::new()), ..Head::default() }, RecoveredLog::default()));
    };
    let mut reader = Reader { tail_bytes_max, ..Reader::default() };
    let mut at = record.base.index.next();
    while at <= record.last_index {
        let page = page(server, group, at, record.last_index, PAGE_BYTES)?;
        if page.rows.is_empty() {
            return Err(StorageError::damaged(place, format!("it changed while it was read, at {at}")));
        }
        for row in &page.rows {
            reader.take(at, row::decode(group, at, row), &place)?;
            at = at.next();
        }
    }
    reader.finish(record, &place)
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    /// The first index of each term, by the rows that are whole.
    terms: Vec<(Index, Term)>,
    /// The last row of each of them that is whole.
    lasts: Vec<Index>,
    memberships: Vec<(Index, Membership)>,
    damaged: Vec<Index>,
    tail: VecDeque<(Index, Term, Entry)>,
    tail_bytes: usize,
    tail_bytes_max: usize,
}

impl Reader {
    fn take(&mut self, index: Index, row: Option<(Term, Entry)>, place: &str) -> Result<()> {
        let Some((term, entry)) = row else {
            self.damaged.push(index);
            self.tail.clear();
            self.tail_bytes = 0;
            if self.damaged.len() > DAMAGED_MAX {
                let what = format!("more than {DAMAGED_MAX} of its entries are damaged or missing");
                return Err(StorageError::damaged(place, what));
            }
            return Ok(());
        };
        match self.terms.last() {
            Some((_, before)) if *before > term => {
                let what = format!("the entry at {index} is of term {term}, after term {before}");
                return Err(StorageError::damaged(place, what));
            }
            Some((_, before)) if *before == term => {
                self.lasts.pop();
            }
            _ => self.terms.push((index, term)),
        }
        self.lasts.push(index);
        if entry.kind == EntryKind::Membership {
            let decoded = Membership::decode(entry.data.clone());
            let error = |error| StorageError::damaged(place, format!("the membership at {index}: {error}"));
            self.memberships.push((index, decoded.map_err(error)?));
        }
        self.keep(index, term, entry);
        Ok(())
    }

    fn keep(&mut self, index: Index, term: Term, entry: Entry) {
        self.tail_bytes = self.tail_bytes.saturating_add(entry.size());
        self.tail.push_back((index, term, entry));
        while self.tail_bytes > self.tail_bytes_max {
            let Some((_, _, oldest)) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.size();
        }
    }

    fn finish(mut self, record: Record, place: &str) -> Result<(Head, RecoveredLog)> {
        let met: Vec<Index> = self.memberships.iter().map(|(index, _)| *index).collect();
        // Without damage the rows themselves tell everything.
        let Outline { terms, memberships } = if self.damaged.is_empty() {
            Outline { terms: std::mem::take(&mut self.terms), memberships: Some(met) }
        } else {
            self.outlined(&record, place)?
        };
        let is_among = |known: &Vec<Index>| self.damaged.iter().any(|index| known.binary_search(index).is_ok());
        let is_membership_damaged = !self.damaged.is_empty() && memberships.as_ref().is_none_or(is_among);
        let head = Head {
            hard_state: record.hard_state,
            shape: LogShape::recovered(&record.base, terms.clone(), record.last_index),
            memberships,
            purged: record.purged,
            is_written: true,
        };
        let recovered = RecoveredLog {
            hard_state: record.hard_state,
            base: record.base,
            terms,
            memberships: self.memberships,
            last_index: record.last_index,
            tail: runs(self.tail),
            damaged: self.damaged,
            is_membership_damaged,
        };
        Ok((head, recovered))
    }

    /// Terms and memberships by the outline, which the rows that are whole have to agree with.
    fn outlined(&self, record: &Record, place: &str) -> Result<Outline> {
        let first = self.damaged.first().copied().unwrap_or_default();
        let Some(outline) = &record.outline else {
            let what = format!(
                "{} of its entries are damaged, from {first} on, and nothing tells their terms",
                self.damaged.len()
            );
            return Err(StorageError::damaged(place, what));
        };
        let shape = LogShape::recovered(&record.base, outline.terms.clone(), record.last_index);
        let ends = self.terms.iter().zip(&self.lasts);
        let other = ends
            .flat_map(|((first, term), last)| [(*first, *term), (*last, *term)])
            .find(|(index, term)| shape.term_at(*index) != Some(*term));
        if let Some((index, term)) = other {
            let what = format!("the entry at {index} is of term {term}, which its outline does not say");
            return Err(StorageError::damaged(place, what));
        }
        if shape.term_at(record.base.index.next()).is_none() {
            return Err(StorageError::damaged(place, "its outline does not tell the term of its first entry"));
        }
        Ok(outline.clone())
    }
}
