//! Which nodes are known, and by which link they are reached.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::{
    Address, Frame, Peer, PeerStats, Sent,
    links::{Link, LinkLimits, Member},
};
use coracle_core::{GroupId, NodeId};

/// All nodes that frames may be sent to.
#[derive(Debug)]
pub struct Peers {
    limits: LinkLimits,
    is_spoken: fn(&Address) -> bool,
    registry: RwLock<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    nodes: HashMap<(GroupId, NodeId), Known>,
    /// One for each remote process, by its addresses.
    links: HashMap<Vec<Address>, Arc<Link>>,
    closed: bool,
}

#[derive(Debug)]
struct Known {
    member: Arc<Member>,
    /// `None` when this transport speaks none of the node's addresses.
    link: Option<Arc<Link>>,
}

impl Peers {
    /// Nobody yet. `is_spoken` tells which addresses the transport can reach.
    pub fn new(limits: LinkLimits, is_spoken: fn(&Address) -> bool) -> Peers {
        Peers { limits, is_spoken, registry: RwLock::default() }
    }

    /// Sets where a node is; returns its link when that is new and needs a task.
    pub fn set(&self, peer: Peer) -> Option<Arc<Link>> {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        let addresses: Vec<Address> = peer.addresses.into_iter().filter(self.is_spoken).collect();
        let key = (peer.group, peer.id);
        let previous = registry.nodes.get(&key);
        let unchanged = previous.is_some_and(|known| {
            let same_link = known.link.as_ref().map_or(addresses.is_empty(), |link| link.addresses == addresses);
            same_link && known.member.incarnation == peer.incarnation
        });
        if unchanged || registry.closed {
            return None;
        }
        let counters = previous.map(|known| known.member.counters.clone()).unwrap_or_default();
        registry.remove(peer.group, peer.id);
        let member = Member { group: peer.group, id: peer.id, incarnation: peer.incarnation, counters };
        let member = Arc::new(member);
        let (link, new) = registry.link(addresses, self.limits);
        if let Some(link) = &link {
            link.join(member.clone());
        }
        registry.nodes.insert(key, Known { member, link });
        new
    }

    /// Forgets a node; its link is closed when nobody else is there.
    pub fn remove(&self, group: GroupId, id: NodeId) {
        self.registry.write().unwrap_or_else(PoisonError::into_inner).remove(group, id);
    }

    /// Puts a frame into the queue of the process where its receiver is.
    pub fn send(&self, frame: Frame) -> Sent {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = registry.nodes.get(&(frame.group, frame.message.to)) else { return Sent::Unreachable };
        let sent = match &known.link {
            Some(link) => link.push(frame, known.member.clone()),
            None => Sent::Unreachable,
        };
        if sent != Sent::Queued {
            known.member.counters.dropped();
        }
        sent
    }

    /// Counts frames that arrived: group, sender, bytes.
    pub fn received(&self, frames: impl Iterator<Item = (GroupId, NodeId, usize)>) {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        for (group, from, bytes) in frames {
            if let Some(known) = registry.nodes.get(&(group, from)) {
                known.member.counters.received(bytes);
            }
        }
    }

    /// What was counted for a node.
    pub fn stats(&self, group: GroupId, id: NodeId) -> PeerStats {
        let registry = self.registry.read().unwrap_or_else(PoisonError::into_inner);
        registry.nodes.get(&(group, id)).map(|known| known.member.counters.stats()).unwrap_or_default()
    }

    /// No node is reachable from here on, and none can be added; the links' tasks write what is queued.
    pub fn close(&self) {
        let mut registry = self.registry.write().unwrap_or_else(PoisonError::into_inner);
        registry.closed = true;
        registry.links.clear();
        registry.nodes.values_mut().for_each(|known| known.link = None);
    }
}

impl Registry {
    fn link(&mut self, addresses: Vec<Address>, limits: LinkLimits) -> (Option<Arc<Link>>, Option<Arc<Link>>) {
        if addresses.is_empty() {
            return (None, None);
        }
        if let Some(link) = self.links.get(&addresses) {
            return (Some(link.clone()), None);
        }
        let link = Arc::new(Link::new(addresses.clone(), limits));
        self.links.insert(addresses, link.clone());
        (Some(link.clone()), Some(link))
    }

    fn remove(&mut self, group: GroupId, id: NodeId) {
        let Some(Known { link: Some(link), .. }) = self.nodes.remove(&(group, id)) else { return };
        if link.leave_member(group, id) {
            link.close();
            self.links.remove(&link.addresses);
        }
    }
}
