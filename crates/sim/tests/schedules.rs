//! Recorded schedules go on showing what they show: with their bug a failure, without it none.
//!
//! A schedule of a bug of the product that has been fixed is one with `bug = none`: it must not fail.

use std::{fs, path::PathBuf};

use coracle_sim::Plan;

/// With how many sets of numbers for delays and the like a schedule may show its bug: a change of the product shifts them.
const ATTEMPTS: u64 = 16;

fn recorded() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schedules");
    let entries = fs::read_dir(folder).expect("a folder of schedules");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), fs::read_to_string(path).expect("a text"))).collect()
}

/// The file with another line for one that begins with `name = `.
fn with(text: &str, name: &str, value: &str) -> Plan {
    let begins = format!("{name} = ");
    let line = |line: &str| if line.starts_with(&begins) { format!("{begins}{value}\n") } else { format!("{line}\n") };
    let changed: String = text.lines().map(line).collect();
    changed.parse().expect("a schedule")
}

fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let begins = format!("{name} = ");
    text.lines().find_map(|line| line.strip_prefix(&begins)).expect("the line")
}

#[test]
fn recorded_schedules_fail_with_their_bug_and_hold_without_it() {
    let recorded = recorded();
    assert!(recorded.len() >= 10, "{} schedules", recorded.len());
    for (name, text) in recorded {
        if let Err(failure) = with(&text, "bug", "none").run() {
            panic!("{name} fails without its bug: {failure}");
        }
        if value(&text, "bug") == "none" {
            continue;
        }
        let seed: u64 = value(&text, "seed").parse().unwrap();
        let seeds = (0..ATTEMPTS).map(|attempt| seed + 1000 * attempt);
        let failures: Vec<_> = seeds.filter_map(|seed| with(&text, "seed", &seed.to_string()).run().err()).collect();
        // Its last comment says what it shows.
        let shows = |invariant: &str| text.lines().any(|line| line.starts_with(&format!("#   {invariant}")));
        let is_shown = failures.iter().any(|failure| shows(&failure.violation.invariant.to_string()));
        assert!(is_shown, "{name} does not show its bug any more: record it anew (docs/testing.md)");
    }
}
