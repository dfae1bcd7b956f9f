//! Whom a node talks to: the members in force, those who were members a moment ago, and those that it was told of.

use std::{collections::BTreeMap, time::Duration};

use coracle_core::{Incarnation, Index, Membership, NodeId, NodeRecord, Time};

/// See the module. Nobody in it is this node.
#[derive(Debug)]
pub(crate) struct Acquaintances {
    own: NodeId,
    known: BTreeMap<NodeId, Known>,
    /// A membership that somebody else told, and its place in the log: of use until this node's own is as new, or the log is committed beyond that place. What was told may have been undone since.
    told: Option<(Index, Membership)>,
    /// How long one who is gone is still talked to: it is to hear of the commit (C16).
    grace: Duration,
}

/// Somebody who may talk to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acquaintance {
    /// Which life of it.
    pub(crate) incarnation: Incarnation,
    /// Where it is.
    pub(crate) addresses: Vec<String>,
}

impl Acquaintance {
    pub(crate) fn of(record: &NodeRecord) -> Acquaintance {
        Acquaintance { incarnation: record.incarnation, addresses: record.addresses.clone() }
    }
}

#[derive(Debug)]
struct Known {
    record: NodeRecord,
    /// When to forget it: it is in no membership that counts.
    forget_at: Option<Time>,
}

/// What the transport is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A node is there.
    Set(NodeRecord),
    /// A node is of no interest any more.
    Forget(NodeId),
}

impl Acquaintances {
    pub(crate) fn new(own: NodeId, grace: Duration) -> Acquaintances {
        Acquaintances { own, known: BTreeMap::new(), told: None, grace }
    }

    /// Another node tells the membership at `index`.
    pub(crate) fn tell(&mut self, index: Index, membership: Membership) {
        if self.told.as_ref().is_none_or(|(known, _)| index >= *known) {
            self.told = Some((index, membership));
        }
    }

    /// Whether what somebody told has become outdated: it is time to update.
    pub(crate) fn is_outdated(&self, commit_index: Index) -> bool {
        self.told.as_ref().is_some_and(|(told, _)| *told <= commit_index)
    }

    /// `membership`, at `index`, is in force; or this node was told something. Whoever is not in what is in force stays at least until that is committed.
    pub(crate) fn update(
        &mut self,
        membership: &Membership,
        index: Index,
        commit_index: Index,
        now: Time,
    ) -> Vec<Change> {
        self.told.take_if(|(told, _)| *told <= index.max(commit_index));
        let told = self.told.as_ref().map(|(_, membership)| &membership.nodes);
        let mut wanted: BTreeMap<NodeId, &NodeRecord> = BTreeMap::new();
        wanted.extend(membership.nodes.iter().chain(told.into_iter().flatten()).map(|node| (node.id, node)));
        wanted.remove(&self.own);
        for (id, known) in &mut self.known {
            if !wanted.contains_key(id) && index <= commit_index {
                known.forget_at.get_or_insert(now.plus(self.grace));
            }
        }
        let mut changes = Vec::new();
        for (id, record) in wanted {
            let known = self.known.insert(id, Known { record: record.clone(), forget_at: None });
            if known.is_none_or(|known| !is_same_place(&known.record, record)) {
                changes.push(Change::Set(record.clone()));
            }
        }
        changes
    }

    /// Forgets those whose time has come.
    pub(crate) fn expire(&mut self, now: Time) -> Vec<Change> {
        let due = |known: &Known| known.forget_at.is_some_and(|at| at <= now);
        let gone: Vec<NodeId> = self.known.iter().filter(|(_, known)| due(known)).map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| drop(self.known.remove(id)));
        gone.into_iter().map(Change::Forget).collect()
    }

    /// When there is somebody to forget.
    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.known.values().filter_map(|known| known.forget_at).min()
    }

    /// Everybody, and which life of them is where.
    pub(crate) fn known(&self) -> BTreeMap<NodeId, Acquaintance> {
        self.known.values().map(|known| (known.record.id, Acquaintance::of(&known.record))).collect()
    }
}

