//! Damage to the files of a node on `file:`: it is repaired from the peers, or refused with exit code 65 and the file named; no wrong value is ever served, and nothing acknowledged is lost while a whole copy of each entry exists.
//!
//! `CORACLE_DAMAGE=50` cuts the newest segment at 50 places, and does the rest as much more often.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "what was shown is of use beside the verdict")]

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use coracle_tests::{
    cli::{Ended, coracle},
    cluster::Cluster,
    dice::{self, Dice},
    ledger::{self, Acknowledged, Ledger},
    node::NotReady,
    state,
    wait::PATIENCE,
};

const CUTS: usize = 8;
/// For each so many cuts, a bit of each file is flipped once.
const CUTS_PER_FLIP: usize = 8;
/// And all nodes are killed once.
const CUTS_PER_KILL: usize = 4;
/// A snapshot waits for the disk, which all tests of the machine share.
const SNAPSHOT_PATIENCE: &str = "60s";
const PAUSE: Duration = Duration::from_millis(20);
const COMPACTING: [&str; 4] = ["--log-entries-max", "600", "--log-entries-kept", "200"];
/// Entries that are damaged are so many of the newest.
const NEWEST: usize = 100;

fn cuts() -> usize {
    env::var("CORACLE_DAMAGE").map_or(CUTS, |cuts| cuts.parse().expect("CORACLE_DAMAGE is a number"))
}

fn on_files(query: &str) -> Cluster {
    Cluster::arranged(3, &COMPACTING, |nodes| {
        for node in nodes {
            node.keep_in_files(node.data.clone(), query);
        }
    })
}

/// How a node came back from damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It has everything, and said nothing of damage.
    Unharmed,
    /// It has everything, and told of damage.
    Repaired,
    /// It did not start, with exit code 65 and the file named.
    Refused,
    /// It stopped in the same way after it had started.
    Stopped,
}

/// Checks how a node ended that met damage in `file`.
fn check_end(code: Option<i32>, log: &str, file: &Path) -> Outcome {
    // sled does not tell which of its files is damaged.
    let place = file.ancestors().find(|place| place.ends_with("state")).unwrap_or(file);
    assert_eq!(code, Some(65), "{}: {log}", file.display());
    assert!(log.contains(&place.display().to_string()), "{} is not named: {log}", file.display());
    if log.contains("the node has stopped") { Outcome::Stopped } else { Outcome::Refused }
}

/// Starts a node with a damaged file and waits until it has everything, or has ended. What it serves meanwhile is right.
async fn come_back(cluster: &mut Cluster, node: usize, file: &Path, goal: &Acknowledged) -> Outcome {
    let client = cluster.client_at(node);
    // What is repaired stays where it is, and is told of at each start.
    let told = |cluster: &Cluster| cluster.nodes[node].log_since_start().matches("damaged").count();
    let before = told(cluster);
    let ended = |cluster: &Cluster, code| check_end(code, &cluster.nodes[node].log_since_start(), file);
    cluster.nodes[node].start();
    match cluster.nodes[node].ready_or_not() {
        Err(NotReady::Ended(status)) => return ended(cluster, status.code()),
        other => other.unwrap(),
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = cluster.nodes[node].ended() {
            return ended(cluster, status.code());
        }
        let judged = match state::stale(&client).await {
            Ok(state) => goal.judge(&state),
            Err(error) => Err(error.to_string()),
        };
        let Err(why) = judged else { break };
        assert!(Instant::now() < deadline, "{}: {why}: {}", file.display(), cluster.nodes[node].log_tail());
        tokio::time::sleep(PAUSE).await;
    }
    if told(cluster) > before { Outcome::Repaired } else { Outcome::Unharmed }
}

/// Ends a node, in one of two ways.
fn stop(cluster: &mut Cluster, node: usize, is_kill: bool) {
    if is_kill {
        cluster.nodes[node].kill();
    } else {
        cluster.nodes[node].signal("TERM");
    }
    cluster.nodes[node].wait();
}

/// Puts back what a node had when it ended; it must not have started since.
fn put_back(cluster: &Cluster, node: usize, whole: &Path) {
    cluster.wipe(node);
    fs::rename(whole, &cluster.nodes[node].data).unwrap();
}

/// Takes the node's place with a new, empty one.
fn join_anew(cluster: &mut Cluster, node: usize, old: &str) {
    cluster.cli(&["leave", old]).expect(0);
    cluster.wipe(node);
    let addresses = cluster.addresses(&cluster.others(node));
    let anew = &mut cluster.nodes[node];
    let (peers, extra) = (std::mem::take(&mut anew.peers), anew.extra.clone());
    anew.extra.extend(["--join".to_owned(), addresses]);
    anew.start();
    anew.ready();
    (anew.peers, anew.extra) = (peers, extra);
}

/// The kind of a file: its name without what differs from one to the next.
fn kind(file: &Path, data: &Path) -> String {
    let name = file.strip_prefix(data).unwrap().display().to_string();
    let parts = name.split_inclusive(['/', '.']).map(|part| {
        let stem = part.trim_end_matches(['/', '.']);
        let is_number = stem.len() >= 8 && stem.chars().all(|letter| letter.is_ascii_hexdigit());
        if is_number { part.replace(stem, "*") } else { part.to_owned() }
    });
    parts.collect()
}

