//! What operators ask of a cluster: its members, who leads, snapshots.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coracle_level::Error;
use tonic::{Response, Status};

use crate::{
    Client, Refusal, RefusalKind,
    calls::{Called, Kind},
    discovery,
    endpoint::Endpoint,
    failure::Failure,
    pb, status, wire,
};

/// When to ask again while another change is under way.
const CHANGE_PAUSE: Duration = Duration::from_millis(100);

/// Why an operation on the cluster did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The cluster refuses it, and nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It failed as any other request may.
    #[error(transparent)]
    Call(#[from] Error),
}

/// A refusal is an answer too: no other node would give another one.
type Answer<T> = std::result::Result<T, Refusal>;

/// What operations return.
type Result<T> = std::result::Result<T, ClusterError>;

impl Client {
    /// Every node of the cluster, as the leader sees it; without a leader, as any node does, and then `leader_id` is not `node_id`.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn members(&self) -> Result<pb::MembersResponse> {
        self.inner.discover().await;
        self.at_leader_of(Kind::Read, |node| async move { node.cluster().members(pb::MembersRequest {}).await }).await
    }

    /// Takes the node at a peers' address in, or makes a learner a voter, and returns its id.
    /// A new voter is promoted once it has caught up, which [`Client::members`] tells; a change that does not come about leaves it a learner.
    ///
    /// # Errors
    /// `Refused` when the node or the cluster refuses, or the node does not answer; otherwise as for writes.
    pub async fn join(&self, address: &str, learner: bool) -> Result<u64> {
        let request = pb::JoinRequest { address: address.to_owned(), learner };
        let joined = self.at_leader_of(Kind::Repeatable, |node| {
            let request = request.clone();
            async move { node.cluster().join(request).await }
        });
        Ok(joined.await?.node_id)
    }

    /// Removes a member; it is gone once [`Client::members`] does not list it any more.
    ///
    /// # Errors
    /// `Refused` when it is no member, or cannot be spared; otherwise as for writes.
    pub async fn leave(&self, node_id: u64) -> Result<()> {
        // Whether an earlier attempt may have removed it: then it is no error that it is gone.
        let may_be_gone = AtomicBool::new(false);
        let left = self.at_leader_of(Kind::Repeatable, |node| leave(node, node_id, &may_be_gone));
        left.await.map(drop)
    }

    /// Hands leadership over, to a voter of choice or to the one whose log is furthest, and returns who leads.
    ///
    /// # Errors
    /// `Refused` when nobody takes over; otherwise as for writes.
    pub async fn transfer(&self, to: Option<u64>) -> Result<u64> {
        // Without a target, a repeated request would take leadership from whoever just got it.
        let kind = if to.is_some() { Kind::Repeatable } else { Kind::Fragile };
        let transferred = self.at_leader_of(kind, |node| async move {
            node.cluster().transfer(pb::TransferRequest { node_id: to }).await
        });
        Ok(transferred.await?.leader_id)
    }

    /// Makes a node prefer for a while that others lead; zero ends it.
    ///
    /// # Errors
    /// `Refused` when it is no member or is not found; otherwise as for reads.
    pub async fn weaken(&self, node_id: u64, duration: Duration) -> Result<()> {
        let endpoint = self.endpoint_of(node_id).await?;
        let duration_ms = wire::whole_ms(duration);
        let choose = || Arc::clone(&endpoint);
        let weakened = self.operate(Kind::Repeatable, choose, |node| async move {
            node.cluster().weaken(pb::WeakenRequest { duration_ms }).await
        });
        weakened.await.map(drop)
    }

    /// Makes a node, or without one the leader, take a snapshot of its state; returns the last index that it covers.
    ///
    /// # Errors
    /// `Refused` when it is no member or is not found; otherwise as for reads.
    pub async fn take_snapshot(&self, node_id: Option<u64>) -> Result<u64> {
        let endpoint = match node_id {
            Some(node_id) => Some(self.endpoint_of(node_id).await?),
            None => None,
        };
        let choose = || endpoint.clone().unwrap_or_else(|| self.inner.preferred());
        let taken = self.operate(Kind::Read, choose, |node| async move {
            node.cluster().snapshot(pb::TakeSnapshotRequest {}).await
        });
        Ok(taken.await?.index)
    }

    async fn at_leader_of<T, A, F>(&self, kind: Kind, attempt: A) -> Result<T>
    where
        T: Send,
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<Response<T>>> + Send,
    {
        self.operate(kind, || self.inner.preferred(), attempt).await
    }

    async fn operate<T, C, A, F>(&self, kind: Kind, choose: C, attempt: A) -> Result<T>
    where
        T: Send,
        C: Fn() -> Arc<Endpoint> + Send + Sync,
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<Response<T>>> + Send,
    {
        // What a request that is still refused at the deadline ends in.
        let in_progress = Mutex::new(None);
        let answer = self.inner.call(kind, choose, |node| {
            let (call, in_progress) = (attempt(node), &in_progress);
            async move {
                match answered(call.await)? {
                    Err(refusal) if refusal.kind == RefusalKind::ChangeInProgress => {
                        *in_progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
                        Err(status::from_error(&Error::Busy { retry_after: CHANGE_PAUSE }))
                    }
                    answer => Ok(answer),
                }
            }
        });
        let answer = answer.await;
        let in_progress = in_progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (answer, in_progress) {
            (Ok(answer), _) => Ok(answer?),
            (Err(Error::Busy { .. }), Some(refusal)) => Err(refusal.into()),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The node of that id, at an address that was given or at the one that the membership has.
    async fn endpoint_of(&self, node_id: u64) -> Result<Arc<Endpoint>> {
        for endpoint in self.inner.all() {
            if self.is_at(&endpoint, node_id).await {
                return Ok(endpoint);
            }
        }
        let members = self.members().await?.members;
        let name = format!("node {node_id:016x}");
        let member = members.into_iter().find(|member| member.node_id == node_id);
        let Some(member) = member else {
            return Err(Refusal::new(RefusalKind::NotMember, format!("{name} is no member")).into());
        };
        let unreachable = |why: String| ClusterError::from(Refusal::new(RefusalKind::Unreachable, why));
        let endpoint = Endpoint::new(&member.client_address, &self.inner.options);
        let endpoint = endpoint.map_err(|error| unreachable(format!("{name} has no client address: {error}")))?;
        let endpoint = Arc::new(endpoint);
        if self.is_at(&endpoint, node_id).await {
            return Ok(endpoint);
        }
        Err(unreachable(format!("{name} does not answer at its client address, {}", endpoint.address)))
    }

    async fn is_at(&self, endpoint: &Endpoint, node_id: u64) -> bool {
        let status = discovery::status(endpoint, self.inner.options.status).await;
        status.is_ok_and(|status| status.node_id == node_id)
    }
}

async fn leave(node: Arc<Endpoint>, node_id: u64, may_be_gone: &AtomicBool) -> Called<Response<pb::LeaveResponse>> {
    // This attempt counts from here on, also when it is given up half-way.
    let earlier = may_be_gone.swap(true, Ordering::SeqCst);
    let left = node.cluster().leave(pb::LeaveRequest { node_id }).await;
    let Err(status) = &left else { return left };
    match Refusal::from_status(status) {
        Some(refusal) if refusal.kind == RefusalKind::NotMember && earlier => {
            return Ok(Response::new(pb::LeaveResponse {}));
        }
        Some(_) => may_be_gone.store(earlier, Ordering::SeqCst),
        None if Failure::from_status(status).is_without_effect() => may_be_gone.store(earlier, Ordering::SeqCst),
        None => {}
    }
    left
}

fn answered<T>(called: Called<Response<T>>) -> std::result::Result<Answer<T>, Status> {
    match called {
        Ok(response) => Ok(Ok(response.into_inner())),
        Err(status) => Refusal::from_status(&status).map(Err).ok_or(status),
    }
}
