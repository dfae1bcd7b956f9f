//! What a failed call means for the request that it carried.

use std::error::Error as _;

use coracle_level::Error;
use tonic::{Code, Status};

use crate::status;

/// Why a call to one node did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The node answered with an error.
    Answer(Error),
    /// There was no connection, so that the request surely had no effect.
    Unsent(String),
    /// The connection broke or fell silent: the request may have taken effect.
    Broken(String),
}

impl Failure {
    pub(crate) fn from_status(status: &Status) -> Failure {
        if let Some(error) = status::to_error(status) {
            return Failure::Answer(error);
        }
        if never_connected(status) {
            return Failure::Unsent(text(status));
        }
        match status.code() {
            Code::Unimplemented => Failure::Answer(Error::Protocol(format!(
                "the server does not know the call: is it a coracle node's client address? ({})",
                status.message()
            ))),
            Code::OutOfRange => Failure::Answer(Error::Protocol(status.message().to_owned())),
            _ => Failure::Broken(text(status)),
        }
    }

    /// Whether the request surely had no effect and may have one if it is asked again.
    pub(crate) fn is_without_effect(&self) -> bool {
        match self {
            Failure::Unsent(_) => true,
            Failure::Answer(error) => {
                matches!(
                    error,
                    Error::NotLeader { .. }
                        | Error::Unavailable(_)
                        | Error::Busy { .. }
                        | Error::NoSpace(_)
                        | Error::Closed
                )
            }
            Failure::Broken(_) => false,
        }
    }

    /// Whether it is unknown what became of the request.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Failure::Broken(_) => true,
            Failure::Answer(error) => matches!(error, Error::Unknown(_)),
            Failure::Unsent(_) => false,
        }
    }

    /// In words.
    pub(crate) fn reason(&self) -> String {
        match self {
            Failure::Answer(error) => error.to_string(),
            Failure::Unsent(reason) | Failure::Broken(reason) => reason.clone(),
        }
    }
}

fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The innermost cause says most.
fn text(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}
