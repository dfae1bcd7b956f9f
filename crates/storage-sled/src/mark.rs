//! The durable mark: how far each log is known to be on disk, told outside of the log.
//!
//! A log that sled cut short after damage looks like a shorter one; what the mark says was durable tells the two apart (C18).
//! It is written now and then and never synced: it lags behind, and is never ahead.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use coracle_core::{GroupId, Index, Term};
use coracle_storage::{Result, StorageError, files};
use serde::{Deserialize, Serialize};

use crate::codec;

const NAME: &[u8] = b"marks";

/// What was durable of one group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// How many writes; truncations do not lower it.
    pub(crate) generation: u64,
    /// The last index after them.
    pub(crate) last_index: Index,
    /// Its term.
    pub(crate) last_term: Term,
}

impl Mark {
    /// Fails when a log that was found lacks what this says was durable.
    pub(crate) fn check(&self, place: &str, generation: u64, last_index: Index) -> Result<()> {
        if generation >= self.generation {
            return Ok(());
        }
        let Mark { generation: durable, last_index: index, last_term } = self;
        let what = format!(
            "the log ends at {last_index} (write {generation}), but {index} of term {last_term} (write {durable}) was durable"
        );
        Err(StorageError::damaged(place, what))
    }
}

/// The marks of all groups.
#[derive(Debug)]
pub(crate) struct Marks {
    path: PathBuf,
    marks: BTreeMap<GroupId, Mark>,
    interval: Duration,
    written_at: Instant,
    is_dirty: bool,
}

impl Marks {
    /// Reads the file. A damaged one counts for nothing: it is not synced, so a power cut may leave it so.
    pub(crate) fn open(path: PathBuf, interval: Duration) -> Result<Marks> {
        let marks = match files::read(&path)?.map(|content| codec::open(NAME, &content)) {
            Some(Ok(marks)) => marks,
            Some(Err(what)) => {
                tracing::warn!(path = %path.display(), what, "the durable marks are damaged and count for nothing");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        Ok(Marks { path, marks, interval, written_at: Instant::now(), is_dirty: false })
    }

    /// What was durable of a group's log.
    pub(crate) fn mark(&self, group: GroupId) -> Option<&Mark> {
        self.marks.get(&group)
    }

    /// Notes what is durable, and writes the file if it is time.
    pub(crate) fn note(&mut self, durable: impl IntoIterator<Item = (GroupId, Mark)>) {
        self.marks.extend(durable);
        self.is_dirty = true;
        if self.written_at.elapsed() >= self.interval {
            self.write();
        }
    }

    fn write(&mut self) {
        let mut content = Vec::new();
        let written =
            codec::seal(NAME, &self.marks, &mut content).and_then(|()| files::replace_lazily(&self.path, &content));
        // Without a mark nothing is wrong, only less is noticed.
        if let Err(error) = written {
            tracing::warn!(%error, "the durable marks could not be written");
        }
        self.written_at = Instant::now();
        self.is_dirty = false;
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        if self.is_dirty {
            self.write();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::hex;

    #[test]
    fn marks_are_kept_and_damaged_ones_count_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let mark = Mark { generation: 3, last_index: Index(9), last_term: Term(2) };
        let mut marks = Marks::open(path.clone(), Duration::from_secs(3600)).unwrap();
        marks.note([(GroupId(1), mark)]);
        assert!(!path.exists(), "the interval has not passed");
        drop(marks);
        let fields =
            ["0268f7e7fb", "0100000000000000", "0100000000000000", "030000000000000009000000000000000200000000000000"];
        assert_eq!(hex(&std::fs::read(&path).unwrap()), fields.concat());
        assert_eq!(Marks::open(path.clone(), Duration::ZERO).unwrap().mark(GroupId(1)), Some(&mark));
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Marks::open(path, Duration::ZERO).unwrap().mark(GroupId(1)), None);
    }

    #[test]
    fn a_shorter_history_is_damage_and_a_longer_one_is_not() {
        let mark = Mark { generation: 3, last_index: Index(9), last_term: Term(2) };
        assert!(mark.check("log", 3, Index(9)).is_ok());
        // A truncation is a write too.
        assert!(mark.check("log", 4, Index(2)).is_ok());
        let error = mark.check("log", 2, Index(7)).unwrap_err().to_string();
        assert!(error.contains("ends at 7") && error.contains("9 of term 2"), "{error}");
    }
}
