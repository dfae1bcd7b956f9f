//! Being told to leave: by a signal, or by the end of standard input.

use std::{
    io::{self, Read},
    thread,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::exit::{Failure, Outcome};

/// What may tell the node to leave.
pub(crate) struct Leave {
    terminate: Signal,
    interrupt: Signal,
    input: Option<oneshot::Receiver<()>>,
}

impl Leave {
    pub(crate) fn watch(standard_input: bool) -> Outcome<Leave> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("could not listen for signals", &error));
        Ok(Leave {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            input: if standard_input { Some(watch_input()?) } else { None },
        })
    }

    /// Waits for it, and says what it was.
    pub(crate) async fn asked(&mut self) -> &'static str {
        let input = async {
            match &mut self.input {
                // The thread drops its end whichever way it ends.
                Some(closed) => {
                    let _ = closed.await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = input => "standard input was closed",
        }
    }
}

/// Reads on a thread of its own, which nobody waits for: a read cannot be called off.
pub(crate) fn watch_input() -> Outcome<oneshot::Receiver<()>> {
    let (closing, closed) = oneshot::channel();
    let thread = thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let mut input = io::stdin().lock();
        let mut ignored = [0; 1024];
        loop {
            match input.read(&mut ignored) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                Ok(_) | Err(_) => {}
            }
        }
        drop(closing);
    });
    thread.map_err(|error| Failure::io("could not watch standard input", &error))?;
    Ok(closed)
}
