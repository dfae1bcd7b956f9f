//! A log's base and state, as records.

use coracle_core::{Base, HardState, Index, Term};
use coracle_storage::{Result, StorageError};
use serde::{Deserialize, Serialize};
use sled::Batch;

use crate::{codec, engine::Engine};

/// The state lies in two places, at both ends of the tree (C18).
const STATES: [&[u8]; 2] = [b"a", b"z"];
const BASE: &[u8] = b"b";
const OUTLINE: &[u8] = b"o";
/// More terms than this are not kept apart from the entries: the record is written whenever a term begins.
const OUTLINE_TERMS_MAX: usize = 1024;
/// What both copies are sealed as: they are the same bytes.
const STATE_NAME: &[u8] = b"state";

/// What every batch writes: it belongs to the entries that it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// How many batches were written.
    pub(super) generation: u64,
    /// Where the log ends.
    pub(super) last_index: Index,
    /// Term, vote, commit hint.
    pub(super) hard_state: HardState,
}

/// What a log's entries are, told apart from them: what is known of one whose row is damaged (C19).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Outline {
    /// The first index of each term, in order. Those below the base count for nothing.
    pub(super) terms: Vec<(Index, Term)>,
    /// The indexes of all memberships, in order; `None` when they are not all known.
    pub(super) memberships: Option<Vec<Index>>,
}

/// Writes the outline; one that would be large is left out, and then the rows next to a damaged one tell its term, or nothing does.
pub(super) fn put_outline(changes: &mut Batch, outline: &Outline) -> Result<()> {
    if outline.terms.len() > OUTLINE_TERMS_MAX {
        changes.remove(OUTLINE);
        return Ok(());
    }
    let mut record = Vec::new();
    codec::seal(OUTLINE, outline, &mut record)?;
    changes.insert(OUTLINE, record);
    Ok(())
}

/// The outline, if it is there and whole.
pub(super) fn outline(engine: &Engine, tree: &sled::Tree, place: &str) -> Result<Option<Outline>> {
    let Some(bytes) = engine.run("read the outline", || tree.get(OUTLINE))? else { return Ok(None) };
    let opened = codec::open(OUTLINE, &bytes);
    Ok(opened
        .inspect_err(|what| tracing::warn!(place, what, "the log's outline is damaged and counts for nothing"))
        .ok())
}

/// Writes both copies of the state.
pub(super) fn put_state(changes: &mut Batch, state: &State) -> Result<()> {
    let mut record = Vec::new();
    codec::seal(STATE_NAME, state, &mut record)?;
    for key in STATES {
        changes.insert(key, record.as_slice());
    }
    Ok(())
}

/// The newest copy of the state that is whole; `None` when there is none at all.
pub(super) fn state(engine: &Engine, tree: &sled::Tree, place: &str) -> Result<Option<State>> {
    let mut copies = Vec::with_capacity(STATES.len());
    for key in STATES {
        let bytes = engine.run("read the state", || tree.get(key))?;
        copies.push(bytes.map(|bytes| codec::open::<State>(STATE_NAME, &bytes)));
    }
    if copies.iter().all(Option::is_none) {
        return Ok(None);
    }
    let whole = copies.iter().filter_map(|copy| copy.as_ref()?.as_ref().ok()).max_by_key(|state| state.generation);
    let complaints: Vec<String> = copies.iter().map(complaint).filter(|text| !text.is_empty()).collect();
    if whole.is_none() {
        let what = format!("both copies of term and vote: {}", complaints.join(", "));
        return Err(StorageError::damaged(place, what));
    }
    if !complaints.is_empty() {
        tracing::warn!(place, what = %complaints.join(", "), "one copy of term and vote is damaged; the other is used");
    }
    Ok(whole.copied())
}

fn complaint(copy: &Option<std::result::Result<State, String>>) -> String {
    match copy {
        None => "it is missing".into(),
        Some(Err(what)) => what.clone(),
        Some(Ok(_)) => String::new(),
    }
}

/// Writes the base.
pub(super) fn put_base(changes: &mut Batch, base: &Base) -> Result<()> {
    let mut record = Vec::new();
    codec::seal(BASE, base, &mut record)?;
    changes.insert(BASE, record);
    Ok(())
}

/// The base; that of a log that was never compacted when there is none.
pub(super) fn base(engine: &Engine, tree: &sled::Tree, place: &str) -> Result<Base> {
    match engine.run("read the base", || tree.get(BASE))? {
        None => Ok(Base::default()),
        Some(bytes) => {
            codec::open(BASE, &bytes).map_err(|what| StorageError::damaged(place, format!("the base: {what}")))
        }
    }
}
