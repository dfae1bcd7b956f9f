//! Calls of the key-value store as requests of the node, and what becomes of them.

use std::{fmt, time::Duration};

use bytes::Bytes;
use coracle_core::RejectReason;
use coracle_level::{
    Answer, Call, Command, CommandReply, Error, Limits, Query, QueryReply, ReadAt, Result, decode_answer, decode_reply,
    encode_command, encode_query,
};
use coracle_node::{Node, Reply};
use coracle_replica::{Consistency, RequestError};

use crate::holds::Holds;

/// When to try again after `Busy`: about what it takes to commit what waits.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// How a request ended.
pub(crate) type End = std::result::Result<Reply, RequestError>;

/// What a call asks of the node.
pub(crate) enum Request {
    Propose(Bytes),
    Query(Bytes, Consistency),
}

/// The request that a call comes to, if it is within the limits. A read at a held revision holds it anew.
pub(crate) fn request(limits: &Limits, holds: &Holds, call: Call) -> Result<Request> {
    let (at, query) = match call {
        Call::Commit { txn, once } => {
            limits.check(&txn)?;
            return Ok(Request::Propose(encode_command(&Command::Txn { txn, once })));
        }
        Call::GetMany { at, keys } => {
            limits.check_keys(&keys)?;
            (at, Query::GetMany { at: at.revision(), keys })
        }
        Call::ContainsMany { at, keys } => {
            limits.check_keys(&keys)?;
            (at, Query::ContainsMany { at: at.revision(), keys })
        }
        Call::Page { at, scan } => (at, Query::Page { at: at.revision(), scan }),
        other => return Err(Error::Protocol(format!("calls like {other:?} are not known here"))),
    };
    Ok(Request::Query(encode_query(&query), consistency(holds, at)?))
}

/// How fresh a read is, for the replica.
fn consistency(holds: &Holds, at: ReadAt) -> Result<Consistency> {
    Ok(match at {
        ReadAt::Linearizable => Consistency::Linearizable,
        ReadAt::Lease => Consistency::Lease,
        ReadAt::Bounded(max_age) => Consistency::Bounded { max_age },
        ReadAt::Revision(revision) => {
            holds.touch(revision);
            Consistency::Stale
        }
        ReadAt::Stale => Consistency::Stale,
        other => return Err(Error::Protocol(format!("reads at {other:?} are not known here"))),
    })
}

/// The answer to a call that proposed.
pub(crate) fn written(node: &Node, end: End) -> Result<Answer> {
    match replied(node, end)? {
        CommandReply::Committed(committed) => Ok(Answer::Committed(committed)),
        other => Err(unexpected(&other)),
    }
}

/// The answer to a call that queried.
pub(crate) fn read(node: &Node, end: End) -> Result<Answer> {
    match answered(node, end)? {
        QueryReply::Values(read) => Ok(Answer::Values(read)),
        QueryReply::Contained(read) => Ok(Answer::Contained(read)),
        QueryReply::Page(read) => Ok(Answer::Page(read)),
        other => Err(unexpected(&other)),
    }
}

/// What the state machine replied to a command.
pub(crate) fn replied(node: &Node, end: End) -> Result<CommandReply> {
    decode_reply(&end.map_err(|error| write_error(node, &error))?.data)
}

/// What the state machine answered to a query.
pub(crate) fn answered(node: &Node, end: End) -> Result<QueryReply> {
    decode_answer(&end.map_err(|error| read_error(node, &error))?.data)
}

fn write_error(node: &Node, error: &RequestError) -> Error {
    match error {
        RequestError::Rejected(reason) => rejected(node, *reason),
        RequestError::TooLarge { max, got } => {
            Error::LimitExceeded { limit: "command_bytes_max".to_owned(), max: *max as u64, got: *got as u64 }
        }
        _ => Error::Unknown("the leader changed, or the node stopped, before the write was acknowledged".to_owned()),
    }
}

/// A read changes nothing: that nobody knows what became of it only means that there is no answer.
fn read_error(node: &Node, error: &RequestError) -> Error {
    match error {
        RequestError::Rejected(reason) => rejected(node, *reason),
        _ if node.is_running() => Error::Unavailable("the leader changed during the read".to_owned()),
        _ => Error::Closed,
    }
}

fn rejected(node: &Node, reason: RejectReason) -> Error {
    match reason {
        RejectReason::NotLeader { .. } => Error::NotLeader { leader: node.leader_client_address() },
        RejectReason::Busy => Error::Busy { retry_after: RETRY_AFTER },
        RejectReason::NoSpace => Error::NoSpace(node.no_space().unwrap_or_else(|| "no space in the log".to_owned())),
        RejectReason::NoQuorum => Error::Unavailable("no majority of the nodes answered in time".to_owned()),
        RejectReason::Stopped => Error::Closed,
        other => Error::Unavailable(format!("refused: {other:?}")),
    }
}

pub(crate) fn unexpected(reply: &impl fmt::Debug) -> Error {
    Error::Protocol(format!("the state machine answered something else than was asked: {reply:?}"))
}
