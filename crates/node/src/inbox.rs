//! Where everything that happens to a replica waits for its turn.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{Body, MembershipChange, Message, NodeId, RejectReason};
use coracle_replica::{Completion, Consistency, Reply, RequestError, RequestId};
use tokio::sync::oneshot;

use crate::pipeline::{Ends, Place};

/// How a request ends.
pub(crate) type End = Result<Reply, RequestError>;

/// Where a request's end is told.
pub(crate) enum Waiter {
    /// Somebody waits for this one only.
    One(oneshot::Sender<End>),
    /// It is one of many.
    Many(Place),
}

impl Waiter {
    /// Tells the end. When others may follow, whoever is to be woken after them is returned.
    pub(crate) fn tell_soon(self, end: End) -> Option<Arc<Ends>> {
        match self {
            Waiter::One(waiter) => {
                // Whoever asked may have gone.
                let _ = waiter.send(end);
                None
            }
            Waiter::Many(place) => place.tell(end),
        }
    }

    /// Tells the end.
    pub(crate) fn tell(self, end: End) {
        if let Some(ends) = self.tell_soon(end) {
            ends.wake();
        }
    }
}

/// A request with its name, and where its end is told.
pub(crate) type Waiting = (RequestId, Request, Waiter);

/// What a client asks for.
pub(crate) enum Request {
    Propose(Bytes),
    Query(Bytes, Consistency),
    Change(MembershipChange),
    Snapshot,
}

/// What an operator orders; nobody waits for an answer.
pub(crate) enum Order {
    Transfer(Option<NodeId>),
    Weaken(Duration),
    /// Somebody told who the members are.
    LookAtTold,
    /// A member does not know this node.
    LookAtRefusals,
}

impl Request {
    fn len(&self) -> usize {
        match self {
            Request::Propose(data) | Request::Query(data, _) => data.len(),
            Request::Change(_) | Request::Snapshot => 0,
        }
    }
}

/// One thing that has happened.
pub(crate) enum Item {
    Request(RequestId, Request, Waiter),
    Cancel(RequestId),
    Order(Order),
    Message(Message),
    Done(Completion),
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// Too many wait.
    Busy,
    /// The node stops, or has stopped.
    Stopped,
}

/// How much may wait. Completions are not limited here: there are no more of them than effects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboxLimits {
    pub(crate) messages_max: usize,
    pub(crate) message_bytes_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) request_bytes_max: usize,
}

/// How far a node's life has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    /// It does not run yet: messages are dropped, an unfounded store hears nobody (C2).
    Starting,
    /// It runs.
    Running,
    /// It lets requests under way come to an end, and takes no new ones.
    Ending,
    /// Nothing is taken any more.
    Closed,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    unreachable: BTreeSet<NodeId>,
    messages: usize,
    message_bytes: usize,
    requests: usize,
    request_bytes: usize,
    dropped: u64,
    /// Whether there is anything to look at since the loop last took what waits.
    is_filled: bool,
    /// The loop, while it waits.
    waker: Option<Waker>,
}

impl State {
    /// Takes a request, or hands it back when there is no room.
    fn take_request(
        &mut self,
        limits: &InboxLimits,
        id: RequestId,
        request: Request,
        waiter: Waiter,
    ) -> Result<(), Box<Waiting>> {
        let bytes = self.request_bytes + request.len();
        if self.requests >= limits.requests_max || bytes > limits.request_bytes_max {
            return Err(Box::new((id, request, waiter)));
        }
        self.requests += 1;
        self.request_bytes = bytes;
        self.items.push(Item::Request(id, request, waiter));
        Ok(())
    }
}

/// Filled by anyone, emptied as a whole by the loop.
pub(crate) struct Inbox {
    state: Mutex<(Life, State)>,
    limits: InboxLimits,
}

impl Inbox {
    pub(crate) fn new(limits: InboxLimits) -> Inbox {
        Inbox { state: Mutex::new((Life::Starting, State::default())), limits }
    }

