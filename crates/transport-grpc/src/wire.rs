//! What is said on a stream, and why it ends.

use std::error::Error;

#[cfg(feature = "tls")]
use coracle_transport::tls::TlsError;
use coracle_transport::{Fault, FrameError, Hello, Refusal, links::Spoken};
use prost::Message;
use tonic::{Code, Status, Streaming};

use crate::{
    convert::{Malformed, decode_envelope, encode_greeting},
    pb,
};

/// What surrounds a frame, a greeting or a question in a message: fields and lengths, and gRPC's own header.
pub(crate) const ENVELOPE_BYTES_MAX: usize = 32;

/// What processes say before, and between, frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    Hello(Hello),
    Welcome,
    Refused(Refusal),
    /// For a reason that this build has no type for.
    RefusedOtherwise(String),
}

/// What an envelope held.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Greeting(Greeting),
    /// Not looked at yet.
    Frames(Vec<pb::Frame>),
}

/// Why a stream ends, or a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the connection is gone: {0}")]
    Lost(String),
    #[error("the other side closed the stream")]
    Closed,
    #[error("no answer in time")]
    Timeout,
    #[error("the other side does not speak gRPC")]
    Garbage,
    #[error("{}", spoken.instead_of(Spoken::Http2, address))]
    Foreign { spoken: Spoken, address: String },
    #[error("the other side speaks {}, and this is an address of gRPC", .0.name())]
    ForeignHere(Spoken),
    #[error("no secure connection: {0}")]
    #[cfg(feature = "tls")]
    Tls(#[from] TlsError),
    #[error("the address is over TLS: {0}")]
    NoSecurity(&'static str),
    #[error("{0}")]
    Oversized(String),
    #[error("a message does not decode: {0}")]
    Malformed(#[from] Malformed),
    #[error("refused by the other side: {0}")]
    RefusedThere(Refusal),
    #[error("refused by the other side: {0}")]
    RefusedOtherwise(String),
    #[error("refused here: {0}")]
    Refused(Refusal),
    #[error("a frame is refused: {0}")]
    Frame(#[from] FrameError),
    #[error("too many streams: one connection carries one")]
    Overload,
}

impl WireError {
    /// What it counts as; an end that is nobody's fault counts as nothing.
    pub(crate) fn fault(&self) -> Option<Fault> {
        Some(match self {
            WireError::Io(_) | WireError::Lost(_) | WireError::Closed => return None,
            WireError::Timeout => Fault::Timeout,
            // Whoever hangs up in the handshake may have been shut down.
            #[cfg(feature = "tls")]
            WireError::Tls(TlsError::Io(_) | TlsError::Closed) => return None,
            #[cfg(feature = "tls")]
            WireError::Tls(_) => Fault::Tls,
            WireError::NoSecurity(_) => Fault::Tls,
            WireError::Garbage | WireError::Foreign { .. } | WireError::ForeignHere(_) => Fault::Garbage,
            WireError::Oversized(_) => Fault::Oversized,
            WireError::Malformed(_) => Fault::Malformed,
            WireError::RefusedThere(_) | WireError::RefusedOtherwise(_) => Fault::RefusedThere,
            WireError::Refused(Refusal::Version { .. }) => Fault::Version,
            WireError::Refused(_) => Fault::Refused,
            WireError::Frame(error) => error.fault(),
            WireError::Overload => Fault::Overload,
        })
    }

    /// What the other side is told when its stream ends because of this.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            WireError::Oversized(_) => Code::OutOfRange,
            WireError::Overload => Code::ResourceExhausted,
            WireError::Timeout => Code::DeadlineExceeded,
            WireError::Refused(_) => Code::PermissionDenied,
            _ => Code::InvalidArgument,
        };
        Status::new(code, self.to_string())
    }
}

impl From<Status> for WireError {
    /// Tells what the other side did wrong from what merely happened on the way.
    fn from(status: Status) -> WireError {
        match status.code() {
            Code::OutOfRange => WireError::Oversized(status.message().to_owned()),
            // Of the decoder; what a broken connection causes has a source.
            Code::Internal if status.source().is_none() => {
                WireError::Malformed(Malformed::Protobuf(status.message().to_owned()))
            }
            _ => WireError::Lost(with_causes(&status)),
        }
    }
}

impl From<tonic::transport::Error> for WireError {
    fn from(error: tonic::transport::Error) -> WireError {
        WireError::Lost(with_causes(&error))
    }
}

/// An error and what it comes from, each once.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A greeting, if it is no larger than the other side takes.
pub(crate) fn checked_greeting(greeting: Greeting, bytes_max: usize) -> Result<pb::Envelope, WireError> {
    let envelope = encode_greeting(greeting);
    check_len("the hello to be sent", envelope.encoded_len(), bytes_max)?;
    Ok(envelope)
}

/// The next thing that the other side says; a greeting is no larger than `bytes_max`. May be cancelled without loss.
pub(crate) async fn read_said(stream: &mut Streaming<pb::Envelope>, bytes_max: usize) -> Result<Said, WireError> {
    let envelope = stream.message().await?.ok_or(WireError::Closed)?;
    if !matches!(envelope.content, Some(pb::envelope::Content::Frames(_))) {
        check_len("a greeting", envelope.encoded_len(), bytes_max)?;
    }
    Ok(decode_envelope(envelope)?)
}

fn check_len(what: &str, len: usize, bytes_max: usize) -> Result<(), WireError> {
    if len <= bytes_max + ENVELOPE_BYTES_MAX {
        return Ok(());
    }
    Err(WireError::Oversized(format!("{what} has {len} bytes, {bytes_max} are allowed")))
}
