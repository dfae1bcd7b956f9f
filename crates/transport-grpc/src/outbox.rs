//! What leaves on a stream: greetings when they are told, frames when they wait.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use coracle_transport::{
    Fault, Hello, Host, Hosted, Refusal,
    links::{Link, Member, Queued},
};
use futures_core::Stream;
use prost::Message;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    convert::encode_frame,
    pb::{self, envelope::Content},
    shared::Shared,
    wire::{ENVELOPE_BYTES_MAX, Greeting, WireError, checked_greeting},
};

/// Why a stream is over, or is not made anew, without anything being wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing was sent for long.
    Idle,
    /// The link is not needed any more, or the transport shuts down.
    Closed,
}

/// What the two halves of a stream that this process opened share.
pub(crate) struct Conversation {
    pub(crate) shared: Arc<Shared>,
    pub(crate) link: Arc<Link>,
    pub(crate) host: Arc<dyn Host>,
    state: Mutex<State>,
    /// Rises whenever the connection can take more.
    taken: AtomicU64,
}

struct State {
    ours: Hosted,
    theirs: Hosted,
    /// When the two last told each other what they host.
    introduced_at: Instant,
    /// Why nothing more leaves.
    stop: Option<Stop>,
}

impl Conversation {
    pub(crate) fn new(shared: Arc<Shared>, link: Arc<Link>, host: Arc<dyn Host>) -> Conversation {
        let (ours, theirs) = (Hosted::default(), Hosted::default());
        let state = State { ours, theirs, introduced_at: Instant::now(), stop: None };
        Conversation { shared, link, host, state: Mutex::new(state), taken: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is hosted here by now, to be told to the other side.
    pub(crate) fn introduction(&self) -> Result<pb::Envelope, WireError> {
        let hello = self.host.hello();
        let mut state = self.state();
        state.ours = Hosted::of(&hello);
        state.introduced_at = Instant::now();
        drop(state);
        checked_greeting(Greeting::Hello(hello), self.shared.options.hello_bytes_max)
    }

    /// Notes what is hosted there; marks who is, and tells the host who is not.
    pub(crate) fn introduced(&self, theirs: &Hello) {
        let theirs = Hosted::of(theirs);
        for member in self.link.members() {
            let expected = theirs.expect(member.group, member.id, member.incarnation);
            member.counters.set_connected(expected.is_ok());
            if let Err(refusal) = expected {
                self.stranger(&refusal);
                self.host.unreachable(member.group, member.id);
            }
        }
        self.state().theirs = theirs;
    }

    /// Whether all nodes of the link are known to be there.
    pub(crate) fn knows_all(&self) -> bool {
        let state = self.state();
        let is_known = |member: &Arc<Member>| state.theirs.expect(member.group, member.id, member.incarnation).is_ok();
        self.link.members().iter().all(is_known)
    }

    pub(crate) fn stop(&self) -> Option<Stop> {
        self.state().stop
    }

    /// How often the connection could take more.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn stranger(&self, refusal: &Refusal) {
        self.shared.faults.count(Fault::Refused);
        if let Some(suppressed) = self.link.log.permit() {
            let addresses = &self.link.addresses;
            tracing::warn!(?addresses, %refusal, suppressed, "a peer is not where it is expected");
        }
    }
}

/// What the other half tells the outbox.
pub(crate) enum Order {
    /// Say this; frames follow once it was a welcome.
    Say(pb::Envelope),
    /// Write what is queued, and end.
    Finish,
}

/// The half of the stream that leaves: it is asked for more whenever the connection can take it.
pub(crate) struct Outbox {
    conversation: Arc<Conversation>,
    orders: mpsc::Receiver<Order>,
    /// Whether the other side was welcomed.
    is_open: bool,
    is_finishing: bool,
    /// What was taken from the link and did not fit into one message.
    pending: VecDeque<pb::Envelope>,
    batch: Vec<Queued>,
}

/// What makes an outbox look at its orders and its link again.
enum Event {
    Order(Option<Order>),
    Frames(bool),
    Idle,
}

impl Outbox {
    pub(crate) fn new(conversation: Arc<Conversation>, orders: mpsc::Receiver<Order>) -> Outbox {
        let (pending, batch) = (VecDeque::new(), Vec::new());
        Outbox { conversation, orders, is_open: false, is_finishing: false, pending, batch }
    }

    pub(crate) fn into_stream(self) -> impl Stream<Item = pb::Envelope> + Send + 'static {
        futures_util::stream::unfold(self, |mut outbox| async move {
            let next = outbox.next().await;
            next.map(|envelope| (envelope, outbox))
        })
    }

