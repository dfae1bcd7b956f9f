//! The client as a [`Kv`].

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_level::{
    Committed, Error, Kv, Once, Read, ReadAt, Result, Revision, ScanPage, ScanSpec, SessionId, Txn, Value,
};
use prost::Message;
use tokio::time;

use crate::{
    Client,
    calls::{Called, Kind},
    endpoint::Endpoint,
    failure::Failure,
    pb, wire,
};

/// How often a node that holds a snapshot is asked before the snapshot is given up.
const HOLDER_ATTEMPTS: usize = 2;

#[async_trait]
impl Kv for Client {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        let asked = keys.len();
        let request = pb::GetManyRequest { at: Some(wire::read_at_to_wire(at)?), keys };
        self.check_size(&request)?;
        let response = self.read(at, |node| {
            let request = &request;
            async move { node.get_many(request).await }
        });
        let read = wire::values_from_wire(response.await?);
        check_count(asked, read.value.len())?;
        Ok(read)
    }

    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>> {
        let asked = keys.len();
        let request = pb::ContainsManyRequest { at: Some(wire::read_at_to_wire(at)?), keys };
        self.check_size(&request)?;
        let response = self.read(at, |node| {
            let request = &request;
            async move { node.contains_many(request).await }
        });
        let response = response.await?;
        check_count(asked, response.present.len())?;
        Ok(Read { value: response.present, revision: Revision(response.revision) })
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>> {
        let request = wire::scan_to_wire(at, scan)?;
        let response = self.read(at, |node| {
            let request = request.clone();
            async move { Ok(node.kv().page(request).await?.into_inner()) }
        });
        Ok(wire::page_from_wire(response.await?))
    }

    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed> {
        let request = wire::commit_to_wire(txn, once);
        self.check_size(&request)?;
        // A node knows a commit with a session again, so that repeating it is safe (C22).
        let kind = if once.is_some() { Kind::Repeatable } else { Kind::Fragile };
        let response = self.at_leader(kind, |node| {
            let request = &request;
            async move { node.commit(request).await }
        });
        Ok(wire::committed_from_wire(response.await?))
    }

    async fn snapshot(&self, hold: Duration) -> Result<Revision> {
        self.inner.holds().check(Instant::now())?;
        let hold_ms = wire::whole_ms(hold);
        // A hold whose answer got lost ends by itself, so that this counts as a read.
        let (endpoint, revision) = self
            .at_leader(Kind::Read, |node| async move {
                let response = node.kv().snapshot(pb::SnapshotRequest { hold_ms }).await?;
                Ok((node, Revision(response.into_inner().revision)))
            })
            .await?;
        self.inner.holds().add(revision, endpoint, hold, Instant::now());
        Ok(revision)
    }

    async fn release(&self, revision: Revision) -> Result<()> {
        let Some(endpoint) = self.inner.holds().remove(revision) else { return Ok(()) };
        let mut kv = endpoint.kv();
        let release = kv.release(pb::ReleaseRequest { revision: revision.0 });
        // Asked once only, since it counts on the other side; if it gets lost, the hold ends by itself.
        match time::timeout(self.inner.options.attempt, release).await {
            Ok(Err(status)) => match Failure::from_status(&status) {
                Failure::Answer(error) => Err(error),
                Failure::Unsent(_) | Failure::Broken(_) => Ok(()),
            },
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    async fn open_session(&self) -> Result<SessionId> {
        // A session whose id got lost is never used, and evicted in time.
        let response = self.at_leader(Kind::Repeatable, |node| async move {
            Ok(node.kv().open_session(pb::OpenSessionRequest {}).await?.into_inner())
        });
        Ok(SessionId(response.await?.session))
    }

    async fn close_session(&self, session: SessionId) -> Result<()> {
        let request = pb::CloseSessionRequest { session: session.0 };
        let closed =
            self.at_leader(
                Kind::Repeatable,
                |node| async move { Ok(node.kv().close_session(request).await?.into_inner()) },
            );
        closed.await.map(|_| ())
    }
}

impl Client {
    async fn at_leader<T, A, F>(&self, kind: Kind, attempt: A) -> Result<T>
    where
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<T>> + Send,
    {
        self.inner.call(kind, || self.inner.preferred(), attempt).await
    }

    async fn read<T, A, F>(&self, at: ReadAt, attempt: A) -> Result<T>
    where
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<T>> + Send,
    {
        match at {
            // What is near will do; a node that cannot keep to the bound says so, and the next one is asked.
            ReadAt::Stale | ReadAt::Bounded(_) => self.inner.call(Kind::Read, || self.inner.any(), attempt).await,
            ReadAt::Revision(revision) => match self.holder(revision) {
                Some(holder) => self.at_holder(revision, &holder, attempt).await,
                None => self.at_leader(Kind::Read, attempt).await,
            },
            _ => self.at_leader(Kind::Read, attempt).await,
        }
    }

    fn holder(&self, revision: Revision) -> Option<Arc<Endpoint>> {
        self.inner.holds().holder(revision, Instant::now())
    }

    /// No other node has the snapshot: when this one does not answer, the snapshot is gone.
    async fn at_holder<T, A, F>(&self, revision: Revision, holder: &Arc<Endpoint>, attempt: A) -> Result<T>
    where
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<T>> + Send,
    {
        for _ in 0..HOLDER_ATTEMPTS {
            match time::timeout(self.inner.options.attempt, attempt(Arc::clone(holder))).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(status)) => match Failure::from_status(&status) {
                    Failure::Answer(Error::Closed) => break,
                    Failure::Answer(error) => return Err(error),
                    Failure::Unsent(_) | Failure::Broken(_) => {}
                },
                Err(_) => {}
            }
        }
        Err(Error::SnapshotGone(revision))
    }

    fn check_size(&self, request: &impl Message) -> Result<()> {
        let (max, got) = (self.inner.options.message_bytes_max, request.encoded_len());
        if got <= max {
            return Ok(());
        }
        Err(Error::LimitExceeded { limit: "the gRPC message".to_owned(), max: max as u64, got: got as u64 })
    }
}

fn check_count(asked: usize, answered: usize) -> Result<()> {
    if asked == answered {
        return Ok(());
    }
    Err(Error::Protocol(format!("{asked} keys were asked for, and {answered} were answered")))
}
