//! One bit is flipped in each of the store's files: never a wrong value, never a log that is silently shorter.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use coracle_core::{
    Entry, GroupId, HardState, Incarnation, Index, LogRead, Membership, NodeId, Run, SnapshotMeta, Term,
};
use coracle_storage::{Identity, KvOp, LogBatch, Page, RecoveredLog, Result, ScanRange, SnapshotStore, Store};
use coracle_storage_sled::{SledOptions, SledStore};

const GROUP: GroupId = GroupId(1);
const LAST: u64 = 40;
const SMALL: Content = Content { large: 20_000 };
/// sled begins a segment every 8 MiB.
const LARGE: Content = Content { large: 3_000_000 };
/// How often a bit of sled's file is flipped; `CORACLE_FLIPS` says otherwise.
const FLIPS: u64 = 80;

/// What came of a flipped bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Everything is there.
    Whole,
    /// Opening or reading is an error.
    Refused,
    /// Entries are said to be damaged, and the others are whole.
    Named,
    /// The key-value data is that of an earlier applied index, from which the log goes on.
    EarlierData,
    /// The log is a shorter one, whole up to its end: what the marks are for, and only without them.
    ShorterLog,
}

fn open(path: &Path) -> Result<SledStore> {
    SledStore::open(path, SledOptions { mark_interval: Duration::ZERO, ..SledOptions::default() })
}

fn identity() -> Identity {
    let (node, incarnation) = (NodeId(1), Incarnation(2));
    Identity { node, incarnation, engine: "sled".into(), cluster_name: "c".into(), clusters: Default::default() }
}

/// What is in a store: small entries and values, and some of `large` bytes.
#[derive(Clone, Copy)]
struct Content {
    large: usize,
}

impl Content {
    fn value(self, index: u64) -> Bytes {
        let size = if index.is_multiple_of(8) { self.large } else { 200 };
        (0..size).map(|at| ((at + index as usize * 7) % 251) as u8).collect()
    }

    fn batch(self, index: u64) -> LogBatch {
        let run = Run::new(Index(index), Term(1), [Entry::command(self.value(index))]);
        let (term, voted_for) = (Term(index), Some(NodeId(index)));
        let hard_state = HardState { term, voted_for, commit_index: Index(index - 1), is_repairing: false };
        LogBatch { hard_state: Some(hard_state), ..LogBatch::append(GROUP, vec![run]) }
    }

    fn operations(self, index: u64) -> Vec<KvOp> {
        let key = |index: u64| Bytes::from(format!("{:02}", index % 16));
        vec![KvOp::Put(key(index), self.value(index)), KvOp::Delete(key(index + 7))]
    }

    fn rows(self, applied: u64) -> Page {
        let mut rows = BTreeMap::new();
        for operation in (1..=applied).flat_map(|index| self.operations(index)) {
            match operation {
                KvOp::Put(key, value) => drop(rows.insert(key, value)),
                KvOp::Delete(key) => drop(rows.remove(&key)),
            }
        }
        rows.into_iter().collect()
    }

    fn snapshot(self) -> (SnapshotMeta, Bytes) {
        let bytes = self.value(8);
        let meta = SnapshotMeta {
            content: 3,
            last_included_index: Index(20),
            last_included_term: Term(1),
            membership_index: Index(0),
            membership: Membership::of_voters([NodeId(1)]),
            size: bytes.len() as u64,
            checksum: crc32fast::hash(&bytes),
        };
        (meta, bytes)
    }

    fn fill(self, path: &Path) -> Result<()> {
        let store = open(path)?;
        store.set_identity(&identity())?;
        let (log, kv) = (store.log(), store.kv(GROUP)?);
        for index in 1..=LAST {
            log.write(&[self.batch(index)])?;
            kv.write(self.operations(index), Index(index))?;
            if index.is_multiple_of(4) {
                kv.flush()?;
            }
        }
        let (meta, bytes) = self.snapshot();
        let mut writer = store.snapshots(GROUP)?.begin()?;
        writer.write(&bytes)?;
        writer.commit(&meta)
    }

    /// Opens the store and reads all that it has.
    ///
    /// # Panics
    /// When something passes for what was written, and is not.
    fn examine(self, path: &Path, what: &str) -> Outcome {
        let has_marks = path.join("marks").exists();
        let read = || -> Result<Outcome> {
            let store = open(path)?;
            assert_eq!(store.identity()?, Some(identity()), "{what}: another identity");
            let recovered = store.log().recover(GROUP, usize::MAX)?;
            let is_shorter = self.check_log(&store, &recovered, what)?;
            assert!(!is_shorter || !has_marks, "{what}: the log ends at {}", recovered.last_index);
            let kv = store.kv(GROUP)?;
            let applied = kv.applied()?.expect("no replacement was begun").0;
            let page = kv.scan(&ScanRange::all(), usize::MAX, usize::MAX)?;
            assert!(page == self.rows(applied), "{what}: the data is not that of {applied}");
            self.check_snapshot(&*store.snapshots(GROUP)?, what)?;
            Ok(match applied {
                _ if is_shorter => Outcome::ShorterLog,
                _ if !recovered.damaged.is_empty() => Outcome::Named,
                LAST => Outcome::Whole,
                _ => Outcome::EarlierData,
            })
        };
        read().unwrap_or(Outcome::Refused)
    }

