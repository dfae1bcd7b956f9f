//! The logs of all groups.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod record;
mod recover;
mod row;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use coracle_core::{EntryKind, GroupId, HardState, Index, LogRead, Run};
use coracle_storage::{Bounded, LogBatch, LogShape, LogStore, RecoveredLog, Result, StorageError};

use crate::{
    lock,
    script::{Commands, Kind},
    server::{Lane, Server},
};

/// How many compacted rows one write deletes beside its own work.
const PURGED_MAX: u64 = 1_000;
/// How much one request reads: a server does nothing else meanwhile.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ROWS: usize = 4_096;

/// The logs of all groups: a hash for what a log is, and one for its rows.
pub(crate) struct RedisLog {
    server: Arc<Server>,
    lane: Lane,
    /// What the last write left behind; only logs that were met.
    heads: Mutex<HashMap<GroupId, Head>>,
}

/// A log without its rows.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Head {
    hard_state: HardState,
    shape: LogShape,
    /// The indexes of the memberships; `None` when they are not all known.
    memberships: Option<Vec<Index>>,
    /// There are no rows at or below this index.
    purged: Index,
    /// Whether anything was ever written.
    is_written: bool,
}

/// The keys of one group's log.
struct Keys {
    state: String,
    rows: String,
}

impl Keys {
    fn of(server: &Server, group: GroupId) -> Keys {
        Keys { state: server.key(&format!("log:{group}")), rows: server.key(&format!("log:{group}:rows")) }
    }
}

impl RedisLog {
    pub(crate) fn new(server: Arc<Server>) -> RedisLog {
        RedisLog { server, lane: Lane::new("log"), heads: Mutex::default() }
    }

    /// The head of a log, which is read when it was not met yet.
    fn head(&self, heads: &mut HashMap<GroupId, Head>, group: GroupId) -> Result<Head> {
        if let Some(head) = heads.get(&group) {
            return Ok(head.clone());
        }
        let (head, _) = recover::scan(&self.server, group, 0)?;
        heads.insert(group, head.clone());
        Ok(head)
    }

    /// One page of rows, from what lies at `from`: where the log begins and ends, and the rows.
    fn page(&self, group: GroupId, from: Index, to: Index, bytes: usize) -> Result<recover::Page> {
        recover::page(&self.server, group, from, to, bytes.min(PAGE_BYTES))
    }
}

impl LogStore for RedisLog {
    fn recover(&self, group: GroupId, tail_bytes_max: usize) -> Result<RecoveredLog> {
        let mut heads = lock(&self.heads);
        let (head, recovered) = recover::scan(&self.server, group, tail_bytes_max)?;
        heads.insert(group, head);
        Ok(recovered)
    }

    fn write(&self, batches: &[LogBatch]) -> Result<()> {
        let mut heads = lock(&self.heads);
        let mut next: BTreeMap<GroupId, Head> = BTreeMap::new();
        let mut commands = Commands::default();
        for batch in batches {
            let keys = Keys::of(&self.server, batch.group);
            let before = match next.remove(&batch.group) {
                Some(head) => head,
                None => {
                    let head = self.head(&mut heads, batch.group)?;
                    commands.check(&keys.state, record::LAST, &head.last());
                    head
                }
            };
            let after = before.after(batch)?;
            let mut after = Head { purged: push_rows(&mut commands, &keys, &before, &after, batch), ..after };
            after.purge(&mut commands, &keys);
            record::push(&mut commands, &keys, &before, &after, batch.base.as_ref())?;
            next.insert(batch.group, after);
        }
        if !next.is_empty() {
            self.server.write(&self.lane, commands)?;
        }
        heads.extend(next);
        Ok(())
    }

