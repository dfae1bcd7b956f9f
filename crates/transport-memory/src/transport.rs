//! One process's way into the network.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_transport::{
    Address, Frame, FrameError, Host, Hosted, Inbound, Peer, PeerStats, Route, Sent, Transport, TransportError,
};

use crate::network::{Endpoint, MemoryNetwork};

/// The largest question and answer (the trait's limit).
const QUESTION_BYTES_MAX: usize = 1024 * 1024;

/// A transport of a [`MemoryNetwork`]. Dropping it is as good as shutting it down.
pub struct MemoryTransport {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    network: MemoryNetwork,
    closed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    own: Option<(u64, Arc<dyn Host>)>,
    peers: BTreeMap<(GroupId, NodeId), Known>,
    /// By the remote address; what both sides said when they shook hands.
    connections: BTreeMap<u64, Arc<Connection>>,
}

struct Known {
    peer: Peer,
    stats: PeerStats,
    /// Where its last frame went.
    connected: Option<u64>,
    /// How it went there, and the network's number of changes when that was found: as long as that is the same, so does the next.
    way: Option<(u64, Arc<Connection>)>,
    /// Whether the host was told that it is unreachable, since it was last reached.
    is_told: bool,
}

struct Connection {
    endpoint: Endpoint,
    theirs: Hosted,
    inbound: Mutex<Inbound>,
}

impl MemoryTransport {
    pub(crate) fn new(network: MemoryNetwork) -> MemoryTransport {
        let shared = Shared { network, closed: AtomicBool::new(false), state: Mutex::default() };
        MemoryTransport { shared: Arc::new(shared) }
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[async_trait]
impl Transport for MemoryTransport {
    async fn listen(&self, bind: &Address, host: Arc<dyn Host>) -> Result<Address, TransportError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(TransportError::Closed);
        }
        let id = memory_id(bind).ok_or_else(|| unsupported(bind))?;
        let mut state = self.shared.state();
        if state.own.is_some() {
            let source = std::io::Error::other("this transport listens already");
            return Err(TransportError::Listen { address: bind.to_string(), source });
        }
        let id = self.shared.network.bind(id, host.clone(), &self.shared)?;
        state.own = Some((id, host));
        Ok(Address::memory(id))
    }

    fn set_peer(&self, peer: Peer) {
        let mut state = self.shared.state();
        let known = state.peers.remove(&(peer.group, peer.id));
        let stats = known.as_ref().map(|known| known.stats).unwrap_or_default();
        let connected = known.filter(|known| known.peer == peer).and_then(|known| known.connected);
        state.peers.insert((peer.group, peer.id), Known { peer, stats, connected, way: None, is_told: false });
    }

    fn remove_peer(&self, group: GroupId, id: NodeId) {
        self.shared.state().peers.remove(&(group, id));
    }

    fn send(&self, frame: Frame) -> Sent {
        self.shared.send(frame)
    }

    async fn ask(&self, address: &Address, question: Bytes) -> Result<Bytes, TransportError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(TransportError::Closed);
        }
        let id = memory_id(address).ok_or_else(|| unsupported(address))?;
        let unanswered = |reason: String| TransportError::Unanswered { address: address.to_string(), reason };
        check_size("question", &question).map_err(unanswered)?;
        let own = self.shared.state().own.as_ref().map(|(own, _)| *own);
        let endpoint =
            self.shared.network.reach(own, id).ok_or_else(|| unanswered("nobody can be reached there".to_owned()))?;
        let answer = endpoint.host.answer(question);
        check_size("answer", &answer).map_err(unanswered)?;
        Ok(answer)
    }

    fn stats(&self, group: GroupId, peer: NodeId) -> PeerStats {
        let state = self.shared.state();
        let Some(known) = state.peers.get(&(group, peer)) else { return PeerStats::default() };
        let is_connected = known.connected.is_some_and(|address| state.connections.contains_key(&address));
        PeerStats { is_connected, ..known.stats }
    }

    async fn shutdown(&self) {
        self.shared.close();
    }
}

impl Shared {
    fn send(&self, frame: Frame) -> Sent {
        let key = (frame.group, frame.message.to);
        if self.closed.load(Ordering::Acquire) {
            return Sent::Unreachable;
        }
        match self.connect(key).and_then(|connection| self.deliver(frame, &connection)) {
            Some(()) => {
                if let Some(known) = self.state().peers.get_mut(&key) {
                    known.stats.frames_sent += 1;
                    known.is_told = false;
                }
                Sent::Queued
            }
            None => {
                self.count(key, |stats| stats.frames_dropped += 1);
                self.lose(|known| (known.peer.group, known.peer.id) == key && !known.is_told);
                Sent::Unreachable
            }
        }
    }