fn is_same_place(a: &NodeRecord, b: &NodeRecord) -> bool {
    a.incarnation == b.incarnation && a.addresses == b.addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    fn of(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().copied().map(NodeId))
    }

    fn at(seconds: u64) -> Time {
        Time::ZERO.plus(Duration::from_secs(seconds))
    }

    fn ids(acquaintances: &Acquaintances) -> Vec<u64> {
        acquaintances.known().keys().map(|id| id.0).collect()
    }

    fn update(acquaintances: &mut Acquaintances, of_whom: &[u64], index: u64, commit: u64, now: u64) -> usize {
        acquaintances.update(&of(of_whom), Index(index), Index(commit), at(now)).len()
    }

    #[test]
    fn c16_one_who_is_removed_is_talked_to_until_a_while_after_the_commit() {
        let mut own = Acquaintances::new(NodeId(1), GRACE);
        assert_eq!(update(&mut own, &[1, 2, 3], 1, 1, 0), 2);
        assert_eq!(update(&mut own, &[1, 2], 5, 4, 10), 0);
        assert_eq!((ids(&own), own.next_deadline()), (vec![2, 3], None), "nothing is committed yet");
        update(&mut own, &[1, 2], 5, 5, 20);
        assert_eq!((own.expire(at(21)), own.next_deadline()), (vec![], Some(at(22))));
        // Another change does not give it more time.
        update(&mut own, &[1, 2], 6, 6, 21);
        assert_eq!(own.expire(at(22)), [Change::Forget(NodeId(3))]);
        assert_eq!((ids(&own), own.next_deadline()), (vec![2], None));
    }

    #[test]
    fn c16_one_who_comes_back_is_not_forgotten() {
        let mut own = Acquaintances::new(NodeId(1), GRACE);
        update(&mut own, &[1, 2, 3], 1, 1, 0);
        update(&mut own, &[1, 2], 5, 5, 10);
        assert_eq!(update(&mut own, &[1, 2, 3], 6, 5, 11), 0, "the transport knows it still");
        assert_eq!((own.expire(at(100)), ids(&own)), (vec![], vec![2, 3]));
    }

    #[test]
    fn c16_one_whose_entry_is_rolled_back_is_forgotten() {
        let mut own = Acquaintances::new(NodeId(1), GRACE);
        update(&mut own, &[1, 2], 1, 1, 0);
        update(&mut own, &[1, 2, 3], 5, 4, 1);
        update(&mut own, &[1, 2], 1, 4, 2);
        assert_eq!(own.expire(at(4)), [Change::Forget(NodeId(3))]);
    }

    #[test]
    fn other_addresses_are_told() {
        let mut own = Acquaintances::new(NodeId(1), GRACE);
        let mut membership = of(&[1, 2]);
        own.update(&membership, Index(1), Index(1), at(0));
        membership.nodes[1].addresses = vec!["/memory/9".to_owned()];
        let changes = own.update(&membership, Index(2), Index(1), at(1));
        assert_eq!(changes, [Change::Set(membership.nodes[1].clone())]);
    }

    #[test]
    fn what_another_tells_counts_until_the_own_log_says_as_much() {
        let mut own = Acquaintances::new(NodeId(3), GRACE);
        own.tell(Index(7), of(&[1, 2]));
        assert_eq!(update(&mut own, &[], 0, 0, 0), 2);
        // Catching up passes through what was long ago.
        assert_eq!(update(&mut own, &[1, 4], 1, 1, 0), 1);
        assert_eq!(ids(&own), [1, 2, 4]);
        own.tell(Index(2), of(&[5]));
        update(&mut own, &[1, 3], 7, 7, 1);
        own.expire(at(9));
        assert_eq!(ids(&own), [1]);
    }

    #[test]
    fn what_another_tells_and_was_undone_counts_until_the_log_is_committed_beyond_it() {
        let mut own = Acquaintances::new(NodeId(1), GRACE);
        update(&mut own, &[1, 2], 1, 1, 0);
        own.tell(Index(7), of(&[1, 2, 3]));
        update(&mut own, &[1, 2], 1, 6, 0);
        assert_eq!((ids(&own), own.is_outdated(Index(6))), (vec![2, 3], false));
        assert!(own.is_outdated(Index(7)), "another entry was committed in its place");
        update(&mut own, &[1, 2], 1, 7, 0);
        assert_eq!((own.expire(at(2)), ids(&own)), (vec![Change::Forget(NodeId(3))], vec![2]));
        assert!(!own.is_outdated(Index(9)));
    }
}
