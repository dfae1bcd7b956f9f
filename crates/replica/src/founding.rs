//! The founding of a cluster, as a machine without I/O (C2).
//!
//! A node whose store is empty asks every peer of its list.
//! Only when all of them answer, are unfounded and agree on the list, does the node of the lowest id make the first entry; everyone else copies it, byte for byte, from whoever has it.
//! [`Founding`] says whom to ask and what follows from the answers; the driver carries the questions and does the waiting.

mod verdict;
mod wire;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Incarnation, Membership, NodeId, Time};

pub use wire::{Answer, AnswerState, Inquiry, Question, Wire, WireError};

/// How long after an answer or a failure a peer is asked again, at first.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// And at most.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long lists may disagree: others may be restarting with a corrected one, or not yet know all their own names.
const DISAGREEMENT_MAX: Duration = Duration::from_secs(5);
/// How many names of its own a node learns from those who ask.
const ALIASES_MAX: usize = 16;

/// What a node says of itself while a cluster is being founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Which group is being founded.
    pub group: GroupId,
    /// Who it is.
    pub id: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Drawn at each start: tells a node from a copy of its directory.
    pub boot_nonce: u64,
    /// The name of the cluster that it is for.
    pub cluster_name: String,
    /// Its advertised peer addresses, in canonical text.
    pub addresses: Vec<String>,
    /// Where clients reach it.
    pub client_address: String,
}

impl Founder {
    /// The answer to `question` of a node that is in `state`.
    pub fn answer(&self, question: &Question, state: AnswerState) -> Answer {
        Answer {
            echo: question.incarnation,
            id: self.id,
            incarnation: self.incarnation,
            boot_nonce: self.boot_nonce,
            cluster_name: self.cluster_name.clone(),
            addresses: self.addresses.clone(),
            client_address: self.client_address.clone(),
            state,
        }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this address, and hand in what comes of it by [`Founding::answered`] or [`Founding::unanswered`].
    Ask {
        /// Whom.
        address: String,
        /// What.
        question: Question,
    },
    /// This node makes the first entry: keep it durably, then tell those who ask.
    Found(Membership),
    /// A peer has the first entry: keep these bytes durably.
    Copy {
        /// The entry's data.
        first: Bytes,
        /// What it says.
        membership: Membership,
    },
    /// This node is not to be part of what its peers found, or nobody can tell what that is.
    Refuse(FoundingRefusal),
    /// Nothing to do before `until`, or before an answer comes in.
    Wait {
        /// When to look again; `None` while every question is on its way.
        until: Option<Time>,
    },
}

/// Why a node does not found a cluster with its peers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FoundingRefusal {
    /// The cluster knows another node, or another life of this one, at this node's address (C1).
    #[error(
        "the member at this address is {member}, this directory is new: run `coracle leave {member}` on the cluster, then `join` with this node"
    )]
    Wiped {
        /// Who the cluster knows there.
        member: NodeId,
    },
    /// A peer belongs to a cluster that was founded without this node.
    #[error(
        "the cluster {cluster} at {address} was founded without this node: it has to join, not to be founded again"
    )]
    NotMember {
        /// The peer.
        address: String,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// A peer is of another cluster.
    #[error("the node at {address} is of cluster \"{theirs}\", this one is of \"{ours}\"")]
    ClusterName {
        /// The peer.
        address: String,
        /// Its cluster's name.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// Peers were given different lists.
    #[error(
        "the lists of peers disagree: the node at {address} was given [{theirs}], this one [{ours}]; every node needs the same list"
    )]
    ListsDisagree {
        /// The peer.
        address: String,
        /// Its list.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// Another process uses a copy of this node's directory.
    #[error("the node at {address} has this node's id {id}: its directory is a copy of this one")]
    Copied {
        /// The peer.
        address: String,
        /// The id.
        id: NodeId,
    },
    /// A peer's first entry does not decode.
    #[error("the node at {address} tells a first entry that does not decode")]
    Undecodable {
        /// The peer.
        address: String,
    },
}

/// One address of the list.
#[derive(Clone, Debug)]
struct Asked {
    address: String,
    /// When to ask (again).
    due: Time,
    backoff: Duration,
    is_under_way: bool,
    /// What the last question brought; forgotten as soon as a later one brings nothing.
    answer: Option<Answer>,
    /// Why there is no answer.
    failure: String,
}

/// The founding of a cluster, seen from one unfounded node.
#[derive(Clone, Debug)]
pub struct Founding {
    own: Founder,
    /// The whole list, this node included.
    peers: BTreeSet<String>,
    /// Names of this node that are not among its advertised addresses: others ask it there.
    aliases: BTreeSet<String>,
    /// The id of the cluster, should this node make the first entry.
    cluster: ClusterId,
    asked: Vec<Asked>,
    /// Since when the lists disagree.
    disagreement: Option<Time>,
}

