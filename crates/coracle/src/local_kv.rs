//! The key-value store on the replica of this process.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::RejectReason;
use coracle_level::{
    Command, CommandReply, Committed, Error, Kv, Limits, Once, Pipeline, Query, QueryReply, Read, ReadAt, Result,
    Revision, ScanPage, ScanSpec, SessionId, SessionLimits, Txn, Value, decode_answer, decode_reply, encode_command,
    encode_query,
};
use coracle_node::Node;
use coracle_replica::{Consistency, RequestError};

use crate::{holds::Holds, pipeline::LocalPipeline};

/// When to try again after `Busy`: about what it takes to commit what waits.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The key-value store on the replica of this process. Writes and linearizable reads are correct on every node, whoever leads.
pub struct LocalKv {
    node: Node,
    limits: Limits,
    session_limits: SessionLimits,
    holds: Arc<Holds>,
}

impl LocalKv {
    /// The store on `node`, whose state machine is a [`LevelMachine`](coracle_level::LevelMachine). Must be called within a tokio runtime.
    pub fn new(node: Node, limits: Limits, session_limits: SessionLimits) -> LocalKv {
        let holds = Arc::new(Holds::new(node.clone()));
        LocalKv { node, limits, session_limits, holds }
    }

    async fn propose(&self, command: &Command) -> Result<CommandReply> {
        match self.node.propose(encode_command(command)).await {
            Ok(reply) => decode_reply(&reply.data),
            Err(error) => Err(write_error(&self.node, &error)),
        }
    }

    async fn read(&self, at: ReadAt, query: Query) -> Result<QueryReply> {
        query_node(&self.node, &query, consistency(&self.holds, at)?).await
    }
}

/// How fresh a read is, for the replica. One at a held revision holds it anew.
pub(crate) fn consistency(holds: &Holds, at: ReadAt) -> Result<Consistency> {
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

#[async_trait]
impl Kv for LocalKv {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        self.limits.check_keys(&keys)?;
        match self.read(at, Query::GetMany { at: at.revision(), keys }).await? {
            QueryReply::Values(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>> {
        self.limits.check_keys(&keys)?;
        match self.read(at, Query::ContainsMany { at: at.revision(), keys }).await? {
            QueryReply::Contained(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>> {
        match self.read(at, Query::Page { at: at.revision(), scan }).await? {
            QueryReply::Page(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed> {
        self.limits.check(&txn)?;
        match self.propose(&Command::Txn { txn, once }).await? {
            CommandReply::Committed(committed) => Ok(committed),
            other => Err(unexpected(&other)),
        }
    }

    async fn snapshot(&self, hold: Duration) -> Result<Revision> {
        let (node, holds) = (self.node.clone(), self.holds.clone());
        // On a task of its own: a caller who goes away in between must not leave a hold that nobody counts.
        let held = tokio::spawn(async move {
            match query_node(&node, &Query::Hold, Consistency::Linearizable).await? {
                QueryReply::Held(revision) => {
                    holds.hold(revision, hold);
                    Ok(revision)
                }
                other => Err(unexpected(&other)),
            }
        });
        held.await.unwrap_or(Err(Error::Closed))
    }

    async fn release(&self, revision: Revision) -> Result<()> {
        if !self.holds.release(revision) {
            return Ok(());
        }
        let node = self.node.clone();
        let released =
            tokio::spawn(async move { query_node(&node, &Query::Release(revision), Consistency::Stale).await });
        released.await.unwrap_or(Err(Error::Closed)).map(drop)
    }

    async fn open_session(&self) -> Result<SessionId> {
        match self.propose(&Command::OpenSession { limits: self.session_limits }).await? {
            CommandReply::SessionOpened(session) => Ok(session),
            other => Err(unexpected(&other)),
        }
    }

    async fn close_session(&self, session: SessionId) -> Result<()> {
        self.propose(&Command::CloseSession { session }).await.map(drop)
    }

    fn pipeline(&self) -> Option<Box<dyn Pipeline>> {
        Some(Box::new(LocalPipeline::new(self.node.clone(), self.limits.clone(), self.holds.clone())))
    }
}

impl fmt::Debug for LocalKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKv").field("node", &self.node).finish_non_exhaustive()
    }
}

async fn query_node(node: &Node, query: &Query, consistency: Consistency) -> Result<QueryReply> {
    match node.query(encode_query(query), consistency).await {
        Ok(reply) => decode_answer(&reply.data),
        Err(error) => Err(read_error(node, &error)),
    }
}

pub(crate) fn write_error(node: &Node, error: &RequestError) -> Error {
    match error {
        RequestError::Rejected(reason) => rejected(node, *reason),
        RequestError::TooLarge { max, got } => {
            Error::LimitExceeded { limit: "command_bytes_max".to_owned(), max: *max as u64, got: *got as u64 }
        }
        _ => Error::Unknown("the leader changed, or the node stopped, before the write was acknowledged".to_owned()),
    }
}

/// A read changes nothing: that nobody knows what became of it only means that there is no answer.
pub(crate) fn read_error(node: &Node, error: &RequestError) -> Error {
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
