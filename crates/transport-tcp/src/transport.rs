//! The transport.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_core::{GroupId, NodeId};
use coracle_transport::{
    Address, FaultCounters, Frame, Host, Peer, PeerStats, Sent, Transport, TransportError, links::Closing,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    TcpOptions,
    dial::{Resolve, SystemResolver},
    listen, outgoing, question,
    secure::security,
    shared::{Shared, is_ours},
};

/// MessagePack over TCP and Unix sockets. Dropping it ends all its tasks.
pub struct TcpTransport {
    shared: Arc<Shared>,
    runtime: Handle,
    /// The tasks hold the other end only: it falls with the transport.
    close: watch::Sender<bool>,
    state: Mutex<State>,
    /// Ends when the last task has.
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

struct State {
    /// What each new task is given; `None` once the transport is closed.
    closing: Option<Closing>,
    listening: bool,
}

impl TcpTransport {
    /// A transport that does not listen yet.
    ///
    /// # Panics
    /// Outside of a tokio runtime: the transport's tasks run on the one that it is made in.
    pub fn new(options: TcpOptions) -> TcpTransport {
        TcpTransport::with_resolver(options, Arc::new(SystemResolver))
    }

    /// The same, with names looked up by `resolver` and not by the system.
    ///
    /// # Panics
    /// As [`TcpTransport::new`].
    pub fn with_resolver(options: TcpOptions, resolver: Arc<dyn Resolve>) -> TcpTransport {
        let (close, signal) = watch::channel(false);
        let (alive, ended) = mpsc::channel(1);
        TcpTransport {
            shared: Arc::new(Shared::new(options, resolver)),
            runtime: Handle::current(),
            close,
            state: Mutex::new(State { closing: Some(Closing::new(signal, alive)), listening: false }),
            ended: tokio::sync::Mutex::new(ended),
        }
    }

    /// What other processes did wrong.
    pub fn faults(&self) -> Arc<FaultCounters> {
        self.shared.faults.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks that this transport listens; it does so once.
    fn begin_to_listen(&self, bind: &Address) -> Result<Closing, TransportError> {
        let mut state = self.state();
        let closing = state.closing.clone().ok_or(TransportError::Closed)?;
        if std::mem::replace(&mut state.listening, true) {
            let source = io::Error::other("this transport listens already");
            return Err(TransportError::Listen { address: bind.to_string(), source });
        }
        Ok(closing)
    }
}

#[async_trait]
impl Transport for TcpTransport {
    async fn listen(&self, bind: &Address, host: Arc<dyn Host>) -> Result<Address, TransportError> {
        let security = security(bind, &self.shared.options).map_err(|reason| {
            let (address, reason) = (bind.to_string(), reason.to_owned());
            TransportError::Tls { address, reason }
        })?;
        if let Some(security) = &security {
            security.warn();
        }
        let closing = self.begin_to_listen(bind)?;
        let bound = listen::bind(bind).await;
        if bound.is_err() {
            // Another address may be tried.
            self.state().listening = false;
        }
        let (listener, address) = bound?;
        // Set once: `listening` guards it.
        let _ = self.shared.host.set(host);
        self.runtime.spawn(listen::accept(self.shared.clone(), listener, security, closing));
        Ok(address)
    }

    fn set_peer(&self, peer: Peer) {
        let (group, id) = (peer.group, peer.id);
        if !peer.addresses.iter().any(is_ours) {
            tracing::warn!(%group, %id, addresses = ?peer.addresses, "no address of this peer is a TCP or Unix socket");
        }
        let new = self.shared.peers.set(peer);
        if let (Some(link), Some(closing)) = (new, self.state().closing.clone()) {
            self.runtime.spawn(outgoing::run(self.shared.clone(), link, closing));
        }
    }

    fn remove_peer(&self, group: GroupId, id: NodeId) {
        self.shared.peers.remove(group, id);
    }

    fn send(&self, frame: Frame) -> Sent {
        if self.shared.host.get().is_none() {
            return Sent::Unreachable;
        }
        self.shared.peers.send(frame)
    }

    async fn ask(&self, address: &Address, question: Bytes) -> Result<Bytes, TransportError> {
        // A question does not hold up the shutdown: it is the caller's task, with a time limit of its own.
        if self.state().closing.is_none() {
            return Err(TransportError::Closed);
        }
        if !is_ours(address) {
            return Err(TransportError::Unsupported { address: address.to_string(), transport: "tcp" });
        }
        question::ask(address, question, self.shared.resolver.as_ref(), &self.shared.options).await
    }

    fn stats(&self, group: GroupId, peer: NodeId) -> PeerStats {
        self.shared.peers.stats(group, peer)
    }

    async fn shutdown(&self) {
        self.shared.peers.close();
        drop(self.state().closing.take());
        self.close.send_replace(true);
        // Once for the write that is under way, once for what is queued behind it.
        let patience = self.shared.options.shutdown_timeout * 2;
        let mut ended = self.ended.lock().await;
        if timeout(patience, ended.recv()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}