/// The files of a node, by kind.
fn kinds(data: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in dice::files(data) {
        kinds.entry(kind(&file, data)).or_default().push(file);
    }
    kinds
}

/// Ends a node, flips a bit in one of its files of a kind, and starts it again; `None` when there is no such file any more.
async fn flip(cluster: &mut Cluster, node: usize, kind: &str, ledger: &Ledger, dice: &mut Dice) -> Option<Outcome> {
    ledger.goes_on();
    let (old, data) = (cluster.id(node), cluster.nodes[node].data.clone());
    stop(cluster, node, dice.below(2) == 0);
    let found = kinds(&data).remove(kind);
    let mut outcome = None;
    if let Some(files) = found {
        let whole = cluster.folder().join("whole");
        dice::copy(&data, &whole);
        let file = &files[dice.below(files.len())];
        let at = dice::flip(file, dice);
        let came = come_back(cluster, node, file, &ledger.acknowledged()).await;
        eprintln!("byte {at} of {}: {came:?}", file.strip_prefix(&data).unwrap().display());
        match came {
            Outcome::Refused => put_back(cluster, node, &whole),
            _ => fs::remove_dir_all(&whole).unwrap(),
        }
        outcome = Some(came);
    }
    match outcome {
        Some(Outcome::Stopped) => join_anew(cluster, node, &old),
        Some(Outcome::Refused) | None => {
            cluster.nodes[node].start();
            cluster.nodes[node].ready();
        }
        _ => {}
    }
    ledger.acknowledged().reach(&cluster.client_at(node)).await;
    outcome
}

async fn flips(query: &str) {
    let mut dice = Dice::thrown();
    let mut cluster = on_files(query);
    let ledger = Ledger::start(&cluster);
    let mut outcomes: BTreeMap<(String, Outcome), usize> = BTreeMap::new();
    for _ in 0..cuts().div_ceil(CUTS_PER_FLIP) {
        let node = dice.below(3);
        let begun = Instant::now();
        cluster.cli_at(node, &["--timeout", SNAPSHOT_PATIENCE, "snapshot"]).expect(0);
        eprintln!("a snapshot was taken in {:?}", begun.elapsed());
        for kind in kinds(&cluster.nodes[node].data).into_keys() {
            if let Some(outcome) = flip(&mut cluster, node, &kind, &ledger, &mut dice).await {
                *outcomes.entry((kind, outcome)).or_default() += 1;
            }
        }
    }
    eprintln!("flipped bits in files on file:{query}:");
    for ((kind, outcome), count) in &outcomes {
        eprintln!("  {kind} {outcome:?} {count}");
    }
    for kind in ["identity", "log/*.segment", "log/mark", "snapshots/1/*.snapshot", "snapshots/1/*.meta"] {
        assert!(outcomes.keys().any(|(found, _)| found == kind), "no {kind} was there: {outcomes:?}");
    }
    let is_mended = |(kind, outcome): &(String, Outcome)| {
        !kind.starts_with("snapshots/") || matches!(outcome, Outcome::Unharmed | Outcome::Repaired)
    };
    assert!(outcomes.keys().all(is_mended), "a peer has each snapshot: {outcomes:?}");
    all_is_there(&cluster, &ledger.stop().await).await;
}

