//! Errors on the wire: a status whose details are an encoded [`pb::Error`], so that nothing is lost.

use std::time::Duration;

use coracle_level::{Error, Revision, SessionId};
use prost::Message;
use tonic::{Code, Status};

use crate::pb::{self, error::Detail};

/// The most bytes of a text in an error: status and details travel in headers, whose size is limited.
const TEXT_BYTES_MAX: usize = 1024;
/// The most bytes of the status's own message, which is escaped on the wire.
const MESSAGE_BYTES_MAX: usize = 256;

/// The string by which clients in all languages know an error.
pub fn code(error: &Error) -> &'static str {
    match error {
        Error::LimitExceeded { .. } => "LEVEL_LIMIT_EXCEEDED",
        Error::NotAnInteger { .. } => "LEVEL_NOT_AN_INTEGER",
        Error::SessionExpired(_) => "LEVEL_SESSION_EXPIRED",
        Error::SnapshotGone(_) => "LEVEL_SNAPSHOT_NOT_OPEN",
        Error::NotLeader { .. } => "LEVEL_NOT_LEADER",
        Error::Unavailable(_) => "LEVEL_UNAVAILABLE",
        Error::Busy { .. } => "LEVEL_BUSY",
        Error::NoSpace(_) => "LEVEL_NO_SPACE",
        Error::Unknown(_) => "LEVEL_OUTCOME_UNKNOWN",
        Error::Closed => "LEVEL_DATABASE_NOT_OPEN",
        Error::Protocol(_) => "LEVEL_PROTOCOL",
        _ => "LEVEL_REMOTE_ERROR",
    }
}

/// What a server answers with.
pub fn from_error(error: &Error) -> Status {
    let details = to_wire(error);
    let message = format!("{}: {}", details.code, clip(details.message.clone(), MESSAGE_BYTES_MAX));
    Status::with_details(grpc_code(error), message, details.encode_to_vec().into())
}

/// An error, as an answer on a stream or the details of a status have it.
pub fn to_wire(error: &Error) -> pb::Error {
    let message = clip(error.to_string(), TEXT_BYTES_MAX);
    pb::Error { code: code(error).to_owned(), message, detail: detail(error) }
}

/// What a client makes of a status; `None` when it does not come from a server of ours.
pub fn to_error(status: &Status) -> Option<Error> {
    if status.details().is_empty() {
        return None;
    }
    Some(from_wire(&pb::Error::decode(status.details()).ok()?))
}

/// The status that has an error in its details.
pub(crate) fn from_details(details: &pb::Error) -> Status {
    Status::with_details(Code::Unknown, details.code.clone(), details.encode_to_vec().into())
}

/// What a client makes of an error.
pub fn from_wire(details: &pb::Error) -> Error {
    let code = details.code.clone();
    let wrong = || Error::Protocol(format!("{code} came without what belongs to it: {}", details.message));
    match (details.code.as_str(), &details.detail) {
        ("LEVEL_LIMIT_EXCEEDED", Some(Detail::LimitExceeded(limit))) => {
            Error::LimitExceeded { limit: limit.limit.clone(), max: limit.max, got: limit.got }
        }
        ("LEVEL_NOT_AN_INTEGER", Some(Detail::Key(key))) => Error::NotAnInteger { key: key.clone() },
        ("LEVEL_SESSION_EXPIRED", Some(Detail::Session(session))) => Error::SessionExpired(SessionId(*session)),
        ("LEVEL_SNAPSHOT_NOT_OPEN", Some(Detail::Revision(revision))) => Error::SnapshotGone(Revision(*revision)),
        ("LEVEL_NOT_LEADER", Some(Detail::Leader(leader))) => Error::NotLeader { leader: Some(leader.clone()) },
        ("LEVEL_NOT_LEADER", None) => Error::NotLeader { leader: None },
        ("LEVEL_UNAVAILABLE", Some(Detail::Reason(reason))) => Error::Unavailable(reason.clone()),
        ("LEVEL_BUSY", Some(Detail::RetryAfterUs(after))) => Error::Busy { retry_after: Duration::from_micros(*after) },
        ("LEVEL_NO_SPACE", Some(Detail::Reason(reason))) => Error::NoSpace(reason.clone()),
        ("LEVEL_OUTCOME_UNKNOWN", Some(Detail::Reason(reason))) => Error::Unknown(reason.clone()),
        ("LEVEL_DATABASE_NOT_OPEN", None) => Error::Closed,
        ("LEVEL_PROTOCOL", Some(Detail::Reason(reason))) => Error::Protocol(reason.clone()),
        (code, _) if code.starts_with("CLUSTER_") => Error::Protocol(format!("{code}: {}", details.message)),
        (code, None) if !known(code) => Error::Protocol(format!("{code}: {}", details.message)),
        _ => wrong(),
    }
}

