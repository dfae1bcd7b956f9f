//! The network between the nodes.

use std::time::Duration;

use coracle_core::{Rng, Time};

use crate::faults::{NetworkFaults, exponential};

/// How much longer a message of the tail takes.
const TAIL: u32 = 50;
/// How long a link takes at most to let out what it held, when it keeps no order.
const RELEASE: Duration = Duration::from_millis(20);

/// The directed links between nodes.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    links: Vec<Link>,
    pub(crate) faults: NetworkFaults,
    rng: Rng,
    /// Messages dropped, by chance, by a partition or by a full queue.
    pub(crate) dropped: u64,
    /// Messages delivered twice.
    pub(crate) duplicated: u64,
}

#[derive(Clone, Debug, Default)]
struct Link {
    is_cut: bool,
    queued: usize,
    last_arrival: Time,
    /// Nothing comes out before then.
    held_until: Time,
}

/// The shapes of partitions of nodes, each of which is named by its place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partition {
    /// One node is alone.
    Isolate(usize),
    /// The nodes of the bit mask are apart from the others.
    Split(u64),
    /// One direction of one link is cut.
    OneWay { from: usize, to: usize },
    /// Two halves that only reach each other through one node.
    Bridge(usize),
    /// Each node reaches its neighbours round a ring and with them a majority, each another one.
    Ring,
    /// A node hears nothing and can send.
    Deaf(usize),
    /// A node hears and cannot send.
    Mute(usize),
    /// Both directions of one link are cut.
    Link { from: usize, to: usize },
}

impl Partition {
    /// Draws one among `nodes` (at least two); half of those about one node concern `leader`, if there is one.
    pub(crate) fn draw(rng: &mut Rng, nodes: usize, leader: Option<usize>) -> Partition {
        let any = rng.below(nodes as u64) as usize;
        let one = if rng.chance(0.5) { leader.unwrap_or(any) } else { any };
        let other = (one + 1 + rng.below(nodes as u64 - 1) as usize) % nodes;
        match rng.below(8) {
            0 => Partition::Isolate(one),
            1 => Partition::Split(1 + rng.below((1 << nodes) - 2)),
            2 => Partition::OneWay { from: one, to: other },
            3 => Partition::Bridge(one),
            4 => Partition::Deaf(one),
            5 => Partition::Mute(one),
            6 => Partition::Ring,
            _ => Partition::Link { from: one, to: other },
        }
    }

    /// Whether it cuts what `from` sends to `to`, of `nodes`.
    pub(crate) fn cuts(self, from: usize, to: usize, nodes: usize) -> bool {
        match self {
            Partition::Isolate(one) => from == one || to == one,
            Partition::Split(mask) => (mask >> from & 1) != (mask >> to & 1),
            Partition::OneWay { from: f, to: t } => (from, to) == (f, t),
            Partition::Bridge(bridge) => {
                let half = |node: usize| (node + nodes - bridge) % nodes > nodes / 2;
                from != bridge && to != bridge && half(from) != half(to)
            }
            Partition::Ring => {
                let apart = from.abs_diff(to);
                apart.min(nodes - apart) > (nodes / 2).div_ceil(2)
            }
            Partition::Deaf(one) => to == one,
            Partition::Mute(one) => from == one,
            Partition::Link { from: f, to: t } => (from, to) == (f, t) || (from, to) == (t, f),
        }
    }
}

impl Network {
    pub(crate) fn new(nodes: usize, faults: NetworkFaults, rng: Rng) -> Network {
        Network { nodes, links: vec![Link::default(); nodes * nodes], faults, rng, dropped: 0, duplicated: 0 }
    }

    /// Whether a message may arrive after one that was sent later.
    pub(crate) fn may_reorder(&self) -> bool {
        !self.faults.in_order || self.faults.duplicate > 0.0
    }

