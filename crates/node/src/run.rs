//! The loop: the one task that owns the replica.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use coracle_core::{CalledOff, Event, Fatal, NodeId, NodeRecord, Role, Status, Time};
use coracle_replica::{Completion, Effect, Input, Replica, Reply, RequestError, RequestId, RequestMap};
use coracle_transport::{Frame, Peer, Sent, Transport};
use tokio::{
    sync::{broadcast, watch},
    time::Sleep,
};

use crate::{
    NodeEvent, StopReason,
    acquaintances::{Acquaintance, Acquaintances, Change},
    clock::Clock,
    directory::Directory,
    effects::Storage,
    identity::Standing,
    inbox::{Inbox, Item, Life, Order, Request, Waiter},
    pipeline::Ends,
    workers::{ReadRange, SnapshotWork},
};

/// How often the status is published at most, unless something important happened.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);
/// How long storage gets at the end.
pub(crate) const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Wakes the loop at a time, or earlier: deadlines move on with every message, and setting a timer costs more than a turn that finds nothing due.
struct Alarm {
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    /// When it goes off; `None` when it is not set.
    set: Option<Time>,
}

impl Alarm {
    fn new(clock: Clock) -> Alarm {
        Alarm { clock, sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), set: None }
    }

    /// Ready at `at` at the latest; with `None`, perhaps never.
    fn poll_reached(&mut self, at: Option<Time>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(at) = at
            && self.set.is_none_or(|set| at < set)
            && let Some(instant) = self.clock.instant(at)
        {
            self.sleep.as_mut().reset(instant.into());
            self.set = Some(at);
        }
        if self.set.is_none() || self.sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.set = None;
        Poll::Ready(())
    }
}

