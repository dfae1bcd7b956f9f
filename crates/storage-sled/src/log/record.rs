//! A log's base and state, as records.

use coracle_core::{Base, HardState, Index};
use coracle_storage::{Result, StorageError};
use serde::{Deserialize, Serialize};
use sled::Batch;

use crate::{codec, engine::Engine};

/// The state lies in two places, at both ends of the tree (C18).
const STATES: [&[u8]; 2] = [b"a", b"z"];
const BASE: &[u8] = b"b";
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
