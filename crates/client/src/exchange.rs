//! Many calls to one node on one stream: whatever waits when the writer comes to it leaves as one message.
//!
//! There are no timers: the first call that comes leaves at once, and what comes while it is being written leaves together.

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::oneshot, task, time::Instant};
use tokio_stream::Stream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    calls::Called,
    pb::{self, kv_client::KvClient},
    status,
};

/// Larger calls have a request of their own: on the stream they would keep the others waiting.
const CALL_BYTES_MAX: usize = 64 << 10;
/// What goes round a call in its message, at most: tags, lengths and number.
const CALL_OVERHEAD: usize = 32;
/// The most calls of one message.
const CALLS_MAX: usize = 1024;
/// The most calls that wait to leave; further ones have requests of their own.
const QUEUE_CALLS_MAX: usize = 16 * CALLS_MAX;
/// The most bytes of them.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// The most bytes of one message, unless the client's options say less.
const MESSAGE_BYTES: usize = 128 << 10;
/// The most bytes of a message of answers: more than any node sends. The client's own limit is for each answer, so that one that is too large ends no other call.
const ANSWERS_BYTES_MAX: usize = 16 << 20;
/// How long a node that does not know streams of calls is not asked for one.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);

/// How calls reach one node: on one stream, which comes about when it is first needed and again after it broke.
#[derive(Debug)]
pub(crate) struct Exchange {
    kv: KvClient<Channel>,
    /// The client's limit, in either direction.
    message_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    line: Option<Arc<Line>>,
    /// The node did not know the call then.
    unknown_at: Option<Instant>,
}

impl Exchange {
    pub(crate) fn new(channel: Channel, message_bytes_max: usize) -> Exchange {
        let kv = KvClient::new(channel).max_decoding_message_size(message_bytes_max.max(ANSWERS_BYTES_MAX));
        Exchange { kv, message_bytes_max, state: Mutex::default() }
    }

