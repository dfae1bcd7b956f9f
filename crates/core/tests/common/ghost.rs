//! What has to stay true of a cluster, whatever happens to it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(unreachable_pub, reason = "shared by the test files that include it")]

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_core::{Event, Index, NodeId, Outcome, Role, Term};

use super::common::Cluster;

/// What must stay true for the whole walk.
#[derive(Default)]
pub struct Ghost {
    leaders: BTreeMap<Term, NodeId>,
    /// What was applied anywhere, by index.
    applied: BTreeMap<Index, (Term, Bytes)>,
    /// No leader of this term or a later one may lack what was applied at the index.
    decided_by: BTreeMap<Index, Term>,
    /// The highest index that was reported as committed to a client.
    pub acknowledged: Index,
    /// For each read that is under way: what was acknowledged before it began.
    pub reads: BTreeMap<u64, Index>,
    /// Snapshots that were installed.
    pub installs: usize,
    /// Logs that were cut off.
    pub truncations: usize,
    /// Memberships that came into force, a node at a time.
    pub memberships: usize,
    /// Times that a log became whole again.
    pub repairs: usize,
}

impl Ghost {
    /// Checks everything that can be seen at this moment.
    ///
    /// # Panics
    /// When an invariant does not hold.
    pub fn check(&mut self, cluster: &Cluster) {
        let newest_term = cluster.nodes.values().map(|node| node.raft.term()).max().unwrap_or_default();
        for (id, node) in &cluster.nodes {
            let raft = &node.raft;
            assert_eq!(node.fatal, None, "nobody stops whose damage others can make up for");
            if !node.disk.damaged.is_empty() && raft.is_repairing() {
                assert!(!raft.is_leader() && raft.role() == Role::Follower, "C19: a damaged node campaigns");
            }
            if raft.is_leader() {
                let leader = *self.leaders.entry(raft.term()).or_insert(*id);
                assert_eq!(leader, *id, "I1: two leaders in term {}", raft.term());
                let base_index = raft.status().base_index;
                for (index, (term, _)) in self.applied.iter().filter(|(index, _)| **index > base_index) {
                    if raft.term() < self.decided_by[index] {
                        continue;
                    }
                    assert_eq!(raft.term_at(*index), Some(*term), "I3: the leader lacks what is committed at {index}");
                }
            }
            for (index, term, data) in &node.applied {
                let entry = self.applied.entry(*index).or_insert((*term, data.clone()));
                self.decided_by.entry(*index).or_insert(newest_term);
                assert_eq!(entry, &(*term, data.clone()), "I4: two entries applied at {index}");
            }
            for outcome in node.outcomes.values() {
                if let Outcome::Committed { first_index } = outcome {
                    self.acknowledged = self.acknowledged.max(*first_index);
                }
            }
            for (read, index) in &node.ready {
                if let Some(begun) = self.reads.remove(read) {
                    assert!(*index >= begun, "I10: a read at {index} misses {begun}");
                }
            }
            let truncated = |event: &&Event| matches!(event, Event::Truncated { .. });
            self.truncations += node.events.iter().filter(truncated).count();
            self.installs += node.events.iter().filter(|e| matches!(e, Event::SnapshotInstalled { .. })).count();
            self.repairs += node.events.iter().filter(|e| matches!(e, Event::Repaired)).count();
            self.memberships += node.events.iter().filter(|e| matches!(e, Event::Membership { .. })).count();
            assert!(!node.events.iter().any(|e| matches!(e, Event::PeerFault { .. })), "{:?}", node.events);
        }
    }
}
