//! The time that replicas are told.

use std::time::Instant;

use coracle_core::Time;

/// The replicas' time: nanoseconds since the process started, on the monotonic clock. One for all groups of a process, so that their heartbeats fall together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock(Instant::now())
    }

    pub(crate) fn now(self) -> Time {
        Time::ZERO.plus(self.0.elapsed())
    }

    /// Until `at`; with `None`, for ever.
    pub(crate) async fn reached(self, at: Option<Time>) {
        match at.and_then(|at| self.instant(at)) {
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }

    /// When that is, unless it is farther than a clock goes.
    pub(crate) fn instant(self, at: Time) -> Option<Instant> {
        self.0.checked_add(at.since(Time::ZERO))
    }
}
