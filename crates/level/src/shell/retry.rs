//! When to try again, and until when.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use crate::{Error, Result};

/// How a [`Level`](crate::Level) behaves towards what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleOptions {
    /// How long an operation is tried before its error comes out. Default 10 s.
    pub deadline: Duration,
    /// The first pause after a failure; each further one is twice as long. Default 20 ms.
    pub backoff_min: Duration,
    /// The longest pause. Default 1 s.
    pub backoff_max: Duration,
    /// How long a scan or snapshot outlives its last read. Default 60 s.
    pub hold: Duration,
    /// The most entries that a scan asks for at once. Default 1,000.
    pub page_len: u32,
}

impl Default for HandleOptions {
    fn default() -> HandleOptions {
        HandleOptions {
            deadline: Duration::from_secs(10),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            hold: Duration::from_secs(60),
            page_len: 1000,
        }
    }
}

/// The attempts at one operation.
pub(super) struct Attempts {
    deadline: Instant,
    pause: Duration,
    pause_max: Duration,
}

impl Attempts {
    pub(super) fn new(options: &HandleOptions) -> Attempts {
        // A deadline beyond what the clock can say is as good as none.
        let now = Instant::now();
        let deadline = now.checked_add(options.deadline).unwrap_or(now + Duration::from_secs(86_400 * 365));
        let pause = options.backoff_min.max(Duration::from_millis(1));
        Attempts { deadline, pause, pause_max: options.backoff_max.max(pause) }
    }

    /// Waits for `call` until the deadline; `Unknown` when it does not come.
    pub(super) async fn call<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match timeout_at(self.deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unknown("no answer before the deadline".to_owned())),
        }
    }

    /// Waits for something of our own until the deadline; whether it came.
    pub(super) async fn wait(&self, something: impl Future<Output = ()>) -> bool {
        timeout_at(self.deadline, something).await.is_ok()
    }

    /// Pauses before the next attempt, as long as `error` says or for the backoff; `false` when there is no time for another.
    pub(super) async fn pause(&mut self, error: &Error) -> bool {
        let pause = match error {
            Error::Busy { retry_after } => (*retry_after).max(self.pause).min(self.pause_max.max(*retry_after)),
            _ => self.pause,
        };
        if self.deadline.saturating_duration_since(Instant::now()) <= pause {
            return false;
        }
        self.pause = (self.pause * 2).min(self.pause_max);
        sleep(pause).await;
        true
    }
}

/// Whether another attempt may end otherwise.
pub(super) fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::Busy { .. } | Error::NotLeader { .. } | Error::Unavailable(_) | Error::NoSpace(_) | Error::Unknown(_)
    )
}

/// Tries what may be done more than once, such as a read, until it succeeds, fails for good, or the deadline is over.
pub(super) async fn repeat<T, F>(options: &HandleOptions, mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut attempts = Attempts::new(options);
    loop {
        match attempts.call(call()).await {
            Err(error) if is_passing(&error) => {
                if !attempts.pause(&error).await {
                    return Err(match error {
                        // What may be repeated has no outcome that could be in the dark.
                        Error::Unknown(why) => Error::Unavailable(why),
                        error => error,
                    });
                }
            }
            result => return result,
        }
    }
}