    fn lock(&self) -> MutexGuard<'_, (Life, State)> {
        // Counters and items change together without anything in between that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to look at. The loop is woken once, however much comes before it looks.
    fn fill(mut guard: MutexGuard<'_, (Life, State)>) {
        guard.1.is_filled = true;
        let waker = guard.1.waker.take();
        drop(guard);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn push_request(&self, id: RequestId, request: Request, waiter: Waiter) -> Result<(), NotTaken> {
        let mut guard = self.lock();
        let (life, state) = &mut *guard;
        if *life != Life::Running {
            return Err(NotTaken::Stopped);
        }
        state.take_request(&self.limits, id, request, waiter).map_err(|_| NotTaken::Busy)?;
        Self::fill(guard);
        Ok(())
    }

    /// Takes requests in order, as long as there is room; those that are left find none, or the node does not run.
    pub(crate) fn push_requests(&self, requests: &mut Vec<Waiting>) -> Result<(), NotTaken> {
        let mut guard = self.lock();
        let (life, state) = &mut *guard;
        if *life != Life::Running {
            return Err(NotTaken::Stopped);
        }
        let mut left = Vec::new();
        let mut rest = requests.drain(..);
        for (id, request, waiter) in rest.by_ref() {
            if let Err(refused) = state.take_request(&self.limits, id, request, waiter) {
                left.push(*refused);
                break;
            }
        }
        left.extend(rest);
        Self::fill(guard);
        let outcome = if left.is_empty() { Ok(()) } else { Err(NotTaken::Busy) };
        requests.extend(left);
        outcome
    }

    /// Cancels requests, as many as there are.
    pub(crate) fn push_cancels(&self, requests: impl Iterator<Item = RequestId>) {
        let mut guard = self.lock();
        if guard.0 < Life::Closed {
            guard.1.items.extend(requests.map(Item::Cancel));
        }
        Self::fill(guard);
    }

    pub(crate) fn push_cancel(&self, id: RequestId) {
        self.push(Item::Cancel(id));
    }

    pub(crate) fn push_order(&self, order: Order) {
        self.push(Item::Order(order));
    }

    pub(crate) fn push_done(&self, completion: Completion) {
        self.push(Item::Done(completion));
    }

    fn push(&self, item: Item) {
        let mut guard = self.lock();
        if guard.0 < Life::Closed {
            guard.1.items.push(item);
        }
        Self::fill(guard);
    }

    /// Takes messages as long as there is room; the others are lost, which Raft repairs.
    pub(crate) fn push_messages(&self, messages: impl Iterator<Item = Message>) {
        let mut guard = self.lock();
        let (life, state) = &mut *guard;
        if !matches!(life, Life::Running | Life::Ending) {
            return;
        }
        for message in messages {
            let bytes = state.message_bytes + size(&message.body);
            if state.messages >= self.limits.messages_max || bytes > self.limits.message_bytes_max {
                state.dropped += 1;
                continue;
            }
            state.messages += 1;
            state.message_bytes = bytes;
            state.items.push(Item::Message(message));
        }
        Self::fill(guard);
    }

    pub(crate) fn push_unreachable(&self, peer: NodeId) {
        let mut guard = self.lock();
        if matches!(guard.0, Life::Running | Life::Ending) {
            guard.1.unreachable.insert(peer);
        }
        Self::fill(guard);
    }

    /// Takes everything that waits: `items` is empty before.
    pub(crate) fn take(&self, items: &mut Vec<Item>) -> (Life, BTreeSet<NodeId>) {
        debug_assert!(items.is_empty());
        let mut guard = self.lock();
        let (life, state) = &mut *guard;
        mem::swap(items, &mut state.items);
        let unreachable = mem::take(&mut state.unreachable);
        state.is_filled = false;
        (state.messages, state.message_bytes, state.requests, state.request_bytes) = (0, 0, 0, 0);
        (*life, unreachable)
    }

    /// How many messages were lost for lack of room.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().1.dropped
    }

    /// Takes nothing any more, and ends the requests that nobody has taken: what the replica never saw is surely without effect.
    pub(crate) fn close(&self) {
        let mut guard = self.lock();
        guard.0 = Life::Closed;
        let left = mem::take(&mut guard.1.items);
        drop(guard);
        for item in left {
            if let Item::Request(_, _, waiter) = item {
                waiter.tell(Err(RequestError::Rejected(RejectReason::Stopped)));
            }
        }
    }

    /// Goes on with the node's life; there is no way back.
    pub(crate) fn advance(&self, life: Life) {
        let mut guard = self.lock();
        guard.0 = guard.0.max(life);
        Self::fill(guard);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.lock().0 == Life::Running
    }

