//! What follows from the answers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coracle_core::{MemberRole, Membership, NodeId, NodeRecord, Time};

use super::{Answer, AnswerState, Asked, DISAGREEMENT_MAX, Founder, Founding, FoundingRefusal, Step};

impl Founding {
    /// What is certain by now; `None` while it is not.
    pub(super) fn verdict(&mut self, now: Time) -> Option<Step> {
        // Who knows the first entry says more than who joined later.
        let knows_first = |asked: &&Asked| {
            let state = asked.answer.as_ref().map(|answer| &answer.state);
            !matches!(state, Some(AnswerState::Joined { .. }))
        };
        let (founders, joined): (Vec<&Asked>, Vec<&Asked>) = self.asked.iter().partition(knows_first);
        for asked in founders.into_iter().chain(joined) {
            let Some(answer) = &asked.answer else { continue };
            if let Some(step) = self.follows_from(&asked.address, answer) {
                return Some(step);
            }
        }
        let answers: Option<Vec<(&Asked, &Answer)>> =
            self.asked.iter().map(|asked| Some((asked, asked.answer.as_ref()?))).collect();
        let answers = answers?;
        if let Some(refusal) = self.disagreement(&answers) {
            let since = *self.disagreement.get_or_insert(now);
            return (now.since(since) >= DISAGREEMENT_MAX).then_some(Step::Refuse(refusal));
        }
        let is_lowest = answers.iter().all(|(_, answer)| self.own.id <= answer.id);
        let step = is_lowest.then(|| Step::Found(self.first_membership(&answers)));
        self.disagreement = None;
        step
    }

    /// What follows from one answer alone.
    fn follows_from(&self, address: &str, answer: &Answer) -> Option<Step> {
        let (own, address) = (&self.own, address.to_owned());
        if answer.cluster_name != own.cluster_name {
            let (theirs, ours) = (answer.cluster_name.clone(), own.cluster_name.clone());
            return Some(Step::Refuse(FoundingRefusal::ClusterName { address, theirs, ours }));
        }
        if answer.id == own.id && answer.boot_nonce != own.boot_nonce {
            return Some(Step::Refuse(FoundingRefusal::Copied { address, id: own.id }));
        }
        match &answer.state {
            AnswerState::Founded { first } => Some(self.follows_from_entry(address, first)),
            AnswerState::Joined { cluster } => {
                let cluster = *cluster;
                Some(Step::Refuse(FoundingRefusal::NotMember { address, cluster }))
            }
            AnswerState::Unfounded { .. } => None,
        }
    }

    /// A peer is founded: its first entry says whether this node is part of it.
    fn follows_from_entry(&self, address: String, first: &Bytes) -> Step {
        let Ok(membership) = Membership::decode(first.clone()) else {
            return Step::Refuse(FoundingRefusal::Undecodable { address });
        };
        let own = &self.own;
        match membership.node(own.id) {
            Some(node) if node.incarnation == own.incarnation => Step::Copy { first: first.clone(), membership },
            Some(node) => Step::Refuse(FoundingRefusal::Wiped { member: node.id }),
            None => Step::Refuse(match membership.nodes.iter().find(|node| shares_address(node, own, &self.aliases)) {
                Some(node) => FoundingRefusal::Wiped { member: node.id },
                None => FoundingRefusal::NotMember { address, cluster: membership.cluster },
            }),
        }
    }

    /// Everyone answered: do all lists mean the same nodes? Lists may name a node by any of its addresses.
    fn disagreement(&self, answers: &[(&Asked, &Answer)]) -> Option<FoundingRefusal> {
        let mut names: BTreeMap<&str, NodeId> = BTreeMap::new();
        names.extend(self.own.addresses.iter().chain(&self.aliases).map(|address| (address.as_str(), self.own.id)));
        for (asked, answer) in answers {
            names.extend(answer.addresses.iter().map(|address| (address.as_str(), answer.id)));
            names.insert(&asked.address, answer.id);
        }
        let everyone: BTreeSet<Option<&NodeId>> = names.values().map(Some).collect();
        answers.iter().find_map(|(asked, answer)| {
            let AnswerState::Unfounded { peers } = &answer.state else { return None };
            let theirs: BTreeSet<Option<&NodeId>> = peers.iter().map(|peer| names.get(peer.as_str())).collect();
            (theirs != everyone).then(|| FoundingRefusal::ListsDisagree {
                address: asked.address.clone(),
                theirs: peers.join(", "),
                ours: self.peers().join(", "),
            })
        })
    }

    /// The first membership: everyone votes.
    fn first_membership(&self, answers: &[(&Asked, &Answer)]) -> Membership {
        let record = |id, incarnation, addresses: &[String], client_address: &str| NodeRecord {
            id,
            incarnation,
            addresses: addresses.to_vec(),
            client_address: client_address.to_owned(),
            role: MemberRole::Voter,
            metadata: Bytes::new(),
        };
        let own = &self.own;
        let mut nodes = vec![record(own.id, own.incarnation, &own.addresses, &own.client_address)];
        nodes.extend(answers.iter().map(|(_, a)| record(a.id, a.incarnation, &a.addresses, &a.client_address)));
        Membership::new(self.cluster, nodes)
    }
}

/// Whether the cluster knows `node` where `own` is.
fn shares_address(node: &NodeRecord, own: &Founder, aliases: &BTreeSet<String>) -> bool {
    node.addresses.iter().any(|address| own.addresses.contains(address) || aliases.contains(address))
}
