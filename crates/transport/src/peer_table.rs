//! The nodes that a transport was told of, and what it counted for each.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use coracle_core::{GroupId, NodeId};

use crate::{Host, Peer, PeerStats};

/// Where nodes are, what was counted for each, and whose host was told what: for transports without queues of their own.
#[derive(Default)]
pub struct PeerTable {
    peers: Mutex<HashMap<(GroupId, NodeId), Known>>,
}

struct Known {
    peer: Peer,
    stats: PeerStats,
    /// Whether the host was told that it is unreachable, since it was last reached.
    is_told: bool,
}

impl PeerTable {
    /// Takes what [`set_peer`](crate::Transport::set_peer) says: the counters stay, and the connection if nothing has changed.
    pub fn set(&self, peer: Peer) {
        let mut peers = self.lock();
        let known = peers.remove(&(peer.group, peer.id));
        let mut stats = known.as_ref().map(|known| known.stats).unwrap_or_default();
        stats.is_connected &= known.is_some_and(|known| known.peer == peer);
        peers.insert((peer.group, peer.id), Known { peer, stats, is_told: false });
    }

    /// Forgets a node.
    pub fn remove(&self, group: GroupId, id: NodeId) {
        self.lock().remove(&(group, id));
    }

    /// What [`PeerTable::set`] was told last of a node.
    pub fn peer(&self, group: GroupId, id: NodeId) -> Option<Peer> {
        self.lock().get(&(group, id)).map(|known| known.peer.clone())
    }

    /// What was counted for a node.
    pub fn stats(&self, group: GroupId, id: NodeId) -> PeerStats {
        self.lock().get(&(group, id)).map(|known| known.stats).unwrap_or_default()
    }

    /// A frame reached the node: it is connected.
    pub fn sent(&self, group: GroupId, id: NodeId, bytes: u64) {
        if let Some(known) = self.lock().get_mut(&(group, id)) {
            known.stats.is_connected = true;
            known.stats.frames_sent += 1;
            known.stats.bytes_sent += bytes;
            known.is_told = false;
        }
    }

    /// A frame came from the node.
    pub fn received(&self, group: GroupId, id: NodeId, bytes: u64) {
        if let Some(known) = self.lock().get_mut(&(group, id)) {
            known.stats.frames_received += 1;
            known.stats.bytes_received += bytes;
        }
    }

    /// A frame for the node was dropped, because it cannot be reached.
    pub fn dropped(&self, host: &dyn Host, group: GroupId, id: NodeId) {
        if let Some(known) = self.lock().get_mut(&(group, id)) {
            known.stats.frames_dropped += 1;
        }
        self.lost(host, |peer| (peer.group, peer.id) == (group, id));
    }

    /// These nodes cannot be reached any more. The host is told once, until they are reached again; no lock is held meanwhile.
    pub fn lost(&self, host: &dyn Host, which: impl Fn(&Peer) -> bool) {
        let mut lost = Vec::new();
        for known in self.lock().values_mut().filter(|known| which(&known.peer)) {
            known.stats.is_connected = false;
            if !std::mem::replace(&mut known.is_told, true) {
                lost.push((known.peer.group, known.peer.id));
            }
        }
        lost.into_iter().for_each(|(group, id)| host.unreachable(group, id));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(GroupId, NodeId), Known>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
