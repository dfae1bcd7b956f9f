//! What all tasks of a transport share.

use std::sync::{Arc, OnceLock};

use coracle_transport::{
    Address, Fault, FaultCounters, FrameError, Host, LogLimit, Route,
    links::{LOG_INTERVAL, LinkLimits, Peers},
};
use tokio::sync::Semaphore;

use crate::{TcpOptions, dial::Resolve, wire::WireError};

/// Lines in the log about others' connections: a stranger can make many.
const LOG_LINES_MAX: u32 = 10;

pub(crate) struct Shared {
    pub(crate) options: TcpOptions,
    pub(crate) resolver: Arc<dyn Resolve>,
    /// Set by `listen`; nothing is sent or received before.
    pub(crate) host: OnceLock<Arc<dyn Host>>,
    pub(crate) peers: Peers,
    pub(crate) faults: Arc<FaultCounters>,
    /// One permit for each connection that others hold.
    pub(crate) connections: Arc<Semaphore>,
    /// One permit for each of those that has not shaken hands.
    pub(crate) handshakes: Arc<Semaphore>,
    log: LogLimit,
}

impl Shared {
    pub(crate) fn new(options: TcpOptions, resolver: Arc<dyn Resolve>) -> Shared {
        let TcpOptions { queue_bytes_max, queue_frames_max, frame_bytes_max, .. } = options;
        let limits = LinkLimits { queue_bytes_max, queue_frames_max, frame_bytes_max };
        Shared {
            connections: Arc::new(Semaphore::new(options.connections_max)),
            handshakes: Arc::new(Semaphore::new(options.handshakes_max)),
            peers: Peers::new(limits, is_ours),
            options,
            resolver,
            host: OnceLock::new(),
            faults: Arc::default(),
            log: LogLimit::new(LOG_LINES_MAX, LOG_INTERVAL),
        }
    }

    /// Counts why a connection that another process made has ended, and logs what is somebody's fault.
    pub(crate) fn complain(&self, from: &str, error: &WireError) {
        let Some(fault) = error.fault() else {
            tracing::debug!(from, %error, "a connection ended");
            return;
        };
        self.faults.count(fault);
        if let Some(suppressed) = self.log.permit() {
            tracing::warn!(from, %error, suppressed, "closed a connection from another process");
        }
    }

    /// Counts a frame that was dropped while its connection goes on.
    pub(crate) fn dropped(&self, error: &FrameError) {
        self.faults.count(error.fault());
        if matches!(error, FrameError::Receiver { .. }) {
            // A group has ended here, and the other side has not heard of it yet.
            tracing::debug!(%error, "dropped a frame from another process");
            return;
        }
        if let Some(suppressed) = self.log.permit() {
            tracing::warn!(%error, suppressed, "dropped a frame from another process");
        }
    }

    /// Counts a connection that is one too many.
    pub(crate) fn overloaded(&self, from: &str) {
        self.faults.count(Fault::Overload);
        if let Some(suppressed) = self.log.permit() {
            let (connections_max, handshakes_max) = (self.options.connections_max, self.options.handshakes_max);
            tracing::warn!(from, connections_max, handshakes_max, suppressed, "too many connections: closed one");
        }
    }
}

/// Whether this transport speaks what the address asks for.
pub(crate) fn is_ours(address: &Address) -> bool {
    matches!(address.route(), Route::Tcp { .. } | Route::Unix { .. })
}