impl Founding {
    /// The founding of a cluster of `own` and `peers`, which may name `own` or not. `cluster` is a fresh random id.
    pub fn new(own: Founder, peers: impl IntoIterator<Item = String>, cluster: ClusterId, now: Time) -> Founding {
        let mut peers: BTreeSet<String> = peers.into_iter().collect();
        if !own.addresses.iter().any(|address| peers.contains(address)) {
            peers.extend(own.addresses.first().cloned());
        }
        let asked = peers
            .iter()
            .filter(|address| !own.addresses.contains(address))
            .map(|address| Asked {
                address: address.clone(),
                due: now,
                backoff: BACKOFF_MIN,
                is_under_way: false,
                answer: None,
                failure: "not asked yet".to_owned(),
            })
            .collect();
        Founding { own, peers, aliases: BTreeSet::new(), cluster, asked, disagreement: None }
    }

    /// This node's list, itself included: what it tells those who ask while it is unfounded.
    pub fn peers(&self) -> Vec<String> {
        self.peers.iter().cloned().collect()
    }

    /// What is to be done.
    pub fn poll(&mut self, now: Time) -> Step {
        if let Some(step) = self.verdict(now) {
            return step;
        }
        let own = &self.own;
        if let Some(asked) = self.asked.iter_mut().find(|asked| !asked.is_under_way && asked.due <= now) {
            asked.is_under_way = true;
            let address = asked.address.clone();
            let question = Question {
                group: own.group,
                at: address.clone(),
                id: own.id,
                incarnation: own.incarnation,
                cluster_name: own.cluster_name.clone(),
                addresses: own.addresses.clone(),
            };
            return Step::Ask { address, question };
        }
        let due = self.asked.iter().filter(|asked| !asked.is_under_way).map(|asked| asked.due).min();
        Step::Wait { until: due }
    }

    /// The answer of the node at `address`.
    pub fn answered(&mut self, address: &str, answer: Answer, now: Time) {
        if answer.echo != self.own.incarnation {
            self.unanswered(address, "the answer is to another question".to_owned(), now);
            return;
        }
        if let Some(asked) = self.ended(address, now) {
            asked.answer = Some(answer);
        }
    }

    /// The node at `address` gave no answer. An earlier answer of it counts no more: it may not be who it was.
    pub fn unanswered(&mut self, address: &str, reason: String, now: Time) {
        if let Some(asked) = self.ended(address, now) {
            asked.answer = None;
            asked.failure = reason;
        }
    }

    /// Another node asked this one: what it says of itself may contradict what its address answered before.
    pub fn asked_by(&mut self, question: &Question) {
        let is_known = self.own.addresses.contains(&question.at) || self.asked.iter().any(|a| a.address == question.at);
        if !is_known && self.aliases.len() < ALIASES_MAX {
            self.aliases.insert(question.at.clone());
        }
        for asked in &mut self.asked {
            let is_another = |answer: &Answer| (answer.id, answer.incarnation) != (question.id, question.incarnation);
            // This node may know the place by a name that its owner does not advertise.
            let is_there = |answer: &Answer| {
                question.addresses.iter().any(|at| *at == asked.address || answer.addresses.contains(at))
            };
            if asked.answer.as_ref().is_some_and(|answer| is_another(answer) && is_there(answer)) {
                asked.answer = None;
                asked.failure = "it was replaced by another node".to_owned();
            }
        }
    }

    /// Who is missing, and why: each an address and a reason.
    pub fn missing(&self) -> Vec<(String, String)> {
        let silent = self.asked.iter().filter(|asked| asked.answer.is_none());
        silent.map(|asked| (asked.address.clone(), asked.failure.clone())).collect()
    }

    /// A question to `address` has ended.
    fn ended(&mut self, address: &str, now: Time) -> Option<&mut Asked> {
        let asked = self.asked.iter_mut().find(|asked| asked.address == address)?;
        asked.is_under_way = false;
        asked.due = now.plus(asked.backoff);
        asked.backoff = (asked.backoff * 2).min(BACKOFF_MAX);
        Some(asked)
    }
}

/// Whether a list of peers names other nodes than `membership` does; a node's own addresses may be missing from it.
pub fn list_differs(peers: &[String], own: NodeId, membership: &Membership) -> bool {
    let is_known = |address: &String| membership.nodes.iter().any(|node| node.addresses.contains(address));
    let is_listed = |node: &coracle_core::NodeRecord| node.addresses.iter().any(|address| peers.contains(address));
    !peers.iter().all(is_known) || !membership.nodes.iter().all(|node| node.id == own || is_listed(node))
}
