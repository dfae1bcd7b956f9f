//! Commands and queries of the replicated state machine, and their encodings.
//!
//! Each encoding is a byte with the format's version, then bincode with fixed-size little-endian integers, and nothing after it.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Committed, Error, Once, Op, Read, ReadAt, Result, Revision, ScanPage, ScanSpec, SessionId, SessionLimits, Txn,
    Value,
};

/// The most bytes of an encoded command, query, reply or answer: the ceilings of all limits fit.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How many bytes are set aside for a message whose length nobody knows beforehand.
const FEW_BYTES: usize = 64;

/// The version of the encodings, their first byte.
const VERSION: u8 = 1;

/// What goes through the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A transaction; one per entry, since the entry's index is its revision (C23).
    Txn {
        /// What it changes.
        txn: Txn,
        /// What makes it take effect once.
        once: Option<Once>,
    },
    /// Registers a session; its id is the entry's index (C22).
    OpenSession {
        /// The bounds of the table, from whoever proposes it.
        limits: SessionLimits,
    },
    /// Forgets a session; that it is unknown is no error.
    CloseSession {
        /// Which.
        session: SessionId,
    },
}

/// A [`Command`] as a machine executes it: keys and values lie where they were read from. It reads the same bytes.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum CommandRef<'a> {
    Txn {
        #[serde(borrow)]
        ops: Vec<OpRef<'a>>,
        once: Option<Once>,
    },
    OpenSession {
        limits: SessionLimits,
    },
    CloseSession {
        session: SessionId,
    },
}

/// An [`Op`] whose key and value lie where they were read from.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum OpRef<'a> {
    Put { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
    Increment { key: &'a [u8], by: i64 },
}

impl OpRef<'_> {
    /// The bytes of the key and of the value.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        match self {
            OpRef::Put { key, value } => (key.len(), value.len()),
            OpRef::Delete { key } | OpRef::Increment { key, .. } => (key.len(), 0),
        }
    }
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandReply {
    /// Of a transaction.
    Committed(Committed),
    /// Of `OpenSession`.
    SessionOpened(SessionId),
    /// Of `CloseSession`.
    SessionClosed,
}

/// What is asked of one replica's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// The values of keys.
    GetMany {
        /// A held revision; `None` for the newest.
        at: Option<Revision>,
        /// Which.
        keys: Vec<Bytes>,
    },
    /// Whether keys are there.
    ContainsMany {
        /// A held revision; `None` for the newest.
        at: Option<Revision>,
        /// Which.
        keys: Vec<Bytes>,
    },
    /// A page of a scan.
    Page {
        /// A held revision; `None` for the newest.
        at: Option<Revision>,
        /// Which keys.
        scan: ScanSpec,
    },
    /// Holds the newest revision on this replica, until as many releases as holds of it have come, or a restart, or an installed snapshot.
    Hold,
    /// Lets go of a revision; that it is not held is no error.
    Release(Revision),
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueryReply {
    /// To `GetMany`, in the order of the keys.
    Values(Read<Vec<Option<Value>>>),
    /// To `ContainsMany`, in the order of the keys.
    Contained(Read<Vec<bool>>),
    /// To `Page`.
    Page(Read<ScanPage>),
    /// To `Hold`.
    Held(Revision),
    /// To `Release`.
    Released,
}

impl ReadAt {
    /// The held revision that the read asks for, as a [`Query`] carries it.
    pub fn revision(self) -> Option<Revision> {
        match self {
            ReadAt::Revision(revision) => Some(revision),
            ReadAt::Linearizable | ReadAt::Lease | ReadAt::Bounded(_) | ReadAt::Stale => None,
        }
    }
}

/// The bytes of a command, for the log.
pub fn encode_command(command: &Command) -> Bytes {
    encode(command, command_bytes(command))
}

/// How many bytes a command takes, so that they are allocated once.
fn command_bytes(command: &Command) -> usize {
    match command {
        Command::Txn { txn, once } => {
            14 + if once.is_some() { 24 } else { 0 } + txn.ops.iter().map(op_bytes).sum::<usize>()
        }
        Command::OpenSession { .. } | Command::CloseSession { .. } => 13,
    }
}

/// How many bytes a change takes: tag, lengths, numbers, and what they are of.
fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value } => 20 + key.len() + value.len(),
        Op::Delete { key } => 12 + key.len(),
        Op::Increment { key, .. } => 20 + key.len(),
    }
}

/// Reads what [`encode_command`] wrote.
///
/// # Errors
/// `Protocol`, when it is anything else.
pub fn decode_command(bytes: &[u8]) -> Result<Command> {
    decode("command", bytes)
}

/// Reads what [`encode_command`] wrote, without a copy of it.
pub(crate) fn read_command(bytes: &[u8]) -> Result<CommandRef<'_>> {
    decode("command", bytes)
}

/// The bytes of a state machine's reply to a command.
pub fn encode_reply(reply: &Result<CommandReply>) -> Bytes {
    let bytes = match reply {
        Ok(CommandReply::Committed(committed)) => 25 + 8 * committed.integers.len(),
        _ => FEW_BYTES,
    };
    encode(reply, bytes)
}

/// Reads a state machine's reply to a command.
///
/// # Errors
/// What the reply says went wrong, or `Protocol` when it does not decode.
pub fn decode_reply(bytes: &[u8]) -> Result<CommandReply> {
    decode::<Result<CommandReply>>("reply", bytes)?
}

/// The bytes of a query.
pub fn encode_query(query: &Query) -> Bytes {
    encode(query, FEW_BYTES)
}

/// Reads what [`encode_query`] wrote.
///
/// # Errors
/// `Protocol`, when it is anything else.
pub fn decode_query(bytes: &[u8]) -> Result<Query> {
    decode("query", bytes)
}

/// The bytes of a state machine's answer to a query.
pub fn encode_answer(answer: &Result<QueryReply>) -> Bytes {
    encode(answer, FEW_BYTES)
}

/// Reads a state machine's answer to a query.
///
/// # Errors
/// What the answer says went wrong, or `Protocol` when it does not decode.
pub fn decode_answer(bytes: &[u8]) -> Result<QueryReply> {
    decode::<Result<QueryReply>>("answer", bytes)?
}

fn format() -> Configuration<LittleEndian, Fixint, Limit<MESSAGE_BYTES_MAX>> {
    config::legacy().with_limit::<MESSAGE_BYTES_MAX>()
}

/// The bytes of a message, whose length is best known beforehand.
fn encode<T: Serialize>(message: &T, bytes: usize) -> Bytes {
    let mut out = Vec::with_capacity(bytes);
    out.push(VERSION);
    let written = bincode::serde::encode_into_std_write(message, &mut out, format());
    // Memory takes all bytes, and none of these types has a serializer that fails.
    assert!(written.is_ok(), "the message encodes: {written:?}");
    out.into()
}

fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T> {
    let wrong = |why: String| Error::Protocol(format!("the {what} does not decode: {why}"));
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(wrong(format!("it has {} bytes, at most {MESSAGE_BYTES_MAX} were expected", bytes.len())));
    }
    let (version, rest) = bytes.split_first().ok_or_else(|| wrong("it is empty".to_owned()))?;
    if *version != VERSION {
        return Err(wrong(format!("it is of version {version}, {VERSION} was expected")));
    }
    let (message, used) =
        bincode::serde::borrow_decode_from_slice(rest, format()).map_err(|error| wrong(error.to_string()))?;
    if used != rest.len() {
        return Err(wrong(format!("{} bytes follow it", rest.len() - used)));
    }
    Ok(message)
}

#[cfg(test)]
mod tests;
