//! The one thread that writes the logs of all groups.

use std::{
    collections::BTreeMap,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use coracle_core::{GroupId, Persist, Run};
use coracle_replica::{Completion, GroupWrites, NoSpace};
use coracle_storage::LogStore;

use crate::{inbox::Inbox, pool::Token};

/// The most bytes of entries that one write takes up: more that waits is the next one's.
const WRITE_BYTES_MAX: usize = 8 << 20;

/// How long a write that found no space waits before it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

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

/// What the thread does, and what it knows.
struct Writer<'a> {
    log: &'a dyn LogStore,
    queued: &'a mpsc::Receiver<GroupWrite>,
    /// What arrived while another write waited for space: at most one write of each group, as it has one on its way at a time.
    arrived: Vec<GroupWrite>,
    /// Why nothing is written any more.
    failure: Option<String>,
}

/// Where the end of each group's write is told.
type Ends = BTreeMap<GroupId, (Arc<Inbox>, Token)>;

/// Writes what queued up while the last write was under way, of all groups, as one: group commit without a timer.
fn run(log: &dyn LogStore, queued: &mpsc::Receiver<GroupWrite>) {
    let mut writer = Writer { log, queued, arrived: Vec::new(), failure: None };
    while let Some(writes) = writer.next() {
        for portion in portions(writes.into_iter()) {
            writer.write(portion);
        }
    }
}

impl Writer<'_> {
    /// Everything that waits; `None` when nobody is left to ask for anything.
    fn next(&mut self) -> Option<Vec<GroupWrite>> {
        let mut writes = mem::take(&mut self.arrived);
        if writes.is_empty() {
            writes.push(self.queued.recv().ok()?);
        }
        writes.extend(self.queued.try_iter());
        Some(writes)
    }

    /// One write. After a failure nothing is written any more, and each group learns why when it next writes (C18).
    fn write(&mut self, portion: Vec<GroupWrite>) {
        let mut writes: BTreeMap<GroupId, Vec<Persist>> = BTreeMap::new();
        let mut ends = Ends::new();
        for GroupWrite { group, persist, inbox, token } in portion {
            writes.entry(group).or_default().push(persist);
            ends.insert(group, (inbox, token));
        }
        let mut writes = GroupWrites::new(writes.into_iter().collect());
        while self.failure.is_none() && !writes.is_empty() {
            self.attempt(&mut writes, &ends);
        }
        let Some(what) = &self.failure else { return };
        for group in writes.groups() {
            tell(&ends, group, Completion::Failed { what: what.clone(), is_log: true, is_damage: false });
        }
    }

    /// Writes once. Without space nothing was written: all groups wait, since they share the disk, and the same is tried again (C18).
    fn attempt(&mut self, writes: &mut GroupWrites, ends: &Ends) {
        let Ok(written) = catch_unwind(AssertUnwindSafe(|| writes.write(self.log))) else {
            self.failure = Some("the log's thread panicked".to_owned());
            return;
        };
        for (group, completion) in written.completions {
            tell(ends, group, completion);
        }
        self.failure = written.failure;
        let Some(no_space) = written.no_space else { return };
        for group in writes.groups() {
            tell(ends, group, Completion::NoSpace(no_space.clone()));
        }
        let is_anybody_left = self.pause(&no_space);
        // A group that has ended waits for nothing: what was not written was not acknowledged either.
        writes.retain(|group| is_anybody_left && ends.get(&group).is_some_and(|(inbox, _)| !inbox.is_closed()));
    }

    /// Waits before the next attempt, not longer than there is somebody to write for; says whether there is.
    fn pause(&mut self, no_space: &NoSpace) -> bool {
        let end = Instant::now() + RETRY_INTERVAL;
        loop {
            match self.queued.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(write) => {
                    write.inbox.push_done(Completion::NoSpace(no_space.clone()));
                    self.arrived.push(write);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return true,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    self.arrived.clear();
                    return false;
                }
            }
        }
    }
}