    /// When a message that is sent now arrives: not at all, once, or more often.
    pub(crate) fn send(&mut self, now: Time, from: usize, to: usize) -> Arrivals {
        let link = &mut self.links[from * self.nodes + to];
        if link.is_cut || link.queued >= self.faults.queue_max || self.rng.chance(self.faults.drop) {
            self.dropped += 1;
            return Arrivals::default();
        }
        let mut arrival = now.plus(delay(&mut self.rng, &self.faults));
        if self.faults.in_order {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        link.queued += 1;
        let mut again = None;
        if self.rng.chance(self.faults.duplicate) {
            self.duplicated += 1;
            link.queued += 1;
            again = Some(arrival.plus(self.rng.duration(Duration::ZERO, self.faults.duplicate_delay_max)));
        }
        Arrivals { first: Some(arrival), again }
    }

    /// A message has left the link; false when a partition has caught it after all.
    pub(crate) fn arrive(&mut self, from: usize, to: usize) -> bool {
        let link = &mut self.links[from * self.nodes + to];
        link.queued -= 1;
        if link.is_cut {
            self.dropped += 1;
        }
        !link.is_cut
    }

    /// Cuts links between `members`, in addition to those that are cut.
    pub(crate) fn cut(&mut self, partition: Partition, members: &[usize]) {
        for (i, from) in members.iter().enumerate() {
            for (j, to) in members.iter().enumerate() {
                if i != j && partition.cuts(i, j, members.len()) {
                    self.links[from * self.nodes + to].is_cut = true;
                }
            }
        }
    }

    /// A link carries nothing before `until`; what comes meanwhile is held.
    pub(crate) fn hold(&mut self, from: usize, to: usize, until: Time) {
        let link = &mut self.links[from * self.nodes + to];
        link.held_until = link.held_until.max(until);
    }

    /// When a message comes out of a link that holds it at `now`: in order, or in another one.
    pub(crate) fn held(&mut self, now: Time, from: usize, to: usize) -> Option<Time> {
        let until = self.links[from * self.nodes + to].held_until;
        if until <= now {
            return None;
        }
        if self.faults.in_order {
            return Some(until);
        }
        Some(until.plus(self.rng.duration(Duration::ZERO, RELEASE)))
    }

    /// Takes a little time from now on, and does nothing else.
    pub(crate) fn heal(&mut self) {
        self.join();
        // What is on its way may arrive late, or be overtaken.
        self.faults = NetworkFaults { in_order: false, ..NetworkFaults::none() };
        for link in &mut self.links {
            // What is late may be overtaken: the connection was made anew.
            link.last_arrival = Time::ZERO;
            link.held_until = Time::ZERO;
        }
    }

    /// Joins every link again.
    pub(crate) fn join(&mut self) {
        for link in &mut self.links {
            link.is_cut = false;
        }
    }
}

/// When a message arrives.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrivals {
    pub(crate) first: Option<Time>,
    pub(crate) again: Option<Time>,
}

fn delay(rng: &mut Rng, faults: &NetworkFaults) -> Duration {
    let delay = exponential(rng, faults.delay);
    if faults.tail > 0.0 && rng.chance(faults.tail) { delay * TAIL } else { delay }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_leaves_every_node_reachable_through_one() {
        let partition = Partition::Bridge(1);
        for node in [0, 2, 3, 4] {
            assert!(!partition.cuts(1, node, 5) && !partition.cuts(node, 1, 5));
        }
        assert!([0, 2, 3, 4].iter().any(|&a| [0, 2, 3, 4].iter().any(|&b| partition.cuts(a, b, 5))));
    }

    #[test]
    fn cut_links_drop_what_is_sent_and_what_is_on_its_way() {
        let mut network = Network::new(3, NetworkFaults::none(), Rng::new(1));
        assert!(network.send(Time::ZERO, 0, 1).first.is_some());
        network.cut(Partition::Isolate(1), &[0, 1, 2]);
        assert!(!network.arrive(0, 1));
        assert!(network.send(Time::ZERO, 0, 1).first.is_none());
        network.join();
        assert!(network.send(Time::ZERO, 0, 1).first.is_some());
    }

    #[test]
    fn a_ring_leaves_every_node_a_majority_and_none_the_whole() {
        for nodes in [4, 5, 7, 9] {
            let heard = |to: usize| (0..nodes).filter(|from| !Partition::Ring.cuts(*from, to, nodes)).count();
            assert!((0..nodes).all(|node| heard(node) > nodes / 2), "{nodes}");
            assert!(nodes == 4 || (0..nodes).all(|node| heard(node) < nodes), "{nodes}");
        }
    }

    #[test]
    fn a_partition_leaves_those_alone_whom_it_does_not_name() {
        let mut network = Network::new(4, NetworkFaults::none(), Rng::new(1));
        network.cut(Partition::Isolate(0), &[3, 1]);
        assert!(network.send(Time::ZERO, 3, 1).first.is_none());
        assert!(network.send(Time::ZERO, 3, 2).first.is_some() && network.send(Time::ZERO, 0, 1).first.is_some());
    }

    #[test]
    fn a_link_that_holds_lets_out_later() {
        let mut network = Network::new(2, NetworkFaults::none(), Rng::new(1));
        network.hold(0, 1, Time(50));
        assert_eq!(network.held(Time(10), 0, 1), Some(Time(50)));
        assert_eq!((network.held(Time(50), 0, 1), network.held(Time(10), 1, 0)), (None, None));
    }

    #[test]
    fn a_link_in_order_never_overtakes() {
        let mut network = Network::new(2, NetworkFaults::none(), Rng::new(3));
        let arrivals: Vec<_> = (0..100).filter_map(|i| network.send(Time(i), 0, 1).first).collect();
        assert!(arrivals.is_sorted());
    }
}
