//! What a block says: the header's body, apart from the entries' data.

use coracle_core::{Base, ClusterId, Entry, EntryKind, GroupId, HardState, Index, Membership, NodeId, Run, Term};
use coracle_storage::LogBatch;

use super::Fields;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

/// Checksum, kind, length: what stands before the data of each entry.
pub(crate) const ENTRY_HEADER: usize = 4 + 1 + 4;
/// The kind is in the two bits above the length.
const KIND_SHIFT: u32 = 30;
/// Entries are shorter than this.
pub(crate) const ENTRY_BYTES_END: usize = 1 << KIND_SHIFT;

const TRUNCATE: u8 = 1;
const HARD_STATE: u8 = 2;
const BASE: u8 = 4;
const OUTLINE: u8 = 8;

/// What happens to one group's log, in this order: cut off, put in place, append, begin at the base, set. As it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) group: GroupId,
    pub(crate) truncate_from: Option<Index>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) base: Option<Base>,
    /// Everything that the log is without its entries. With it the record does not change the log but tells what it is: at the start of a segment.
    pub(crate) outline: Option<Outline>,
    pub(crate) runs: Vec<RunRecord>,
}

impl Record {
    /// How many bytes of data its runs have.
    pub(crate) fn data_len(&self) -> usize {
        self.runs.iter().flat_map(|run| &run.entries).map(EntryId::size).sum()
    }

    /// Whether the outline, if there is one, is that of a log: all that it tells lies between its base and its end, and its terms rise.
    pub(crate) fn is_outline_sound(&self) -> bool {
        let Some(Outline { last_index, terms, memberships }) = &self.outline else { return true };
        let base = self.base.as_ref().map_or(Index::ZERO, |base| base.index);
        let begins = match terms.first() {
            Some((first, _)) => *first == base.next() && first <= last_index,
            None => *last_index == base,
        };
        let rises = terms.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let ends = terms.last().is_none_or(|(index, _)| index <= last_index);
        begins && rises && ends && memberships.iter().all(|index| base < *index && index <= last_index)
    }
}

/// The same as it is written: borrowed, so that nothing is copied before it is in the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) group: GroupId,
    pub(crate) truncate_from: Option<Index>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) base: Option<&'a Base>,
    pub(crate) outline: Option<&'a Outline>,
    /// These take the place of entries that the log has.
    pub(crate) replaced: &'a [Run],
    /// These follow its last.
    pub(crate) appended: &'a [Run],
}

impl<'a> Change<'a> {
    /// Does nothing.
    pub(crate) fn new(group: GroupId) -> Change<'a> {
        let (truncate_from, hard_state, base, outline) = (None, None, None, None);
        Change { group, truncate_from, hard_state, base, outline, replaced: &[], appended: &[] }
    }

    /// What a batch asks for.
    pub(crate) fn of(batch: &'a LogBatch) -> Change<'a> {
        let LogBatch { group, truncate_from, repaired, entries, hard_state, base } = batch;
        let (group, truncate_from, hard_state) = (*group, *truncate_from, *hard_state);
        Change {
            group,
            truncate_from,
            hard_state,
            base: base.as_ref(),
            outline: None,
            replaced: repaired,
            appended: entries,
        }
    }

    /// All runs, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &'a Run> + Clone + use<'a> {
        self.replaced.iter().chain(self.appended)
    }

    /// The same, as a record has them.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent<impl ExactSizeIterator<Item = EntryId>>> {
        let extent = |run: &'a Run, replaces| Extent {
            replaces,
            first: run.first(),
            term: run.term(),
            entries: run.entries().iter().map(EntryId::of),
        };
        let replaced = self.replaced.iter().map(move |run| (run, true));
        replaced.chain(self.appended.iter().map(|run| (run, false))).map(move |(run, replaces)| extent(run, replaces))
    }

    /// How many bytes of data its runs have.
    pub(crate) fn data_len(&self) -> usize {
        self.runs().flat_map(Run::entries).map(|entry| EntryId::of(entry).size()).sum()
    }
}

/// Consecutive entries of one term, without their data.
#[derive(Clone, Debug)]
pub(crate) struct Extent<I> {
    /// Whether they take the place of entries that the log has; otherwise they follow its last.
    pub(crate) replaces: bool,
    pub(crate) first: Index,
    pub(crate) term: Term,
    pub(crate) entries: I,
}

/// A log's terms, its end, and which entries are memberships.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Outline {
    pub(crate) last_index: Index,
    pub(crate) terms: Vec<(Index, Term)>,
    pub(crate) memberships: Vec<Index>,
}

/// Consecutive entries of one term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunRecord {
    /// Whether they take the place of entries that the log has; otherwise they follow its last.
    pub(crate) replaces: bool,
    pub(crate) first: Index,
    pub(crate) term: Term,
    pub(crate) entries: Vec<EntryId>,
}

