//! What a log is, apart from its rows: fields of one hash.

use coracle_core::{Base, HardState, Index, Term};
use coracle_storage::{Result, StorageError};
use redis::Value;
use serde::{Deserialize, Serialize};

use super::{Head, Keys};
use crate::{
    answer, codec,
    script::{Commands, Kind},
};

/// Where the log ends, in decimal: each write expects it.
pub(super) const LAST: &str = "last";
/// Where it begins, in decimal.
const BASE: &str = "base";
/// There are no rows at or below this index, in decimal.
const PURGED: &str = "purged";
/// The sealed base.
const START: &str = "start";
/// Term, vote and commit hint, twice (C18).
const STATES: [&str; 2] = ["state", "state-copy"];
/// The terms, and which entries are memberships.
const OUTLINE: &str = "outline";
/// More terms than this are not kept apart from the entries: the record is written whenever a term begins.
const OUTLINE_TERMS_MAX: usize = 16_384;

/// In the order in which they are read.
pub(super) const FIELDS: [&str; 7] = [LAST, BASE, PURGED, START, STATES[0], STATES[1], OUTLINE];

/// What both copies of the state are sealed as: they are the same bytes.
const STATE_NAME: &str = "state";

/// Term, vote and commit hint, and the end that they came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    last_index: Index,
    hard_state: HardState,
}

/// What a log's entries are, told apart from them: what is known of one whose row is damaged (C19).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Outline {
    /// The first index of each term, in order.
    pub(super) terms: Vec<(Index, Term)>,
    /// The indexes of all memberships, in order; `None` when they are not all known.
    pub(super) memberships: Option<Vec<Index>>,
}

/// A log as its fields say it is.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) last_index: Index,
    pub(super) hard_state: HardState,
    pub(super) base: Base,
    pub(super) purged: Index,
    pub(super) outline: Option<Outline>,
}

/// Sets the fields that changed.
pub(super) fn push(
    commands: &mut Commands,
    keys: &Keys,
    before: &Head,
    after: &Head,
    base: Option<&Base>,
) -> Result<()> {
    let state = State { last_index: after.shape.last_index(), hard_state: after.hard_state };
    let state = codec::seal(STATE_NAME, &state)?;
    let mut fields: Vec<Vec<u8>> = vec![LAST.into(), after.last().into()];
    for name in STATES {
        fields.extend([name.into(), state.clone()]);
    }
    if after.purged != before.purged || !before.is_written {
        fields.extend([PURGED.into(), after.purged.to_string().into()]);
    }
    if let Some(base) = base {
        fields.extend([BASE.into(), base.index.to_string().into(), START.into(), codec::seal(START, base)?]);
    }
    commands.push("HSET", &keys.state, Kind::Hash, fields);
    if after.shape.terms().len() > OUTLINE_TERMS_MAX {
        commands.push("HDEL", &keys.state, Kind::Hash, [OUTLINE.into()]);
    } else if after.shape.terms() != before.shape.terms() || after.memberships != before.memberships {
        let outline = Outline { terms: after.shape.terms().to_vec(), memberships: after.memberships.clone() };
        commands.set(&keys.state, OUTLINE, codec::seal(OUTLINE, &outline)?);
    }
    Ok(())
}

/// Reads the values of [`FIELDS`]; `None` when there are none at all.
pub(super) fn read(values: Vec<Value>, place: &str) -> Result<Option<Record>> {
    let damaged = |what: String| StorageError::damaged(place, what);
    let values: Vec<Option<bytes::Bytes>> =
        values.into_iter().map(answer::bytes).collect::<std::result::Result<_, _>>().map_err(damaged)?;
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    let Ok([last, base, purged, start, state, copy, outline]) = <[_; 7]>::try_from(values) else {
        return Err(damaged("another number of fields".into()));
    };
    let state = whole_state(place, [state.as_deref(), copy.as_deref()])?;
    let start = start.map(|start| codec::open::<Base>(START, &start)).transpose();
    let start = start.map_err(|what| damaged(format!("the base: {what}")))?.unwrap_or_default();
    for (name, field, expected) in [(LAST, &last, state.last_index), (BASE, &base, start.index)] {
        let is_absent = field.is_none() && expected == Index::ZERO;
        if !is_absent && field.as_deref() != Some(expected.to_string().as_bytes()) {
            return Err(damaged(format!("the field \"{name}\" is not {expected}, as its record says")));
        }
    }
    if state.last_index < start.index {
        return Err(damaged(format!("it begins after {} and ends at {}", start.index, state.last_index)));
    }
    let purged = purged.and_then(|purged| std::str::from_utf8(&purged).ok()?.parse().ok().map(Index));
    let outline = outline.and_then(|bytes| {
        let opened = codec::open(OUTLINE, &bytes);
        opened
            .inspect_err(|what| tracing::warn!(place, what, "the log's outline is damaged and counts for nothing"))
            .ok()
    });
    Ok(Some(Record {
        last_index: state.last_index,
        hard_state: state.hard_state,
        // Rows that are there already are deleted once more at worst.
        purged: purged.unwrap_or_default().min(start.index),
        base: start,
        outline,
    }))
}

/// The first copy of the state that is whole.
fn whole_state(place: &str, copies: [Option<&[u8]>; 2]) -> Result<State> {
    let open = |copy: Option<&[u8]>| copy.map_or(Err("it is missing".into()), |copy| codec::open(STATE_NAME, copy));
    match copies.map(open) {
        [Ok(state), Ok(_)] => Ok(state),
        [Ok(state), Err(what)] | [Err(what), Ok(state)] => {
            tracing::warn!(place, what, "one copy of term and vote is damaged; the other is used");
            Ok(state)
        }
        [Err(first), Err(second)] => {
            Err(StorageError::damaged(place, format!("both copies of term and vote: {first}, {second}")))
        }
    }
}
