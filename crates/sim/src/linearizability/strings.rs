//! Strings by key.

use super::Model;

/// Strings by key; a key holds the empty string at the beginning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strings;

/// What is asked of [`Strings`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringsInput {
    /// For which key.
    pub key: String,
    /// What.
    pub op: StringsOp,
}

/// What is asked for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringsOp {
    /// What it holds.
    Get,
    /// To hold this.
    Put(String),
    /// To hold this after what it holds.
    Append(String),
}

/// What [`Strings`] answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringsOutput {
    /// To a get.
    Value(String),
    /// To a put or an append.
    Done,
}

impl Model for Strings {
    type Key = String;
    type State = String;
    type Input = StringsInput;
    type Output = StringsOutput;

    fn key(&self, input: &StringsInput) -> String {
        input.key.clone()
    }

    fn initial(&self, _key: &String) -> String {
        String::new()
    }

    fn step(&self, state: &String, input: &StringsInput, output: Option<&StringsOutput>) -> Option<String> {
        let fits = match (&input.op, output) {
            (StringsOp::Get, Some(StringsOutput::Value(value))) => value == state,
            (StringsOp::Put(_) | StringsOp::Append(_), Some(StringsOutput::Done)) | (_, None) => true,
            _ => false,
        };
        fits.then(|| match &input.op {
            StringsOp::Get => state.clone(),
            StringsOp::Put(value) => value.clone(),
            StringsOp::Append(value) => format!("{state}{value}"),
        })
    }

    fn is_read(&self, input: &StringsInput, _output: Option<&StringsOutput>) -> bool {
        input.op == StringsOp::Get
    }
}