impl RunRecord {
    pub(crate) fn last(&self) -> Index {
        self.first.plus(self.entries.len() as u64 - 1)
    }

    pub(crate) fn extent(&self) -> Extent<impl ExactSizeIterator<Item = EntryId>> {
        let RunRecord { replaces, first, term, entries } = self;
        Extent { replaces: *replaces, first: *first, term: *term, entries: entries.iter().copied() }
    }
}

/// What is known of an entry apart from its data: kind and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryId(u32);

impl EntryId {
    /// Of an entry with fewer than [`ENTRY_BYTES_END`] bytes of data.
    pub(crate) fn of(entry: &Entry) -> EntryId {
        debug_assert!(entry.data.len() < ENTRY_BYTES_END);
        EntryId((entry.kind as u32) << KIND_SHIFT | entry.data.len() as u32)
    }

    fn decode(bits: u32) -> Option<EntryId> {
        kind_of((bits >> KIND_SHIFT) as u8).map(|_| EntryId(bits))
    }

    pub(crate) fn is_membership(&self) -> bool {
        self.0 >> KIND_SHIFT == EntryKind::Membership as u32
    }

    pub(crate) fn len(&self) -> usize {
        self.0 as usize & (ENTRY_BYTES_END - 1)
    }

    /// How many bytes of the block's data it takes.
    pub(crate) fn size(&self) -> usize {
        ENTRY_HEADER + self.len()
    }
}

pub(crate) fn kind_of(kind: u8) -> Option<EntryKind> {
    [EntryKind::Noop, EntryKind::Command, EntryKind::Membership].into_iter().find(|known| *known as u8 == kind)
}

/// Appends the records of a block to `out`.
pub(crate) fn encode<'a>(changes: impl Iterator<Item = Change<'a>> + Clone, out: &mut Vec<u8>) {
    put_count(out, changes.clone().count());
    changes.for_each(|change| encode_change(&change, out));
}

fn encode_change(change: &Change<'_>, out: &mut Vec<u8>) {
    encode_head(change, out);
    put_count(out, change.runs().count());
    change.extents().for_each(|run| encode_run(run, out));
}

/// Everything but the runs.
fn encode_head(change: &Change<'_>, out: &mut Vec<u8>) {
    let Change { group, truncate_from, hard_state, base, outline, .. } = change;
    put(out, group.0);
    let flag = |is_there: bool, flag: u8| if is_there { flag } else { 0 };
    out.push(
        flag(truncate_from.is_some(), TRUNCATE)
            | flag(hard_state.is_some(), HARD_STATE)
            | flag(base.is_some(), BASE)
            | flag(outline.is_some(), OUTLINE),
    );
    if let Some(from) = truncate_from {
        put(out, from.0);
    }
    if let Some(state) = hard_state {
        put(out, state.term.0);
        out.push(u8::from(state.voted_for.is_some()) | u8::from(state.is_repairing) << 1);
        put(out, state.voted_for.unwrap_or_default().0);
        put(out, state.commit_index.0);
    }
    if let Some(base) = base {
        encode_base(base, out);
    }
    if let Some(Outline { last_index, terms, memberships }) = outline {
        put(out, last_index.0);
        put_count(out, terms.len());
        terms.iter().for_each(|(index, term)| [index.0, term.0].into_iter().for_each(|field| put(out, field)));
        put_count(out, memberships.len());
        memberships.iter().for_each(|index| put(out, index.0));
    }
}

fn encode_run(run: Extent<impl ExactSizeIterator<Item = EntryId>>, out: &mut Vec<u8>) {
    out.push(u8::from(run.replaces));
    put(out, run.first.0);
    put(out, run.term.0);
    put_count(out, run.entries.len());
    run.entries.for_each(|entry| out.extend_from_slice(&entry.0.to_le_bytes()));
}

fn encode_base(base: &Base, out: &mut Vec<u8>) {
    [base.index.0, base.term.0, base.membership_index.0].into_iter().for_each(|field| put(out, field));
    // No membership is empty when it is encoded.
    let membership = base.membership.as_ref().map(Membership::encode).unwrap_or_default();
    put_count(out, membership.len());
    out.extend_from_slice(&membership);
}

fn put(out: &mut Vec<u8>, field: u64) {
    out.extend_from_slice(&field.to_le_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&(count as u32).to_le_bytes());
}

/// Reads what [`encode`] wrote and leaves what follows; `None` when it is anything else.
pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Vec<Record>> {
    let count = fields.count(8 + 1 + 4)?;
    (0..count).map(|_| decode_record(fields)).collect()
}

