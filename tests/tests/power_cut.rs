//! The power is cut under each durable store, again and again: every acknowledged write is there, and the store goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    env,
    hash::{BuildHasher, RandomState},
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use coracle::{StorageUrl, open_store};
use coracle_tests::{
    history::{self, Acknowledged},
    power::Rig,
    wait::PATIENCE,
};

/// How often the power is cut; `CORACLE_POWER_CUTS` says otherwise, and that a machine where it cannot be done fails the test.
const CUTS: u64 = 12;
/// After how many acknowledgements at most.
const WRITES_MAX: u64 = 150;

/// A process that writes to a store.
struct Writer {
    child: Child,
    lines: Receiver<String>,
}

impl Writer {
    fn start(url: &str) -> Writer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_store-writer"));
        let mut child = command.args([url, "1000000"]).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Writer { child, lines }
    }

    /// Takes `count` acknowledgements, and then all that came meanwhile.
    fn acknowledge(&self, count: u64, acknowledged: &mut Acknowledged) {
        for _ in 0..count {
            acknowledged.take(&self.lines.recv_timeout(PATIENCE).expect("the writer goes on"));
        }
        self.lines.try_iter().for_each(|line| acknowledged.take(&line));
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The same for every store that keeps its data in a directory.
fn survives_power_cuts(engine: &str) {
    let mut rig = match Rig::new() {
        Ok(rig) => rig,
        Err(missing) => {
            assert!(env::var_os("CORACLE_POWER_CUTS").is_none(), "the power cannot be cut here: {missing}");
            // Past the test harness, which keeps to itself what a passing test prints.
            let _ = writeln!(io::stderr(), "not shown: a power cut under {engine} ({missing}); only its syncs are");
            return;
        }
    };
    let cuts = env::var("CORACLE_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let mut acknowledged = Acknowledged::default();
    for cut in 0..cuts {
        let url = |rig: &Rig| format!("{engine}:{}", rig.folder().join("store").display());
        let writer = Writer::start(&url(&rig));
        let count = RandomState::new().hash_one(cut) % WRITES_MAX + 1;
        writer.acknowledge(count, &mut acknowledged);
        rig.cut(|| writer.kill());
        let store = open_store(&url(&rig).parse::<StorageUrl>().unwrap());
        let store = store.unwrap_or_else(|error| panic!("cut {cut} after {count} lines, {acknowledged:?}: {error}"));
        let last = history::check(&store, &acknowledged);
        assert!(last >= acknowledged.log, "cut {cut} after {count} lines");
    }
    assert!(acknowledged.log > cuts, "too little was written to show anything: {acknowledged:?}");
}

#[test]
fn p01_sled_keeps_what_it_acknowledged_through_power_cuts() {
    survives_power_cuts("sled");
}

#[test]
fn p01_files_keep_what_they_acknowledged_through_power_cuts() {
    survives_power_cuts("file");
}
