//! A checker of linearizability, for histories of any origin.
//!
//! A [`History`] says who asked for what and when, and what came of it; a [`Model`] says what one object alone would answer.
//! [`check`] looks for an order of the operations in which the model gives the same answers and in which no operation comes before one that had ended when it began.
//! An operation without an answer may have happened at any time after it began, or never.
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory of the configurations that led nowhere ("Testing for linearizability", 2016), for each key by itself (a history is linearizable exactly if each object's part of it is).
//!
//! ```
//! use coracle_sim::linearizability::{History, Register, RegisterInput, RegisterOutput, STEPS_MAX, check};
//!
//! let mut history = History::new();
//! let write = history.invoke(1, RegisterInput::Write(7));
//! let read = history.invoke(3, RegisterInput::Read);
//! history.answer(write, 2, RegisterOutput::Done)?;
//! history.answer(read, 4, RegisterOutput::Value(Some(7)))?;
//! assert!(check(&Register, &history, STEPS_MAX).is_linearizable());
//!
//! let stale = history.invoke(5, RegisterInput::Read);
//! history.answer(stale, 6, RegisterOutput::Value(None))?;
//! assert!(check(&Register, &history, STEPS_MAX).is_not_linearizable());
//! # Ok::<(), coracle_sim::linearizability::HistoryError>(())
//! ```

mod bits;
mod history;
mod parse;
mod register;
mod search;
mod store;
mod strings;

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    hash::Hash,
};

pub use history::{Call, CallId, History, HistoryError};
pub use parse::{ParseError, parse_register, parse_strings};
pub use register::{Register, RegisterInput, RegisterOutput};
pub use store::{Store, StoreInput, StoreOp, StoreOutput};
pub use strings::{Strings, StringsInput, StringsOp, StringsOutput};

/// As many steps as take some seconds, and some hundred megabytes where no order is found.
pub const STEPS_MAX: u64 = 2_000_000;

/// What an object does when one operation at a time is asked of it.
pub trait Model {
    /// What the object consists of: parts that know nothing of each other. `()` where it is one piece.
    type Key: Ord + Clone + Debug;
    /// The state of one part.
    type State: Clone + Eq + Hash + Debug;
    /// What is asked.
    type Input: PartialEq + Debug;
    /// What is answered.
    type Output: Debug;

    /// The part that an operation is about.
    fn key(&self, input: &Self::Input) -> Self::Key;

    /// The state at the beginning.
    fn initial(&self, key: &Self::Key) -> Self::State;

    /// The state after `input` was answered by `output`; `None` if that is no answer in this state.
    /// Without an output, any answer will do; there must be at most one state that it leads to.
    fn step(&self, state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;

    /// Whether such an operation leaves every state as it is: then the search need not try it at more than one place.
    fn is_read(&self, _input: &Self::Input, _output: Option<&Self::Output>) -> bool {
        false
    }
}

/// What is known of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<K, S> {
    /// There is a legal order.
    Linearizable,
    /// There is none.
    NotLinearizable(Obstacle<K, S>),
    /// It was not found out within the steps allowed. A test has to take this for a failure.
    Unknown {
        /// For which key.
        key: K,
        /// After how many steps.
        steps: u64,
    },
}

/// Where the search came furthest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle<K, S> {
    /// In the operations on which key.
    pub key: K,
    /// How many operations on it there are.
    pub calls: usize,
    /// The most of them that have a legal order from the beginning on.
    pub ordered: usize,
    /// The state after these.
    pub state: S,
    /// The operation that had to come before any other could end, and did not fit.
    pub stuck: CallId,
}

impl<K, S> Verdict<K, S> {
    /// Whether there is a legal order.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Verdict::Linearizable)
    }

    /// Whether there surely is none.
    pub fn is_not_linearizable(&self) -> bool {
        matches!(self, Verdict::NotLinearizable(_))
    }
}

impl<K: Debug, S: Debug> fmt::Display for Verdict<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Linearizable => f.write_str("linearizable"),
            Verdict::NotLinearizable(Obstacle { key, calls, ordered, state, stuck }) => {
                write!(f, "not linearizable: of {calls} operations on {key:?} at most {ordered} have a legal order, ")?;
                write!(f, "which ends with {state:?} before operation {}", stuck.0)
            }
            Verdict::Unknown { key, steps } => {
                write!(f, "unknown: no order of the operations on {key:?} was found, nor excluded, in {steps} steps")
            }
        }
    }
}

/// Looks for a legal order of `history`, for each key in at most `steps_max` steps.
///
/// The limit is on steps and not on time, so that the verdict is the same on every machine; memory grows with the steps, too.
/// A key that is not linearizable decides, also when another one is unknown.
pub fn check<M: Model>(model: &M, history: &History<M::Input, M::Output>, steps_max: u64) -> Verdict<M::Key, M::State> {
    let mut keys: BTreeMap<M::Key, search::Calls<'_, M>> = BTreeMap::new();
    for (id, call) in history.calls() {
        keys.entry(model.key(&call.input)).or_default().push((id, call));
    }
    let mut verdict = Verdict::Linearizable;
    for (key, calls) in keys {
        match search::search(model, key, calls, steps_max) {
            Verdict::Linearizable => {}
            found @ Verdict::NotLinearizable(_) => return found,
            unknown @ Verdict::Unknown { .. } => verdict = unknown,
        }
    }
    verdict
}