async fn all_is_there(cluster: &Cluster, written: &Acknowledged) {
    written.are_in(cluster).await;
    for node in 0..3 {
        written.reach(&cluster.client_at(node)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_a_flipped_bit_in_any_file_is_repaired_or_refused() {
    flips("").await;
}

/// The state is what a snapshot and the log make of it: the leader's snapshot takes the place of one that is damaged (C7).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_a_flipped_bit_in_any_file_of_a_state_in_memory_is_repaired_or_refused() {
    flips("?state=memory").await;
}

/// Who has no peers is refused, each time, with the file named and the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_a_damaged_snapshot_of_a_node_that_is_alone_is_refused_by_name() {
    let mut dice = Dice::thrown();
    let mut cluster = Cluster::arranged(1, &["--log-entries-kept", "0"], |nodes| {
        let data = nodes[0].data.clone();
        nodes[0].keep_in_files(data, "?state=memory");
    });
    for key in ["a", "b"] {
        cluster.cli(&["put", key, "value"]).expect(0);
    }
    cluster.cli(&["snapshot"]).expect(0);
    stop(&mut cluster, 0, true);
    let data = cluster.nodes[0].data.clone();
    let snapshots = kinds(&data).remove("snapshots/1/*.snapshot").unwrap();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    dice::flip(&snapshots[0], &mut dice);
    for _ in 0..2 {
        let ended: Ended = coracle(cluster.nodes[0].arguments());
        assert_eq!(check_end(ended.code, &ended.stderr, &snapshots[0]), Outcome::Refused);
        assert!(ended.stderr.contains("--join"), "the way back is told: {}", ended.stderr);
    }
}

fn newest_segment(data: &Path) -> PathBuf {
    dice::files(&data.join("log")).into_iter().rfind(|file| file.extension().is_some_and(|it| it == "segment")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p07_a_segment_that_is_cut_is_refused_by_name() {
    let mut dice = Dice::thrown();
    let mut cluster = on_files("");
    let ledger = Ledger::start(&cluster);
    ledger.goes_on();
    let node = dice.below(3);
    stop(&mut cluster, node, true);
    let newest = newest_segment(&cluster.nodes[node].data);
    let whole = fs::read(&newest).unwrap();
    for cut in 0..cuts() {
        // In what is in use, in the zeros behind it, and right at a sector's end.
        let end = if cut % 3 == 0 { whole.len() } else { dice::used(&whole) };
        let at = dice.below(end) / if cut % 5 == 0 { 512 } else { 1 } * if cut % 5 == 0 { 512 } else { 1 };
        fs::write(&newest, &whole[..at]).unwrap();
        let ended: Ended = coracle(cluster.nodes[node].arguments());
        assert_eq!(check_end(ended.code, &ended.stderr, &newest), Outcome::Refused, "cut at {at}");
    }
    fs::write(&newest, &whole).unwrap();
    cluster.nodes[node].start();
    cluster.nodes[node].ready();
    all_is_there(&cluster, &ledger.stop().await).await;
}

/// The end of the newest segment is zeros, as if it had never been written, although it was durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_node_whose_last_writes_are_gone_is_repaired_or_refused() {
    let mut dice = Dice::thrown();
    let mut cluster = on_files("");
    let ledger = Ledger::start(&cluster);
    let node = dice.below(3);
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for _ in 0..cuts().div_ceil(CUTS_PER_KILL) {
        ledger.goes_on();
        // Not killed: a write that was under way, and that nobody was told of, may be gone without a word.
        stop(&mut cluster, node, false);
        let data = cluster.nodes[node].data.clone();
        let whole = cluster.folder().join("whole");
        dice::copy(&data, &whole);
        let newest = newest_segment(&data);
        let mut bytes = fs::read(&newest).unwrap();
        let used = dice::used(&bytes);
        let lost = dice.below(used.min(20_000)) + 1;
        bytes[used - lost..].fill(0);
        fs::write(&newest, bytes).unwrap();
        let outcome = come_back(&mut cluster, node, &newest, &ledger.acknowledged()).await;
        eprintln!("the last {lost} bytes are zeros: {outcome:?}");
        *outcomes.entry(outcome).or_default() += 1;
        match outcome {
            Outcome::Refused => {
                put_back(&cluster, node, &whole);
                cluster.nodes[node].start();
                cluster.nodes[node].ready();
            }
            Outcome::Repaired => fs::remove_dir_all(&whole).unwrap(),
            Outcome::Unharmed | Outcome::Stopped => panic!("{lost} bytes at the end are gone: {outcome:?}"),
        }
    }
    eprintln!("zeroed ends: {outcomes:?}");
    all_is_there(&cluster, &ledger.stop().await).await;
}

/// Damages the newest copy of what a writer wrote in a log; says whether it is there.
fn damage_entry(data: &Path, text: &str, dice: &mut Dice) -> bool {
    let segments = dice::files(&data.join("log"));
    for file in segments.into_iter().rev().filter(|file| file.extension().is_some_and(|it| it == "segment")) {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(text.len()).rposition(|window| window == text.as_bytes()) {
            bytes[at + dice.below(text.len())] ^= 1 << dice.below(8);
            fs::write(&file, bytes).unwrap();
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_different_damage_on_two_nodes_after_the_death_of_all_is_repaired() {
    let mut dice = Dice::thrown();
    let mut cluster = on_files("");
    let ledger = Ledger::start(&cluster);
    let (mut damaged, mut told) = (0, 0);
    for round in 0..cuts().div_ceil(CUTS_PER_KILL) {
        ledger.goes_on();
        cluster.kill_all();
        let before = ledger.acknowledged();
        let whole = round % 3;
        for (writer, node) in cluster.others(whole).into_iter().enumerate() {
            // Each of the two nodes loses entries of another writer.
            let count = before.of(writer);
            for _ in 0..=dice.below(3) {
                let text = ledger::value(writer, count - 1 - dice.below(count.min(NEWEST)));
                let data = cluster.nodes[node].data.clone();
                damaged += usize::from(damage_entry(&data, &text, &mut dice));
            }
        }
        cluster.restart_all();
        for node in 0..3 {
            before.reach(&cluster.client_at(node)).await;
        }
        before.are_in(&cluster).await;
        let tells = |node: &usize| cluster.nodes[*node].log_since_start().contains("sectors of a block are damaged");
        told += cluster.others(whole).iter().filter(|node| tells(node)).count();
    }
    eprintln!("{damaged} entries were damaged, {told} nodes told so");
    assert!(told > 0, "no damage was noticed");
    all_is_there(&cluster, &ledger.stop().await).await;
}
