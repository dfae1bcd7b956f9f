//! Many requests of one place under way at once: handed to the loop in batches, and ended in batches.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use coracle_replica::{Consistency, RequestId};

use crate::{
    Node,
    inbox::{End, NotTaken, Request, Waiter, Waiting},
};

/// Many requests under way at once, with what belongs to each; [`Node::pipeline`] makes one.
///
/// What was queued goes to the node by [`submit`](Pipeline::submit) in one piece, and the task that polls is woken once for all that ends in one turn of the node.
/// Every request ends exactly once (C21), in any order. Dropped, all are cancelled: whether they take effect stays unknown.
/// Answers that nobody takes take no more memory than was allowed: queries beyond that end as busy.
pub struct Pipeline<T> {
    node: Node,
    ends: Arc<Ends>,
    queued: Vec<Waiting>,
    slots: Slots<T>,
    /// Empty between calls: what is taken from `ends` at once.
    scratch: Vec<(usize, End)>,
}

impl<T> Pipeline<T> {
    pub(crate) fn new(node: Node, answers_bytes_max: usize) -> Pipeline<T> {
        let slots = Slots { entries: Vec::new(), free: Vec::new() };
        let ends = Arc::new(Ends { answers_bytes_max, state: Mutex::default() });
        Pipeline { node, ends, queued: Vec::new(), slots, scratch: Vec::new() }
    }

    /// Queues a command, as [`Node::propose`] takes it.
    pub fn propose(&mut self, context: T, command: Bytes) {
        self.queue(context, Request::Propose(command));
    }

    /// Queues a query, as [`Node::query`] takes it.
    pub fn query(&mut self, context: T, query: Bytes, consistency: Consistency) {
        self.queue(context, Request::Query(query, consistency));
    }

    fn queue(&mut self, context: T, request: Request) {
        let id = RequestId(self.node.shared.next_request.fetch_add(1, Ordering::Relaxed));
        let slot = self.slots.insert(id, context);
        let is_query = matches!(request, Request::Query(..));
        let waiter = Waiter::Many(Place { ends: Some(Arc::clone(&self.ends)), slot, is_query });
        self.queued.push((id, request, waiter));
    }

    /// Hands the node what was queued. What finds no room there ends as rejected.
    pub fn submit(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        if let Err(refused) = self.node.shared.inbox.push_requests(&mut self.queued) {
            for (_, _, waiter) in self.queued.drain(..) {
                waiter.tell(Err(refused.into()));
            }
        }
    }

    /// How many requests have not ended.
    pub fn len(&self) -> usize {
        self.slots.entries.len() - self.slots.free.len()
    }

    /// Whether all requests have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells `each` of the requests that have ended; pending when there are none.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>, mut each: impl FnMut(T, End)) -> Poll<()> {
        if !self.ends.take(cx, &mut self.scratch) {
            return Poll::Pending;
        }
        for (slot, end) in self.scratch.drain(..) {
            if let Some(context) = self.slots.remove(slot) {
                each(context, end);
            }
        }
        Poll::Ready(())
    }
}

impl<T> Drop for Pipeline<T> {
    fn drop(&mut self) {
        self.queued.clear();
        let left = self.slots.entries.iter().flatten().map(|(id, _)| *id);
        self.node.shared.inbox.push_cancels(left);
    }
}

/// What belongs to each request; a place is used again once its request has ended.
struct Slots<T> {
    entries: Vec<Option<(RequestId, T)>>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    fn insert(&mut self, id: RequestId, context: T) -> usize {
        let entry = Some((id, context));
        match self.free.pop() {
            Some(slot) => {
                self.entries[slot] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                self.entries.len() - 1
            }
        }
    }

    fn remove(&mut self, slot: usize) -> Option<T> {
        let (_, context) = self.entries.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(context)
    }
}

/// The ends that a pipeline has not taken note of.
pub(crate) struct Ends {
    answers_bytes_max: usize,
    state: Mutex<EndsState>,
}

#[derive(Default)]
struct EndsState {
    ended: Vec<(usize, End)>,
    /// How many bytes of answers are in `ended`.
    bytes: usize,
    waker: Option<Waker>,
}

impl Ends {
    fn lock(&self) -> MutexGuard<'_, EndsState> {
        // Nothing in between can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all that is there into `ended`, which is empty; when there is nothing, the task is woken once there is.
    fn take(&self, cx: &mut Context<'_>, ended: &mut Vec<(usize, End)>) -> bool {
        let mut state = self.lock();
        mem::swap(&mut state.ended, ended);
        state.bytes = 0;
        if ended.is_empty() && state.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        !ended.is_empty()
    }

    /// Wakes whoever waits.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Where the end of one request of a pipeline is told. One that is dropped tells that it is unknown.
pub(crate) struct Place {
    ends: Option<Arc<Ends>>,
    slot: usize,
    is_query: bool,
}

impl Place {
    /// Tells the end; whoever told the first since the last look is to [`wake`](Ends::wake) once all are told.
    pub(crate) fn tell(mut self, end: End) -> Option<Arc<Ends>> {
        let ends = self.ends.take()?;
        let is_first = {
            let mut state = ends.lock();
            let end = self.fitting(end, state.bytes, ends.answers_bytes_max);
            state.bytes += end.as_ref().map_or(0, |reply| reply.data.len());
            state.ended.push((self.slot, end));
            state.ended.len() == 1
        };
        is_first.then_some(ends)
    }

    /// The end, or that the node is busy when an answer to a query finds no room: it changed nothing and may be asked for again, as what a command did may not.
    fn fitting(&self, end: End, bytes: usize, bytes_max: usize) -> End {
        match end {
            // One comes whatever its size.
            Ok(reply) if self.is_query && bytes > 0 && bytes + reply.data.len() > bytes_max => {
                Err(NotTaken::Busy.into())
            }
            end => end,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take() {
            // The loop drops a waiter only when it stops: it handed the request in, and nobody can tell what became of it.
            ends.lock().ended.push((self.slot, Err(coracle_replica::RequestError::Unknown)));
            ends.wake();
        }
    }
}

impl From<NotTaken> for coracle_replica::RequestError {
    fn from(refused: NotTaken) -> Self {
        use coracle_core::RejectReason;
        coracle_replica::RequestError::Rejected(match refused {
            NotTaken::Busy => RejectReason::Busy,
            NotTaken::Stopped => RejectReason::Stopped,
        })
    }
}
