//! Writes of several groups that go to the log together.

use coracle_core::{GroupId, Persist, Ticket};
use coracle_storage::{LogBatch, LogStore, StorageError};

use crate::{
    Completion,
    log_worker::{complete, last_ticket, merge},
};

/// What several groups want written: kept until it is, or until it cannot be.
#[derive(Debug, Default)]
pub struct GroupWrites {
    waiting: Vec<Waiting>,
}

/// What one group wants written.
#[derive(Debug)]
struct Waiting {
    group: GroupId,
    ticket: Ticket,
    batches: Vec<LogBatch>,
}

/// What came of a write of several groups.
#[derive(Debug, Default)]
pub struct Written {
    /// Each group's own end.
    pub completions: Vec<(GroupId, Completion)>,
    /// Why the store is to be written to no more, for any group (C18).
    pub failure: Option<String>,
    /// What was missing, when there was no space: nothing was written for the groups without an end, and they wait.
    pub no_space: Option<NoSpace>,
}

/// Where there is no space, and how much is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no space in {place}: {needed} bytes are needed")]
pub struct NoSpace {
    /// Where.
    pub place: String,
    /// How many bytes.
    pub needed: u64,
}

impl GroupWrites {
    /// What each group wants written, in its order.
    pub fn new(writes: Vec<(GroupId, Vec<Persist>)>) -> GroupWrites {
        let waiting = writes.into_iter().map(|(group, writes)| Waiting {
            group,
            ticket: last_ticket(&writes),
            batches: merge(group, writes),
        });
        GroupWrites { waiting: waiting.collect() }
    }

    /// The groups that wait.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.waiting.iter().map(|waiting| waiting.group)
    }

    /// The last ticket of each group that waits.
    pub fn tickets(&self) -> impl Iterator<Item = Ticket> {
        self.waiting.iter().map(|waiting| waiting.ticket)
    }

    /// Whether nothing waits any more.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets only these groups wait on.
    pub fn retain(&mut self, mut is_kept: impl FnMut(GroupId) -> bool) {
        self.waiting.retain(|waiting| is_kept(waiting.group));
    }

    /// Writes what waits in one call of the store: one sync for all of it.
    /// When there is no space, nothing is written: call it again later (C18).
    pub fn write(&mut self, log: &dyn LogStore) -> Written {
        let batches: Vec<LogBatch> = self.waiting.iter().flat_map(|waiting| waiting.batches.iter().cloned()).collect();
        match log.write(&batches) {
            Err(StorageError::Full { place, needed }) => {
                Written { no_space: Some(NoSpace { place, needed }), ..Written::default() }
            }
            Err(StorageError::Invalid(_)) if self.waiting.len() > 1 => self.write_each(log),
            result => {
                let ends = self.waiting.drain(..).map(|it| (it.group, complete(it.ticket, result.as_ref())));
                Written { completions: ends.collect(), failure: failure(&result), no_space: None }
            }
        }
    }

    /// Nothing was written, because of one group's mistake: the others do not suffer for it.
    fn write_each(&mut self, log: &dyn LogStore) -> Written {
        let mut written = Written::default();
        while !self.waiting.is_empty() {
            let (group, ticket) = (self.waiting[0].group, self.waiting[0].ticket);
            let completion = match &written.failure {
                Some(what) => Completion::Failed { what: what.clone(), is_log: true, is_damage: false },
                None => match log.write(&self.waiting[0].batches) {
                    Err(StorageError::Full { place, needed }) => {
                        written.no_space = Some(NoSpace { place, needed });
                        return written;
                    }
                    result => {
                        written.failure = failure(&result);
                        complete(ticket, result.as_ref())
                    }
                },
            };
            written.completions.push((group, completion));
            self.waiting.remove(0);
        }
        written
    }
}

