//! Who asked this node to be taken in, and what became of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use coracle_core::{
    Index, MemberRole, Membership, MembershipChange, NodeId, NodeRecord, Progress, RejectReason, Status,
};
use coracle_replica::{JoinAnswer, JoinRefusal, JoinRequest, Reply, RequestError, RequestId, Verdict};
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::Instant,
};

use crate::{
    directory::Directory,
    inbox::{Inbox, Request, Waiter},
    reach,
};

/// How many nodes may ask at the same time.
const PENDING_MAX: usize = 64;
/// How many members may be there that do not vote and have never answered; more strangers wait.
const STRANGERS_MAX: usize = 16;
/// How many changes may be proposed for those who ask, one after the other at once.
const BURST_MAX: u32 = 16;
/// How long it takes until there may be one more.
const REFILL: Duration = Duration::from_secs(1);
/// How long the change that one node asked for keeps its next one waiting: each time twice as long, until it was quiet for as long as the longest.
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(64);
/// Above all numbers that handles give to requests.
const FIRST_REQUEST: u64 = 1 << 63;

type End = oneshot::Receiver<Result<Reply, RequestError>>;

/// The changes of members that are under way because somebody asked to be taken in. They ask again until they know themselves to be members, so nobody waits here.
///
/// Each change is an entry in the log of all, so there are not as many as there are requests: nodes that ask too often, or too many of them, are told to ask again later. What an operator asks for is not held up by this.
pub(crate) struct Admissions {
    state: Mutex<State>,
}

struct State {
    pending: BTreeMap<NodeId, End>,
    next_request: u64,
    pace: Pace,
}

/// How many changes are made for those who ask.
#[derive(Default)]
struct Pace {
    /// How many may be proposed at once were taken, and when that was last put right.
    taken: u32,
    refilled_at: Option<Instant>,
    /// Who asked lately: there are no more of these than may be proposed in the time that they are kept for.
    asked: BTreeMap<NodeId, Asked>,
}

/// What one node asked for.
#[derive(Clone, Copy)]
struct Asked {
    /// When it is listened to again.
    again_at: Instant,
    /// How long it had to wait.
    patience: Duration,
}

impl Pace {
    /// Takes note of a change for `id`; when there may be none at this time, the reason.
    fn take(&mut self, id: NodeId, now: Instant) -> Result<(), &'static str> {
        self.refill(now);
        self.asked.retain(|_, asked| now < asked.again_at + AGAIN_MAX);
        let patience = match self.asked.get(&id) {
            Some(asked) if now < asked.again_at => return Err("it asks for changes too often"),
            Some(asked) => (asked.patience * 2).min(AGAIN_MAX),
            None => AGAIN_MIN,
        };
        if self.taken >= BURST_MAX {
            return Err("too many nodes asked lately");
        }
        self.taken += 1;
        self.asked.insert(id, Asked { again_at: now + patience, patience });
        Ok(())
    }

    /// The change did not come about, and cost nothing.
    fn give_back(&mut self, id: NodeId, now: Instant) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(asked) = self.asked.get_mut(&id) {
            *asked = Asked { again_at: now, patience: asked.patience / 2 };
        }
    }

    fn refill(&mut self, now: Instant) {
        let since = *self.refilled_at.get_or_insert(now);
        let more = u32::try_from(now.duration_since(since).as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        self.taken = self.taken.saturating_sub(more);
        self.refilled_at = Some(if self.taken == 0 { now } else { since + REFILL * more });
    }
}

impl Admissions {
    pub(crate) fn new() -> Admissions {
        let pace = Pace::default();
        Admissions { state: Mutex::new(State { pending: BTreeMap::new(), next_request: FIRST_REQUEST, pace }) }
    }

