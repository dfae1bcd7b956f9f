//! I11: whoever can be elected or commit anything at the same time shares a node with whoever else can.

use std::fmt;

use coracle_core::{Index, Membership, NodeId, Term};

use crate::{Invariant, Violation};

/// What matters of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) node: usize,
    pub(crate) id: NodeId,
    /// What its log says, durable or not.
    pub(crate) membership: &'a Membership,
    /// The term and the index of its log's last entry.
    pub(crate) last: (Term, Index),
    /// The same of what is durable.
    pub(crate) durable: (Term, Index),
    pub(crate) term: Term,
    pub(crate) is_leader: bool,
}

/// Those who would vote for, or acknowledge to, a node, with the membership by which it counts them.
struct Power<'a> {
    node: usize,
    membership: &'a Membership,
    with: u64,
}

/// Checks each pair.
pub(crate) fn check(views: &[View<'_>]) -> Result<(), Violation> {
    let powers: Vec<Power<'_>> = views.iter().filter_map(|view| power(view, views)).collect();
    for (at, one) in powers.iter().enumerate() {
        for other in &powers[at + 1..] {
            if one.membership != other.membership && can_part(one, other, views) {
                let (a, b) = (one.node, other.node);
                let what = format!("n{a} by {} and n{b} by {}", Brief(one.membership), Brief(other.membership));
                let what = format!("two majorities without a common node can decide: that of {what}");
                return Err(Violation::new(Invariant::ConfigOverlap, what));
            }
        }
    }
    Ok(())
}

/// Who would follow a node, if they are enough to decide.
fn power<'a>(view: &View<'a>, views: &[View<'_>]) -> Option<Power<'a>> {
    let follows = |other: &View<'_>| match view.is_leader {
        true => other.term <= view.term,
        false => other.id == view.id || other.durable <= view.last,
    };
    let can_campaign = view.is_leader || view.membership.is_voter(view.id);
    let with = views.iter().enumerate().filter(|(_, other)| follows(other)).fold(0, |mask, (at, _)| mask | 1 << at);
    let is_enough = can_campaign && decides(view.membership, with, views);
    is_enough.then_some(Power { node: view.node, membership: view.membership, with })
}

/// Whether some majorities of the two have no node in common.
fn can_part(one: &Power<'_>, other: &Power<'_>, views: &[View<'_>]) -> bool {
    let mut subset = one.with;
    while subset > 0 {
        if decides(one.membership, subset, views) && decides(other.membership, other.with & !subset, views) {
            return true;
        }
        subset = (subset - 1) & one.with;
    }
    false
}

/// Whether the nodes of the bit mask are a majority of each half.
fn decides(membership: &Membership, mask: u64, views: &[View<'_>]) -> bool {
    is_quorum(membership, |id| views.iter().position(|view| view.id == id).is_some_and(|at| mask >> at & 1 == 1))
}

/// Who is what in a membership, on one line.
pub(crate) struct Brief<'a>(pub(crate) &'a Membership);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut roles: Vec<String> = self.0.nodes.iter().map(|node| format!("{} {:?}", node.id.0, node.role)).collect();
        if self.0.is_joint() {
            let outgoing: Vec<u64> = self.0.outgoing.iter().map(|id| id.0).collect();
            roles.push(format!("together with {outgoing:?}"));
        }
        write!(f, "[{}]", roles.join(", "))
    }
}

/// Whether those for whom `has` is true are a majority of each half.
pub(crate) fn is_quorum(membership: &Membership, has: impl Fn(NodeId) -> bool) -> bool {
    let voters: Vec<NodeId> = membership.voters().collect();
    let is_majority = |half: &[NodeId]| 2 * half.iter().filter(|id| has(**id)).count() > half.len();
    is_majority(&voters) && (membership.outgoing.is_empty() || is_majority(&membership.outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().copied().map(NodeId))
    }

    fn view(id: u64, membership: &Membership, last: u64) -> View<'_> {
        let last = (Term(1), Index(last));
        let (node, id) = (id as usize, NodeId(id));
        View { node, id, membership, last, durable: last, term: Term(1), is_leader: false }
    }

    #[test]
    fn majorities_that_can_both_decide_must_meet() {
        let (old, new) = (of(&[1, 2, 3]), of(&[3, 4, 5]));
        // Nobody of the old ones has what the new ones have.
        let parted = [view(1, &old, 5), view(2, &old, 5), view(3, &new, 6), view(4, &new, 6), view(5, &new, 6)];
        assert_eq!(check(&parted).unwrap_err().invariant, Invariant::ConfigOverlap);
        // Two of the old ones have more than the first: it cannot be elected.
        let met = [view(1, &old, 5), view(2, &new, 6), view(3, &new, 6), view(4, &new, 6), view(5, &new, 6)];
        assert!(check(&met).is_ok());
    }

    #[test]
    fn a_joint_half_is_enough_to_meet() {
        let old = of(&[1, 2, 3]);
        let joint = Membership { outgoing: vec![NodeId(1), NodeId(2), NodeId(3)], ..of(&[3, 4, 5]) };
        let views = [view(1, &old, 5), view(2, &old, 5), view(3, &joint, 6), view(4, &joint, 6), view(5, &joint, 6)];
        assert!(check(&views).is_ok());
    }
}
