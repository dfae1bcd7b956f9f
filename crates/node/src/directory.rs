//! What a node knows of itself and of the others: shared by the loop, the founding and the transport's tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Membership, NodeId, Time};
use coracle_replica::{Answer, AnswerState, Founder, Founding, Question, Step};
use coracle_storage::Identity;
use coracle_transport::{GroupHello, Refusal, Transport};

/// See the module.
pub(crate) struct Directory {
    group: GroupId,
    node: NodeId,
    state: Mutex<State>,
}

struct State {
    identity: Identity,
    /// The effective membership; `None` until the node runs.
    membership: Option<Arc<Membership>>,
    /// What the node says of itself when it is asked; `None` until its addresses are known.
    founder: Option<Founder>,
    /// The first entry's data, once founded.
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
        let state = State { identity, membership: None, founder: None, first: None, founding: None };
        Directory { group, node, state: Mutex::new(state) }
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

    /// Another membership is in force; returns the one before.
    pub(crate) fn set_membership(&self, membership: Membership) -> Option<Arc<Membership>> {
        self.lock().membership.replace(Arc::new(membership))
    }

    /// The group has ended here: the transport need not know its members any more.
    pub(crate) fn forget_members(&self, transport: &dyn Transport) {
        let membership = self.lock().membership.clone();
        for node in membership.iter().flat_map(|membership| &membership.nodes) {
            transport.remove_peer(self.group, node.id);
        }
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

    /// The node is founded, durably: `first` is told to those who ask.
    pub(crate) fn founded(&self, identity: Identity, first: Option<Bytes>) {
        let mut state = self.lock();
        state.identity = identity;
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
        if state.cluster(self.group).is_some() {
            return None;
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
        let Some(membership) = &state.membership else {
            // An unfounded store knows nobody and hears nobody; a founded one does not let strangers in while it starts.
            return if cluster.is_none() { Ok(()) } else { Err(Refusal::NoGroup) };
        };
        match membership.node(theirs.node) {
            Some(node) if node.incarnation == theirs.incarnation => Ok(()),
            Some(node) => Err(Refusal::Incarnation { node: node.id }),
            None => Err(Refusal::Stranger { node: theirs.node }),
        }
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
        own.set_membership(Membership::of_voters([NodeId(1), NodeId(2)]));
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