    /// Calls on the stream, with a request of so many bytes. `None` when the node surely took nothing of it, and is to be asked by a request of its own.
    pub(crate) async fn call(
        self: &Arc<Self>,
        len: usize,
        call: impl FnOnce() -> pb::call::Call,
    ) -> Called<Option<pb::answer::Answer>> {
        let len = len.saturating_add(CALL_OVERHEAD);
        if len > CALL_BYTES_MAX.min(self.message_bytes_max) {
            return Ok(None);
        }
        let Some(line) = self.line() else { return Ok(None) };
        let Some(waiting) = line.push(call(), len) else { return Ok(None) };
        match waiting.ended().await {
            End::Answered(pb::answer::Answer::Error(error)) => Err(status::from_details(&error)),
            End::Answered(answer) => Ok(Some(answer)),
            End::NotTaken => Ok(None),
            End::Failed(status) => Err(status),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream at hand, or one that is begun; `None` when the node knows none.
    fn line(self: &Arc<Self>) -> Option<Arc<Line>> {
        let mut state = self.lock();
        if let Some(line) = state.line.as_ref().filter(|line| !line.is_over.load(Ordering::Acquire)) {
            return Some(Arc::clone(line));
        }
        if state.unknown_at.is_some_and(|at| at.elapsed() < UNKNOWN_FOR) {
            return None;
        }
        let line = Arc::new(Line::default());
        state.line = Some(Arc::clone(&line));
        drop(state);
        let exchange = Arc::downgrade(self);
        let (kv, read) = (self.kv.clone(), Arc::clone(&line));
        let calls = Calls {
            line: Arc::clone(&line),
            bytes_max: MESSAGE_BYTES.min(self.message_bytes_max),
            pause: None,
            has_paused: false,
        };
        task::spawn(async move {
            let why = answers(kv, calls, &read).await;
            if let (Over::Unknown, Some(exchange)) = (&why, exchange.upgrade()) {
                exchange.lock().unknown_at = Some(Instant::now());
            }
            read.end(&why);
        });
        Some(line)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(line) = self.lock().line.take() {
            line.close();
        }
    }
}

/// Why a stream ended.
enum Over {
    /// The node does not know streams of calls.
    Unknown,
    Told(Status),
}

/// Reads answers until the stream ends, and says why.
async fn answers(mut kv: KvClient<Channel>, calls: Calls, line: &Line) -> Over {
    let mut answers = match kv.exchange(calls).await {
        Ok(response) => response.into_inner(),
        Err(status) if is_unknown(&status) => return Over::Unknown,
        Err(status) => return Over::Told(status),
    };
    loop {
        match answers.message().await {
            Ok(Some(message)) => line.answered(message.answers),
            Ok(None) => return Over::Told(Status::unknown("the stream of calls ended")),
            Err(status) => return Over::Told(status),
        }
    }
}

/// Whether a node refused a stream because it knows none, and took no calls. After the beginning of a stream this status would say nothing about them.
fn is_unknown(status: &Status) -> bool {
    // One that was made here, of an answer that cannot be read, lacks what each response has.
    let was_received = status.metadata().contains_key("content-type");
    status.code() == Code::Unimplemented && status.details().is_empty() && was_received
}

/// How a call on a stream ends.
#[derive(Debug)]
enum End {
    Answered(pb::answer::Answer),
    /// It surely never came to the node's notice.
    NotTaken,
    Failed(Status),
}

/// One stream, from its beginning to its end.
#[derive(Debug, Default)]
struct Line {
    /// No further call is taken.
    is_over: AtomicBool,
    state: Mutex<LineState>,
}

#[derive(Debug, Default)]
struct LineState {
    /// Calls that have not left and are waited for, in order of their numbers.
    queue: VecDeque<Queued>,
    /// How many bytes they take.
    queue_bytes: usize,
    /// Who waits for the answer to which call, those in the queue included.
    waiting: HashMap<u64, oneshot::Sender<End>>,
    last_number: u64,
    writer: Option<Waker>,
}

/// A call that has not left, and how many bytes of a message it takes at most.
#[derive(Debug)]
struct Queued {
    call: pb::Call,
    len: usize,
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a call; `None` when the stream is over, or too much waits to leave.
    fn push(self: &Arc<Self>, call: pb::call::Call, len: usize) -> Option<Waiting> {
        let (sender, end) = oneshot::channel();
        let (number, writer) = {
            let mut state = self.lock();
            let is_full = state.queue.len() >= QUEUE_CALLS_MAX || state.queue_bytes + len > QUEUE_BYTES_MAX;
            if is_full || self.is_over.load(Ordering::Acquire) {
                return None;
            }
            state.last_number += 1;
            let number = state.last_number;
            state.queue.push_back(Queued { call: pb::Call { number, call: Some(call) }, len });
            state.queue_bytes += len;
            state.waiting.insert(number, sender);
            (number, state.writer.take())
        };
        if let Some(writer) = writer {
            writer.wake();
        }
        Some(Waiting { line: Arc::clone(self), number, end: Some(end) })
    }

    fn answered(&self, answers: Vec<pb::Answer>) {
        let mut state = self.lock();
        for pb::Answer { number, answer } in answers {
            // Whoever asked may have gone.
            let Some(sender) = state.waiting.remove(&number) else { continue };
            let nothing = || End::Failed(Status::unknown("the answer has nothing in it"));
            let _ = sender.send(answer.map_or_else(nothing, End::Answered));
        }
    }

    /// No further calls are sent; those under way may still be answered.
    fn close(&self) {
        let writer = {
            let mut state = self.lock();
            self.is_over.store(true, Ordering::Release);
            state.writer.take()
        };
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// The stream has ended: what has not left had no effect, nor had what was not answered when the node ended it in order.
    fn end(&self, why: &Over) {
        self.close();
        let failure = match why {
            Over::Told(status) if status::to_error(status).is_none() => Some(broken(status)),
            Over::Told(_) | Over::Unknown => None,
        };
        let mut state = self.lock();
        let unsent_from = state.queue.front().map_or(u64::MAX, |next| next.call.number);
        state.queue.clear();
        state.queue_bytes = 0;
        for (number, sender) in state.waiting.drain() {
            let end = match &failure {
                Some(status) if number < unsent_from => End::Failed(status.clone()),
                _ => End::NotTaken,
            };
            let _ = sender.send(end);
        }
    }
}

/// A status that is not taken for a node's own word on one call.
fn broken(status: &Status) -> Status {
    match status.code() {
        Code::Unimplemented | Code::OutOfRange => Status::unknown(status.message()),
        _ => status.clone(),
    }
}

/// A call under way; whoever drops it does not wait any more.
struct Waiting {
    line: Arc<Line>,
    number: u64,
    end: Option<oneshot::Receiver<End>>,
}

impl Waiting {
    async fn ended(mut self) -> End {
        let Some(end) = &mut self.end else { return End::NotTaken };
        let end = end.await;
        self.end = None;
        // Only a runtime that ends drops what is under way.
        end.unwrap_or_else(|_| End::Failed(Status::unknown("the stream of calls was dropped")))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.end.is_some() {
            let mut state = self.line.lock();
            state.waiting.remove(&self.number);
            // If it has not left, it does not leave any more.
            if let Ok(at) = state.queue.binary_search_by_key(&self.number, |queued| queued.call.number) {
                let len = state.queue.remove(at).map_or(0, |queued| queued.len);
                state.queue_bytes -= len;
            }
        }
    }
}

/// What a stream sends.
struct Calls {
    line: Arc<Line>,
    /// The most bytes of a message.
    bytes_max: usize,
    /// While others get their turn, see [`Calls::lets_others_go_first`].
    pause: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    has_paused: bool,
}

impl Calls {
    /// Who was just answered is about to call again: with several calls under way, all that can run does so before a message is made.
    fn lets_others_go_first(&mut self, under_way: usize, cx: &mut Context<'_>) -> bool {
        if self.has_paused || under_way < 2 {
            return false;
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(task::yield_now()));
        if pause.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.pause = None;
        self.has_paused = true;
        false
    }
}

impl Stream for Calls {
    type Item = pb::ExchangeRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<pb::ExchangeRequest>> {
        let this = self.get_mut();
        let line = Arc::clone(&this.line);
        loop {
            let mut state = line.lock();
            if state.queue.is_empty() {
                this.has_paused = false;
                if line.is_over.load(Ordering::Acquire) {
                    return Poll::Ready(None);
                }
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let under_way = state.waiting.len();
            drop(state);
            if this.lets_others_go_first(under_way, cx) {
                return Poll::Pending;
            }
            let calls = next_calls(&mut line.lock(), this.bytes_max);
            if !calls.is_empty() {
                return Poll::Ready(Some(pb::ExchangeRequest { calls }));
            }
        }
    }
}

/// The calls that leave with the next message.
fn next_calls(state: &mut LineState, bytes_max: usize) -> Vec<pb::Call> {
    let (mut bytes, mut count) = (0, 0);
    for next in state.queue.iter().take(CALLS_MAX) {
        if bytes + next.len > bytes_max {
            break;
        }
        bytes += next.len;
        count += 1;
    }
    state.queue_bytes -= bytes;
    state.queue.drain(..count).map(|queued| queued.call).collect()
}
