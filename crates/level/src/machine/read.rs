//! Reads of the newest state, and of the state at a held revision.

use std::{cmp::Ordering, collections::VecDeque, iter::Peekable, ops::Bound};

use bytes::Bytes;
use coracle_storage::{KvStore, Result, ScanRange};

use super::{
    holds::Shared,
    layout::{self, KeyRange},
};
use crate::Value;

/// The most rows asked of the store at once.
const SCAN_ROWS: usize = 1024;
/// The most bytes asked of the store at once.
const SCAN_BYTES: usize = 1 << 20;
/// A page ends early once so much was read for it from the store, if it has anything at all.
const WORK_BYTES: usize = 16 << 20;

/// A held revision, for a reader that may run while batches are written.
#[derive(Clone, Copy)]
pub(super) struct Held<'a> {
    pub(super) revision: u64,
    pub(super) shared: &'a Shared,
}

/// How much a page may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageLimits {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    /// Whether values count and come along.
    pub(super) values: bool,
}

/// The value of a key in the store: the newest one, or at a held revision.
///
/// It is for the machine's own thread: no batch is written meanwhile.
pub(super) fn get(kv: &dyn KvStore, held: Option<u64>, key: &[u8]) -> Result<Option<Value>> {
    let row = layout::data_key(key);
    let current = kv.get(&row)?.map(|bytes| layout::decode_value(&row, bytes)).transpose()?;
    let Some(revision) = held else { return Ok(current) };
    if current.as_ref().is_some_and(|value| value.modified.0 <= revision) {
        return Ok(current);
    }
    // The first row that replaced something after the revision shows what was current there, if anything was.
    let one = KeyRange { from: Bound::Unbounded, to: Bound::Included(Bytes::copy_from_slice(key)) };
    let from = Bound::Included(layout::history_key(key, revision + 1));
    let rows = layout::scan(kv, &ScanRange { from, ..one.history(false) }, 1, SCAN_BYTES)?;
    let Some((row, bytes)) = rows.into_iter().next() else { return Ok(None) };
    let value = layout::decode_value(&row, bytes)?;
    Ok(if value.modified.0 <= revision { Some(value) } else { None })
}

/// A page of a scan: entries in order, and whether more may follow.
pub(super) struct Rows {
    pub(super) entries: Vec<(Bytes, Value)>,
    pub(super) more: bool,
}

/// Reads a page of the newest state, or of the state at a held revision.
///
/// At a held revision it may run beside the machine's writes. The order of its reads makes that safe:
/// a page of current values first, then the history of exactly the keys that this page covers.
/// A value that is overwritten before its turn among the current values has its row of history in the same batch, which the later look finds;
/// one that is overwritten after its turn was seen where it was; one seen in both places is the same.
/// The other order would lose a value that moves between the two looks.
pub(super) fn page(
    kv: &dyn KvStore,
    held: Option<Held<'_>>,
    range: &KeyRange,
    reverse: bool,
    limits: PageLimits,
) -> Result<Rows> {
    let mut out = Collector { limits, entries: Vec::new(), bytes: 0, full: false };
    let mut rest = range.clone();
    let mut work = 0;
    loop {
        if rest.is_empty() {
            return Ok(Rows { entries: out.entries, more: false });
        }
        // One more than there is room for tells whether anything follows.
        let want = (limits.entries - out.entries.len()).saturating_add(1).min(SCAN_ROWS);
        let current = layout::scan(kv, &rest.data(reverse), want, SCAN_BYTES)?;
        work += current.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        // Stores count bytes in their own ways, so only an empty page is surely the end.
        let (covered, left) = match current.last() {
            Some((row, _)) => rest.split(&row.slice(1..), reverse),
            None => (rest, KeyRange::NONE),
        };
        let current = current.into_iter().map(|(row, bytes)| {
            let value = layout::decode_value(&row, bytes)?;
            Ok((row.slice(1..), value))
        });
        match held {
            None => out.extend(current)?,
            Some(held) => merge(kv, held, &covered, reverse, current, &mut out)?,
        }
        if out.full || (work >= WORK_BYTES && !out.entries.is_empty()) {
            return Ok(Rows { entries: out.entries, more: true });
        }
        rest = left;
    }
}

