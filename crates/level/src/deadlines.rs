//! How long revisions stay held.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::Revision;

/// The longest that a revision is held without being read.
const HOLD_MAX: Duration = Duration::from_secs(3600);

/// Which revisions clients hold, and until when: for whoever implements [`Kv`](crate::Kv) on a state machine, which knows no time.
///
/// Each hold that is handed out counts once, and each is given back once: by [`release`](HoldDeadlines::release), or by [`expired`](HoldDeadlines::expired).
#[derive(Debug, Default)]
pub struct HoldDeadlines {
    holds: BTreeMap<Revision, Hold>,
}

#[derive(Debug)]
struct Hold {
    count: u32,
    duration: Duration,
    until: Instant,
}

impl HoldDeadlines {
    /// None yet.
    pub fn new() -> HoldDeadlines {
        HoldDeadlines::default()
    }

    /// A revision was held for `duration`, at most an hour; several holds of a revision live as long as the longest.
    pub fn hold(&mut self, revision: Revision, duration: Duration, now: Instant) {
        let duration = duration.min(HOLD_MAX);
        let hold = self.holds.entry(revision).or_insert(Hold { count: 0, duration, until: now });
        hold.count = hold.count.saturating_add(1);
        hold.duration = hold.duration.max(duration);
        hold.until = now + hold.duration;
    }

    /// A revision is read: it is held anew.
    pub fn touch(&mut self, revision: Revision, now: Instant) {
        if let Some(hold) = self.holds.get_mut(&revision) {
            hold.until = now + hold.duration;
        }
    }

    /// A client lets go. Whether there was a hold, to be given back to the state machine.
    pub fn release(&mut self, revision: Revision) -> bool {
        let Some(hold) = self.holds.get_mut(&revision) else { return false };
        hold.count -= 1;
        if hold.count == 0 {
            self.holds.remove(&revision);
        }
        true
    }

    /// Takes out the holds whose time is over, each as often as it was held: give them back to the state machine.
    pub fn expired(&mut self, now: Instant) -> Vec<Revision> {
        let mut expired = Vec::new();
        self.holds.retain(|&revision, hold| {
            let over = hold.until <= now;
            if over {
                expired.extend(std::iter::repeat_n(revision, hold.count as usize));
            }
            !over
        });
        expired
    }

    /// When the next hold's time is over.
    pub fn next(&self) -> Option<Instant> {
        self.holds.values().map(|hold| hold.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_hold_ends_unless_it_is_read() {
        let start = Instant::now();
        let mut holds = HoldDeadlines::new();
        holds.hold(Revision(1), SECOND, start);
        holds.hold(Revision(2), SECOND, start);
        holds.touch(Revision(2), start + SECOND / 2);
        assert_eq!(holds.next(), Some(start + SECOND));
        assert_eq!(holds.expired(start + SECOND), [Revision(1)]);
        assert_eq!(holds.expired(start + SECOND * 3 / 2), [Revision(2)]);
        assert_eq!(holds.next(), None);
    }

    #[test]
    fn each_hold_is_given_back_once() {
        let start = Instant::now();
        let mut holds = HoldDeadlines::new();
        for _ in 0..3 {
            holds.hold(Revision(1), SECOND, start);
        }
        assert!(holds.release(Revision(1)) && !holds.release(Revision(2)));
        assert_eq!(holds.expired(start + SECOND), [Revision(1), Revision(1)]);
        assert!(!holds.release(Revision(1)));
    }

    #[test]
    fn no_hold_is_for_ever() {
        let start = Instant::now();
        let mut holds = HoldDeadlines::new();
        holds.hold(Revision(1), Duration::MAX, start);
        assert_eq!(holds.next(), Some(start + HOLD_MAX));
    }
}
