//! Which revisions are held, and what the machine and the readers of its snapshots share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What the machine and the readers of its snapshots, on other threads, share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pins: Mutex<Pins>,
    /// Locked while a batch is being written.
    writing: Mutex<()>,
}

/// Revisions with how often each is held.
#[derive(Debug, Default)]
struct Pins {
    /// By clients, which may release more often than they held.
    clients: BTreeMap<u64, u32>,
    /// By readers of snapshots, out of the clients' reach.
    snapshots: BTreeMap<u64, u32>,
    /// Raised when the whole state is replaced: what was held before is gone.
    generation: u64,
    /// Whether a revision was let go of since the last look.
    released: bool,
}

impl Shared {
    fn pins(&self) -> MutexGuard<'_, Pins> {
        // Whoever panicked did so between whole changes.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a revision for a client, unless `max` others are held already: then their number.
    pub(super) fn hold(&self, revision: u64, max: usize) -> Result<(), usize> {
        let mut pins = self.pins();
        if !pins.clients.contains_key(&revision) && pins.clients.len() >= max {
            return Err(pins.clients.len() + 1);
        }
        let count = pins.clients.entry(revision).or_default();
        *count = count.saturating_add(1);
        Ok(())
    }

    /// Lets go of one hold of a client's.
    pub(super) fn release(&self, revision: u64) {
        let mut pins = self.pins();
        pins.released |= decrement(&mut pins.clients, revision);
    }

    /// Whether a client holds the revision.
    pub(super) fn is_held(&self, revision: u64) -> bool {
        self.pins().clients.contains_key(&revision)
    }

    /// Holds a revision until the pin is dropped.
    pub(super) fn pin(self: &Arc<Shared>, revision: u64) -> Pin {
        let mut pins = self.pins();
        *pins.snapshots.entry(revision).or_default() += 1;
        Pin { shared: self.clone(), revision, generation: pins.generation }
    }

    /// Whether a held revision shows a value that was current from `modified` until `replaced` did away with it.
    pub(super) fn is_needed(&self, modified: u64, replaced: u64) -> bool {
        let pins = self.pins();
        let shows = |held: &BTreeMap<u64, u32>| modified < replaced && held.range(modified..replaced).next().is_some();
        shows(&pins.clients) || shows(&pins.snapshots)
    }

    /// Whether a revision was let go of since the last call.
    pub(super) fn take_released(&self) -> bool {
        std::mem::take(&mut self.pins().released)
    }

    /// The whole state is about to be replaced: nothing is held any more.
    pub(super) fn replace(&self) {
        let mut pins = self.pins();
        let generation = pins.generation + 1;
        *pins = Pins { generation, ..Pins::default() };
    }

    /// Held while a batch is being written.
    pub(super) fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one away; whether none is left.
fn decrement(held: &mut BTreeMap<u64, u32>, revision: u64) -> bool {
    let Some(count) = held.get_mut(&revision) else { return false };
    *count -= 1;
    if *count == 0 {
        held.remove(&revision);
        return true;
    }
    false
}

/// Holds a revision for the reader of a snapshot.
#[derive(Debug)]
pub(super) struct Pin {
    shared: Arc<Shared>,
    revision: u64,
    generation: u64,
}

impl Pin {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether the state is still the one that was pinned. What was read before this said yes is of that state.
    pub(super) fn is_valid(&self) -> bool {
        self.shared.pins().generation == self.generation
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins();
        if pins.generation == self.generation {
            pins.released |= decrement(&mut pins.snapshots, self.revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_needed_while_a_hold_lies_in_its_life() {
        let shared = Shared::default();
        assert!(!shared.is_needed(1, 9));
        shared.hold(5, 8).unwrap();
        assert!(shared.is_needed(5, 6) && shared.is_needed(1, 9));
        assert!(!shared.is_needed(1, 5) && !shared.is_needed(6, 9) && !shared.is_needed(5, 5));
    }

    #[test]
    fn holds_are_counted_and_bounded() {
        let shared = Shared::default();
        shared.hold(1, 2).unwrap();
        shared.hold(1, 2).unwrap();
        shared.hold(2, 2).unwrap();
        assert_eq!(shared.hold(3, 2), Err(3));
        shared.release(1);
        assert!(shared.is_held(1) && !shared.take_released());
        shared.release(1);
        assert!(!shared.is_held(1) && shared.take_released() && !shared.take_released());
    }

    #[test]
    fn a_client_cannot_release_what_a_snapshot_needs() {
        let shared = Arc::new(Shared::default());
        let pin = shared.pin(4);
        shared.release(4);
        assert!(shared.is_needed(4, 5) && !shared.is_held(4));
        drop(pin);
        assert!(!shared.is_needed(4, 5) && shared.take_released());
    }

    #[test]
    fn a_pin_of_a_replaced_state_is_invalid_and_releases_nothing() {
        let shared = Arc::new(Shared::default());
        let old = shared.pin(4);
        shared.replace();
        let new = shared.pin(4);
        assert!(!old.is_valid() && new.is_valid());
        drop(old);
        assert!(shared.is_needed(4, 5));
    }
}
