//! What a node knows of itself and of the others: shared by the loop, the founding and the transport's tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Index, MemberRole, Membership, NodeId, Status, Time};
use coracle_replica::{Answer, AnswerState, Bond, Founder, Founding, Invite, InviteAnswer, Question, Step};
use coracle_storage::Identity;
use coracle_transport::{Address, GroupHello, Refusal, Transport};
use tokio::sync::{Notify, watch};

use crate::{acquaintances::Acquaintance, identity::Standing};

/// See the module.
pub(crate) struct Directory {
    group: GroupId,
    node: NodeId,
    state: Mutex<State>,
    /// Raised when a node that stands by is invited.
    invited: Notify,
}

/// A membership that was told from outside of the group, and its place in the log.
pub(crate) type Told = (Index, Membership);

struct State {
    identity: Identity,
    /// Where it stands towards its cluster; counts once it belongs to one.
    standing: Standing,
    /// Who may talk to this node; `None` until that is known.
    known: Option<BTreeMap<NodeId, Acquaintance>>,
    /// Members that do not know this node.
    refused_by: BTreeSet<NodeId>,
    /// What the log lacks, while it waits for space.
    no_space: Option<String>,
    /// What the running node says of itself.
    status: Option<watch::Receiver<Arc<Status>>>,
    /// Whether it waits to be taken in.
    is_waiting: bool,
    /// The newest membership that it was told and has not looked at.
    told: Option<Told>,
    /// What the node says of itself when it is asked; `None` until its addresses are known.
    founder: Option<Founder>,
    /// Whether the node belongs to a cluster, durably, and what it knows of the founding is known here.
    is_founded: bool,
    /// The first entry's data, once founded; a node that joined later need not know it.
    first: Option<Bytes>,
    /// While the cluster is being founded.
    founding: Option<Founding>,
}

impl State {
    fn cluster(&self, group: GroupId) -> Option<ClusterId> {
        self.identity.clusters.get(&group).copied()
    }
}