    /// Whether nothing is taken any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().0 == Life::Closed
    }

    /// Ready when there may be something to take; otherwise the one task that waits for it, the loop, is woken then.
    pub(crate) fn poll_filled(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut guard = self.lock();
        let state = &mut guard.1;
        if state.is_filled {
            return Poll::Ready(());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// About how many bytes a message takes.
fn size(body: &Body) -> usize {
    const FIXED: usize = 64;
    FIXED
        + match body {
            Body::AppendEntries { entries, .. } => entries.iter().map(coracle_core::Run::size).sum(),
            Body::InstallSnapshot(piece) => piece.data.len(),
            Body::Propose { commands, .. } => commands.iter().map(|command| FIXED + command.len()).sum(),
            Body::ProposeResponse { outcomes, .. } => outcomes.len() * FIXED,
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use coracle_core::Term;

    use super::*;

    fn inbox() -> Inbox {
        let limits = InboxLimits { messages_max: 2, message_bytes_max: 1000, requests_max: 2, request_bytes_max: 100 };
        let inbox = Inbox::new(limits);
        inbox.advance(Life::Running);
        inbox
    }

    fn heartbeat() -> Message {
        let body = Body::HeartbeatResponse { round: 1, promise: 0 };
        Message { from: NodeId(1), to: NodeId(2), term: Term(1), body }
    }

    fn propose(inbox: &Inbox, len: usize) -> Result<(), NotTaken> {
        inbox.push_request(RequestId(1), Request::Propose(vec![0; len].into()), Waiter::One(oneshot::channel().0))
    }

    #[test]
    fn requests_beyond_a_limit_are_busy_at_once_and_taken_again_later() {
        let inbox = inbox();
        assert_eq!(propose(&inbox, 101), Err(NotTaken::Busy));
        assert_eq!(propose(&inbox, 50), Ok(()));
        assert_eq!(propose(&inbox, 50), Ok(()));
        assert_eq!(propose(&inbox, 0), Err(NotTaken::Busy));
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert_eq!(items.len(), 2);
        assert_eq!(propose(&inbox, 50), Ok(()));
    }

    #[test]
    fn messages_beyond_a_limit_are_dropped_and_counted() {
        let inbox = inbox();
        inbox.push_messages((0..5).map(|_| heartbeat()));
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert_eq!((items.len(), inbox.dropped()), (2, 3));
    }

    #[test]
    fn c02_a_node_that_does_not_run_yet_hears_nobody() {
        let limits = InboxLimits { messages_max: 2, message_bytes_max: 1000, requests_max: 2, request_bytes_max: 100 };
        let inbox = Inbox::new(limits);
        inbox.push_messages([heartbeat()].into_iter());
        assert_eq!(propose(&inbox, 1), Err(NotTaken::Stopped));
        inbox.advance(Life::Running);
        let mut items = Vec::new();
        inbox.take(&mut items);
        assert!(items.is_empty());
    }

    #[test]
    fn c21_a_request_that_nobody_took_is_rejected_when_the_inbox_closes() {
        let inbox = inbox();
        let (waiter, mut end) = oneshot::channel();
        inbox.push_request(RequestId(1), Request::Propose(Bytes::new()), Waiter::One(waiter)).unwrap();
        inbox.close();
        assert_eq!(end.try_recv(), Ok(Err(RequestError::Rejected(RejectReason::Stopped))));
        assert_eq!(propose(&inbox, 1), Err(NotTaken::Stopped));
        inbox.push_cancel(RequestId(1));
        let mut items = Vec::new();
        assert_eq!(inbox.take(&mut items).0, Life::Closed);
        assert!(items.is_empty());
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_loop_is_woken_once_and_never_too_late() {
        let (inbox, woken) = (inbox(), Arc::new(Woken::default()));
        let (waker, count) = (Waker::from(woken.clone()), || woken.0.load(Ordering::SeqCst));
        let mut context = Context::from_waker(&waker);
        let take = || inbox.take(&mut Vec::new());
        take();
        assert!(inbox.poll_filled(&mut context).is_pending());
        propose(&inbox, 1).unwrap();
        inbox.push_messages([heartbeat()].into_iter());
        assert_eq!(count(), 1);
        // What came while it did not wait is there when it asks.
        assert!(inbox.poll_filled(&mut context).is_ready());
        take();
        let fills: [&dyn Fn(); 4] = [
            &|| inbox.push_cancel(RequestId(1)),
            &|| inbox.push_unreachable(NodeId(2)),
            &|| inbox.push_messages([heartbeat()].into_iter()),
            &|| inbox.advance(Life::Ending),
        ];
        for fill in fills {
            let before = count();
            assert!(inbox.poll_filled(&mut context).is_pending());
            fill();
            assert_eq!(count(), before + 1);
            take();
        }
    }

    #[test]
    fn a_node_that_ends_takes_no_new_requests() {
        let inbox = inbox();
        inbox.advance(Life::Ending);
        inbox.advance(Life::Running);
        assert_eq!(propose(&inbox, 1), Err(NotTaken::Stopped));
    }
}