/// A failure after which nothing is written any more.
fn failure(result: &Result<(), StorageError>) -> Option<String> {
    let error = result.as_ref().err().filter(|error| !matches!(error, StorageError::Invalid(_)));
    error.map(|error| format!("the log: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use coracle_core::{Entry, Index, LogRead, Membership, NodeId, Run, Term};
    use coracle_storage::RecoveredLog;

    use super::*;
    use crate::testing::MemoryLog;

    /// Counts calls, calls what one group wants invalid, and has no space while it is told so.
    #[derive(Default)]
    struct Counting {
        calls: AtomicUsize,
        invalid: Option<GroupId>,
        /// No space for writes of this group.
        full: Option<GroupId>,
        is_full: AtomicBool,
    }

    impl LogStore for Counting {
        fn recover(&self, _: GroupId, _: usize) -> Result<RecoveredLog, StorageError> {
            Ok(RecoveredLog::default())
        }
        fn write(&self, batches: &[LogBatch]) -> Result<(), StorageError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let is_for = |group: Option<GroupId>| batches.iter().any(|batch| Some(batch.group) == group);
            if is_for(self.invalid) {
                return Err(StorageError::Invalid("a gap".to_owned()));
            }
            match is_for(self.full) && self.is_full.load(Ordering::Relaxed) {
                true => Err(StorageError::Full { place: "d".to_owned(), needed: 7 }),
                false => Ok(()),
            }
        }
        fn read(&self, _: GroupId, _: Index, _: Index, _: usize) -> Result<LogRead, StorageError> {
            Ok(LogRead::Compacted)
        }
    }

    /// Two entries in two writes of each group.
    fn writes(groups: impl IntoIterator<Item = u64>) -> GroupWrites {
        let persist = |ticket| Persist {
            ticket: Ticket(ticket),
            truncate_from: None,
            repaired: Vec::new(),
            entries: Run::new(Index(ticket + 1), Term(1), [Entry::noop()]).into(),
            hard_state: None,
            base: None,
        };
        GroupWrites::new(groups.into_iter().map(|group| (GroupId(group), vec![persist(1), persist(2)])).collect())
    }

    fn is_written((_, done): &(GroupId, Completion)) -> bool {
        matches!(done, Completion::Written { ticket: Ticket(2) })
    }

    #[test]
    fn the_writes_of_all_groups_are_one_call() {
        let (log, mut writes) = (Counting::default(), writes(1..=3));
        let done = writes.write(&log).completions;
        assert!(done.len() == 3 && done.iter().all(is_written), "{done:?}");
        assert!(writes.is_empty() && log.calls.load(Ordering::Relaxed) == 1);
    }

    #[test]
    fn an_invalid_batch_fails_its_own_group_only() {
        let log = Counting { invalid: Some(GroupId(2)), ..Counting::default() };
        let Written { completions, failure, no_space } = writes(1..=3).write(&log);
        let failed: Vec<GroupId> = completions
            .iter()
            .filter(|(_, done)| matches!(done, Completion::Failed { is_log: true, .. }))
            .map(|(group, _)| *group)
            .collect();
        assert_eq!((completions.len(), failed, failure, no_space), (3, vec![GroupId(2)], None, None));
    }

    #[test]
    fn c18_a_failed_write_fails_all_groups_and_those_that_follow() {
        let log = MemoryLog::founded(&Membership::of_voters([NodeId(1)]));
        log.fail();
        let Written { completions, failure, .. } = writes(1..=2).write(&log);
        assert!(completions.iter().all(|(_, done)| matches!(done, Completion::Failed { .. })), "{completions:?}");
        assert!(completions.len() == 2 && failure.is_some());
    }

    #[test]
    fn c18_without_space_all_groups_wait_and_the_same_is_written_later() {
        let log = Counting { full: Some(GroupId(2)), is_full: true.into(), ..Counting::default() };
        let mut writes = writes(1..=3);
        for _ in 0..2 {
            let Written { completions, failure, no_space } = writes.write(&log);
            assert_eq!((completions.len(), failure), (0, None));
            assert_eq!(no_space.unwrap().to_string(), "no space in d: 7 bytes are needed");
            assert_eq!(writes.groups().count(), 3);
        }
        log.is_full.store(false, Ordering::Relaxed);
        let done = writes.write(&log).completions;
        assert!(done.len() == 3 && done.iter().all(is_written), "{done:?}");
    }

    #[test]
    fn c18_groups_that_have_an_end_are_not_written_again_when_another_one_waits_for_space() {
        let full = GroupId(2);
        let log = Counting { invalid: Some(GroupId(1)), full: Some(full), is_full: true.into(), ..Counting::default() };
        let mut writes = writes(1..=3);
        // As long as the first group is among them, the store complains of that.
        let Written { completions, no_space, .. } = writes.write(&log);
        assert!(matches!(&completions[..], [(GroupId(1), Completion::Failed { .. })]) && no_space.is_some());
        assert_eq!(writes.groups().collect::<Vec<_>>(), [full, GroupId(3)]);
        writes.retain(|group| group != full);
        let done = writes.write(&log).completions;
        assert!(matches!(&done[..], [(GroupId(3), Completion::Written { .. })]), "{done:?}");
    }
}
