//! Writes that take effect once although they are tried again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::retry::{Attempts, HandleOptions, is_passing};
use crate::{Committed, Error, Kv, Once, Result, SessionId, Txn};

/// The most sequences from the lowest unanswered one to the highest begun: the replicas keep the answers of so many.
const WINDOW: u64 = 512;

/// Writes through one session, which it opens when it is first needed (C22).
///
/// It keeps the number of each write until the write is answered or given up, and tells the replicas the lowest such number,
/// so that they know every repeated write, in whatever order writes arrive, and can forget the rest.
pub(super) struct SessionWriter {
    kv: Arc<dyn Kv>,
    session: AsyncMutex<Option<Arc<Session>>>,
}

impl SessionWriter {
    pub(super) fn new(kv: Arc<dyn Kv>) -> SessionWriter {
        SessionWriter { kv, session: AsyncMutex::new(None) }
    }

    /// Commits a transaction, trying again until it is answered or the deadline is over.
    pub(super) async fn commit(&self, txn: Txn, options: &HandleOptions) -> Result<Committed> {
        let mut attempts = Attempts::new(options);
        let session = self.session(&mut attempts).await?;
        let ticket = session.begin(&attempts).await?;
        // Whether an attempt may have taken effect without our knowing.
        let mut open = false;
        loop {
            let error = match attempts.call(self.kv.commit(txn.clone(), Some(ticket.once()))).await {
                Ok(committed) => return Ok(committed),
                Err(error) => error,
            };
            open |= matches!(error, Error::Unknown(_));
            if matches!(error, Error::SessionExpired(_)) {
                self.forget(&session).await;
                return Err(error);
            }
            if !is_passing(&error) || !attempts.pause(&error).await {
                return Err(outcome(error, open));
            }
        }
    }

    /// Closes the session, if one is open; the next write opens another.
    pub(super) async fn close(&self, options: &HandleOptions) -> Result<()> {
        let Some(session) = self.session.lock().await.take() else { return Ok(()) };
        super::retry::repeat(options, || self.kv.close_session(session.id)).await
    }

    async fn session(&self, attempts: &mut Attempts) -> Result<Arc<Session>> {
        // The lock is held while a session is opened, so that writes that begin together open one.
        let mut place = self.session.lock().await;
        if let Some(session) = &*place {
            return Ok(session.clone());
        }
        loop {
            match attempts.call(self.kv.open_session()).await {
                Ok(id) => {
                    let session = Arc::new(Session::new(id));
                    *place = Some(session.clone());
                    return Ok(session);
                }
                Err(error) if is_passing(&error) => {
                    if !attempts.pause(&error).await {
                        return Err(unsent(error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the next write open a new session, unless one did already.
    async fn forget(&self, expired: &Arc<Session>) {
        let mut place = self.session.lock().await;
        if place.as_ref().is_some_and(|session| Arc::ptr_eq(session, expired)) {
            *place = None;
        }
    }
}

/// The error that a write ends with; `open` says that an earlier attempt may have taken effect.
fn outcome(error: Error, open: bool) -> Error {
    match error {
        // What an integer's error says was decided by the log, and is kept for later attempts like any other reply.
        Error::NotAnInteger { .. } | Error::Unknown(_) => error,
        error if open => Error::Unknown(format!("an attempt was not answered, and the last one ended with: {error}")),
        error => error,
    }
}

/// That a session's registration is in the dark does not make the write's outcome so: it was never sent.
fn unsent(error: Error) -> Error {
    match error {
        Error::Unknown(why) => Error::Unavailable(format!("no session could be opened: {why}")),
        error => error,
    }
}

/// An open session.
struct Session {
    id: SessionId,
    numbers: Mutex<Numbers>,
    /// A write ended: there may be room for another.
    ended: Notify,
}

struct Numbers {
    /// The next write's.
    next: u64,
    /// Those begun and neither answered nor given up.
    unanswered: BTreeSet<u64>,
}

impl Numbers {
    /// Every number up to here was answered or given up.
    fn floor(&self) -> u64 {
        self.unanswered.first().copied().unwrap_or(self.next) - 1
    }
}

impl Session {
    fn new(id: SessionId) -> Session {
        let numbers = Mutex::new(Numbers { next: 1, unanswered: BTreeSet::new() });
        Session { id, numbers, ended: Notify::new() }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // Whoever panicked did so between whole changes.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next number, once it is near enough to the lowest unanswered one.
    async fn begin(self: &Arc<Session>, attempts: &Attempts) -> Result<Ticket> {
        let mut ticket = None;
        let room = async {
            loop {
                let ended = self.ended.notified();
                tokio::pin!(ended);
                // From here on no end is missed.
                ended.as_mut().enable();
                ticket = self.try_begin();
                if ticket.is_some() {
                    return;
                }
                ended.await;
            }
        };
        attempts.wait(room).await;
        ticket.ok_or(Error::Busy { retry_after: Duration::from_millis(100) })
    }

    fn try_begin(self: &Arc<Session>) -> Option<Ticket> {
        let mut numbers = self.numbers();
        let sequence = numbers.next;
        if sequence - numbers.floor() > WINDOW {
            return None;
        }
        numbers.next += 1;
        numbers.unanswered.insert(sequence);
        Some(Ticket { session: self.clone(), sequence })
    }
}

/// A write's number, kept until the write is answered or given up.
struct Ticket {
    session: Arc<Session>,
    sequence: u64,
}

impl Ticket {
    /// What to send along with an attempt.
    fn once(&self) -> Once {
        let floor = self.session.numbers().floor();
        Once { session: self.session.id, sequence: self.sequence, floor }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.numbers().unanswered.remove(&self.sequence);
        self.session.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c22_the_floor_is_below_the_lowest_unanswered_number() {
        let session = Arc::new(Session::new(SessionId(1)));
        let first = session.try_begin().unwrap();
        let second = session.try_begin().unwrap();
        let third = session.try_begin().unwrap();
        assert_eq!((first.sequence, second.sequence, third.sequence), (1, 2, 3));
        assert_eq!(third.once().floor, 0);
        drop(second);
        assert_eq!(third.once().floor, 0, "the first is still open");
        drop(first);
        assert_eq!(third.once().floor, 2);
        drop(third);
        let fourth = session.try_begin().unwrap();
        assert_eq!((fourth.sequence, fourth.once().floor), (4, 3));
    }

    #[test]
    fn numbers_do_not_run_away_from_the_lowest_unanswered_one() {
        let session = Arc::new(Session::new(SessionId(1)));
        let first = session.try_begin().unwrap();
        for _ in 1..WINDOW {
            drop(session.try_begin().unwrap());
        }
        assert!(session.try_begin().is_none());
        drop(first);
        assert!(session.try_begin().is_some());
    }
}
