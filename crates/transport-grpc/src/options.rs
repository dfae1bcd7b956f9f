//! Limits and times.

use std::time::Duration;

/// The limits and times of a [`GrpcTransport`](crate::GrpcTransport).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcOptions {
    /// The largest message, in bytes, sent or received: a frame and what surrounds it. One whose items would take far more memory than that is refused before it is decoded.
    pub message_bytes_max: usize,
    /// How many bytes of frames wait for one remote process.
    pub queue_bytes_max: usize,
    /// How many frames wait for one remote process.
    pub queue_frames_max: usize,
    /// How many bytes of frames are put into one message; a single larger frame travels alone.
    pub batch_bytes_max: usize,
    /// The largest hello, in bytes. A group takes about 50 of them; whoever has not been admitted yet can make this process hold as much.
    pub hello_bytes_max: usize,
    /// The largest question and the largest answer, in bytes.
    pub question_bytes_max: usize,
    /// How many connections others may hold to this process; each carries one stream of frames.
    pub connections_max: usize,
    /// How many of those may not have shaken hands yet.
    pub handshakes_max: usize,
    /// How many bytes a process may send ahead of what was read here: HTTP/2's windows, of a stream and of its connection.
    pub window_bytes: u32,
    /// How long one address may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long the handshake may take, and before it the one of TLS; and the reading or answering of a question.
    pub handshake_timeout: Duration,
    /// How long the other side may take nothing of what is to be written, and leave a ping unanswered, before the connection is given up.
    pub write_timeout: Duration,
    /// How often a ping asks whether the other side is still there.
    pub keep_alive_interval: Duration,
    /// A stream on which nothing arrived for this long is closed; its maker closes it after half of that.
    pub idle_timeout: Duration,
    /// How long to wait before another attempt, after the first failure; it doubles with each, and is drawn from its upper half.
    pub backoff_min: Duration,
    /// The longest wait before another attempt.
    pub backoff_max: Duration,
    /// By which certificates connections are made secure; needed for addresses that end with `/tls/http`, and of no effect on others.
    #[cfg(feature = "tls")]
    pub tls: Option<coracle_transport::tls::Tls>,
    /// How long [`shutdown`](coracle_transport::Transport::shutdown) goes on writing what is queued.
    pub shutdown_timeout: Duration,
}

impl Default for GrpcOptions {
    fn default() -> GrpcOptions {
        GrpcOptions {
            message_bytes_max: 8 << 20,
            queue_bytes_max: 16 << 20,
            queue_frames_max: 16_384,
            batch_bytes_max: 1 << 20,
            hello_bytes_max: 256 << 10,
            question_bytes_max: 1 << 20,
            connections_max: 1024,
            handshakes_max: 64,
            window_bytes: 2 << 20,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            #[cfg(feature = "tls")]
            tls: None,
            shutdown_timeout: Duration::from_secs(1),
        }
    }
}
