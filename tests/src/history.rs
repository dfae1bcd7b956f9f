//! A history of writes to a store that can be told from any prefix of it: one process writes it and says what was acknowledged, another one checks what is there.
//!
//! Each entry, each batch of key-value data and each snapshot follows from its index alone.
//! Now and then the log gets a wrong tail, which the next entry cuts off, and a new base.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use coracle::{
    core::{
        Base, ClusterId, Entry, GroupId, HardState, Incarnation, Index, Membership, NodeId, Run, SnapshotMeta, Term,
    },
    storage::{Identity, KvOp, KvStore, LogBatch, RecoveredLog, Result, ScanRange, Store},
};

const GROUP: GroupId = GroupId(1);
/// Keys are written again and again.
const KEYS: u64 = 64;
const FLUSH_EVERY: u64 = 10;
const WRONG_EVERY: u64 = 7;
const SNAPSHOT_EVERY: u64 = 25;
const KEPT: u64 = 30;

/// What a store has acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The log up to here.
    pub log: u64,
    /// The key-value data up to here.
    pub data: u64,
    /// The snapshot at this index, and no older one.
    pub snapshot: u64,
    /// The identity.
    pub identity: u64,
}

impl Acknowledged {
    /// Takes a line that [`write()`] said.
    ///
    /// # Panics
    /// When it said something else.
    pub fn take(&mut self, line: &str) {
        let (what, index) = line.split_once(' ').unwrap_or_else(|| panic!("the writer says {line:?}"));
        let index = index.parse().unwrap_or_else(|_| panic!("the writer says {line:?}"));
        match what {
            "log" => self.log = index,
            "data" => self.data = index,
            "snapshot" => self.snapshot = index,
            "identity" => self.identity = index,
            other => panic!("the writer says {other:?}"),
        }
    }
}

/// The text by which a write is found in what a process gives to the system.
pub fn token(what: &str, index: u64) -> String {
    format!("<{what} {index}>")
}

fn data(what: &str, index: u64) -> Bytes {
    let size = [10, 300, 3_000, 20_000][(index % 4) as usize];
    let mut text = token(what, index);
    while text.len() < size {
        text.push_str(&index.to_string());
    }
    text.into()
}

fn term(index: u64) -> Term {
    Term(index / 20 + 1)
}

fn hard_state(index: u64) -> HardState {
    let commit_index = Index(index.saturating_sub(1));
    HardState { term: term(index), voted_for: Some(NodeId(index % 7 + 1)), commit_index, is_repairing: false }
}

fn entry(index: u64) -> Run {
    Run::new(Index(index), term(index), [Entry::command(data("log", index))])
}

fn membership() -> Membership {
    Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)])
}

fn base(index: u64) -> Base {
    Base { index: Index(index), term: term(index), membership_index: Index(0), membership: Some(membership()) }
}

fn identity(store: &dyn Store) -> Identity {
    Identity {
        node: NodeId(7),
        incarnation: Incarnation(8),
        engine: store.engine().to_owned(),
        cluster_name: token("identity", 1),
        clusters: BTreeMap::from([(GROUP, ClusterId(9))]),
    }
}

fn operations(index: u64) -> Vec<KvOp> {
    let key = |index: u64| Bytes::from(format!("{:02}", index % KEYS));
    vec![KvOp::Put(key(index), data("data", index)), KvOp::Delete(key(index + KEYS / 2))]
}

fn snapshot(index: u64) -> (SnapshotMeta, Bytes) {
    let bytes = data("snapshot", index);
    let meta = SnapshotMeta {
        content: index,
        last_included_index: Index(index),
        last_included_term: term(index),
        membership_index: Index(0),
        membership: membership(),
        size: bytes.len() as u64,
        checksum: crc32fast::hash(&bytes),
    };
    (meta, bytes)
}

/// Goes on with the history where the store has it, for `count` entries, and says what is acknowledged.
///
/// # Errors
/// When the store fails.
pub fn write(store: &dyn Store, count: u64, mut say: impl FnMut(&str, u64)) -> Result<()> {
    store.set_identity(&identity(store))?;
    say("identity", 1);
    let (log, kv) = (store.log(), store.kv(GROUP)?);
    let recovered = log.recover(GROUP, usize::MAX)?;
    let last = last_right(&recovered);
    let mut applied = kv.applied()?.map_or(0, |index| index.0);
    for index in last + 1..=last + count {
        log.write(&[next(index, index == last + 1)])?;
        say("log", index);
        while applied < index {
            applied += 1;
            kv.write(operations(applied), Index(applied))?;
        }
        if index % FLUSH_EVERY == 0 {
            say("data", kv.flush()?.0);
        }
        if index % SNAPSHOT_EVERY == 0 {
            let (meta, bytes) = snapshot(index);
            let mut writer = store.snapshots(GROUP)?.begin()?;
            writer.write(&bytes)?;
            writer.commit(&meta)?;
            say("snapshot", index);
        }
        if index % WRONG_EVERY == 0 {
            let wrong = vec![Entry::command("wrong"); 3];
            log.write(&[LogBatch::append(GROUP, vec![Run::new(Index(index + 1), term(index), wrong)])])?;
        }
    }
    Ok(())
}