impl Directory {
    pub(crate) fn new(group: GroupId, identity: Identity) -> Directory {
        let node = identity.node;
        let state = State {
            identity,
            standing: Standing::Member,
            known: None,
            refused_by: BTreeSet::new(),
            no_space: None,
            status: None,
            is_waiting: false,
            told: None,
            founder: None,
            is_founded: false,
            first: None,
            founding: None,
        };
        Directory { group, node, state: Mutex::new(state), invited: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is a single assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// The id of the group's cluster, once it is founded.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.lock().cluster(self.group)
    }

    pub(crate) fn identity(&self) -> Identity {
        self.lock().identity.clone()
    }

    /// These may talk to this node from here on.
    pub(crate) fn set_known(&self, known: BTreeMap<NodeId, Acquaintance>) {
        self.lock().known = Some(known);
    }

    /// Where one is that may talk to this node; empty when it is not known.
    pub(crate) fn addresses_of(&self, node: NodeId) -> Vec<Address> {
        let state = self.lock();
        let known = state.known.as_ref().and_then(|known| known.get(&node));
        // What this build does not understand is of no use here, as in the transport.
        known.map(|known| known.addresses.iter().filter_map(|text| text.parse().ok()).collect()).unwrap_or_default()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.lock().standing
    }

    /// The node stands otherwise towards its cluster; returns how it stood before.
    pub(crate) fn set_standing(&self, standing: Standing) -> Standing {
        std::mem::replace(&mut self.lock().standing, standing)
    }

    /// What the log lacks, in words, while it waits for space.
    pub(crate) fn no_space(&self) -> Option<String> {
        self.lock().no_space.clone()
    }

    /// What the log lacks, or that it lacks nothing; returns whether it lacked something before.
    pub(crate) fn set_no_space(&self, no_space: Option<String>) -> bool {
        std::mem::replace(&mut self.lock().no_space, no_space).is_some()
    }

    /// The node runs.
    pub(crate) fn set_status(&self, status: watch::Receiver<Arc<Status>>) {
        self.lock().status = Some(status);
    }

    /// What the node knew a moment ago, once it runs.
    pub(crate) fn status(&self) -> Option<Arc<Status>> {
        let status = self.lock().status.clone();
        status.map(|status| status.borrow().clone())
    }

    /// A member says that it does not know this node; returns whether that is news.
    pub(crate) fn refused_by(&self, peer: NodeId) -> bool {
        let mut state = self.lock();
        // Whoever refuses is somebody whom this node knows.
        state.known.as_ref().is_some_and(|known| known.contains_key(&peer)) && state.refused_by.insert(peer)
    }

    /// Those who said lately that they do not know this node.
    pub(crate) fn refusing(&self) -> BTreeSet<NodeId> {
        self.lock().refused_by.clone()
    }

    /// A leader talks to this node: it is not refused.
    pub(crate) fn forget_refusals(&self) {
        self.lock().refused_by.clear();
    }

    /// The node waits to be taken in: from now on it accepts an invitation.
    pub(crate) fn wait_to_be_taken_in(&self) {
        self.lock().is_waiting = true;
    }

    /// A cluster takes this node in: `told` are its members. When another one was faster, that one counts.
    pub(crate) fn taken_in(&self, told: Told) -> Told {
        let mut state = self.lock();
        state.is_waiting = false;
        state.told.get_or_insert(told).clone()
    }

    /// Waits for an invitation.
    pub(crate) async fn invitation(&self) -> Told {
        loop {
            let invited = self.invited.notified();
            if let Some(told) = self.lock().told.clone() {
                return told;
            }
            invited.await;
        }
    }

    /// The newest membership that this node was told, once.
    pub(crate) fn take_told(&self) -> Option<Told> {
        self.lock().told.take()
    }

    /// Somebody tells who the members are; returns whether that waits to be looked at from now on, and did not before.
    pub(crate) fn tell(&self, told: Told) -> bool {
        self.lock().tell(told)
    }

    /// The answer to an invitation, and whether there is a membership to look at that did not wait before; `None` while there is nothing to say.
    pub(crate) fn answer_invite(&self, invite: &Invite) -> Option<(InviteAnswer, bool)> {
        let mut state = self.lock();
        let founder = state.founder.clone()?;
        let bond = state.bond(self.group)?;
        match invite.consider(&founder, bond) {
            Ok(membership) => {
                let is_new = state.tell((invite.index, membership));
                state.is_waiting = false;
                self.invited.notify_one();
                Some((InviteAnswer::Accepted { record: founder.record(MemberRole::Learner) }, is_new))
            }
            Err(refusal) => Some((InviteAnswer::Refused(refusal), false)),
        }
    }

    /// The group has ended here: the transport need not know its members any more.
    pub(crate) fn forget_members(&self, transport: &dyn Transport) {
        let known = self.lock().known.clone().unwrap_or_default();
        known.into_keys().for_each(|id| transport.remove_peer(self.group, id));
    }

    /// The node's addresses are known: from now on it answers questions.
    pub(crate) fn set_founder(&self, founder: Founder) {
        self.lock().founder = Some(founder);
    }

    pub(crate) fn founder(&self) -> Option<Founder> {
        self.lock().founder.clone()
    }

    /// Founding begins.
    pub(crate) fn begin_founding(&self, founding: Founding) {
        self.lock().founding = Some(founding);
    }

    /// Does something with the founding that is under way; `None` when there is none.
    pub(crate) fn with_founding<T>(&self, act: impl FnOnce(&mut Founding) -> T) -> Option<T> {
        self.lock().founding.as_mut().map(act)
    }

    /// What the founding that is under way does next; `None` when there is none.
    /// Once it is decided, it is over, in the same moment: a node that is about to keep an entry must not be taken for one that is free to found another (C2). Until the entry is durable, those who ask get no answer.
    pub(crate) fn poll_founding(&self, now: Time) -> Option<Step> {
        let mut state = self.lock();
        let step = state.founding.as_mut()?.poll(now);
        if matches!(step, Step::Found(_) | Step::Copy { .. } | Step::Refuse(_)) {
            state.founding = None;
        }
        Some(step)
    }

    /// The node belongs to a cluster, durably: `first` is told to those who ask.
    pub(crate) fn founded(&self, identity: Identity, first: Option<Bytes>) {
        let mut state = self.lock();
        state.identity = identity;
        state.is_founded = true;
        state.first = first;
        state.founding = None;
    }

    /// The answer to a peer that is being founded; `None` while there is nothing to say.
    pub(crate) fn answer(&self, question: &Question) -> Option<Answer> {
        let mut state = self.lock();
        let founder = state.founder.clone()?;
        if let Some(first) = &state.first {
            return Some(founder.answer(question, AnswerState::Founded { first: first.clone() }));
        }
        if let Some(cluster) = state.cluster(self.group) {
            return state.is_founded.then(|| founder.answer(question, AnswerState::Joined { cluster }));
        }
        if state.is_waiting {
            return Some(founder.answer(question, AnswerState::Unfounded { peers: Vec::new() }));
        }
        let founding = state.founding.as_mut()?;
        founding.asked_by(question);
        let peers = founding.peers();
        Some(founder.answer(question, AnswerState::Unfounded { peers }))
    }

    pub(crate) fn hello(&self) -> GroupHello {
        let state = self.lock();
        GroupHello {
            group: self.group,
            cluster_name: state.identity.cluster_name.clone(),
            cluster: state.cluster(self.group),
            node: state.identity.node,
            incarnation: state.identity.incarnation,
        }
    }

    /// Whether a process that says this of the group may talk to this one.
    pub(crate) fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
        let state = self.lock();
        let cluster = state.cluster(self.group);
        if theirs.cluster_name != state.identity.cluster_name {
            let ours = state.identity.cluster_name.clone();
            return Err(Refusal::ClusterName { ours, theirs: theirs.cluster_name.clone() });
        }
        if let (Some(ours), Some(theirs)) = (cluster, theirs.cluster)
            && ours != theirs
        {
            return Err(Refusal::Cluster { ours, theirs });
        }
        let Some(known) = &state.known else {
            // An unfounded store knows nobody and hears nobody; a founded one does not let strangers in while it starts.
            return if cluster.is_none() { Ok(()) } else { Err(Refusal::NoGroup) };
        };
        match known.get(&theirs.node) {
            Some(known) if known.incarnation == theirs.incarnation => Ok(()),
            Some(_) => Err(Refusal::Incarnation { node: theirs.node }),
            // A node that is still to join cannot know better than that it is the right cluster.
            None if state.standing == Standing::Joining && theirs.cluster.is_some() => Ok(()),
            None => Err(Refusal::Stranger { node: theirs.node }),
        }
    }
}

