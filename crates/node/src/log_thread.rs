//! The one thread that writes the logs of all groups.

use std::{
    collections::BTreeMap,
    io, iter,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use coracle_core::{GroupId, Persist, Run};
use coracle_replica::{Completion, Written, write_groups};
use coracle_storage::LogStore;

use crate::{inbox::Inbox, pool::Token};

/// The most bytes of entries that one write takes up: more that waits is the next one's.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// What a group wants written.
pub(crate) struct GroupWrite {
    pub(crate) group: GroupId,
    pub(crate) persist: Persist,
    /// Where its end is told.
    pub(crate) inbox: Arc<Inbox>,
    /// The group does not end before this is written.
    pub(crate) token: Token,
}

/// Starts the thread; it ends when the queue's other ends are dropped, and holds `token` until then.
pub(crate) fn start(log: Arc<dyn LogStore>, token: Token) -> io::Result<mpsc::Sender<GroupWrite>> {
    let (queue, queued) = mpsc::channel();
    thread::Builder::new().name("coracle-log".to_owned()).spawn(move || {
        run(&*log, &queued);
        // What is held of the store is let go before anyone is told that the thread has ended.
        drop(log);
        drop(token);
    })?;
    Ok(queue)
}

/// Writes what queued up while the last write was under way, of all groups, as one: group commit without a timer.
fn run(log: &dyn LogStore, queued: &mpsc::Receiver<GroupWrite>) {
    let mut failure = None;
    while let Ok(first) = queued.recv() {
        for portion in portions(iter::once(first).chain(queued.try_iter())) {
            write(log, portion, &mut failure);
        }
    }
}

/// One write. After a failure nothing is written any more, and each group learns why when it next writes (C18).
fn write(log: &dyn LogStore, portion: Vec<GroupWrite>, failure: &mut Option<String>) {
    let mut writes: BTreeMap<GroupId, Vec<Persist>> = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for GroupWrite { group, persist, inbox, token } in portion {
        writes.entry(group).or_default().push(persist);
        groups.insert(group, (inbox, token));
    }
    if failure.is_none() {
        match catch_unwind(AssertUnwindSafe(|| write_groups(log, writes.into_iter().collect()))) {
            Ok(written) => {
                *failure = written.failure.clone();
                return tell(&groups, written);
            }
            Err(_) => *failure = Some("the log's thread panicked".to_owned()),
        }
    }
    let Some(what) = failure else { return };
    for (inbox, _) in groups.values() {
        inbox.push_done(Completion::Failed { what: what.clone(), is_log: true });
    }
}

fn tell(groups: &BTreeMap<GroupId, (Arc<Inbox>, Token)>, written: Written) {
    for (group, completion) in written.completions {
        if let Some((inbox, _)) = groups.get(&group) {
            inbox.push_done(completion);
        }
    }
}

/// Cuts writes into portions of bounded size.
fn portions(writes: impl Iterator<Item = GroupWrite>) -> Vec<Vec<GroupWrite>> {
    let mut portions: Vec<Vec<GroupWrite>> = Vec::new();
    let mut bytes = 0;
    for write in writes {
        let runs = write.persist.entries.iter().chain(&write.persist.repaired);
        let size: usize = runs.map(Run::size).sum();
        bytes += size;
        match portions.last_mut() {
            Some(portion) if bytes <= WRITE_BYTES_MAX => portion.push(write),
            _ => {
                bytes = size;
                portions.push(vec![write]);
            }
        }
    }
    portions
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use coracle_core::{Entry, Index, LogRead, Term, Ticket};
    use coracle_storage::{LogBatch, RecoveredLog, Result, StorageError};

    use super::*;
    use crate::{inbox::Item, pool::Ended, tests::open_inbox};

    fn write_of(group: u64, ticket: u64, len: usize) -> (GroupWrite, Arc<Inbox>) {
        let entry = Entry::command(Bytes::from(vec![0; len]));
        let entries = vec![Run::new(Index(ticket), Term(1), [entry])];
        let persist = Persist {
            ticket: Ticket(ticket),
            truncate_from: None,
            repaired: Vec::new(),
            entries,
            hard_state: None,
            base: None,
        };
        let inbox = Arc::new(open_inbox());
        (GroupWrite { group: GroupId(group), persist, inbox: inbox.clone(), token: Ended::new().0 }, inbox)
    }

    /// A log that notes which groups each call is for, and does what it is told.
    struct Log {
        calls: Mutex<Vec<Vec<GroupId>>>,
        write: fn() -> Result<()>,
    }

    impl LogStore for Log {
        fn recover(&self, _: GroupId, _: usize) -> Result<RecoveredLog> {
            Ok(RecoveredLog::default())
        }
        fn write(&self, batches: &[LogBatch]) -> Result<()> {
            self.calls.lock().unwrap().push(batches.iter().map(|batch| batch.group).collect());
            (self.write)()
        }
        fn read(&self, _: GroupId, _: Index, _: Index, _: usize) -> Result<LogRead> {
            Ok(LogRead::Compacted)
        }
    }

    /// What the groups 1 to 3 are told after one write of each, and then one more of the first.
    fn told(write: fn() -> Result<()>) -> (usize, Vec<bool>) {
        let log = Log { calls: Mutex::default(), write };
        let mut failure = None;
        let (writes, mut inboxes): (Vec<_>, Vec<_>) = (1..=3).map(|group| write_of(group, 1, 1)).unzip();
        super::write(&log, writes, &mut failure);
        let (again, inbox) = write_of(1, 2, 1);
        super::write(&log, vec![again], &mut failure);
        inboxes.push(inbox);
        let is_written = |inbox: &Arc<Inbox>| {
            let mut items = Vec::new();
            inbox.take(&mut items);
            matches!(&items[..], [Item::Done(Completion::Written { .. })])
        };
        let calls = log.calls.lock().unwrap().len();
        (calls, inboxes.iter().map(is_written).collect())
    }

    #[test]
    fn what_queued_up_is_one_write_up_to_a_limit() {
        let tickets = |lens: &[usize]| -> Vec<Vec<u64>> {
            let writes = lens.iter().zip(1..).map(|(len, ticket)| write_of(ticket % 2, ticket, *len).0);
            let portions = portions(writes);
            portions.iter().map(|portion| portion.iter().map(|write| write.persist.ticket.0).collect()).collect()
        };
        assert_eq!(tickets(&[1, 1, 1]), [[1, 2, 3]]);
        assert_eq!(tickets(&[5 << 20, 5 << 20, 1]), [vec![1], vec![2, 3]]);
        assert_eq!(tickets(&[9 << 20, 9 << 20]), [[1], [2]]);
        assert!(tickets(&[]).is_empty());
    }

    #[test]
    fn all_groups_are_one_call_and_each_is_told() {
        assert_eq!(told(|| Ok(())), (2, vec![true; 4]));
    }

    #[test]
    fn c18_after_a_failure_nothing_is_written_any_more() {
        let fails = || Err(StorageError::io("sync", io::Error::other("gone")));
        assert_eq!(told(fails), (1, vec![false; 4]));
        assert_eq!(told(|| panic!("on purpose")), (1, vec![false; 4]));
    }
}
