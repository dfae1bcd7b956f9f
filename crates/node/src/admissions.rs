//! Who asked this node to be taken in, and what became of it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use coracle_core::{MembershipChange, NodeId, NodeRecord, RejectReason, Status};
use coracle_replica::{Asked, JoinAnswer, JoinRefusal, JoinRequest, Reply, RequestError, RequestId, Verdict};
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::{
    directory::Directory,
    inbox::{Inbox, Request, Waiter},
    reach,
};

/// How many nodes may ask at the same time.
const PENDING_MAX: usize = 64;
/// Above all numbers that handles give to requests.
const FIRST_REQUEST: u64 = 1 << 63;

type End = oneshot::Receiver<Result<Reply, RequestError>>;

/// The changes of members that are under way because somebody asked to be taken in. They ask again until they know themselves to be members, so nobody waits here.
pub(crate) struct Admissions {
    state: Mutex<State>,
}

struct State {
    pending: BTreeMap<NodeId, End>,
    next_request: u64,
}

impl Admissions {
    pub(crate) fn new() -> Admissions {
        Admissions { state: Mutex::new(State { pending: BTreeMap::new(), next_request: FIRST_REQUEST }) }
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
        let asked = Asked { id: *id, cluster_name: &cluster_name, membership, index: *index, leader: *leader };
        match request.consider(asked) {
            Verdict::Answer(answer) => answer,
            Verdict::Propose(record) => {
                self.propose(inbox, record).unwrap_or_else(|| JoinAnswer::accepted(membership, *index))
            }
        }
    }

    /// Proposes the change unless it is under way; returns why that cannot be.
    fn propose(&self, inbox: &Inbox, record: NodeRecord) -> Option<JoinAnswer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.pending.get_mut(&record.id).map(oneshot::Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return None,
            Some(Ok(Err(RequestError::Rejected(RejectReason::Membership { why })))) => {
                state.pending.remove(&record.id);
                return Some(JoinAnswer::Refused(JoinRefusal::Membership { why: why.to_owned() }));
            }
            // It came about and was undone, or did not come about: another attempt.
            Some(_) | None => {}
        }
        state.pending.retain(|_, end| matches!(end.try_recv(), Err(TryRecvError::Empty)));
        if state.pending.len() >= PENDING_MAX {
            return Some(not_yet("too many nodes join at the same time"));
        }
        let (waiter, end) = oneshot::channel();
        let (request, id) = (RequestId(state.next_request), record.id);
        state.next_request += 1;
        let change = MembershipChange { set: vec![record], remove: Vec::new() };
        if inbox.push_request(request, Request::Change(change), Waiter::One(waiter)).is_err() {
            return Some(not_yet("it is busy"));
        }
        state.pending.insert(id, end);
        None
    }
}

fn not_yet(reason: &str) -> JoinAnswer {
    JoinAnswer::NotYet { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{Incarnation, Index, MemberRole};

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

    #[test]
    fn asking_again_proposes_once_until_it_has_ended() {
        let (admissions, inbox) = (Admissions::new(), open_inbox());
        assert_eq!(admissions.propose(&inbox, record(1)), None);
        assert_eq!(admissions.propose(&inbox, record(1)), None);
        let mut items = taken(&inbox);
        assert_eq!(items.len(), 1);
        let Some(Item::Request(_, _, waiter)) = items.pop() else { panic!("a request") };
        waiter.tell(Err(RequestError::Rejected(RejectReason::ChangeInProgress)));
        assert_eq!(admissions.propose(&inbox, record(1)), None);
        assert_eq!(taken(&inbox).len(), 1, "it was rejected, and is proposed again");
    }

    #[test]
    fn a_membership_that_cannot_be_is_told() {
        let (admissions, inbox) = (Admissions::new(), open_inbox());
        assert_eq!(admissions.propose(&inbox, record(1)), None);
        let Some(Item::Request(_, _, waiter)) = taken(&inbox).pop() else { panic!("a request") };
        waiter.tell(Err(RequestError::Rejected(RejectReason::Membership { why: "so" })));
        let refusal = JoinRefusal::Membership { why: "so".to_owned() };
        assert_eq!(admissions.propose(&inbox, record(1)), Some(JoinAnswer::Refused(refusal)));
    }

    #[test]
    fn what_has_ended_makes_room() {
        let (admissions, inbox) = (Admissions::new(), open_inbox());
        for id in 0..PENDING_MAX as u64 {
            assert_eq!(admissions.propose(&inbox, record(id)), None);
        }
        assert!(matches!(admissions.propose(&inbox, record(1000)), Some(JoinAnswer::NotYet { .. })));
        for item in taken(&inbox) {
            let Item::Request(_, _, waiter) = item else { panic!("a request") };
            waiter.tell(Ok(Reply { data: Bytes::new(), index: Index(1) }));
        }
        assert_eq!(admissions.propose(&inbox, record(1000)), None);
    }
}
