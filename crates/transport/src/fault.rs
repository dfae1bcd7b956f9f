//! What peers did wrong: counted always, logged within limits.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What was wrong with a connection that a transport closed or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(usize)]
pub enum Fault {
    /// It does not begin as this protocol does.
    Garbage,
    /// Another version of the protocol.
    Version,
    /// A frame announced more bytes than the limit allows.
    Oversized,
    /// A frame does not decode.
    Malformed,
    /// The process was not admitted here.
    Refused,
    /// This process was not admitted there.
    RefusedThere,
    /// A sender that the other process does not host.
    Sender,
    /// A receiver that this process does not host.
    Receiver,
    /// A message that no replica sends (C20).
    Impossible,
    /// The handshake or the next bytes did not come in time.
    Timeout,
    /// There were more connections than the limit allows.
    Overload,
    /// No secure connection: a certificate that is refused, here or there, or no TLS at all.
    Tls,
}

impl Fault {
    const COUNT: usize = Fault::Tls as usize + 1;
}

/// How often each [`Fault`] was seen.
#[derive(Debug, Default)]
pub struct FaultCounters {
    counts: [AtomicU64; Fault::COUNT],
}

impl FaultCounters {
    /// Counts one.
    pub fn count(&self, fault: Fault) {
        self.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often `fault` was seen.
    pub fn of(&self, fault: Fault) -> u64 {
        self.counts[fault as usize].load(Ordering::Relaxed)
    }

    /// How many there were of all kinds.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Lets a few lines through in each interval, so that a stranger cannot flood the log.
#[derive(Debug)]
pub struct LogLimit {
    lines_max: u32,
    interval: Duration,
    state: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    /// At most `lines_max` lines in each `interval`.
    pub fn new(lines_max: u32, interval: Duration) -> LogLimit {
        let window = Window { since: Instant::now(), lines: 0, suppressed: 0 };
        LogLimit { lines_max, interval, state: Mutex::new(window) }
    }

    /// Whether a line may be written; if so, how many were not since the last one.
    pub fn permit(&self) -> Option<u64> {
        let mut window = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.elapsed() >= self.interval {
            window.since = Instant::now();
            window.lines = 0;
        }
        if window.lines >= self.lines_max {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_counted_apart() {
        let faults = FaultCounters::default();
        faults.count(Fault::Garbage);
        faults.count(Fault::Overload);
        faults.count(Fault::Overload);
        assert_eq!((faults.of(Fault::Garbage), faults.of(Fault::Overload), faults.total()), (1, 2, 3));
    }

    #[test]
    fn lines_beyond_the_limit_are_suppressed_and_counted() {
        let limit = LogLimit::new(2, Duration::from_secs(3600));
        assert_eq!([limit.permit(), limit.permit(), limit.permit()], [Some(0), Some(0), None]);
        limit.state.lock().unwrap().since = Instant::now().checked_sub(Duration::from_secs(3601)).unwrap();
        assert_eq!(limit.permit(), Some(1));
    }
}