    async fn next(&mut self) -> Option<pb::Envelope> {
        self.conversation.taken.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(envelope) = self.pending.pop_front() {
                return Some(envelope);
            }
            if self.is_finishing {
                self.fill();
                if self.pending.is_empty() {
                    return self.end(Stop::Closed);
                }
                continue;
            }
            match self.event().await {
                Event::Order(Some(Order::Say(envelope))) => {
                    self.is_open |= matches!(envelope.content, Some(Content::Welcome(_)));
                    return Some(envelope);
                }
                Event::Order(Some(Order::Finish)) if self.is_open => self.is_finishing = true,
                Event::Order(_) | Event::Frames(false) => return self.end(Stop::Closed),
                Event::Frames(true) => self.fill(),
                Event::Idle => return self.end(Stop::Idle),
            }
        }
    }

    fn end(&self, stop: Stop) -> Option<pb::Envelope> {
        self.conversation.state().stop = Some(stop);
        None
    }

    async fn event(&mut self) -> Event {
        // The other side closes after the whole of it; frames that are under way then would be lost.
        let idle = self.conversation.shared.options.idle_timeout / 2;
        tokio::select! {
            biased;
            order = self.orders.recv() => Event::Order(order),
            is_wanted = self.conversation.link.ready(), if self.is_open => Event::Frames(is_wanted),
            () = sleep(idle) => Event::Idle,
        }
    }

    /// Makes messages of what waits.
    fn fill(&mut self) {
        let mut batch = mem::take(&mut self.batch);
        self.conversation.link.take(self.conversation.shared.options.batch_bytes_max, &mut batch);
        let mut frames = Vec::with_capacity(batch.len());
        let mut len = 0;
        for queued in batch.drain(..) {
            let Some((frame, frame_len)) = self.admissible(queued) else { continue };
            if len + frame_len + ENVELOPE_BYTES_MAX > self.conversation.shared.options.message_bytes_max {
                self.push(mem::take(&mut frames));
                len = 0;
            }
            len += frame_len;
            frames.push(frame);
        }
        self.push(frames);
        self.batch = batch;
    }

    fn push(&mut self, frames: Vec<pb::Frame>) {
        if !frames.is_empty() {
            self.pending.push_back(pb::Envelope { content: Some(Content::Frames(pb::Frames { frames })) });
        }
    }

    /// The frame as it travels and its length, unless one of its ends is not, or not yet, known to both sides.
    fn admissible(&mut self, queued: Queued) -> Option<(pb::Frame, usize)> {
        let Queued { frame, member, .. } = queued;
        let (group, from) = (frame.group, frame.message.from);
        if !self.is_there(&member) {
            member.counters.dropped();
            return None;
        }
        if !self.conversation.state().ours.contains(group, from) {
            self.announce();
        }
        if !self.conversation.state().ours.contains(group, from) {
            member.counters.dropped();
            return None;
        }
        member.counters.set_connected(true);
        let frame = encode_frame(frame);
        let len = length_delimited(frame.encoded_len());
        let limit = self.conversation.shared.options.message_bytes_max;
        if len + ENVELOPE_BYTES_MAX > limit {
            member.counters.dropped();
            if let Some(suppressed) = self.conversation.link.log.permit() {
                tracing::warn!(len, limit, suppressed, "a frame is too large to be sent");
            }
            return None;
        }
        member.counters.sent(len);
        Some((frame, len))
    }

    fn is_there(&mut self, member: &Member) -> bool {
        let conversation = self.conversation.clone();
        let (expected, since) = {
            let state = conversation.state();
            let expected = state.theirs.expect(member.group, member.id, member.incarnation);
            (expected, state.introduced_at.elapsed())
        };
        let Err(refusal) = expected else { return true };
        member.counters.set_connected(false);
        // It may have come since: ask, but not for each frame.
        if since >= conversation.shared.options.backoff_max {
            conversation.stranger(&refusal);
            conversation.host.unreachable(member.group, member.id);
            self.announce();
        }
        false
    }

    /// Says what is hosted here by now, before the frames that follow; the other side answers with what is hosted there.
    fn announce(&mut self) {
        match self.conversation.introduction() {
            Ok(envelope) => self.pending.push_back(envelope),
            Err(error) => {
                if let Some(suppressed) = self.conversation.link.log.permit() {
                    tracing::warn!(%error, suppressed, "the groups hosted here cannot be announced");
                }
            }
        }
    }
}

/// How long a frame is with its field and length.
fn length_delimited(len: usize) -> usize {
    1 + prost::length_delimiter_len(len) + len
}
