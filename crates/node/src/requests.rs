//! A client's request, from the handle's side.

use coracle_replica::{Reply, RequestError, RequestId};
use tokio::sync::oneshot;

use crate::inbox::{Inbox, Request, Waiter};

/// Hands a request to the loop and waits for its end. Dropped before, the request is cancelled: whether it takes effect stays unknown.
pub(crate) async fn submit(inbox: &Inbox, id: RequestId, request: Request) -> Result<Reply, RequestError> {
    let (waiter, end) = oneshot::channel();
    inbox.push_request(id, request, Waiter::One(waiter))?;
    let mut pending = Pending { inbox, id, is_over: false };
    let end = end.await;
    pending.is_over = true;
    // The loop drops a waiter only when it stops: it handed the request in, and nobody can tell what became of it.
    end.unwrap_or(Err(RequestError::Unknown))
}

/// Cancels its request when it is dropped too early.
struct Pending<'a> {
    inbox: &'a Inbox,
    id: RequestId,
    is_over: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.inbox.push_cancel(self.id);
        }
    }
}
