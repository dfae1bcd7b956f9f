//! What waits to be sent to one remote process.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use coracle_core::{Body, Forwarded, GroupId, Incarnation, Message, NodeId, encoded_len};
use tokio::sync::Notify;

use crate::{Address, Frame, LogLimit, PeerStats, Sent, links::LOG_INTERVAL};

/// How much may wait for one remote process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// How many bytes of frames.
    pub queue_bytes_max: usize,
    /// How many frames.
    pub queue_frames_max: usize,
    /// The largest frame, in bytes.
    pub frame_bytes_max: usize,
}

/// A node at a remote process.
#[derive(Debug)]
pub struct Member {
    /// Its group.
    pub group: GroupId,
    /// Who it is.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What was counted for it.
    pub counters: Arc<Counters>,
}

/// What was counted for a node; outlives changes of its addresses.
#[derive(Debug, Default)]
pub struct Counters {
    is_connected: AtomicBool,
    frames_sent: AtomicU64,
    frames_received: AtomicU64,
    frames_dropped: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Counters {
    /// All of it.
    pub fn stats(&self) -> PeerStats {
        PeerStats {
            is_connected: self.is_connected.load(Ordering::Relaxed),
            frames_sent: self.frames_sent.load(Ordering::Relaxed),
            frames_received: self.frames_received.load(Ordering::Relaxed),
            frames_dropped: self.frames_dropped.load(Ordering::Relaxed),
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
        }
    }

    /// Whether there is a connection over which the node is reached.
    pub fn set_connected(&self, is_connected: bool) {
        self.is_connected.store(is_connected, Ordering::Relaxed);
    }

    /// A frame of so many bytes was written.
    pub fn sent(&self, bytes: usize) {
        self.frames_sent.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A frame of so many bytes has arrived.
    pub fn received(&self, bytes: usize) {
        self.frames_received.fetch_add(1, Ordering::Relaxed);
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A frame was dropped.
    pub fn dropped(&self) {
        self.frames_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Where a link is between nothing to do and a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Without a connection, and nothing was tried in vain lately: frames are queued.
    Ready,
    /// Waiting before another attempt: frames are dropped.
    Down,
    /// Nobody uses it any more.
    Closed,
}

/// The nodes at one remote process, and the frames that wait for them.
#[derive(Debug)]
pub struct Link {
    /// Where it is, in the order to try.
    pub addresses: Vec<Address>,
    /// For lines about faults.
    pub log: LogLimit,
    /// For lines about processes that are merely not there; they are not to suppress the others.
    pub absence_log: LogLimit,
    limits: LinkLimits,
    queue: Mutex<Queue>,
    /// Raised when the queue ceases to be empty, and when the link closes; the link's task alone waits.
    changed: Notify,
    members: Mutex<HashMap<(GroupId, NodeId), Arc<Member>>>,
    /// Raised when a member joins; the link's task alone waits.
    joined: Notify,
}

#[derive(Debug)]
struct Queue {
    phase: Phase,
    frames: VecDeque<Queued>,
    bytes: usize,
}

/// A frame that waits.
#[derive(Debug)]
pub struct Queued {
    /// The frame.
    pub frame: Frame,
    /// Whom it is for.
    pub member: Arc<Member>,
    size: usize,
}

impl Link {
    /// A link without members.
    pub fn new(addresses: Vec<Address>, limits: LinkLimits) -> Link {
        Link {
            addresses,
            log: LogLimit::new(1, LOG_INTERVAL),
            absence_log: LogLimit::new(1, LOG_INTERVAL),
            limits,
            queue: Mutex::new(Queue { phase: Phase::Ready, frames: VecDeque::new(), bytes: 0 }),
            changed: Notify::new(),
            members: Mutex::default(),
            joined: Notify::new(),
        }
    }

    /// Puts a frame into the queue, if there is room and hope.
    pub fn push(&self, frame: Frame, member: Arc<Member>) -> Sent {
        let size = frame_size(&frame.message);
        let mut queue = lock(&self.queue);
        if queue.phase != Phase::Ready {
            return Sent::Unreachable;
        }
        let LinkLimits { queue_bytes_max, queue_frames_max, frame_bytes_max } = self.limits;
        let is_full = queue.frames.len() >= queue_frames_max || queue.bytes.saturating_add(size) > queue_bytes_max;
        if is_full || size > frame_bytes_max {
            return Sent::Full;
        }
        queue.bytes += size;
        queue.frames.push_back(Queued { frame, member, size });
        if queue.frames.len() == 1 {
            self.changed.notify_one();
        }
        Sent::Queued
    }

    /// Waits until there are frames; `false` when the link is closed. May be cancelled without loss.
    pub async fn ready(&self) -> bool {
        loop {
            {
                let queue = lock(&self.queue);
                if queue.phase == Phase::Closed || !queue.frames.is_empty() {
                    return queue.phase != Phase::Closed;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Whether frames wait.
    pub fn is_waiting(&self) -> bool {
        !lock(&self.queue).frames.is_empty()
    }

    /// Takes the frames of one write: all there are, up to `bytes_max`, and at least one.
    pub fn take(&self, bytes_max: usize, batch: &mut Vec<Queued>) {
        let mut queue = lock(&self.queue);
        let mut bytes = 0;
        while let Some(next) = queue.frames.front() {
            if bytes > 0 && bytes + next.size > bytes_max {
                break;
            }
            bytes += next.size;
            batch.extend(queue.frames.pop_front());
        }
        queue.bytes -= bytes;
    }

    /// After a failure: drops what waits, and from here on what comes, until [`Link::up`].
    pub fn down(&self) {
        self.leave(Phase::Down);
        for member in self.members() {
            member.counters.set_connected(false);
        }
    }

    /// The next attempt may begin as soon as there is something to send.
    pub fn up(&self) {
        let mut queue = lock(&self.queue);
        if queue.phase == Phase::Down {
            queue.phase = Phase::Ready;
        }
    }

    /// Ends the link's task.
    pub fn close(&self) {
        self.leave(Phase::Closed);
        self.changed.notify_one();
    }

    fn leave(&self, phase: Phase) {
        let frames = {
            let mut queue = lock(&self.queue);
            if queue.phase != Phase::Closed {
                queue.phase = phase;
            }
            queue.bytes = 0;
            mem::take(&mut queue.frames)
        };
        frames.iter().for_each(|queued| queued.member.counters.dropped());
    }

    /// The nodes there.
    pub fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).values().cloned().collect()
    }

    /// A node is there from here on.
    pub fn join(&self, member: Arc<Member>) {
        lock(&self.members).insert((member.group, member.id), member);
        self.joined.notify_one();
    }

    /// Waits until somebody has joined since this was last waited for. May be cancelled without loss.
    pub async fn joined(&self) {
        self.joined.notified().await;
    }

    /// A node is not there any more; returns whether nobody is left.
    pub fn leave_member(&self, group: GroupId, id: NodeId) -> bool {
        let mut members = lock(&self.members);
        members.remove(&(group, id));
        members.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// About how many bytes the message takes, without encoding it: never far too few.
fn frame_size(message: &Message) -> usize {
    /// Names, numbers and headers of any message without its variable parts.
    const FIXED: usize = 128;
    /// A length or an outcome in front of each item of a list.
    const ITEM: usize = 16;
    /// A node's record rarely takes more than this, and what a membership comes with is far below the limits.
    const NODE: usize = 256;
    FIXED
        + match &message.body {
            Body::AppendEntries { entries, .. } => encoded_len(entries),
            Body::FetchEntriesResponse { entries, base, .. } => {
                let membership = base.as_ref().and_then(|base| base.membership.as_ref());
                encoded_len(entries) + membership.map_or(0, |membership| NODE * membership.nodes.len())
            }
            Body::InstallSnapshot(piece) => piece.data.len() + NODE * piece.meta.membership.nodes.len(),
            Body::Propose { commands, .. } => commands.iter().map(|command| ITEM + command.len()).sum(),
            Body::ProposeResponse { outcomes, .. } => outcomes
                .iter()
                .map(|outcome| match outcome {
                    Forwarded::Applied { reply, .. } => 2 * ITEM + reply.len(),
                    _ => ITEM,
                })
                .sum(),
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{Entry, EntryKind, Index, InstallSnapshot, Membership, Run, SnapshotMeta, Term};

    use super::*;

    const LIMITS: LinkLimits =
        LinkLimits { queue_bytes_max: 16 << 20, queue_frames_max: 16_384, frame_bytes_max: 8 << 20 };

    fn link(limits: LinkLimits) -> (Link, Arc<Member>) {
        let member = Member { group: GroupId(1), id: NodeId(2), incarnation: Incarnation(2), counters: Arc::default() };
        let member = Arc::new(member);
        let link = Link::new(Vec::new(), limits);
        link.join(member.clone());
        (link, member)
    }

    fn frame(command_len: usize) -> Frame {
        let commands = vec![Bytes::from(vec![0; command_len])];
        let body = Body::Propose { nonce: 0, sequence: 0, commands };
        Frame { group: GroupId(1), message: Message { from: NodeId(1), to: NodeId(2), term: Term(1), body } }
    }

    #[test]
    fn a_full_queue_says_so() {
        let (link, member) = link(LinkLimits { queue_frames_max: 2, queue_bytes_max: 1000, ..LIMITS });
        let push = |len| link.push(frame(len), member.clone());
        assert_eq!([push(0), push(900), push(0), push(0)], [Sent::Queued, Sent::Full, Sent::Queued, Sent::Full]);
        let mut batch = Vec::new();
        link.take(usize::MAX, &mut batch);
        assert_eq!((batch.len(), link.push(frame(0), member.clone())), (2, Sent::Queued));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_never_queued() {
        let (link, member) = link(LinkLimits { frame_bytes_max: 1000, ..LIMITS });
        assert_eq!(link.push(frame(1000), member), Sent::Full);
    }

    #[test]
    fn whatever_a_message_brings_counts() {
        let data = Bytes::from(vec![0; 500]);
        let entry = Entry { kind: EntryKind::Command, data: data.clone() };
        let entries = || vec![Run::new(Index(1), Term(1), vec![entry.clone()])];
        let applied = Forwarded::Applied { index: Index(1), reply: data.clone() };
        let meta = SnapshotMeta {
            content: 0,
            last_included_index: Index(1),
            last_included_term: Term(1),
            membership_index: Index(1),
            membership: Membership::of_voters([NodeId(1)]),
            size: 500,
            checksum: 0,
        };
        for body in [
            Body::AppendEntries {
                prev_log_index: Index(0),
                prev_log_term: Term(0),
                leader_commit: Index(0),
                entries: entries().into(),
            },
            Body::FetchEntriesResponse { first: Index(1), entries: entries(), base: None },
            Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset: 0, data: data.clone() })),
            Body::Propose { nonce: 0, sequence: 0, commands: vec![data.clone()] },
            Body::ProposeResponse { nonce: 0, sequence: 0, outcomes: vec![applied] },
        ] {
            let frame = Frame { message: Message { body, ..frame(0).message }, ..frame(0) };
            let (link, member) = link(LinkLimits { queue_bytes_max: 500, ..LIMITS });
            assert_eq!(link.push(frame.clone(), member), Sent::Full, "{frame:?}");
        }
    }

    #[test]
    fn a_batch_is_bounded_and_never_empty() {
        let (link, member) = link(LIMITS);
        for len in [5000, 10, 10, 5000] {
            assert_eq!(link.push(frame(len), member.clone()), Sent::Queued);
        }
        let sizes = std::iter::from_fn(|| {
            let mut batch = Vec::new();
            link.take(1000, &mut batch);
            (!batch.is_empty()).then_some(batch.len())
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [1, 2, 1]);
        assert_eq!(lock(&link.queue).bytes, 0);
    }

    #[test]
    fn what_waits_is_dropped_and_counted_when_the_link_goes_down() {
        let (link, member) = link(LIMITS);
        assert_eq!(link.push(frame(0), member.clone()), Sent::Queued);
        link.down();
        assert_eq!(link.push(frame(0), member.clone()), Sent::Unreachable);
        assert_eq!(member.counters.stats().frames_dropped, 1);
        link.up();
        assert_eq!(link.push(frame(0), member.clone()), Sent::Queued);
        link.close();
        link.up();
        assert_eq!(link.push(frame(0), member), Sent::Unreachable);
    }
}
