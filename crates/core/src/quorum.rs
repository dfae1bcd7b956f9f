//! Majorities, of one half or of both (Raft §6).

use alloc::vec::Vec;

use crate::{Membership, NodeId};

/// Who has to agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quorum {
    incoming: Vec<NodeId>,
    /// Empty outside of joint consensus.
    outgoing: Vec<NodeId>,
    /// How many of the incoming half are needed, when a bug says so.
    #[cfg(feature = "bugs")]
    needed: Option<usize>,
}

/// How an election stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    Won,
    Lost,
    Open,
}

/// More voters than this in one half take an allocation per count.
const INLINE: usize = 16;

impl Quorum {
    pub(crate) fn new(membership: &Membership) -> Quorum {
        Quorum {
            incoming: membership.voters().collect(),
            outgoing: membership.outgoing.clone(),
            #[cfg(feature = "bugs")]
            needed: None,
        }
    }

    /// The same, miscounted by `bug`.
    #[cfg(feature = "bugs")]
    pub(crate) fn with_bug(
        mut self,
        bug: Option<crate::Bug>,
        membership: &Membership,
        before: Option<&Quorum>,
    ) -> Quorum {
        let majority = self.incoming.len() / 2 + 1;
        match (bug, before) {
            (Some(crate::Bug::QuorumTooSmall), _) => self.needed = Some((majority - 1).max(1)),
            (Some(crate::Bug::JointByOneHalf), _) => self.outgoing.clear(),
            (Some(crate::Bug::QuorumOfOldSize), before) => {
                self.needed = Some(before.and_then(|before| before.needed).unwrap_or(majority));
            }
            (Some(crate::Bug::RemovedIsCounted), Some(before)) => {
                let gone: Vec<NodeId> =
                    before.incoming.iter().filter(|id| !self.incoming.contains(id)).copied().collect();
                self.incoming.extend(gone);
                self.needed = Some(majority);
            }
            (Some(crate::Bug::LearnerVotes), _) => {
                self.incoming = membership.nodes.iter().map(|node| node.id).collect();
                self.needed = Some(majority);
            }
            // Until it is committed, the one before decides.
            (Some(crate::Bug::ChangeAtCommit), Some(before)) => return before.clone(),
            _ => {}
        }
        self
    }

    /// The largest value that enough of the incoming half have reached, when a bug says how many that is.
    #[cfg(feature = "bugs")]
    fn reached_by_bug<T: Ord + Copy + Default>(&self, value_of: &impl Fn(NodeId) -> T) -> Option<T> {
        let mut values: Vec<T> = self.incoming.iter().map(|id| value_of(*id)).collect();
        values.sort_unstable();
        Some(values.len().checked_sub(self.needed?).map_or(T::default(), |at| values[at]))
    }

    /// Whether it is that of `membership`; allocates nothing.
    #[cfg(not(feature = "bugs"))]
    pub(crate) fn is_of(&self, membership: &Membership) -> bool {
        self.incoming.iter().copied().eq(membership.voters()) && self.outgoing == membership.outgoing
    }

    /// Everybody who votes in either half, once.
    pub(crate) fn voters(&self) -> impl Iterator<Item = NodeId> {
        let incoming = &self.incoming;
        let only_outgoing = self.outgoing.iter().filter(move |id| !incoming.contains(id));
        self.incoming.iter().chain(only_outgoing).copied()
    }

    /// Whether `id` alone decides.
    pub(crate) fn is_sole(&self, id: NodeId) -> bool {
        self.incoming == [id] && (self.outgoing.is_empty() || self.outgoing == [id])
    }

    /// The largest value that a majority of each half has reached.
    pub(crate) fn reached<T: Ord + Copy + Default>(&self, value_of: impl Fn(NodeId) -> T) -> T {
        let incoming = majority_reached(&self.incoming, &value_of);
        #[cfg(feature = "bugs")]
        let incoming = self.reached_by_bug(&value_of).unwrap_or(incoming);
        if self.outgoing.is_empty() { incoming } else { incoming.min(majority_reached(&self.outgoing, &value_of)) }
    }

    /// How an election stands in which `vote_of` tells who answered what.
    pub(crate) fn tally(&self, vote_of: impl Fn(NodeId) -> Option<bool>) -> Tally {
        if self.reached(|id| vote_of(id) == Some(true)) {
            Tally::Won
        } else if !self.reached(|id| vote_of(id) != Some(false)) {
            Tally::Lost
        } else {
            Tally::Open
        }
    }
}

/// The largest value that a majority of `voters` has reached; the default when there are none.
fn majority_reached<T: Ord + Copy + Default>(voters: &[NodeId], value_of: &impl Fn(NodeId) -> T) -> T {
    let mut inline = [T::default(); INLINE];
    let mut heap = Vec::new();
    let values = match inline.get_mut(..voters.len()) {
        Some(values) => values,
        None => {
            heap.resize(voters.len(), T::default());
            &mut heap[..]
        }
    };
    for (value, id) in values.iter_mut().zip(voters) {
        *value = value_of(*id);
    }
    values.sort_unstable();
    // Of n ascending values, those from (n - 1) / 2 on are a majority.
    voters.len().checked_sub(1).map_or(T::default(), |last| values[last / 2])
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::Membership;

    fn naive_reached(voters: &[NodeId], values: &BTreeMap<NodeId, u64>) -> u64 {
        let mut candidates: Vec<u64> = values.values().copied().chain([0]).collect();
        candidates.sort_unstable();
        let reaches = |v: &u64| 2 * voters.iter().filter(|id| values[id] >= *v).count() > voters.len();
        candidates.into_iter().rev().find(reaches).unwrap_or(0)
    }

    fn half() -> impl Strategy<Value = Vec<NodeId>> {
        proptest::collection::btree_set(0u64..12, 1..9).prop_map(|ids| ids.into_iter().map(NodeId).collect())
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(incoming in half(), outgoing in proptest::option::of(half()), values in proptest::collection::vec(0u64..20, 12)) {
            let values: BTreeMap<NodeId, u64> = values.into_iter().enumerate().map(|(i, v)| (NodeId(i as u64), v)).collect();
            let mut membership = Membership::of_voters(incoming.clone());
            membership.outgoing = outgoing.clone().unwrap_or_default();
            let quorum = Quorum::new(&membership);
            let mut expected = naive_reached(&incoming, &values);
            if let Some(outgoing) = &outgoing {
                expected = expected.min(naive_reached(outgoing, &values));
            }
            prop_assert_eq!(quorum.reached(|id| values[&id]), expected);
        }

        #[test]
        fn an_election_is_decided_as_soon_as_it_can_be(incoming in half(), votes in proptest::collection::vec(proptest::option::of(any::<bool>()), 12)) {
            let vote_of = |id: NodeId| votes[id.0 as usize];
            let quorum = Quorum::new(&Membership::of_voters(incoming.clone()));
            let yes = incoming.iter().filter(|id| vote_of(**id) == Some(true)).count();
            let no = incoming.iter().filter(|id| vote_of(**id) == Some(false)).count();
            let expected = if 2 * yes > incoming.len() {
                Tally::Won
            } else if 2 * (incoming.len() - no) > incoming.len() {
                Tally::Open
            } else {
                Tally::Lost
            };
            prop_assert_eq!(quorum.tally(vote_of), expected);
        }
    }
}
