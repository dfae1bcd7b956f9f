//! The level store, as far as single keys go.

use bytes::Bytes;

use super::Model;

/// The level store's values and counters by key; every key is absent at the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Store;

/// What is asked of a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreInput {
    /// For which key.
    pub key: Bytes,
    /// What.
    pub op: StoreOp,
}

/// What is asked for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOp {
    /// What it holds.
    Get,
    /// To hold this.
    Put(Bytes),
    /// To be larger by this; an absent key counts as 0.
    Increment(i64),
}

/// What a [`Store`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOutput {
    /// To a get.
    Value(Option<Bytes>),
    /// To a put.
    Done,
    /// To an increment: the sum.
    Integer(i64),
    /// To an increment of what is no integer, or would not be one any more.
    NotAnInteger,
}

impl Model for Store {
    type Key = Bytes;
    type State = Option<Bytes>;
    type Input = StoreInput;
    type Output = StoreOutput;

    fn key(&self, input: &StoreInput) -> Bytes {
        input.key.clone()
    }

    fn initial(&self, _key: &Bytes) -> Option<Bytes> {
        None
    }

    fn step(&self, state: &Option<Bytes>, input: &StoreInput, output: Option<&StoreOutput>) -> Option<Option<Bytes>> {
        let (answer, after) = match &input.op {
            StoreOp::Get => (StoreOutput::Value(state.clone()), state.clone()),
            StoreOp::Put(value) => (StoreOutput::Done, Some(value.clone())),
            StoreOp::Increment(by) => match integer(state.as_ref()).and_then(|old| old.checked_add(*by)) {
                Some(sum) => (StoreOutput::Integer(sum), Some(sum.to_string().into())),
                None => (StoreOutput::NotAnInteger, state.clone()),
            },
        };
        output.is_none_or(|output| *output == answer).then_some(after)
    }

    fn is_read(&self, input: &StoreInput, output: Option<&StoreOutput>) -> bool {
        input.op == StoreOp::Get || output == Some(&StoreOutput::NotAnInteger)
    }
}

/// The integer that a value stands for, in its shortest decimal form.
fn integer(value: Option<&Bytes>) -> Option<i64> {
    let Some(value) = value else { return Some(0) };
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}