/// Lets tasks that are ready run first: what they bring is part of the same turn, and of the same messages and write.
async fn others_first() {
    let mut has_waited = false;
    poll_fn(|context| {
        if mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// How a loop has ended.
pub(crate) struct Finished {
    pub(crate) reason: StopReason,
    /// Whether storage has done everything that it was asked for.
    pub(crate) is_clean: bool,
}

/// See the module.
pub(crate) struct Loop {
    pub(crate) replica: Replica,
    pub(crate) acquaintances: Acquaintances,
    pub(crate) storage: Storage,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) clock: Clock,
    pub(crate) published: watch::Sender<Arc<Status>>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) shutdown_grace: Duration,
    /// Who waits for which request.
    pub(crate) waiters: RequestMap<Waiter>,
    /// Who is to be woken at the end of this turn, when all that ended in it is told.
    pub(crate) to_wake: Vec<Arc<Ends>>,
    /// Peers that the transport did not reach in this turn.
    pub(crate) unreached: BTreeSet<NodeId>,
    /// When the status was last published, and whether it may have changed since.
    pub(crate) last_published: Time,
    pub(crate) is_changed: bool,
    /// What failed first, and whether that was the data's fault: the replica's reason to stop does not say it.
    pub(crate) failure: Option<(String, bool)>,
    /// There was no space for a snapshot; one that succeeds ends it.
    pub(crate) has_given_up_snapshot: bool,
    /// Why the replica stopped, once it has.
    pub(crate) fatal: Option<StopReason>,
}

impl Loop {
    /// Runs until the node is to end or ends by itself; what it holds of the store is let go when it returns, unless something was left behind.
    pub(crate) async fn run(mut self) -> Finished {
        let mut items = Vec::new();
        let mut give_up_at = None;
        let mut alarm = Alarm::new(self.clock);
        loop {
            let (life, unreachable) = self.inbox.take(&mut items);
            let wake = self.turn(&mut items, unreachable);
            if let Some(reason) = self.fatal.take() {
                return self.end(reason).await;
            }
            if life >= Life::Ending {
                let now = self.clock.now();
                if give_up_at.is_none() {
                    give_up_at = Some(now.plus(self.shutdown_grace));
                    // A leader hands over first, so that writes go on elsewhere at once (C14).
                    self.replica.handle(now, Input::Transfer { to: None });
                    continue;
                }
                let is_done = self.waiters.is_empty() && !self.replica.raft().is_transferring();
                if is_done || give_up_at.is_some_and(|at| now >= at) {
                    return self.end(StopReason::Shutdown).await;
                }
            }
            let publish_at = self.is_changed.then(|| self.last_published.plus(PUBLISH_INTERVAL));
            let forget_at = self.acquaintances.next_deadline();
            let wake = [wake, publish_at, give_up_at, forget_at].into_iter().flatten().min();
            // A full inbox must not keep the runtime's other tasks from running.
            tokio::task::coop::consume_budget().await;
            poll_fn(|context| match self.inbox.poll_filled(context) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => alarm.poll_reached(wake, context),
            })
            .await;
            if self.waiters.len() > 1 {
                others_first().await;
            }
        }
    }

    /// Hands in everything that has arrived, does what follows, and says when to come back.
    fn turn(&mut self, items: &mut Vec<Item>, unreachable: BTreeSet<NodeId>) -> Option<Time> {
        // The clock is read after the batch was taken, and time comes last: a process that was paused sees what queued up before its timers fire (C11).
        let now = self.clock.now();
        if !unreachable.is_empty() || !self.unreached.is_empty() {
            self.lose(now, unreachable);
        }
        self.is_changed |= !items.is_empty();
        for item in items.drain(..) {
            self.take(now, item);
        }
        self.replica.handle(now, Input::Time);
        if self.acquaintances.is_outdated(self.replica.raft().commit_index()) {
            self.meet_members(now);
        }
        self.forget_those_gone(now);
        let wake = self.carry_out(now);
        if self.is_changed && now.since(self.last_published) >= PUBLISH_INTERVAL {
            self.publish(now);
        }
        wake
    }

    /// Peers could not be reached: by the transport's word, or when something was sent.
    fn lose(&mut self, now: Time, unreachable: BTreeSet<NodeId>) {
        for peer in unreachable.into_iter().chain(mem::take(&mut self.unreached)) {
            let _ = self.events.send(NodeEvent::Unreachable { peer });
            self.replica.handle(now, Input::Unreachable { peer });
        }
    }

    fn take(&mut self, now: Time, item: Item) {
        let input = match item {
            Item::Request(request, what, waiter) => {
                self.waiters.insert(request, waiter);
                match what {
                    Request::Propose(command) => Input::Propose { request, command },
                    Request::Query(query, consistency) => Input::Query { request, query, consistency },
                    Request::Change(change) => Input::ChangeMembership { request, change },
                    Request::Snapshot => Input::TakeSnapshot { request },
                }
            }
            Item::Cancel(request) => {
                // Its end may have been told in the meantime.
                if self.waiters.remove(&request).is_none() {
                    return;
                }
                Input::Cancel { request }
            }
            Item::Order(Order::Transfer(to)) => Input::Transfer { to },
            Item::Order(Order::Weaken(duration)) => Input::Weaken { duration },
            Item::Order(Order::LookAtTold) => return self.meet_members(now),
            Item::Order(Order::LookAtRefusals) => return self.look_at_refusals(now),
            Item::Message(message) => Input::Message(message),
            Item::Done(completion) => {
                self.done(now, completion);
                return;
            }
        };
        self.replica.handle(now, input);
    }

    fn done(&mut self, now: Time, completion: Completion) {
        self.note(&completion);
        self.replica.handle(now, Input::Done(completion));
    }

    /// What the replica does not see of a completion: the words. What is tried again and again is said once.
    fn note(&mut self, completion: &Completion) {
        match completion {
            Completion::Failed { what, is_damage, .. } => {
                self.failure.get_or_insert_with(|| (what.clone(), *is_damage));
            }
            Completion::NoSpace(what) => {
                let is_known = self.directory.set_no_space(Some(what.to_string()));
                if !is_known {
                    tracing::warn!("{what}: writes are refused until there is space");
                }
            }
            Completion::SnapshotNotTaken { what } | Completion::SnapshotNotStored { what } => {
                let is_known = mem::replace(&mut self.has_given_up_snapshot, true);
                if !is_known {
                    tracing::warn!("{what}: it is given up, and tried again later");
                    let _ = self.events.send(NodeEvent::SnapshotGivenUp { what: what.clone() });
                }
            }
            Completion::SnapshotDamaged { what, .. } => {
                tracing::warn!("{what}: it was put aside, and another is taken")
            }
            Completion::SnapshotTaken { .. } | Completion::SnapshotStored { whole: true, .. } => {
                self.has_given_up_snapshot = false;
            }
            _ => {}
        }
    }

    /// Does what the replica asks for until there is nothing more. What was done in line is handed in within the same turn.
    fn carry_out(&mut self, now: Time) -> Option<Time> {
        loop {
            let effect = self.replica.poll();
            if let Effect::Wake { at } = effect {
                self.to_wake.drain(..).for_each(|ends| ends.wake());
                // A peer that could not be reached is told to the replica in a turn of its own, so that the two cannot chase each other.
                return if self.unreached.is_empty() { at } else { Some(now) };
            }
            self.is_changed = true;
            if let Some(completion) = self.act(now, effect) {
                self.done(now, completion);
            }
        }
    }

    fn act(&mut self, now: Time, effect: Effect) -> Option<Completion> {
        match effect {
            Effect::Send(message) => {
                let to = message.to;
                if self.transport.send(Frame { group: self.directory.group(), message }) == Sent::Unreachable {
                    self.unreached.insert(to);
                }
                None
            }
            Effect::Write(persist) => self.storage.write(persist),
            Effect::ReadLog { request, from, to, bytes_max } => {
                self.storage.read(ReadRange { request, from, to, bytes_max })
            }
            Effect::State(effect) => self.storage.state(effect),
            Effect::ReadSnapshot { peer, content, offset, len } => {
                self.storage.snapshot(SnapshotWork::Read { peer, content, offset, len })
            }
            Effect::StoreSnapshot { from, term, piece } => {
                self.storage.snapshot(SnapshotWork::Store { from, term, piece })
            }
            Effect::Reply { request, result } => {
                self.reply(request, result);
                None
            }
            Effect::Event(event) => {
                self.tell(now, event);
                None
            }
            Effect::Fatal { reason, what } => {
                self.fatal = Some(stop_reason(reason, what, self.failure.take()));
                None
            }
            Effect::Wake { .. } => None,
        }
    }

    fn reply(&mut self, request: RequestId, result: Result<Reply, RequestError>) {
        if let Some(waiter) = self.waiters.remove(&request) {
            self.to_wake.extend(waiter.tell_soon(result));
        }
    }

    fn tell(&mut self, now: Time, event: Event) {
        match &event {
            Event::Role { role, term, leader } => {
                if leader.is_some() {
                    self.directory.forget_refusals();
                    self.learn_standing(now, &self.replica.status());
                }
                let leader = leader.map(|leader| leader.to_string());
                match role {
                    Role::Leader => tracing::info!(%term, "leads"),
                    role => tracing::info!(?role, %term, leader, "role"),
                }
            }
            Event::Membership { index } => {
                tracing::info!(%index, "membership");
                self.meet_members(now);
            }
            Event::MembershipCommitted { index } => {
                tracing::info!(%index, "the membership is committed");
                self.meet_members(now);
            }
            Event::ChangeCalledOff(CalledOff { index, reason, nodes }) => {
                let stay: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
                tracing::warn!(%index, %reason, stay = stay.join(", "), "a change of voters is called off");
            }
            Event::PeerFault { peer, fault } => tracing::warn!(%peer, fault, "a peer said what no correct peer says"),
            Event::Damaged { at } => {
                tracing::warn!(%at, "the log is damaged: this node does not vote until its peers have repaired it");
            }
            Event::Irreparable { at } => {
                tracing::error!(%at, "no other member holds the damaged entry: it ends when a leader elected without this node writes another one; without a majority for that, only this node's own disk can bring it back");
            }
            Event::Repaired => tracing::info!("the log is whole again"),
            Event::DiskSlow => tracing::warn!("a write of the log takes longer than its limit"),
            // It was said in words, with what is missing.
            Event::DiskFull => {}
            Event::SpaceFound => {
                self.directory.set_no_space(None);
                tracing::info!("the log has space again");
            }
            event => tracing::info!(?event),
        }
        self.publish(now);
        let _ = self.events.send(NodeEvent::Replica(event));
    }

    /// Tells the transport and the directory who the members are, and where.
    pub(crate) fn meet_members(&mut self, now: Time) {
        if let Some((index, membership)) = self.directory.take_told() {
            self.acquaintances.tell(index, membership);
        }
        let status = self.replica.status();
        let Status { membership, membership_index, commit_index, .. } = &status;
        let changes = self.acquaintances.update(membership, *membership_index, *commit_index, now);
        self.acquaint(changes);
        self.learn_standing(now, &status);
    }

    /// Ceases to talk to those who were removed a while ago.
    fn forget_those_gone(&mut self, now: Time) {
        if self.acquaintances.next_deadline().is_some_and(|at| at <= now) {
            let changes = self.acquaintances.expire(now);
            self.acquaint(changes);
        }
    }

    fn acquaint(&self, changes: Vec<Change>) {
        // Whoever connects is to be known by then.
        let mut known = self.acquaintances.known();
        let own = self.directory.identity();
        let addresses = self.directory.founder().map(|founder| founder.addresses).unwrap_or_default();
        known.insert(own.node, Acquaintance { incarnation: own.incarnation, addresses });
        self.directory.set_known(known);
        let group = self.directory.group();
        for change in changes {
            match change {
                Change::Set(node) => {
                    let addresses = parse_addresses(&node);
                    self.transport.set_peer(Peer { group, id: node.id, incarnation: node.incarnation, addresses });
                }
                Change::Forget(id) => self.transport.remove_peer(group, id),
            }
        }
    }

    /// A committed membership says whether this node is a member.
    fn learn_standing(&mut self, now: Time, status: &Status) {
        if status.membership_index > status.commit_index {
            return;
        }
        let own = self.directory.identity();
        let record = status.membership.node(own.node);
        if record.is_some_and(|node| node.incarnation == own.incarnation) {
            self.directory.set_standing(Standing::Member);
        } else if self.directory.standing() == Standing::Member {
            self.removed(now);
        }
    }

    /// Most of the voters do not know this node any more, and nobody leads it: it was removed while it did not listen.
    fn look_at_refusals(&mut self, now: Time) {
        let status = self.replica.status();
        let refusing = self.directory.refusing();
        let voters: Vec<NodeId> = status.membership.voters().filter(|id| *id != status.id).collect();
        let count = voters.iter().filter(|id| refusing.contains(id)).count();
        if status.leader.is_none() && 2 * count > voters.len() && self.directory.standing() == Standing::Member {
            self.removed(now);
        }
    }

    fn removed(&mut self, now: Time) {
        self.directory.set_standing(Standing::Removed);
        tracing::warn!("this node is not a member of its cluster any more: it takes no part, and can be stopped");
        self.publish(now);
        let _ = self.events.send(NodeEvent::Removed);
    }

    fn publish(&mut self, now: Time) {
        self.published.send_replace(Arc::new(self.replica.status()));
        self.last_published = now;
        self.is_changed = false;
    }

    /// Ends all requests, and lets storage finish.
    async fn end(mut self, reason: StopReason) -> Finished {
        self.inbox.close();
        let now = self.clock.now();
        self.publish(now);
        for (_, waiter) in self.waiters.drain() {
            waiter.tell(Err(RequestError::Unknown));
        }
        let is_clean = self.storage.close(CLOSE_DEADLINE).await;
        Finished { reason, is_clean }
    }
}

