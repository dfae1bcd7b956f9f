//! Between the core's types and those of the protocol, each checked on the way in.

mod decode;
mod encode;
mod greeting;
mod membership;

pub(crate) use decode::frame as decode_frame;
pub(crate) use encode::frame as encode_frame;
pub(crate) use greeting::{decode_envelope, encode_greeting};

use coracle_core::DecodeError;

/// Why a message of the other side means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("{message} lacks its {field}")]
    Missing { message: &'static str, field: &'static str },
    #[error("the role {role} of node {node:016x} is unknown")]
    Role { node: u64, role: i32 },
    #[error(transparent)]
    Entries(#[from] DecodeError),
    #[error("{0} came where it has no place")]
    Unexpected(&'static str),
    #[error("{0}")]
    Protobuf(String),
}

fn missing(message: &'static str, field: &'static str) -> Malformed {
    Malformed::Missing { message, field }
}

#[cfg(test)]
#[path = "convert/tests.rs"]
mod tests;
