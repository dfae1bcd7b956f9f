//! Several addresses at once: a transport for each, joined into one.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_transport::{Address, Frame, Host, Peer, PeerStats, Sent, Transport, TransportError};

use crate::open::{Network, network};

/// One transport per address that is listened on.
/// Each peer is talked to through the first transport that understands one of its addresses; what comes in may come through any.
pub(crate) struct Several {
    parts: Vec<Part>,
}

struct Part {
    network: Network,
    transport: Arc<dyn Transport>,
    /// Whether it was told where to listen.
    is_taken: AtomicBool,
}

impl Several {
    pub(crate) fn new(parts: impl IntoIterator<Item = (Network, Arc<dyn Transport>)>) -> Several {
        let part = |(network, transport)| Part { network, transport, is_taken: AtomicBool::new(false) };
        Several { parts: parts.into_iter().map(part).collect() }
    }

    fn for_address(&self, address: &Address) -> Option<&Part> {
        self.parts.iter().find(|part| network(address) == Some(part.network))
    }
}

fn unsupported(address: &Address) -> TransportError {
    TransportError::Unsupported { address: address.to_string(), transport: "node's" }
}

#[async_trait]
impl Transport for Several {
    async fn listen(&self, bind: &Address, host: Arc<dyn Host>) -> Result<Address, TransportError> {
        let is_free = |part: &&Part| !part.is_taken.swap(true, Ordering::Relaxed);
        let mut fitting = self.parts.iter().filter(|part| network(bind) == Some(part.network));
        let part = fitting.find(is_free).ok_or_else(|| unsupported(bind))?;
        part.transport.listen(bind, host).await
    }

    fn set_peer(&self, peer: Peer) {
        let reaches = |part: &Part| peer.addresses.iter().any(|address| network(address) == Some(part.network));
        let Some(chosen) = self.parts.iter().position(reaches) else {
            tracing::warn!(group = %peer.group, peer = %peer.id, addresses = ?peer.addresses, "no transport reaches this peer");
            return self.remove_peer(peer.group, peer.id);
        };
        for (at, part) in self.parts.iter().enumerate() {
            if at == chosen {
                let mut peer = peer.clone();
                peer.addresses.retain(|address| network(address) == Some(part.network));
                part.transport.set_peer(peer);
            } else {
                // It may have been in charge while the peer had other addresses.
                part.transport.remove_peer(peer.group, peer.id);
            }
        }
    }

    fn remove_peer(&self, group: GroupId, id: NodeId) {
        self.parts.iter().for_each(|part| part.transport.remove_peer(group, id));
    }

    fn send(&self, frame: Frame) -> Sent {
        // Only one part knows the peer; the others know at once that they do not.
        let mut sent = Sent::Unreachable;
        for part in &self.parts {
            sent = part.transport.send(frame.clone());
            if sent != Sent::Unreachable {
                break;
            }
        }
        sent
    }

    async fn ask(&self, address: &Address, question: Bytes) -> Result<Bytes, TransportError> {
        let part = self.for_address(address).ok_or_else(|| unsupported(address))?;
        part.transport.ask(address, question).await
    }

    fn stats(&self, group: GroupId, peer: NodeId) -> PeerStats {
        let all = self.parts.iter().map(|part| part.transport.stats(group, peer));
        all.fold(PeerStats::default(), |sum, one| PeerStats {
            is_connected: sum.is_connected || one.is_connected,
            frames_sent: sum.frames_sent + one.frames_sent,
            frames_received: sum.frames_received + one.frames_received,
            frames_dropped: sum.frames_dropped + one.frames_dropped,
            bytes_sent: sum.bytes_sent + one.bytes_sent,
            bytes_received: sum.bytes_received + one.bytes_received,
        })
    }

    async fn shutdown(&self) {
        for part in &self.parts {
            part.transport.shutdown().await;
        }
    }
}