fn decode_record(fields: &mut Fields<'_>) -> Option<Record> {
    let group = GroupId(fields.u64()?);
    let flags = fields.u8()?;
    if flags & !(TRUNCATE | HARD_STATE | BASE | OUTLINE) != 0 {
        return None;
    }
    let has = |flag: u8| flags & flag != 0;
    let truncate_from = if has(TRUNCATE) { Some(index(fields)?) } else { None };
    let hard_state = if has(HARD_STATE) { Some(decode_hard_state(fields)?) } else { None };
    let base = if has(BASE) { Some(decode_base(fields)?) } else { None };
    let outline = if has(OUTLINE) { Some(decode_outline(fields)?) } else { None };
    let count = fields.count(1 + 8 + 8 + 4)?;
    let runs = (0..count).map(|_| decode_run(fields)).collect::<Option<_>>()?;
    Some(Record { group, truncate_from, hard_state, base, outline, runs })
}

/// Beyond the largest index nothing can be: sums with it would overflow.
fn index(fields: &mut Fields<'_>) -> Option<Index> {
    fields.u64().map(Index).filter(|index| *index <= Index::MAX)
}

fn decode_hard_state(fields: &mut Fields<'_>) -> Option<HardState> {
    let term = Term(fields.u64()?);
    let bits = fields.u8().filter(|bits| *bits < 4)?;
    let voted_for = NodeId(fields.u64()?);
    let voted_for = (bits & 1 != 0).then_some(voted_for);
    Some(HardState { term, voted_for, commit_index: index(fields)?, is_repairing: bits & 2 != 0 })
}

fn decode_base(fields: &mut Fields<'_>) -> Option<Base> {
    let (index, term, membership_index) = (index(fields)?, Term(fields.u64()?), self::index(fields)?);
    let len = fields.count(1)?;
    let bytes = fields.bytes(len)?;
    let membership = match bytes {
        [] => None,
        bytes => Some(decode_membership(bytes)?),
    };
    Some(Base { index, term, membership_index, membership })
}

/// A membership of a base: one that can be in the log, or that of a node that is to join a cluster and knows of nobody in it.
fn decode_membership(bytes: &[u8]) -> Option<Membership> {
    let known = Membership::decode(bytes.to_vec().into()).ok();
    let nobody = || {
        let mut fields = Fields(bytes.get(1..)?);
        let nobody = Membership::new(ClusterId(fields.u64()?), Vec::new());
        (nobody.encode() == bytes).then_some(nobody)
    };
    known.or_else(nobody)
}

/// Whether a base is read as it is written.
pub(crate) fn is_sound(base: &Base) -> bool {
    let membership = base.membership.as_ref();
    membership.is_none_or(|membership| decode_membership(&membership.encode()).as_ref() == Some(membership))
}

fn decode_outline(fields: &mut Fields<'_>) -> Option<Outline> {
    let last_index = index(fields)?;
    let count = fields.count(16)?;
    let terms = (0..count).map(|_| Some((index(fields)?, Term(fields.u64()?)))).collect::<Option<_>>()?;
    let count = fields.count(8)?;
    let memberships = (0..count).map(|_| index(fields)).collect::<Option<_>>()?;
    Some(Outline { last_index, terms, memberships })
}

fn decode_run(fields: &mut Fields<'_>) -> Option<RunRecord> {
    let replaces = fields.u8().filter(|bits| *bits < 2)? == 1;
    let (first, term) = (index(fields)?, Term(fields.u64()?));
    let count = fields.count(4).filter(|count| *count > 0)?;
    let entries = (0..count).map(|_| EntryId::decode(fields.u32()?)).collect::<Option<_>>()?;
    Some(RunRecord { replaces, first, term, entries })
}

/// The checksum of an entry covers all that names it, so that one in another's place does not pass.
pub(crate) fn entry_checksum(group: GroupId, index: Index, term: Term, kind: u8, data: &[u8]) -> u32 {
    let mut head = [0; 29];
    head[..8].copy_from_slice(&group.0.to_le_bytes());
    head[8..16].copy_from_slice(&index.0.to_le_bytes());
    head[16..24].copy_from_slice(&term.0.to_le_bytes());
    head[24] = kind;
    head[25..].copy_from_slice(&(data.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(data);
    hasher.finalize()
}

/// Appends a run's entries to a block's data: `checksum u32, kind u8, length u32, data` each.
pub(crate) fn encode_entries(group: GroupId, run: &Run, out: &mut Vec<u8>) {
    for (index, entry) in run.iter() {
        let kind = entry.kind as u8;
        out.extend_from_slice(&entry_checksum(group, index, run.term(), kind, &entry.data).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&entry.data);
    }
}

/// The kind of an entry whose bytes are what was written for it; `None` when they are not.
pub(crate) fn check_entry(group: GroupId, index: Index, term: Term, bytes: &[u8]) -> Option<EntryKind> {
    let mut fields = Fields(bytes);
    let (checksum, kind, len) = (fields.u32()?, fields.u8()?, fields.u32()?);
    let data = fields.0;
    let is_whole = len as usize == data.len() && checksum == entry_checksum(group, index, term, kind, data);
    if is_whole { kind_of(kind) } else { None }
}