/// The addresses of a member that this build understands.
fn parse_addresses(node: &NodeRecord) -> Vec<coracle_transport::Address> {
    let parsed = node.addresses.iter().filter_map(|text| match text.parse() {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::warn!(peer = %node.id, %error, "an address of a member is left out");
            None
        }
    });
    parsed.collect()
}

/// By whose fault a replica stopped, with what failed before, and whether that was the data's fault.
fn stop_reason(reason: Option<Fatal>, what: String, failure: Option<(String, bool)>) -> StopReason {
    let is_damage = failure.as_ref().is_some_and(|(_, is_damage)| *is_damage);
    let what = match failure {
        Some((failure, _)) if failure != what => format!("{what}: {failure}"),
        _ => what,
    };
    match reason {
        Some(Fatal::Damaged { .. } | Fatal::LostLog { .. }) => StopReason::Damaged(what),
        Some(Fatal::PersistFailed) | None if is_damage => StopReason::Damaged(what),
        Some(Fatal::PersistFailed) | None => StopReason::Storage(what),
        Some(_) => StopReason::Internal(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ring(alarm: &mut Alarm, at: Time) {
        let rung = poll_fn(|context| alarm.poll_reached(Some(at), context));
        tokio::time::timeout(Duration::from_secs(60), rung).await.expect("it goes off");
    }

    #[tokio::test]
    async fn an_alarm_goes_off_at_the_latest_when_it_is_due() {
        let clock = Clock::start();
        let mut alarm = Alarm::new(clock);
        let (soon, late) = (Duration::from_millis(20), Duration::from_secs(3600));
        // Set to a later time first, and then to an earlier one.
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(alarm.poll_reached(None, &mut context).is_pending());
        assert!(alarm.poll_reached(Some(clock.now().plus(late)), &mut context).is_pending());
        let at = clock.now().plus(soon);
        ring(&mut alarm, at).await;
        assert!(clock.now() >= at);
        // One that is due at once, and one whose time was moved on: it may go off at the earlier time, and waits for the later one after that.
        ring(&mut alarm, clock.now()).await;
        assert!(alarm.poll_reached(Some(clock.now().plus(soon)), &mut context).is_pending());
        ring(&mut alarm, clock.now().plus(late)).await;
        assert!(alarm.poll_reached(Some(clock.now().plus(late)), &mut context).is_pending());
    }
}