fn known(code: &str) -> bool {
    const WITH_DETAIL: [&str; 9] = [
        "LEVEL_LIMIT_EXCEEDED",
        "LEVEL_NOT_AN_INTEGER",
        "LEVEL_SESSION_EXPIRED",
        "LEVEL_SNAPSHOT_NOT_OPEN",
        "LEVEL_UNAVAILABLE",
        "LEVEL_BUSY",
        "LEVEL_NO_SPACE",
        "LEVEL_OUTCOME_UNKNOWN",
        "LEVEL_PROTOCOL",
    ];
    WITH_DETAIL.contains(&code)
}

/// The nearest of the codes that every gRPC client knows.
fn grpc_code(error: &Error) -> Code {
    match error {
        Error::LimitExceeded { .. } => Code::InvalidArgument,
        Error::NotAnInteger { .. } | Error::SessionExpired(_) | Error::SnapshotGone(_) => Code::FailedPrecondition,
        Error::NotLeader { .. } | Error::Unavailable(_) | Error::Closed => Code::Unavailable,
        Error::Busy { .. } | Error::NoSpace(_) => Code::ResourceExhausted,
        Error::Unknown(_) => Code::Unknown,
        _ => Code::Internal,
    }
}

fn detail(error: &Error) -> Option<Detail> {
    Some(match error {
        Error::LimitExceeded { limit, max, got } => Detail::LimitExceeded(pb::LimitExceeded {
            limit: clip(limit.clone(), TEXT_BYTES_MAX),
            max: *max,
            got: *got,
        }),
        Error::NotAnInteger { key } => Detail::Key(clip(key.clone(), TEXT_BYTES_MAX)),
        Error::SessionExpired(session) => Detail::Session(session.0),
        Error::SnapshotGone(revision) => Detail::Revision(revision.0),
        Error::NotLeader { leader } => Detail::Leader(clip(leader.clone()?, TEXT_BYTES_MAX)),
        Error::Busy { retry_after } => Detail::RetryAfterUs(u64::try_from(retry_after.as_micros()).unwrap_or(u64::MAX)),
        Error::Unavailable(reason) | Error::Unknown(reason) | Error::Protocol(reason) | Error::NoSpace(reason) => {
            Detail::Reason(clip(reason.clone(), TEXT_BYTES_MAX))
        }
        _ => return None,
    })
}

/// A text that fits into an error.
pub(crate) fn clip_text(text: &str) -> String {
    clip(text.to_owned(), TEXT_BYTES_MAX)
}

/// The text, cut at a character's boundary.
fn clip(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_error() -> Vec<Error> {
        vec![
            Error::LimitExceeded { limit: "key".to_owned(), max: 4096, got: 5000 },
            Error::NotAnInteger { key: "n\\x00".to_owned() },
            Error::SessionExpired(SessionId(u64::MAX)),
            Error::SnapshotGone(Revision(17)),
            Error::NotLeader { leader: None },
            Error::NotLeader { leader: Some("127.0.0.1:9591".to_owned()) },
            Error::Unavailable("no leader".to_owned()),
            Error::Busy { retry_after: Duration::from_micros(1500) },
            Error::Unknown("it stepped down".to_owned()),
            Error::Closed,
            Error::Protocol("an odd answer".to_owned()),
            Error::NoSpace("no space in /data: 7 bytes are needed".to_owned()),
        ]
    }

    #[test]
    fn every_error_survives_the_way_over_the_wire() {
        for error in every_error() {
            assert_eq!(to_error(&from_error(&error)), Some(error));
        }
    }

    #[test]
    fn every_error_has_a_code_of_its_own_that_begins_with_level() {
        let mut codes: Vec<_> = every_error().iter().map(code).collect();
        codes.dedup();
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
        assert!(codes.iter().all(|code| code.starts_with("LEVEL_") && *code != "LEVEL_REMOTE_ERROR"));
    }

    #[test]
    fn a_status_from_elsewhere_is_no_error_of_ours() {
        assert_eq!(to_error(&Status::unavailable("proxy")), None);
        assert_eq!(to_error(&Status::with_details(Code::Internal, "x", b"\xff\xff".to_vec().into())), None);
    }

    #[test]
    fn a_code_that_is_not_known_keeps_its_message() {
        let details = pb::Error { code: "LEVEL_NEW".to_owned(), message: "odd".to_owned(), detail: None };
        let status = Status::with_details(Code::Internal, "", details.encode_to_vec().into());
        assert_eq!(to_error(&status), Some(Error::Protocol("LEVEL_NEW: odd".to_owned())));
    }

    #[test]
    fn long_texts_are_cut_so_that_they_fit_into_headers() {
        let status = from_error(&Error::NotAnInteger { key: "é".repeat(10_000) });
        assert!(status.details().len() < 4 * TEXT_BYTES_MAX, "{}", status.details().len());
        assert!(matches!(to_error(&status), Some(Error::NotAnInteger { key }) if key.ends_with('…')));
    }
}
