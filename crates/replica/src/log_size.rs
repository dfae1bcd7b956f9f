//! How much log there is.

use std::collections::VecDeque;

use coracle_core::{Index, Persist, Recovered};

/// Sizes are kept for stretches of at least so many bytes.
const STRETCH_BYTES: u64 = 64 << 10;

/// The size of the retained log, by stretches of entries.
#[derive(Debug)]
pub(crate) struct LogSize {
    /// In order, without gaps.
    stretches: VecDeque<Stretch>,
    /// The sum of the stretches.
    bytes: u64,
    /// Everything ever appended: tells how much has come since an earlier look.
    appended: u64,
}

#[derive(Debug)]
struct Stretch {
    first: Index,
    last: Index,
    bytes: u64,
}

impl LogSize {
    /// The size of what was recovered; the entries that did not come along are taken to be like those that did.
    pub(crate) fn new(recovered: &Recovered) -> LogSize {
        let mut size = LogSize { stretches: VecDeque::new(), bytes: 0, appended: 0 };
        let tail_bytes: u64 = recovered.tail.iter().map(|run| run.size() as u64).sum();
        let tail_entries: u64 = recovered.tail.iter().map(|run| run.len() as u64).sum();
        let tail_first = recovered.tail.first().map_or(recovered.last_index.next(), |run| run.first());
        let older = tail_first.prev().0.saturating_sub(recovered.base.index.0);
        if older > 0 {
            let bytes = (tail_bytes / tail_entries.max(1)).saturating_mul(older);
            size.append(recovered.base.index.next(), tail_first.prev(), bytes);
        }
        for run in &recovered.tail {
            size.append(run.first(), run.last(), run.size() as u64);
        }
        size
    }

    /// Takes note of a write.
    pub(crate) fn record(&mut self, write: &Persist) {
        if let Some(from) = write.truncate_from {
            self.cut_off(from);
        }
        for run in &write.entries {
            self.append(run.first(), run.last(), run.size() as u64);
        }
        if let Some(base) = &write.base {
            self.drop_up_to(base.index);
        }
    }

    /// The bytes of the log.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes ever appended.
    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// The lowest index such that what follows it takes at most `bytes`, to the precision of a stretch.
    pub(crate) fn index_before_last(&self, bytes: u64) -> Index {
        let mut sum = 0;
        for stretch in self.stretches.iter().rev() {
            sum += stretch.bytes;
            if sum > bytes {
                return stretch.last;
            }
        }
        Index::ZERO
    }

    fn append(&mut self, first: Index, last: Index, bytes: u64) {
        self.bytes += bytes;
        self.appended += bytes;
        match self.stretches.back_mut() {
            Some(stretch) if stretch.bytes < STRETCH_BYTES => {
                stretch.last = last;
                stretch.bytes += bytes;
            }
            _ => self.stretches.push_back(Stretch { first, last, bytes }),
        }
    }

    fn cut_off(&mut self, from: Index) {
        while let Some(stretch) = self.stretches.back_mut() {
            if stretch.last < from {
                return;
            }
            let kept = from.0.saturating_sub(stretch.first.0);
            self.bytes -= stretch.bytes;
            if kept > 0 {
                stretch.shrink(kept);
                stretch.last = from.prev();
                self.bytes += stretch.bytes;
                return;
            }
            self.stretches.pop_back();
        }
    }

    fn drop_up_to(&mut self, index: Index) {
        while let Some(stretch) = self.stretches.front_mut() {
            if stretch.first > index {
                return;
            }
            let kept = stretch.last.0.saturating_sub(index.0);
            self.bytes -= stretch.bytes;
            if kept > 0 {
                stretch.shrink(kept);
                stretch.first = index.next();
                self.bytes += stretch.bytes;
                return;
            }
            self.stretches.pop_front();
        }
    }
}

impl Stretch {
    /// The entries of a stretch are taken to be of one size.
    fn shrink(&mut self, kept: u64) {
        let entries = self.last.0 - self.first.0 + 1;
        self.bytes = (u128::from(self.bytes) * u128::from(kept) / u128::from(entries)) as u64;
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Base, Entry, Run, Term, Ticket};

    use super::*;

    fn write(first: u64, count: usize, bytes: usize) -> Persist {
        let entries: Vec<Entry> = (0..count).map(|_| Entry::command(vec![0; bytes])).collect();
        let entries = if count == 0 { Vec::new() } else { vec![Run::new(Index(first), Term(1), entries)] };
        Persist {
            ticket: Ticket(1),
            truncate_from: None,
            repaired: vec![],
            entries: entries.into(),
            hard_state: None,
            base: None,
        }
    }

    fn empty() -> LogSize {
        LogSize { stretches: VecDeque::new(), bytes: 0, appended: 0 }
    }

    #[test]
    fn truncation_and_compaction_take_away_their_share() {
        let mut size = empty();
        for i in 0..20 {
            size.record(&write(i * 10 + 1, 10, 10_000));
        }
        let entry = size.bytes() / 200;
        size.record(&Persist { truncate_from: Some(Index(151)), ..write(0, 0, 0) });
        assert!(size.bytes().abs_diff(150 * entry) <= 20);
        let base = Base { index: Index(100), ..Base::default() };
        size.record(&Persist { base: Some(base.into()), ..write(0, 0, 0) });
        assert!(size.bytes().abs_diff(50 * entry) <= 20);
        assert_eq!(size.index_before_last(u64::MAX), Index::ZERO);
        let index = size.index_before_last(20 * entry);
        assert!(index > Index(100) && index <= Index(150), "{index}");
        size.record(&Persist { truncate_from: Some(Index(101)), ..write(0, 0, 0) });
        assert_eq!(size.bytes(), 0);
    }

    #[test]
    fn small_writes_share_a_stretch() {
        let mut size = empty();
        for i in 1..=10_000 {
            size.record(&write(i, 1, 100));
        }
        assert!(size.stretches.len() < 20);
    }
}