/// The write of one entry, which cuts off what may lie in its place.
fn next(index: u64, is_first: bool) -> LogBatch {
    let cuts = is_first || (index - 1).is_multiple_of(WRONG_EVERY);
    let compacts = index.is_multiple_of(SNAPSHOT_EVERY) && index > KEPT;
    LogBatch {
        truncate_from: (cuts && index > 1).then_some(Index(index)),
        hard_state: Some(hard_state(index)),
        base: compacts.then(|| base(index - KEPT)),
        ..LogBatch::append(GROUP, vec![entry(index)])
    }
}

/// The last entry that is not of a wrong tail.
fn last_right(recovered: &RecoveredLog) -> u64 {
    let entries = recovered.tail.iter().flat_map(Run::iter);
    let right = entries.filter(|(_, entry)| entry.data != "wrong").map(|(index, _)| index.0);
    right.last().unwrap_or(recovered.base.index.0)
}

/// Checks that everything acknowledged is there, and nothing that was never written. Returns how far the log goes.
///
/// # Panics
/// When it is not so.
pub fn check(store: &Arc<dyn Store>, acknowledged: &Acknowledged) -> u64 {
    let found = store.identity().expect("the identity is read");
    assert!(found == Some(identity(&**store)) || acknowledged.identity == 0, "the identity is {found:?}");
    let last = check_log(store, acknowledged.log);
    let kv = store.kv(GROUP).expect("the data is opened");
    let applied = kv.applied().expect("the applied index is read").expect("no replacement was begun").0;
    assert!(applied >= acknowledged.data, "data up to {} was acknowledged, {applied} is there", acknowledged.data);
    assert!(applied <= last, "the data is at {applied}, the log ends at {last}");
    check_data(&kv, applied);
    check_snapshot(store, acknowledged.snapshot);
    last
}

fn check_log(store: &Arc<dyn Store>, acknowledged: u64) -> u64 {
    let recovered = store.log().recover(GROUP, usize::MAX).expect("the log is recovered");
    assert_eq!(recovered.damaged, [], "a power cut damages nothing");
    let last = last_right(&recovered);
    assert!(last >= acknowledged, "entries up to {acknowledged} were acknowledged, {last} are there");
    let mut expected = recovered.base.index.0 + 1;
    for (index, found) in recovered.tail.iter().flat_map(Run::iter).filter(|(index, _)| index.0 <= last) {
        assert_eq!(index.0, expected, "no entry is missing");
        assert!(*found == entry(index.0).entries()[0], "{index} has other data");
        expected += 1;
    }
    assert_eq!(expected, last + 1, "the tail ends where the log does");
    let hard_state = if last == 0 { HardState::default() } else { hard_state(last) };
    assert_eq!(recovered.hard_state, hard_state, "the hard state is that of the last write");
    last
}

fn check_data(kv: &Arc<dyn KvStore>, applied: u64) {
    let mut expected = BTreeMap::new();
    for operation in (1..=applied).flat_map(operations) {
        match operation {
            KvOp::Put(key, value) => drop(expected.insert(key, value)),
            KvOp::Delete(key) => drop(expected.remove(&key)),
        }
    }
    let found = kv.scan(&ScanRange::all(), usize::MAX, usize::MAX).expect("the data is read");
    assert!(found == expected.into_iter().collect::<Vec<_>>(), "the data is not that of {applied}");
}

fn check_snapshot(store: &Arc<dyn Store>, acknowledged: u64) {
    let snapshots = store.snapshots(GROUP).expect("the snapshots are opened");
    let latest = snapshots.latest().expect("the latest snapshot is read");
    let index = latest.as_ref().map_or(0, |meta| meta.last_included_index.0);
    assert!(index >= acknowledged, "the snapshot at {acknowledged} was acknowledged, the latest is at {index}");
    if let Some(latest) = latest {
        let (meta, bytes) = snapshot(index);
        assert_eq!(latest, meta);
        assert_eq!(snapshots.read(index, 0, usize::MAX >> 1).expect("it is read"), Some(bytes));
    }
}