impl State {
    /// How far the node is bound to a cluster; `None` while that is about to be decided.
    fn bond(&self, group: GroupId) -> Option<Bond> {
        if let Some(cluster) = self.cluster(group) {
            return Some(Bond::Cluster(cluster));
        }
        if self.founding.is_some() {
            return Some(Bond::Founding);
        }
        match &self.told {
            Some((_, membership)) => Some(Bond::Cluster(membership.cluster)),
            None => self.is_waiting.then_some(Bond::Free),
        }
    }

    fn tell(&mut self, told: Told) -> bool {
        let is_first = self.told.is_none();
        if self.told.as_ref().is_none_or(|(index, _)| told.0 >= *index) {
            self.told = Some(told);
        }
        is_first
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::Incarnation;

    use super::*;

    fn identity(node: u64, cluster: Option<u64>) -> Identity {
        Identity {
            node: NodeId(node),
            incarnation: Incarnation(0),
            engine: "memory".to_owned(),
            cluster_name: "test".to_owned(),
            clusters: cluster.map(|cluster| (GroupId(1), ClusterId(cluster))).into_iter().collect(),
        }
    }

    fn directory(node: u64, cluster: Option<u64>) -> Directory {
        Directory::new(GroupId(1), identity(node, cluster))
    }

    #[test]
    fn c01_only_known_lives_of_members_are_admitted() {
        let own = directory(1, Some(5));
        let at = |id: u64| Acquaintance { incarnation: Incarnation(0), addresses: vec![format!("/memory/{id}")] };
        own.set_known([1, 2].map(|id| (NodeId(id), at(id))).into());
        assert_eq!(own.addresses_of(NodeId(2)), [Address::memory(2)]);
        assert_eq!(own.addresses_of(NodeId(3)), []);
        assert_eq!(own.admit(&directory(2, Some(5)).hello()), Ok(()));
        assert_eq!(own.admit(&directory(2, None).hello()), Ok(()), "a member that has not copied the entry yet");
        assert_eq!(own.admit(&directory(3, Some(5)).hello()), Err(Refusal::Stranger { node: NodeId(3) }));
        let mut hello = directory(2, Some(5)).hello();
        hello.incarnation = Incarnation(9);
        assert_eq!(own.admit(&hello), Err(Refusal::Incarnation { node: NodeId(2) }));
    }

    #[test]
    fn c01_a_founded_node_lets_nobody_in_before_it_knows_its_members() {
        let own = directory(1, Some(5));
        assert_eq!(own.admit(&directory(2, Some(5)).hello()), Err(Refusal::NoGroup));
        assert_eq!(directory(1, None).admit(&directory(2, Some(5)).hello()), Ok(()));
    }

    #[test]
    fn h54_a_node_that_has_decided_does_not_pass_for_an_unfounded_one() {
        let founder = |node: u64| Founder {
            group: GroupId(1),
            id: NodeId(node),
            incarnation: Incarnation(node),
            boot_nonce: node,
            cluster_name: "test".to_owned(),
            addresses: vec![format!("/memory/{node}")],
            client_address: String::new(),
        };
        let question = |node: u64| Question {
            group: GroupId(1),
            at: "/memory/2".to_owned(),
            id: NodeId(node),
            incarnation: Incarnation(node),
            cluster_name: "test".to_owned(),
            addresses: founder(node).addresses,
        };
        let own = directory(2, None);
        own.set_founder(founder(2));
        let peers = vec!["/memory/2".to_owned(), "/memory/3".to_owned()];
        own.begin_founding(Founding::new(founder(2), peers.clone(), ClusterId(1), Time::ZERO));
        assert!(own.answer(&question(3)).is_some());
        let Some(Step::Ask { address, question: asked }) = own.poll_founding(Time::ZERO) else { panic!("it asks") };
        let answer = founder(3).answer(&asked, AnswerState::Unfounded { peers });
        own.with_founding(|founding| founding.answered(&address, answer, Time::ZERO));
        let Some(Step::Found(membership)) = own.poll_founding(Time::ZERO) else { panic!("it founds") };
        // Its entry is not durable yet; the other one was wiped meanwhile, and has the lowest id by now.
        assert_eq!(own.answer(&question(1)), None);
        own.founded(identity(2, Some(1)), Some(membership.encode()));
        let answer = own.answer(&question(1)).expect("it tells what it has founded");
        assert_eq!(answer.state, AnswerState::Founded { first: membership.encode() });
    }

    #[test]
    fn c02_other_clusters_are_not_admitted() {
        let own = directory(1, Some(5));
        let other = Refusal::Cluster { ours: ClusterId(5), theirs: ClusterId(6) };
        assert_eq!(own.admit(&directory(2, Some(6)).hello()), Err(other));
        let mut hello = directory(2, Some(5)).hello();
        hello.cluster_name = "other".to_owned();
        assert!(matches!(own.admit(&hello), Err(Refusal::ClusterName { .. })));
    }
}