    /// What a node that asks to be taken in is told; where this node leads, the change is on its way then.
    pub(crate) fn answer(
        &self,
        directory: &Directory,
        inbox: &Inbox,
        status: &Status,
        request: JoinRequest,
    ) -> JoinAnswer {
        let cluster_name = directory.identity().cluster_name;
        let Status { id, membership, membership_index: index, leader, .. } = status;
        if request.cluster_name == cluster_name
            && let Some(refusal) = reach::conflict(membership, &request.record)
        {
            return JoinAnswer::Refused(refusal);
        }
        let asked =
            coracle_replica::Asked { id: *id, cluster_name: &cluster_name, membership, index: *index, leader: *leader };
        match request.consider(asked) {
            Verdict::Answer(answer) => answer,
            Verdict::Propose(record) if is_crowded(membership, &status.peers, record.id) => {
                not_yet("too many nodes were taken in that have never answered")
            }
            Verdict::Propose(record) => {
                let refused = self.propose(inbox, record, Instant::now());
                refused.unwrap_or_else(|| JoinAnswer::accepted(membership, *index))
            }
        }
    }

    /// Proposes the change unless it is under way; returns why that cannot be.
    fn propose(&self, inbox: &Inbox, record: NodeRecord, now: Instant) -> Option<JoinAnswer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.pending.get_mut(&record.id).map(oneshot::Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return None,
            Some(Ok(Err(RequestError::Rejected(reason)))) => {
                state.pending.remove(&record.id);
                state.pace.give_back(record.id, now);
                if let RejectReason::Membership { why } = reason {
                    return Some(JoinAnswer::Refused(JoinRefusal::Membership { why: why.to_owned() }));
                }
            }
            // It came about and was undone, or asks for something else, or nobody knows: another attempt.
            Some(_) | None => {}
        }
        state.pending.retain(|_, end| matches!(end.try_recv(), Err(TryRecvError::Empty)));
        if state.pending.len() >= PENDING_MAX {
            return Some(not_yet("too many nodes join at the same time"));
        }
        if let Err(reason) = state.pace.take(record.id, now) {
            return Some(not_yet(reason));
        }
        let (waiter, end) = oneshot::channel();
        let (request, id) = (RequestId(state.next_request), record.id);
        state.next_request += 1;
        let change = MembershipChange { set: vec![record], remove: Vec::new() };
        if inbox.push_request(request, Request::Change(change), Waiter::One(waiter)).is_err() {
            state.pace.give_back(id, now);
            return Some(not_yet("it is busy"));
        }
        state.pending.insert(id, end);
        None
    }
}

/// Whether so many members do not vote and have never answered that another one that nobody knows has to wait.
fn is_crowded(membership: &Membership, peers: &[Progress], id: NodeId) -> bool {
    let is_waiting = |node: &&NodeRecord| matches!(node.role, MemberRole::Learner | MemberRole::Promotable);
    let has_answered = |id| peers.iter().any(|peer| peer.id == id && peer.match_index > Index::ZERO);
    let strangers = membership.nodes.iter().filter(is_waiting).filter(|node| !has_answered(node.id)).count();
    membership.node(id).is_none() && strangers >= STRANGERS_MAX
}

