//! One register of integers.

use super::Model;

/// One register, empty at the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

/// What is asked of a [`Register`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterInput {
    /// What it holds.
    Read,
    /// To hold this.
    Write(i64),
    /// To hold something else if it holds what is expected.
    Cas {
        /// What is expected.
        from: i64,
        /// What it is to hold.
        to: i64,
    },
}

/// What a [`Register`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOutput {
    /// To a read.
    Value(Option<i64>),
    /// To a write; to a compare-and-swap that found what it expected.
    Done,
    /// To a compare-and-swap that found something else.
    Differs,
}

impl Model for Register {
    type Key = ();
    type State = Option<i64>;
    type Input = RegisterInput;
    type Output = RegisterOutput;

    fn key(&self, _input: &RegisterInput) {}

    fn initial(&self, (): &()) -> Option<i64> {
        None
    }

    fn step(&self, state: &Option<i64>, input: &RegisterInput, output: Option<&RegisterOutput>) -> Option<Option<i64>> {
        use RegisterInput::{Cas, Read, Write};
        let (answer, after) = match input {
            Read => (RegisterOutput::Value(*state), *state),
            Write(value) => (RegisterOutput::Done, Some(*value)),
            Cas { from, to } if *state == Some(*from) => (RegisterOutput::Done, Some(*to)),
            Cas { .. } => (RegisterOutput::Differs, *state),
        };
        output.is_none_or(|output| *output == answer).then_some(after)
    }

    fn is_read(&self, input: &RegisterInput, output: Option<&RegisterOutput>) -> bool {
        *input == RegisterInput::Read || output == Some(&RegisterOutput::Differs)
    }
}
