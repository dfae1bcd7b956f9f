//! Which revisions this node's clients hold, and the task that lets go of those whose time is over.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use coracle_level::{HoldDeadlines, Query, Revision, encode_query};
use coracle_node::Node;
use coracle_replica::Consistency;
use tokio::{sync::Notify, task::JoinHandle};

/// See the module.
pub(crate) struct Holds {
    shared: Arc<Shared>,
    expiry: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    deadlines: Mutex<HoldDeadlines>,
    changed: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HoldDeadlines> {
        // Each call leaves the table whole.
        self.deadlines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holds {
    pub(crate) fn new(node: Node) -> Holds {
        let shared = Arc::new(Shared::default());
        let expiry = tokio::spawn(expire(shared.clone(), node));
        Holds { shared, expiry }
    }

    pub(crate) fn hold(&self, revision: Revision, duration: Duration) {
        self.shared.lock().hold(revision, duration, Instant::now());
        self.shared.changed.notify_one();
    }

    pub(crate) fn touch(&self, revision: Revision) {
        self.shared.lock().touch(revision, Instant::now());
    }

    pub(crate) fn release(&self, revision: Revision) -> bool {
        self.shared.lock().release(revision)
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

async fn expire(shared: Arc<Shared>, node: Node) {
    loop {
        let next = shared.lock().next();
        let over = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            () = shared.changed.notified() => continue,
            _ = node.stopped() => return,
        }
        let expired = shared.lock().expired(Instant::now());
        for revision in expired {
            // A node that does not answer has stopped, and its holds with it.
            let _ = node.query(encode_query(&Query::Release(revision)), Consistency::Stale).await;
        }
    }
}