fn not_yet(reason: &str) -> JoinAnswer {
    JoinAnswer::NotYet { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{ClusterId, Incarnation};

    use super::*;
    use crate::{inbox::Item, tests::open_inbox};

    fn record(id: u64) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            incarnation: Incarnation(id),
            addresses: vec![format!("/memory/{id}")],
            client_address: String::new(),
            role: MemberRole::Voter,
            metadata: Bytes::new(),
        }
    }

    fn taken(inbox: &Inbox) -> Vec<Item> {
        let mut items = Vec::new();
        inbox.take(&mut items);
        items
    }

    /// Whether a change for `id` is proposed at `now`; it comes about at once.
    fn is_proposed(admissions: &Admissions, inbox: &Inbox, id: u64, now: Instant) -> bool {
        let answer = admissions.propose(inbox, record(id), now);
        let mut items = taken(inbox);
        assert_eq!(answer.is_none(), items.len() == 1, "{answer:?}");
        if let Some(Item::Request(_, _, waiter)) = items.pop() {
            waiter.tell(Ok(Reply { data: Bytes::new(), index: Index(1) }));
        }
        answer.is_none()
    }

    #[test]
    fn a_node_that_asks_for_something_else_each_time_costs_few_changes() {
        let (admissions, inbox, began) = (Admissions::new(), open_inbox(), Instant::now());
        let after = |tenths: u64| began + Duration::from_millis(tenths * 100);
        let proposed: Vec<u64> =
            (0..1_300).filter(|tenths| is_proposed(&admissions, &inbox, 1, after(*tenths))).collect();
        assert_eq!(proposed, [0, 10, 30, 70, 150, 310, 630, 1_270]);
        // Somebody else is not held up by it, and neither is it once it has been quiet.
        assert!(is_proposed(&admissions, &inbox, 2, after(1_299)));
        let later = after(1_270) + AGAIN_MAX * 2;
        assert!(is_proposed(&admissions, &inbox, 1, later));
        assert!(is_proposed(&admissions, &inbox, 1, later + AGAIN_MIN));
    }

    #[test]
    fn many_strangers_cost_few_changes() {
        let (admissions, inbox, began) = (Admissions::new(), open_inbox(), Instant::now());
        let after = |id: u64| began + Duration::from_millis(id);
        let proposed = (0..10_000).filter(|id| is_proposed(&admissions, &inbox, *id, after(*id))).count();
        assert_eq!(proposed, BURST_MAX as usize + 9);
        assert!(admissions.state.lock().unwrap().pace.asked.len() <= proposed);
    }

    #[test]
    fn strangers_that_never_answer_take_few_places() {
        let role = |id| if id == 0 { MemberRole::Voter } else { MemberRole::Promotable };
        let nodes = (0..=STRANGERS_MAX as u64).map(|id| NodeRecord { role: role(id), ..record(id) }).collect();
        let membership = Membership::new(ClusterId(1), nodes);
        let progress = |id, match_index| Progress {
            id: NodeId(id),
            match_index: Index(match_index),
            next_index: Index(match_index + 1),
            is_active: true,
            is_installing: false,
        };
        let mut peers: Vec<Progress> = (1..=STRANGERS_MAX as u64).map(|id| progress(id, 0)).collect();
        assert!(is_crowded(&membership, &peers, NodeId(99)));
        assert!(!is_crowded(&membership, &peers, NodeId(3)), "it is in, and may move");
        peers[0] = progress(1, 7);
        assert!(!is_crowded(&membership, &peers, NodeId(99)), "one of them has answered");
    }

    #[test]
    fn asking_again_proposes_once_until_it_has_ended() {
        let (admissions, inbox, now) = (Admissions::new(), open_inbox(), Instant::now());
        assert_eq!(admissions.propose(&inbox, record(1), now), None);
        assert_eq!(admissions.propose(&inbox, record(1), now), None);
        let mut items = taken(&inbox);
        assert_eq!(items.len(), 1);
        let Some(Item::Request(_, _, waiter)) = items.pop() else { panic!("a request") };
        waiter.tell(Err(RequestError::Rejected(RejectReason::ChangeInProgress)));
        assert_eq!(admissions.propose(&inbox, record(1), now), None);
        assert_eq!(taken(&inbox).len(), 1, "it was rejected, which cost nothing, and is proposed again");
    }

    #[test]
    fn a_membership_that_cannot_be_is_told() {
        let (admissions, inbox, now) = (Admissions::new(), open_inbox(), Instant::now());
        assert_eq!(admissions.propose(&inbox, record(1), now), None);
        let Some(Item::Request(_, _, waiter)) = taken(&inbox).pop() else { panic!("a request") };
        waiter.tell(Err(RequestError::Rejected(RejectReason::Membership { why: "so" })));
        let refusal = JoinRefusal::Membership { why: "so".to_owned() };
        assert_eq!(admissions.propose(&inbox, record(1), now), Some(JoinAnswer::Refused(refusal)));
    }

    #[test]
    fn what_has_ended_makes_room() {
        let (admissions, inbox, mut now) = (Admissions::new(), open_inbox(), Instant::now());
        for id in 0..PENDING_MAX as u64 {
            now += REFILL;
            assert_eq!(admissions.propose(&inbox, record(id), now), None);
        }
        now += REFILL;
        assert!(matches!(admissions.propose(&inbox, record(1000), now), Some(JoinAnswer::NotYet { .. })));
        for item in taken(&inbox) {
            let Item::Request(_, _, waiter) = item else { panic!("a request") };
            waiter.tell(Ok(Reply { data: Bytes::new(), index: Index(1) }));
        }
        assert_eq!(admissions.propose(&inbox, record(1000), now), None);
    }
}
