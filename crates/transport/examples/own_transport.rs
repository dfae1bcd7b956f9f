//! A transport of one's own, in which processes call each other: `cargo test -p coracle-transport --example own_transport`.
#![allow(clippy::unwrap_used, reason = "an example stops where it fails")]
use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_transport::{conformance::Factory, *};
use std::sync::{Arc, Mutex, OnceLock, atomic::AtomicBool, atomic::Ordering::SeqCst};
use std::{collections::HashMap, io::ErrorKind};
#[derive(Clone, Default)] // Who listens at /memory/N, by N.
struct Network(Arc<Mutex<HashMap<u64, Arc<Process>>>>);
#[derive(Default)]
#[rustfmt::skip]
struct Process { listens: OnceLock<(u64, Arc<dyn Host>)>, peers: PeerTable, is_closed: AtomicBool }
struct Calls(Network, Arc<Process>);
fn id(address: &Address) -> Result<u64, TransportError> {
    let unsupported = || TransportError::Unsupported { address: address.to_string(), transport: "calls" };
    if let Route::Memory { id } = address.route() { Ok(*id) } else { Err(unsupported()) }
}
impl Calls {
    fn at(&self, id: u64) -> Option<(Arc<Process>, Arc<dyn Host>)> {
        let process = self.0.0.lock().unwrap().get(&id).cloned()?;
        process.listens.get().cloned().map(|(_, host)| (process, host))
    }
    fn deliver(&self, frame: &Frame, to: &Peer) -> Option<()> {
        let near = &self.1.listens.get().filter(|_| !self.1.is_closed.load(SeqCst))?.1;
        to.addresses.iter().filter_map(|address| self.at(id(address).ok()?)).find_map(|(process, far)| {
            Inbound::introduce(near.as_ref(), &far, to).ok()?.check(frame).ok()?;
            process.peers.received(frame.group, frame.message.from, 0);
            far.receive(vec![frame.clone()]);
            Some(())
        })
    }
}
#[async_trait::async_trait]
#[rustfmt::skip]
impl Transport for Calls {
    async fn listen(&self, bind: &Address, host: Arc<dyn Host>) -> Result<Address, TransportError> {
        let (wanted, mut network) = (id(bind)?, self.0.0.lock().unwrap());
        if self.1.is_closed.load(SeqCst) { return Err(TransportError::Closed); }
        let wanted = if wanted > 0 { wanted } else { (1..).find(|id| !network.contains_key(id)).unwrap() };
        let busy = || TransportError::Listen { address: bind.to_string(), source: ErrorKind::AddrInUse.into() };
        if network.contains_key(&wanted) || self.1.listens.set((wanted, host)).is_err() { return Err(busy()); }
        network.insert(wanted, self.1.clone()); Ok(Address::memory(wanted))
    }
    fn set_peer(&self, peer: Peer) { self.1.peers.set(peer); }
    fn remove_peer(&self, group: GroupId, id: NodeId) { self.1.peers.remove(group, id); }
    fn stats(&self, group: GroupId, id: NodeId) -> PeerStats { self.1.peers.stats(group, id) }
    fn send(&self, frame: Frame) -> Sent {
        let (group, to) = (frame.group, frame.message.to);
        let reached = self.1.peers.peer(group, to).and_then(|peer| self.deliver(&frame, &peer));
        if reached.is_some() { self.1.peers.sent(group, to, 0); return Sent::Queued; }
        self.1.listens.get().inspect(|(_, host)| self.1.peers.dropped(host.as_ref(), group, to));
        Sent::Unreachable
    }
    async fn ask(&self, address: &Address, question: Bytes) -> Result<Bytes, TransportError> {
        if self.1.is_closed.load(SeqCst) { return Err(TransportError::Closed); }
        let far = self.at(id(address)?).filter(|_| question.len() <= 1 << 20);
        let answer = far.map(|(_, host)| host.answer(question)).filter(|answer| answer.len() <= 1 << 20);
        answer.ok_or_else(|| TransportError::Unanswered { address: address.to_string(), reason: "nobody, or too long".into() })
    }
    async fn shutdown(&self) {
        let Some((id, host)) = self.1.listens.get().filter(|_| !self.1.is_closed.swap(true, SeqCst)) else { return };
        self.1.peers.lost(host.as_ref(), |_| true);
        let others: Vec<u64> = { let mut all = self.0.0.lock().unwrap(); all.remove(id); all.keys().copied().collect() };
        for (other, host) in others.into_iter().filter_map(|id| self.at(id)) {
            other.peers.lost(host.as_ref(), |peer| peer.addresses.contains(&Address::memory(*id)));
        }
    }
}
#[rustfmt::skip]
impl Factory for Network {
    fn transport(&self) -> Arc<dyn Transport> { Arc::new(Calls(self.clone(), Arc::default())) }
    fn bind(&self) -> Address { Address::memory(0) }
    fn frame_bytes_max(&self) -> Option<usize> { None }
}
#[tokio::main(flavor = "current_thread")]
#[cfg_attr(test, test)]
async fn main() {
    assert!(conformance::transport(Network::default()).await.passed.len() > 25);
}
