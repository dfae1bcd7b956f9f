//! The key-value service over any [`Kv`].

use std::{sync::Arc, time::Duration};

use coracle::client::{
    pb::{self, kv_server},
    status, wire,
};
use coracle::level::{Error, Kv, Revision, SessionId};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::exchange::{Exchange, ExchangeLimits};

/// The longest that a snapshot is held without being read, whatever a client asks for.
const HOLD_MAX: Duration = Duration::from_secs(600);

/// Serves a [`Kv`].
pub(crate) struct KvService {
    pub(crate) kv: Arc<dyn Kv>,
    pub(crate) exchange_limits: ExchangeLimits,
    /// Says when the server stops: streams come to an end then.
    pub(crate) stopping: watch::Receiver<bool>,
}

type Answer<T> = Result<Response<T>, Status>;

fn refuse(error: Error) -> Status {
    status::from_error(&error)
}

#[tonic::async_trait]
impl kv_server::Kv for KvService {
    async fn get_many(&self, request: Request<pb::GetManyRequest>) -> Answer<pb::GetManyResponse> {
        let request = request.into_inner();
        let at = wire::read_at_from_wire(request.at).map_err(refuse)?;
        let read = self.kv.get_many(at, request.keys).await.map_err(refuse)?;
        Ok(Response::new(wire::values_to_wire(read)))
    }

    async fn contains_many(&self, request: Request<pb::ContainsManyRequest>) -> Answer<pb::ContainsManyResponse> {
        let request = request.into_inner();
        let at = wire::read_at_from_wire(request.at).map_err(refuse)?;
        let read = self.kv.contains_many(at, request.keys).await.map_err(refuse)?;
        Ok(Response::new(wire::contained_to_wire(read)))
    }

    async fn page(&self, request: Request<pb::PageRequest>) -> Answer<pb::PageResponse> {
        let request = request.into_inner();
        let at = wire::read_at_from_wire(request.at).map_err(refuse)?;
        let page = self.kv.page(at, wire::scan_from_wire(request)).await.map_err(refuse)?;
        Ok(Response::new(wire::page_to_wire(page)))
    }

    async fn commit(&self, request: Request<pb::CommitRequest>) -> Answer<pb::CommitResponse> {
        let (txn, once) = wire::commit_from_wire(request.into_inner()).map_err(refuse)?;
        let committed = self.kv.commit(txn, once).await.map_err(refuse)?;
        Ok(Response::new(wire::committed_to_wire(committed)))
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Answer<pb::SnapshotResponse> {
        let hold = Duration::from_millis(request.into_inner().hold_ms).min(HOLD_MAX);
        let revision = self.kv.snapshot(hold).await.map_err(refuse)?;
        Ok(Response::new(pb::SnapshotResponse { revision: revision.0 }))
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Answer<pb::ReleaseResponse> {
        self.kv.release(Revision(request.into_inner().revision)).await.map_err(refuse)?;
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn open_session(&self, _: Request<pb::OpenSessionRequest>) -> Answer<pb::OpenSessionResponse> {
        let session = self.kv.open_session().await.map_err(refuse)?;
        Ok(Response::new(pb::OpenSessionResponse { session: session.0 }))
    }

    async fn close_session(&self, request: Request<pb::CloseSessionRequest>) -> Answer<pb::CloseSessionResponse> {
        self.kv.close_session(SessionId(request.into_inner().session)).await.map_err(refuse)?;
        Ok(Response::new(pb::CloseSessionResponse {}))
    }
    type ExchangeStream = Exchange;

    async fn exchange(&self, request: Request<Streaming<pb::ExchangeRequest>>) -> Answer<Exchange> {
        Exchange::new(request, &self.kv, self.exchange_limits, self.stopping.clone()).map(Response::new)
    }
}
