//! Which node holds which revision for us.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_level::{Error, Result, Revision};

use crate::{calls::FOR_EVER, endpoint::Endpoint};

/// The most snapshots that one client holds at a time.
const HOLDS_MAX: usize = 10_000;

/// One entry for each snapshot that was taken and not released.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    of: HashMap<Revision, Vec<Hold>>,
    len: usize,
}

#[derive(Debug)]
struct Hold {
    endpoint: Arc<Endpoint>,
    span: Duration,
    until: Instant,
}

impl Holds {
    /// Says before a snapshot is taken whether there is room for it.
    pub(crate) fn check(&mut self, now: Instant) -> Result<()> {
        if self.len >= HOLDS_MAX {
            self.forget_expired(now);
        }
        if self.len < HOLDS_MAX {
            return Ok(());
        }
        let limit = "the number of snapshots that a client holds".to_owned();
        Err(Error::LimitExceeded { limit, max: HOLDS_MAX as u64, got: self.len as u64 + 1 })
    }

    pub(crate) fn add(&mut self, revision: Revision, endpoint: Arc<Endpoint>, span: Duration, now: Instant) {
        self.len += 1;
        let span = span.min(FOR_EVER);
        self.of.entry(revision).or_default().push(Hold { endpoint, span, until: now + span });
    }

    /// Who holds it; asking for it there holds it anew.
    pub(crate) fn holder(&mut self, revision: Revision, now: Instant) -> Option<Arc<Endpoint>> {
        let hold = self.of.get_mut(&revision)?.last_mut()?;
        hold.until = now + hold.span;
        Some(Arc::clone(&hold.endpoint))
    }

    /// Takes out one hold of it.
    pub(crate) fn remove(&mut self, revision: Revision) -> Option<Arc<Endpoint>> {
        let holds = self.of.get_mut(&revision)?;
        let hold = holds.pop();
        if holds.is_empty() {
            self.of.remove(&revision);
        }
        self.len -= usize::from(hold.is_some());
        hold.map(|hold| hold.endpoint)
    }

    fn forget_expired(&mut self, now: Instant) {
        self.of.retain(|_, holds| {
            holds.retain(|hold| hold.until > now);
            !holds.is_empty()
        });
        self.len = self.of.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClientOptions;

    fn endpoint(port: u16) -> Arc<Endpoint> {
        Arc::new(Endpoint::new(&format!("127.0.0.1:{port}"), &ClientOptions::default()).unwrap())
    }

    #[tokio::test]
    async fn a_revision_that_two_nodes_hold_is_released_on_each() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        holds.add(Revision(5), endpoint(1), Duration::from_secs(1), now);
        holds.add(Revision(5), endpoint(2), Duration::from_secs(1), now);
        assert_eq!(holds.holder(Revision(5), now).unwrap().address, "127.0.0.1:2");
        assert_eq!(holds.remove(Revision(5)).unwrap().address, "127.0.0.1:2");
        assert_eq!(holds.holder(Revision(5), now).unwrap().address, "127.0.0.1:1");
        assert_eq!(holds.remove(Revision(5)).unwrap().address, "127.0.0.1:1");
        assert!(holds.remove(Revision(5)).is_none() && holds.holder(Revision(5), now).is_none());
    }

    #[tokio::test]
    async fn holds_are_limited_and_expired_ones_make_room() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        let (endpoint, span) = (endpoint(1), Duration::from_secs(1));
        for revision in 0..HOLDS_MAX as u64 {
            holds.check(now).unwrap();
            holds.add(Revision(revision), Arc::clone(&endpoint), span, now);
        }
        assert!(matches!(holds.check(now), Err(Error::LimitExceeded { max, .. }) if max == HOLDS_MAX as u64));
        holds.check(now + span).unwrap();
    }
}
