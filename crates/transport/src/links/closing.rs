//! How tasks learn of the end, and the end of tasks.

use tokio::sync::{mpsc, watch};

/// A task's view of the end: it is alive as long as it holds this.
#[derive(Clone, Debug)]
pub struct Closing {
    signal: watch::Receiver<bool>,
    _alive: mpsc::Sender<()>,
}

impl Closing {
    /// `signal` turns true, or falls, at the end; `alive` tells its other end when the last task is gone.
    pub fn new(signal: watch::Receiver<bool>, alive: mpsc::Sender<()>) -> Closing {
        Closing { signal, _alive: alive }
    }

    /// Waits until the transport is shut down or dropped.
    pub async fn closed(&mut self) {
        // The error says that the transport was dropped.
        let _ = self.signal.wait_for(|closing| *closing).await;
    }
}