    /// Checks every entry, and says whether the log is a shorter one.
    fn check_log(self, store: &SledStore, recovered: &RecoveredLog, what: &str) -> Result<bool> {
        let last = recovered.last_index.0;
        let hard_state = if last == 0 { None } else { self.batch(last).hard_state };
        assert_eq!(recovered.hard_state, hard_state.unwrap_or_default(), "{what}: another hard state");
        for index in 1..=last {
            match store.log().read(GROUP, Index(index), Index(index), usize::MAX)? {
                LogRead::Entries(runs) => {
                    assert!(
                        runs[0].entries() == self.batch(index).entries[0].entries(),
                        "{what}: {index} is another entry"
                    );
                }
                LogRead::Damaged { at } => assert!(recovered.damaged.contains(&at), "{what}: {at} was not named"),
                LogRead::Compacted => panic!("{what}: {index} is said to be compacted"),
            }
        }
        Ok(last < LAST)
    }

    /// A snapshot's bytes are checked by whoever reads them, against the checksum in its meta data; damaged meta data are told.
    fn check_snapshot(self, snapshots: &dyn SnapshotStore, what: &str) -> Result<()> {
        let (meta, bytes) = self.snapshot();
        if let Some(damaged) = snapshots.damaged()?.pop() {
            assert_eq!(snapshots.latest()?, None, "{what}: another snapshot");
            return Err(damaged);
        }
        assert_eq!(snapshots.latest()?, Some(meta.clone()), "{what}: another snapshot");
        let found = snapshots.read(meta.content, 0, usize::MAX >> 1)?.unwrap_or_default();
        assert!(found == bytes || crc32fast::hash(&found) != meta.checksum, "{what}: other bytes of the snapshot");
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        let target = to.join(file.file_name());
        if file.file_type()?.is_dir() {
            copy(&file.path(), &target)?
        } else {
            fs::copy(file.path(), target)?;
        }
    }
    Ok(())
}

/// Every file of a store that has something in it.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in fs::read_dir(path).expect("list").map(|file| file.expect("list").path()) {
        if file.is_dir() {
            found.extend(files(&file));
        } else if file.metadata().expect("look").len() > 0 {
            found.push(file);
        }
    }
    found.sort();
    found
}

/// Bytes that are in use: sled's file ends in zeros.
fn used(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

struct Bench {
    content: Content,
    dir: tempfile::TempDir,
    outcomes: BTreeMap<Outcome, u64>,
}

impl Bench {
    fn new(content: Content) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        content.fill(&dir.path().join("live")).expect("fill a store");
        Bench { content, dir, outcomes: BTreeMap::new() }
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    /// Flips a bit in a copy, and notes what comes of it.
    fn flip(&mut self, file: &Path, bit: u64) {
        let path = self.dir.path().join("flipped");
        copy(&self.live(), &path).expect("copy");
        let name = file.strip_prefix(self.live()).expect("it is in there").to_owned();
        let mut bytes = fs::read(path.join(&name)).expect("read");
        bytes[bit as usize / 8] ^= 1 << (bit % 8);
        fs::write(path.join(&name), bytes).expect("write");
        let outcome = self.content.examine(&path, &format!("bit {bit} of {}", name.display()));
        *self.outcomes.entry(outcome).or_default() += 1;
        fs::remove_dir_all(&path).expect("delete");
    }

    /// Shown with `--nocapture`.
    fn show(&self, what: &str) {
        eprintln!("{what}: {:?}", self.outcomes);
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(&outcome).copied().unwrap_or_default()
    }
}

/// Flips bits all over sled's file.
fn flip_the_database(bench: &mut Bench, flips: u64) {
    let flips = std::env::var("CORACLE_FLIPS").map_or(flips, |flips| flips.parse().expect("a number"));
    let database = bench.live().join("db");
    let bits = used(&database) * 8;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..flips {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bench.flip(&database, (random >> 16) % bits);
    }
    bench.show(&format!("{flips} bits of {} bytes", bits / 8));
}

#[test]
fn c18_flipped_bits_in_the_database_are_never_taken_for_data() {
    let mut bench = Bench::new(SMALL);
    flip_the_database(&mut bench, FLIPS);
    assert!(bench.count(Outcome::Refused) > 0, "no flip did any harm: {:?}", bench.outcomes);
}

#[test]
fn c18_flipped_bits_in_a_database_of_several_segments_are_never_taken_for_data() {
    let mut bench = Bench::new(LARGE);
    flip_the_database(&mut bench, FLIPS / 8);
    assert!(bench.count(Outcome::Refused) > 0, "no flip did any harm: {:?}", bench.outcomes);
}

/// What sled leaves out silently: without marks, the log ends where the damage is. The marks are what tells, and nothing in the log is another entry.
#[test]
fn c18_without_marks_a_flipped_bit_shortens_the_log_and_changes_nothing_in_it() {
    let mut bench = Bench::new(SMALL);
    fs::remove_file(bench.live().join("marks")).expect("delete the marks");
    flip_the_database(&mut bench, FLIPS);
    assert!(bench.count(Outcome::ShorterLog) > 0, "the marks are good for nothing: {:?}", bench.outcomes);
}

#[test]
fn c18_a_flipped_bit_in_any_other_file_is_never_taken_for_data() {
    let mut bench = Bench::new(SMALL);
    for file in files(&bench.live()).into_iter().filter(|file| !file.ends_with("db")) {
        let bits = fs::metadata(&file).expect("look").len() * 8;
        for part in 0..6 {
            bench.flip(&file, bits * part / 6 + part % bits.min(8));
        }
    }
    bench.show("all other files");
    assert!(bench.count(Outcome::Refused) > 0, "no flip did any harm: {:?}", bench.outcomes);
}