fn tell(ends: &Ends, group: GroupId, completion: Completion) {
    if let Some((inbox, _)) = ends.get(&group) {
        inbox.push_done(completion);
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
        let entries = Run::new(Index(ticket), Term(1), [entry]).into();
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

    /// A log that notes which groups each call is for, and does what it is told: the number of the call comes along.
    struct Log {
        calls: Mutex<Vec<Vec<GroupId>>>,
        write: fn(usize) -> Result<()>,
    }

    impl Log {
        fn new(write: fn(usize) -> Result<()>) -> Log {
            Log { calls: Mutex::default(), write }
        }
    }

    impl LogStore for Log {
        fn recover(&self, _: GroupId, _: usize) -> Result<RecoveredLog> {
            Ok(RecoveredLog::default())
        }
        fn write(&self, batches: &[LogBatch]) -> Result<()> {
            let number = {
                let mut calls = self.calls.lock().unwrap();
                calls.push(batches.iter().map(|batch| batch.group).collect());
                calls.len()
            };
            (self.write)(number)
        }
        fn read(&self, _: GroupId, _: Index, _: Index, _: usize) -> Result<LogRead> {
            Ok(LogRead::Compacted)
        }
    }

    /// What arrived: `w`ritten, `n`o space or `f`ailed.
    fn ends(inbox: &Inbox) -> String {
        let mut items = Vec::new();
        inbox.take(&mut items);
        let letter = |item: Item| match item {
            Item::Done(Completion::Written { .. }) => 'w',
            Item::Done(Completion::NoSpace(_)) => 'n',
            Item::Done(Completion::Failed { .. }) => 'f',
            _ => '?',
        };
        items.into_iter().map(letter).collect()
    }

    /// What the groups 1 to 3 are told after one write of each, and then one more of the first; and how many calls that took.
    fn told(write: fn(usize) -> Result<()>) -> (usize, Vec<String>) {
        let log = Log::new(write);
        let (queue, queued) = mpsc::channel();
        let mut writer = Writer { log: &log, queued: &queued, arrived: Vec::new(), failure: None };
        let (writes, mut inboxes): (Vec<_>, Vec<_>) = (1..=3).map(|group| write_of(group, 1, 1)).unzip();
        writer.write(writes);
        let (again, inbox) = write_of(1, 2, 1);
        writer.write(vec![again]);
        inboxes.push(inbox);
        drop(queue);
        let calls = log.calls.lock().unwrap().len();
        (calls, inboxes.iter().map(|inbox| ends(inbox)).collect())
    }

    fn full() -> Result<()> {
        Err(StorageError::Full { place: "d".to_owned(), needed: 1 })
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
        assert_eq!(told(|_| Ok(())), (2, ["w"; 4].map(str::to_owned).to_vec()));
    }

    #[test]
    fn c18_after_a_failure_nothing_is_written_any_more() {
        let failed = ["f"; 4].map(str::to_owned).to_vec();
        assert_eq!(told(|_| Err(StorageError::io("sync", io::Error::other("gone")))), (1, failed.clone()));
        assert_eq!(told(|_| panic!("on purpose")), (1, failed));
    }

    #[test]
    fn c18_without_space_all_groups_wait_and_the_same_is_written_again() {
        let told = told(|number| if number <= 2 { full() } else { Ok(()) });
        assert_eq!(told, (4, ["nnw", "nnw", "nnw", "w"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn c18_what_arrives_while_there_is_no_space_is_told_and_written_after_it() {
        let log = Log::new(|number| if number == 1 { full() } else { Ok(()) });
        let (queue, queued) = mpsc::channel();
        let ((first, first_told), (second, second_told)) = (write_of(1, 1, 1), write_of(2, 1, 1));
        let mut writer = Writer { log: &log, queued: &queued, arrived: Vec::new(), failure: None };
        queue.send(second).unwrap();
        writer.write(vec![first]);
        let next = writer.next().unwrap();
        writer.write(next);
        assert_eq!((ends(&first_told), ends(&second_told)), ("nw".to_owned(), "nw".to_owned()));
        let groups = |calls: &[&[u64]]| -> Vec<Vec<GroupId>> {
            calls.iter().map(|call| call.iter().map(|group| GroupId(*group)).collect()).collect()
        };
        assert_eq!(*log.calls.lock().unwrap(), groups(&[&[1], &[1], &[2]]));
    }

    #[test]
    fn c18_a_write_that_waits_for_space_does_not_outlive_its_group() {
        let log = Log::new(|_| full());
        let (queue, queued) = mpsc::channel();
        let ((first, first_told), (second, second_told)) = (write_of(1, 1, 1), write_of(2, 1, 1));
        first_told.close();
        let mut writer = Writer { log: &log, queued: &queued, arrived: Vec::new(), failure: None };
        writer.write(vec![first]);
        assert_eq!(log.calls.lock().unwrap().len(), 1, "its group has ended");
        // Nobody is left who could ask for anything.
        drop(queue);
        writer.write(vec![second]);
        assert_eq!((log.calls.lock().unwrap().len(), ends(&second_told)), (2, "n".to_owned()));
        assert!(writer.next().is_none());
    }
}
