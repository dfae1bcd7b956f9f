//! The key-value store on the replica of this process.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_level::{
    Answer, Call, Command, CommandReply, Committed, Error, Kv, Limits, Once, Pipeline, Query, QueryReply, Read, ReadAt,
    Result, Revision, ScanPage, ScanSpec, SessionId, SessionLimits, Txn, Value, encode_command, encode_query,
};
use coracle_node::Node;
use coracle_replica::Consistency;

use crate::{
    holds::Holds,
    pipeline::LocalPipeline,
    requests::{Request, answered, read, replied, request, unexpected, written},
};

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

    async fn call(&self, call: Call) -> Result<Answer> {
        match request(&self.limits, &self.holds, call)? {
            Request::Propose(command) => written(&self.node, self.node.propose(command).await),
            Request::Query(query, consistency) => read(&self.node, self.node.query(query, consistency).await),
        }
    }

    async fn propose(&self, command: &Command) -> Result<CommandReply> {
        replied(&self.node, self.node.propose(encode_command(command)).await)
    }
}

#[async_trait]
impl Kv for LocalKv {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        match self.call(Call::GetMany { at, keys }).await? {
            Answer::Values(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>> {
        match self.call(Call::ContainsMany { at, keys }).await? {
            Answer::Contained(read) => Ok(read),
            other => Err(unexpected(&other)),
        }
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>> {
        match self.call(Call::Page { at, scan }).await? {
            Answer::Page(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed> {
        match self.call(Call::Commit { txn, once }).await? {
            Answer::Committed(committed) => Ok(committed),
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
    answered(node, node.query(encode_query(query), consistency).await)
}
