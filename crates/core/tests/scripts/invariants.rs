//! What holds after every step of every script (I1, I2, I4, I5 and I16 of the hazards), and that log and disk agree (H42).

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_core::{Index, NodeId, Term};

use crate::common::{Cluster, Node};

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Invariants {
    leaders: BTreeMap<Term, NodeId>,
    applied: BTreeMap<Index, (Term, Bytes)>,
    committed: BTreeMap<Index, Term>,
}

impl Invariants {
    /// Looks at every node.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) fn check(&mut self, cluster: &Cluster) -> Result<(), String> {
        for (id, node) in &cluster.nodes {
            self.check_leader(*id, node)?;
            self.check_applied(*id, node)?;
            self.check_commit(*id, node)?;
            if !cluster.down.contains(id) && node.fatal.is_none() && node.writes.is_empty() {
                compare_with_disk(node).map_err(|what| format!("node {}: {what} differs from the disk (H42)", id.0))?;
            }
        }
        let nodes: Vec<(&NodeId, &Node)> = cluster.nodes.iter().collect();
        for (at, (a, one)) in nodes.iter().enumerate() {
            for (b, other) in &nodes[at + 1..] {
                match_logs(one, other)
                    .map_err(|index| format!("logs of {} and {} agree above {index} and not there (I2)", a.0, b.0))?;
            }
        }
        Ok(())
    }

    fn check_leader(&mut self, id: NodeId, node: &Node) -> Result<(), String> {
        if !node.raft.is_leader() {
            return Ok(());
        }
        let term = node.raft.term();
        let leader = *self.leaders.entry(term).or_insert(id);
        let is_same = leader == id;
        is_same.then_some(()).ok_or_else(|| format!("{} and {} lead in term {term} (I1)", leader.0, id.0))
    }

    fn check_applied(&mut self, id: NodeId, node: &Node) -> Result<(), String> {
        for (index, term, data) in &node.applied {
            let (seen_term, seen) = self.applied.entry(*index).or_insert_with(|| (*term, data.clone()));
            if (*seen_term, &*seen) != (*term, data) {
                return Err(format!("node {} applied something else at {index} (I4)", id.0));
            }
        }
        Ok(())
    }

    fn check_commit(&mut self, id: NodeId, node: &Node) -> Result<(), String> {
        let status = node.raft.status();
        let in_order = status.base_index <= status.commit_index
            && status.applied_index <= status.commit_index
            && status.commit_index <= status.last_index;
        if !in_order {
            return Err(format!("node {}: base, applied, commit and last are out of order (I16): {status:?}", id.0));
        }
        for index in status.base_index.0 + 1..=status.commit_index.0 {
            let Some(term) = node.raft.term_at(Index(index)) else { continue };
            let seen = *self.committed.entry(Index(index)).or_insert(term);
            if seen != term {
                return Err(format!("node {}: term {term} is committed at {index}, term {seen} was (I5)", id.0));
            }
        }
        Ok(())
    }
}

/// With no write under way, the log in the core is the one on the disk: where it begins and ends, its terms, its membership (H42).
fn compare_with_disk(node: &Node) -> Result<(), &'static str> {
    let status = node.raft.status();
    if status.base_index != node.disk.base.index || status.last_index != node.disk.last_index() {
        return Err("where the log begins or ends");
    }
    for index in (status.base_index.0 + 1..=status.last_index.0).map(Index) {
        if node.raft.term_at(index) != node.disk.term_at(index) {
            return Err("a term");
        }
    }
    let recovered = node.disk.recovered();
    let of_base = node.disk.base.membership.as_ref();
    let membership = recovered.memberships.last().map(|(_, membership)| membership).or(of_base);
    let is_equal = membership.is_none_or(|membership| *membership == status.membership);
    is_equal.then_some(()).ok_or("the membership")
}

/// Below the last index where two logs have the same term, they have the same terms.
fn match_logs(one: &Node, other: &Node) -> Result<(), Index> {
    let (a, b) = (one.raft.status(), other.raft.status());
    let first = a.base_index.max(b.base_index).next();
    let mut is_equal_above = false;
    for index in (first.0..=a.last_index.min(b.last_index).0).rev().map(Index) {
        let is_equal = one.raft.term_at(index) == other.raft.term_at(index);
        if is_equal_above && !is_equal {
            return Err(index);
        }
        is_equal_above |= is_equal;
    }
    Ok(())
}
