//! Limits and times.

use std::time::Duration;

/// The limits and times of a [`TcpTransport`](crate::TcpTransport).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// The largest frame, in bytes, sent or received.
    pub frame_bytes_max: usize,
    /// How many bytes of frames wait for one remote process.
    pub queue_bytes_max: usize,
    /// How many frames wait for one remote process.
    pub queue_frames_max: usize,
    /// How many bytes of frames are put into one write; a single larger frame is written alone.
    pub batch_bytes_max: usize,
    /// The largest hello, in bytes. A group takes about 100 of them; whoever has not been admitted yet can make this process hold as much.
    pub hello_bytes_max: usize,
    /// The largest question and the largest answer, in bytes.
    pub question_bytes_max: usize,
    /// How many connections others may hold to this process.
    pub connections_max: usize,
    /// How many of those may not have shaken hands yet.
    pub handshakes_max: usize,
    /// How long one address may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long the handshake may take, the one of TLS included where a connection is accepted; and the reading or answering of a question.
    pub handshake_timeout: Duration,
    /// How long written bytes may stay unacknowledged before the connection is given up.
    pub write_timeout: Duration,
    /// A connection on which nothing arrived for this long is closed; its maker closes it after half of that.
    pub idle_timeout: Duration,
    /// How long to wait before another attempt, after the first failure; it doubles with each, and is drawn from its upper half.
    pub backoff_min: Duration,
    /// The longest wait before another attempt.
    pub backoff_max: Duration,
    /// By which certificates connections are made secure; needed for addresses that end with `/tls`, and of no effect on others.
    #[cfg(feature = "tls")]
    pub tls: Option<coracle_transport::tls::Tls>,
    /// How long [`shutdown`](coracle_transport::Transport::shutdown) goes on writing what is queued.
    pub shutdown_timeout: Duration,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            frame_bytes_max: 8 << 20,
            queue_bytes_max: 16 << 20,
            queue_frames_max: 16_384,
            batch_bytes_max: 1 << 20,
            hello_bytes_max: 256 << 10,
            question_bytes_max: 1 << 20,
            connections_max: 1024,
            handshakes_max: 64,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            #[cfg(feature = "tls")]
            tls: None,
            shutdown_timeout: Duration::from_secs(1),
        }
    }
}
