//! The cluster service: what this node knows.

use std::sync::Arc;

use coracle::client::pb::{self, cluster_server::Cluster};
use tonic::{Request, Response, Status};

/// Who can say how a node is.
pub(crate) trait StatusSource: Send + Sync + 'static {
    /// How it is at this moment.
    fn status(&self) -> pb::StatusResponse;
}

/// Serves a node's status.
pub(crate) struct ClusterService(pub(crate) Arc<dyn StatusSource>);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        Ok(Response::new(self.0.status()))
    }
}
