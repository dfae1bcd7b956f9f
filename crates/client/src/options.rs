//! What a client may choose.

use std::time::Duration;

/// How patient a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long a call may take in all, retries included.
    pub deadline: Duration,
    /// How long one node may take to answer what can safely be asked of another one.
    pub attempt: Duration,
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// How long a node may take to tell its status.
    pub status: Duration,
    /// The most bytes of one message, in either direction.
    pub message_bytes_max: usize,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            deadline: Duration::from_secs(10),
            attempt: Duration::from_secs(3),
            connect: Duration::from_secs(1),
            status: Duration::from_secs(1),
            message_bytes_max: 8 << 20,
        }
    }
}

impl ClientOptions {
    /// The same, with another deadline for calls.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> ClientOptions {
        self.deadline = deadline;
        self
    }
}