/// Merges current values with the history of the same keys.
fn merge(
    kv: &dyn KvStore,
    held: Held<'_>,
    covered: &KeyRange,
    reverse: bool,
    current: impl Iterator<Item = Result<(Bytes, Value)>>,
    out: &mut Collector,
) -> Result<()> {
    // A batch that is being written may have been seen in part; the store promises to show it whole only once it is written.
    drop(held.shared.writing());
    let history =
        History { kv, revision: held.revision, rest: covered.history(reverse), ready: VecDeque::new(), done: false };
    let mut history = history.peekable();
    let mut current =
        current.filter(|row| !matches!(row, Ok((_, value)) if value.modified.0 > held.revision)).peekable();
    while !out.full {
        match nearer(&mut current, &mut history, reverse) {
            Nearer::None => break,
            Nearer::Current => out.extend(current.next())?,
            Nearer::History => out.extend(history.next())?,
            Nearer::Both => {
                history.next();
            }
        }
    }
    Ok(())
}

enum Nearer {
    None,
    Current,
    History,
    Both,
}

fn nearer<C, H>(current: &mut Peekable<C>, history: &mut Peekable<H>, reverse: bool) -> Nearer
where
    C: Iterator<Item = Result<(Bytes, Value)>>,
    H: Iterator<Item = Result<(Bytes, Value)>>,
{
    match (current.peek(), history.peek()) {
        (None, None) => Nearer::None,
        // An error comes out at once.
        (Some(Err(_)), _) | (Some(_), None) => Nearer::Current,
        (_, Some(Err(_))) | (None, Some(_)) => Nearer::History,
        (Some(Ok((current, _))), Some(Ok((history, _)))) => {
            let order = if reverse { history.cmp(current) } else { current.cmp(history) };
            match order {
                Ordering::Less => Nearer::Current,
                Ordering::Greater => Nearer::History,
                Ordering::Equal => Nearer::Both,
            }
        }
    }
}

/// The values in history that a revision shows, in order: at most one of each key.
struct History<'a> {
    kv: &'a dyn KvStore,
    revision: u64,
    rest: ScanRange,
    ready: VecDeque<(Bytes, Value)>,
    done: bool,
}

impl History<'_> {
    fn fill(&mut self) -> Result<()> {
        let rows = layout::scan(self.kv, &self.rest, SCAN_ROWS, SCAN_BYTES)?;
        let Some((last, _)) = rows.last() else {
            self.done = true;
            return Ok(());
        };
        let after = Bound::Excluded(last.clone());
        if self.rest.reverse {
            self.rest.to = after;
        } else {
            self.rest.from = after;
        }
        for (row, bytes) in rows {
            let (key, replaced) = layout::parse_history(&row)?;
            let value = layout::decode_value(&row, bytes)?;
            if value.modified.0 <= self.revision && self.revision < replaced {
                self.ready.push_back((key, value));
            }
        }
        Ok(())
    }
}

impl Iterator for History<'_> {
    type Item = Result<(Bytes, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.done {
            if let Err(error) = self.fill() {
                self.done = true;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

/// Takes entries until the page is full.
struct Collector {
    limits: PageLimits,
    entries: Vec<(Bytes, Value)>,
    bytes: usize,
    /// Whether an entry found no room.
    full: bool,
}

impl Collector {
    fn extend(&mut self, rows: impl IntoIterator<Item = Result<(Bytes, Value)>>) -> Result<()> {
        for row in rows {
            let (key, mut value) = row?;
            if !self.limits.values {
                value.value = Bytes::new();
            }
            let bytes = key.len() + value.value.len();
            let fits = self.entries.is_empty() || self.bytes + bytes <= self.limits.bytes;
            if self.entries.len() >= self.limits.entries || !fits {
                self.full = true;
                return Ok(());
            }
            self.bytes += bytes;
            self.entries.push((key, value));
        }
        Ok(())
    }
}
