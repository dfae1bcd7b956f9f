//! The cluster service: what this node knows, and what operators ask of it.

use std::{sync::Arc, time::Duration};

use coracle::{
    client::{
        ClusterError, Refusal, RefusalKind,
        pb::{self, cluster_server::Cluster},
        status,
    },
    core::{Index, NodeId},
    level::Error,
    transport::Address,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

/// The most operations at a time; each may wait for peers.
const OPERATIONS_MAX: usize = 16;
/// When to try again when there are more.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// The most bytes of an address.
const ADDRESS_BYTES_MAX: usize = 1024;
/// The longest time for which a node can be weakened at once.
const WEAKEN_MAX: Duration = Duration::from_secs(86_400);

/// What an operation ends in.
pub(crate) type Operated<T> = Result<T, ClusterError>;

/// Who can say how a node is, and does what operators ask of it.
#[tonic::async_trait]
pub(crate) trait Operator: Send + Sync + 'static {
    /// How it is at this moment.
    fn status(&self) -> pb::StatusResponse;
    /// Who is in the cluster, as it sees it.
    fn members(&self) -> pb::MembersResponse;
    /// Takes a node in.
    async fn join(&self, address: Address, learner: bool) -> Operated<NodeId>;
    /// Removes a member.
    async fn leave(&self, id: NodeId) -> Operated<()>;
    /// Hands leadership over.
    async fn transfer(&self, to: Option<NodeId>) -> Operated<NodeId>;
    /// Prefers for a while that others lead.
    fn weaken(&self, duration: Duration);
    /// Takes a snapshot of the state.
    async fn snapshot(&self) -> Operated<Index>;
}

/// Serves what operators ask.
pub(crate) struct ClusterService {
    operator: Arc<dyn Operator>,
    places: Semaphore,
}

impl ClusterService {
    pub(crate) fn new(operator: Arc<dyn Operator>) -> ClusterService {
        ClusterService { operator, places: Semaphore::new(OPERATIONS_MAX) }
    }

    /// Held while an operation is under way.
    fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.places.try_acquire().map_err(|_| status::from_error(&Error::Busy { retry_after: RETRY_AFTER }))
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.operator.status()))
    }

    async fn members(&self, _: Request<pb::MembersRequest>) -> Result<Response<pb::MembersResponse>, Status> {
        Ok(Response::new(self.operator.members()))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let pb::JoinRequest { address, learner } = request.into_inner();
        let address = checked(&address)?;
        let _place = self.place()?;
        let id = self.operator.join(address, learner).await.map_err(refuse)?;
        Ok(Response::new(pb::JoinResponse { node_id: id.0 }))
    }

    async fn leave(&self, request: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveResponse>, Status> {
        let _place = self.place()?;
        self.operator.leave(NodeId(request.into_inner().node_id)).await.map_err(refuse)?;
        Ok(Response::new(pb::LeaveResponse {}))
    }

    async fn transfer(&self, request: Request<pb::TransferRequest>) -> Result<Response<pb::TransferResponse>, Status> {
        let _place = self.place()?;
        let leader = self.operator.transfer(request.into_inner().node_id.map(NodeId)).await.map_err(refuse)?;
        Ok(Response::new(pb::TransferResponse { leader_id: leader.0 }))
    }

    async fn weaken(&self, request: Request<pb::WeakenRequest>) -> Result<Response<pb::WeakenResponse>, Status> {
        let duration = Duration::from_millis(request.into_inner().duration_ms);
        if duration > WEAKEN_MAX {
            return Err(over("the time to be weakened for, in ms", WEAKEN_MAX.as_millis(), duration.as_millis()));
        }
        self.operator.weaken(duration);
        Ok(Response::new(pb::WeakenResponse {}))
    }

    async fn snapshot(
        &self,
        _: Request<pb::TakeSnapshotRequest>,
    ) -> Result<Response<pb::TakeSnapshotResponse>, Status> {
        let _place = self.place()?;
        let index = self.operator.snapshot().await.map_err(refuse)?;
        Ok(Response::new(pb::TakeSnapshotResponse { index: index.0 }))
    }
}

fn checked(address: &str) -> Result<Address, Status> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(over("the address, in bytes", ADDRESS_BYTES_MAX as u128, address.len() as u128));
    }
    let refused = |error: coracle::transport::AddressError| Refusal::new(RefusalKind::Refused, error.to_string());
    address.parse().map_err(|error| refused(error).to_status())
}

fn over(limit: &str, max: u128, got: u128) -> Status {
    let whole = |number| u64::try_from(number).unwrap_or(u64::MAX);
    status::from_error(&Error::LimitExceeded { limit: limit.to_owned(), max: whole(max), got: whole(got) })
}

fn refuse(error: ClusterError) -> Status {
    match error {
        ClusterError::Refused(refusal) => refusal.to_status(),
        ClusterError::Call(error) => status::from_error(&error),
        other => status::from_error(&Error::Protocol(other.to_string())),
    }
}