    fn read(&self, group: GroupId, from: Index, to: Index, bytes_max: usize) -> Result<LogRead> {
        let mut bounded = Bounded::new(bytes_max);
        let mut at = from;
        let mut left = bytes_max;
        loop {
            let page = self.page(group, at, to, left)?;
            // What was cut off meanwhile is not what was begun with; what was read before that stands.
            let is_first = bounded.is_empty();
            if at <= page.base {
                return Ok(if is_first { LogRead::Compacted } else { LogRead::Entries(bounded.into_runs()) });
            }
            if is_first && (at > page.last || from > to) {
                let last = page.last;
                return Err(StorageError::Invalid(format!("cannot read from {from} to {to}: the log ends at {last}")));
            }
            let (runs, damaged) = page.runs(at);
            let has_room = runs.iter().all(|run| bounded.take(run));
            let Some(last) = runs.last().map(Run::last) else {
                return Ok(match damaged {
                    Some(at) if is_first => LogRead::Damaged { at },
                    _ => LogRead::Entries(bounded.into_runs()),
                });
            };
            left = left.saturating_sub(runs.iter().map(Run::size).sum());
            if !has_room || damaged.is_some() || last >= to.min(page.last) {
                return Ok(LogRead::Entries(bounded.into_runs()));
            }
            at = last.next();
        }
    }
}

impl Head {
    /// The last index as it is kept; nothing in a log that was never written.
    fn last(&self) -> String {
        if self.is_written { self.shape.last_index().to_string() } else { String::new() }
    }

    /// The head after a batch, which is refused when it cannot follow.
    fn after(&self, batch: &LogBatch) -> Result<Head> {
        let shape = self.shape.after(batch)?;
        let added = batch.entries.iter().flat_map(Run::iter);
        let added = added.filter(|(_, entry)| entry.kind == EntryKind::Membership).map(|(index, _)| index);
        let memberships = self.memberships.as_ref().map(|known| {
            let kept = known.iter().copied().filter(|index| batch.truncate_from.is_none_or(|from| *index < from));
            kept.chain(added).filter(|index| *index > shape.base()).collect()
        });
        Ok(Head {
            hard_state: batch.hard_state.unwrap_or(self.hard_state),
            memberships,
            shape,
            purged: self.purged,
            is_written: true,
        })
    }

    /// Deletes some of the rows that were compacted.
    fn purge(&mut self, commands: &mut Commands, keys: &Keys) {
        let to = self.shape.base().min(self.purged.plus(PURGED_MAX));
        if to > self.purged {
            commands.push_all("HDEL", &keys.rows, Kind::Hash, fields(self.purged.next(), to));
            self.purged = to;
        }
    }
}

/// Changes the rows; returns up to which index there are none.
fn push_rows(commands: &mut Commands, keys: &Keys, before: &Head, after: &Head, batch: &LogBatch) -> Index {
    let (old, new) = (&before.shape, &after.shape);
    let is_all_cut = batch.truncate_from.is_some_and(|from| from <= old.base().next());
    let is_nothing_kept = is_all_cut || new.base() >= old.last_index();
    if is_nothing_kept {
        if before.purged < old.last_index() {
            commands.unlink(&keys.rows, Kind::Hash);
        }
    } else {
        if let Some(from) = batch.truncate_from {
            let cut = fields(from.max(new.last_index().next()), old.last_index());
            commands.push_all("HDEL", &keys.rows, Kind::Hash, cut);
        }
        push_runs(commands, keys, batch.group, &batch.repaired);
    }
    let kept: Vec<Run> = batch.entries.iter().filter_map(|run| run.slice(new.base().next(), Index::MAX)).collect();
    push_runs(commands, keys, batch.group, &kept);
    if is_nothing_kept { new.base() } else { before.purged }
}

fn push_runs(commands: &mut Commands, keys: &Keys, group: GroupId, runs: &[Run]) {
    let entries = runs.iter().flat_map(|run| run.iter().map(|(index, entry)| (index, run.term(), entry)));
    let rows = entries.flat_map(|(index, term, entry)| [field(index), row::encode(group, index, term, entry)]);
    commands.push_all("HSET", &keys.rows, Kind::Hash, rows.collect());
}

fn field(index: Index) -> Vec<u8> {
    index.0.to_string().into_bytes()
}

fn fields(from: Index, to: Index) -> Vec<Vec<u8>> {
    (from.0..=to.0).map(|index| field(Index(index))).collect()
}