    /// The connection to the first address at which the receiver is hosted as expected.
    fn connect(&self, key: (GroupId, NodeId)) -> Option<Arc<Connection>> {
        let changes = self.network.changes();
        let (own, host, peer) = {
            let state = self.state();
            let known = state.peers.get(&key)?;
            if let Some((found_at, connection)) = &known.way
                && *found_at == changes
            {
                return Some(connection.clone());
            }
            let (own, host) = state.own.clone()?;
            (own, host, known.peer.clone())
        };
        peer.addresses.iter().filter_map(memory_id).find_map(|address| {
            let endpoint = self.network.reach(Some(own), address)?;
            let existing = self.state().connections.get(&address).cloned();
            let connection = existing
                .filter(|known| known.endpoint.generation == endpoint.generation)
                .filter(|known| known.theirs.expect(peer.group, peer.id, peer.incarnation).is_ok())
                .or_else(|| shake_hands(host.as_ref(), endpoint, &peer))
                .filter(|new| new.theirs.expect(peer.group, peer.id, peer.incarnation).is_ok())?;
            let mut state = self.state();
            state.connections.insert(address, connection.clone());
            if let Some(known) = state.peers.get_mut(&key) {
                known.connected = Some(address);
                // It may have been set to another place meanwhile.
                known.way = (known.peer == peer).then(|| (changes, connection.clone()));
            }
            Some(connection)
        })
    }

    /// Hands the frame over, when the receiving side's checks allow it; no lock of ours is held while the host has it.
    fn deliver(&self, frame: Frame, connection: &Connection) -> Option<()> {
        {
            let mut inbound = connection.inbound.lock().unwrap_or_else(PoisonError::into_inner);
            let mut checked = inbound.check(&frame);
            if matches!(checked, Err(FrameError::Sender { .. })) {
                // A group that was opened since the handshake is announced before its first frame.
                let own = self.state().own.clone().map(|(_, host)| host)?;
                inbound.announce(&own.hello()).ok()?;
                checked = inbound.check(&frame);
            }
            checked.ok()?;
        }
        let (group, from) = (frame.group, frame.message.from);
        if let Some(receiver) = connection.endpoint.shared.upgrade() {
            receiver.count((group, from), |stats| stats.frames_received += 1);
        }
        connection.endpoint.host.receive_one(frame);
        Some(())
    }

    /// Ends the connections whose way is cut or whose other end is gone, and tells the host.
    pub(crate) fn drop_broken(&self) {
        let (own, connections) = {
            let state = self.state();
            let own = state.own.as_ref().map(|(own, _)| *own);
            let generations = state.connections.iter().map(|(id, known)| (*id, known.endpoint.generation));
            (own, generations.collect::<Vec<_>>())
        };
        for (address, generation) in connections {
            let is_there = self.network.reach(own, address).is_some_and(|there| there.generation == generation);
            if !is_there {
                self.state().connections.remove(&address);
                self.lose(|known| known.connected == Some(address));
            }
        }
    }

    /// Tells the host that these are not connected any more, or could not be.
    fn lose(&self, which: impl Fn(&Known) -> bool) {
        let (host, lost) = {
            let mut state = self.state();
            let lost = state.peers.values_mut().filter(|known| which(known));
            let lost: Vec<(GroupId, NodeId)> = lost
                .map(|known| {
                    (known.connected, known.way) = (None, None);
                    // Once, not at each frame.
                    known.is_told = true;
                    (known.peer.group, known.peer.id)
                })
                .collect();
            (state.own.clone().map(|(_, host)| host), lost)
        };
        if let Some(host) = host {
            lost.into_iter().for_each(|(group, id)| host.unreachable(group, id));
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let own = {
            let mut state = self.state();
            // They hold other processes' hosts.
            state.connections.clear();
            state.peers.values_mut().for_each(|known| known.way = None);
            state.own.take()
        };
        if let Some((id, _)) = own {
            self.network.unbind(id);
        }
    }

    fn count(&self, key: (GroupId, NodeId), add: impl FnOnce(&mut PeerStats)) {
        if let Some(known) = self.state().peers.get_mut(&key) {
            add(&mut known.stats);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both sides say who they are and let each other in, or there is no connection.
fn shake_hands(host: &dyn Host, endpoint: Endpoint, peer: &Peer) -> Option<Arc<Connection>> {
    let inbound = Inbound::introduce(host, &endpoint.host, peer).ok()?;
    let their_hello = endpoint.host.hello();
    let theirs = Hosted::of(&their_hello);
    Some(Arc::new(Connection { endpoint, theirs, inbound: Mutex::new(inbound) }))
}

fn check_size(what: &str, bytes: &Bytes) -> Result<(), String> {
    if bytes.len() > QUESTION_BYTES_MAX {
        return Err(format!("the {what} has {} bytes, more than {QUESTION_BYTES_MAX}", bytes.len()));
    }
    Ok(())
}

fn memory_id(address: &Address) -> Option<u64> {
    match address.route() {
        Route::Memory { id } => Some(*id),
        _ => None,
    }
}

fn unsupported(address: &Address) -> TransportError {
    TransportError::Unsupported { address: address.to_string(), transport: "memory" }
}
