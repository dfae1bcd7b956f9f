//! The simulated disk's ordered map.

use std::{
    collections::BTreeMap,
    mem,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use coracle_core::{Index, Rng};
use coracle_storage::{KvBatch, KvOp, KvStore, Page, Result, ScanRange, StorageError};

use super::{
    lock,
    switch::{DiskOp, Switch},
};

/// How many batches may wait before the oldest reach the disk by themselves, as they do with a real store.
const JOURNAL_MAX: usize = 512;

/// A map whose batches are durable when flushed; a crash leaves a prefix of the others.
#[derive(Debug, Default)]
pub(super) struct SimKv {
    state: Mutex<State>,
    switch: Arc<Switch>,
}

#[derive(Clone, Debug)]
struct Map {
    rows: BTreeMap<Bytes, Bytes>,
    applied: Option<Index>,
}

#[derive(Debug)]
struct State {
    seen: Map,
    durable: Map,
    journal: Vec<(KvBatch, Index)>,
    /// All data has been replaced, and that is not durable yet: a crash leaves all of it or, as in the midst of it, nothing that can be used.
    is_replaced: bool,
}

impl Default for State {
    fn default() -> State {
        State::of(Map { rows: BTreeMap::new(), applied: Some(Index::ZERO) })
    }
}

impl Map {
    fn write(&mut self, batch: &KvBatch, applied: Index) {
        for op in batch {
            match op {
                KvOp::Put(key, value) => drop(self.rows.insert(key.clone(), value.clone())),
                KvOp::Delete(key) => drop(self.rows.remove(key)),
            }
        }
        self.applied = Some(applied);
    }
}

impl State {
    fn of(map: Map) -> State {
        State { seen: map.clone(), durable: map, journal: Vec::new(), is_replaced: false }
    }

    fn sync(&mut self, count: usize) {
        for (batch, applied) in self.journal.drain(..count) {
            self.durable.write(&batch, applied);
        }
    }
}

impl SimKv {
    pub(super) fn new(switch: Arc<Switch>) -> SimKv {
        SimKv { state: Mutex::default(), switch }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// What has replaced all data is durable.
    pub(super) fn settle(&self) {
        self.state().is_replaced = false;
    }

    pub(super) fn crash(&self, rng: &mut Rng) {
        let mut state = self.state();
        if mem::take(&mut state.is_replaced) && rng.chance(0.5) {
            *state = State::of(Map { rows: BTreeMap::new(), applied: None });
        }
        let survive = rng.below(state.journal.len() as u64 + 1) as usize;
        state.sync(survive);
        state.journal.clear();
        state.seen = state.durable.clone();
    }
}

impl KvStore for SimKv {
    fn applied(&self) -> Result<Option<Index>> {
        Ok(self.state().seen.applied)
    }

    fn write(&self, batch: KvBatch, applied: Index) -> Result<()> {
        self.switch.operate(DiskOp::MapWrite)?;
        let mut state = self.state();
        let Some(before) = state.seen.applied else {
            return Err(StorageError::Invalid("a batch while all data is being replaced".into()));
        };
        if applied < before {
            return Err(StorageError::Invalid(format!("applied falls from {before} to {applied}")));
        }
        state.seen.write(&batch, applied);
        state.journal.push((batch, applied));
        if state.journal.len() > JOURNAL_MAX {
            state.sync(JOURNAL_MAX / 2);
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.switch.operate(DiskOp::MapRead)?;
        Ok(self.state().seen.rows.get(key).cloned())
    }

    fn scan(&self, range: &ScanRange, count_max: usize, bytes_max: usize) -> Result<Page> {
        self.switch.operate(DiskOp::MapRead)?;
        let state = self.state();
        if is_empty(range) {
            return Ok(Page::new());
        }
        let rows = state.seen.rows.range::<Bytes, _>((range.from.as_ref(), range.to.as_ref()));
        let rows: &mut dyn Iterator<Item = (&Bytes, &Bytes)> =
            if range.reverse { &mut rows.rev() } else { &mut { rows } };
        let mut page = Page::new();
        let mut bytes = 0;
        for (key, value) in rows.take(count_max) {
            bytes += key.len() + value.len();
            page.push((key.clone(), value.clone()));
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(page)
    }

    fn flush(&self) -> Result<Index> {
        let mut state = self.state();
        let all = state.journal.len();
        state.sync(all);
        state.durable.applied.ok_or_else(|| StorageError::Invalid("a flush while all data is being replaced".into()))
    }

    fn replace_begin(&self) -> Result<()> {
        *self.state() = State::of(Map { rows: BTreeMap::new(), applied: None });
        Ok(())
    }

    fn replace_add(&self, page: Page) -> Result<()> {
        let mut state = self.state();
        if state.seen.applied.is_some() {
            return Err(StorageError::Invalid("replace_add before replace_begin".into()));
        }
        state.seen.rows.extend(page);
        Ok(())
    }

    fn replace_end(&self, applied: Index) -> Result<()> {
        let mut state = self.state();
        if state.seen.applied.is_some() {
            return Err(StorageError::Invalid("replace_end before replace_begin".into()));
        }
        state.seen.applied = Some(applied);
        state.durable = state.seen.clone();
        state.is_replaced = true;
        Ok(())
    }
}

/// Whether the bounds exclude everything; the standard map panics on some of these.
fn is_empty(range: &ScanRange) -> bool {
    match (&range.from, &range.to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8) -> KvBatch {
        vec![KvOp::Put(Bytes::copy_from_slice(&[key]), Bytes::from_static(b"v"))]
    }

    #[test]
    fn c07_a_crash_leaves_a_prefix_of_the_batches_after_the_flush() {
        for seed in 0..50 {
            let kv = SimKv::default();
            for index in 1..=3 {
                kv.write(put(index), Index(u64::from(index))).unwrap();
            }
            assert_eq!(kv.flush().unwrap(), Index(3));
            kv.write(put(4), Index(4)).unwrap();
            kv.write(put(5), Index(5)).unwrap();
            kv.crash(&mut Rng::new(seed));
            let applied = kv.applied().unwrap().unwrap();
            assert!((3..=5).contains(&applied.0));
            assert_eq!(kv.state().seen.rows.len() as u64, applied.0);
        }
    }

    #[test]
    fn a_crash_between_replace_begin_and_end_leaves_no_index() {
        let kv = SimKv::default();
        kv.write(put(1), Index(1)).unwrap();
        kv.replace_begin().unwrap();
        kv.replace_add(vec![(Bytes::from_static(b"k"), Bytes::new())]).unwrap();
        kv.crash(&mut Rng::new(1));
        assert_eq!(kv.applied().unwrap(), None);
    }

    #[test]
    fn a_crash_before_a_replacement_has_settled_leaves_all_of_it_or_no_index() {
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let kv = SimKv::default();
            kv.replace_begin().unwrap();
            kv.replace_end(Index(7)).unwrap();
            kv.crash(&mut Rng::new(seed));
            found.insert(kv.applied().unwrap());
        }
        assert_eq!(found, [None, Some(Index(7))].into());
        let kv = SimKv::default();
        kv.replace_begin().unwrap();
        kv.replace_end(Index(7)).unwrap();
        kv.settle();
        kv.crash(&mut Rng::new(1));
        assert_eq!(kv.applied().unwrap(), Some(Index(7)));
    }

    #[test]
    fn scans_go_both_ways_and_stop_at_their_limits() {
        let kv = SimKv::default();
        for key in 1..=5 {
            kv.write(put(key), Index(u64::from(key))).unwrap();
        }
        let keys = |from, to, reverse, count, bytes| {
            let page = kv.scan(&ScanRange { from, to, reverse }, count, bytes).unwrap();
            page.iter().map(|(key, _)| key[0]).collect::<Vec<_>>()
        };
        let bound = |key: u8| Bytes::copy_from_slice(&[key]);
        assert_eq!(keys(Bound::Unbounded, Bound::Unbounded, false, 3, 100), [1, 2, 3]);
        assert_eq!(keys(Bound::Unbounded, Bound::Excluded(bound(4)), true, 9, 100), [3, 2, 1]);
        assert_eq!(keys(Bound::Unbounded, Bound::Unbounded, true, 9, 1), [5]);
        assert!(keys(Bound::Excluded(bound(4)), Bound::Excluded(bound(4)), false, 9, 9).is_empty());
    }
}
