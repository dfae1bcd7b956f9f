//! Scenarios of whole clusters as scripts: `*.txt` beside this file, in the language that `README.md` there describes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../common/mod.rs"]
mod common;

mod expect;
mod invariants;
mod step;
mod world;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf, time::Duration};

use step::{Line, Step};
use world::World;

/// How many of the steps before a failure are shown.
const STEPS_SHOWN: usize = 12;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts")
}

/// Reads all lines, and only then carries them out.
///
/// # Errors
/// The line that is wrong, or whose expectation does not hold, with the steps before it.
fn run(file: &str, text: &str) -> Result<(), String> {
    let lines = step::parse(text).map_err(|error| format!("{file}:{error}"))?;
    if !lines.iter().any(|line| matches!(line.step, Step::Expect(_) | Step::Within(..))) {
        return Err(format!("{file}: nothing is expected"));
    }
    let mut world = World::default();
    for (at, line) in lines.iter().enumerate() {
        world.act(&line.step).map_err(|why| report(file, &lines[..=at], &why))?;
    }
    Ok(())
}

fn report(file: &str, steps: &[Line], why: &str) -> String {
    let Some((line, before)) = steps.split_last() else { return why.to_owned() };
    let mut text = format!("{file}:{}: {}\n  {why}\n  the steps before:\n", line.number, line.text);
    for line in &before[before.len().saturating_sub(STEPS_SHOWN)..] {
        let _ = writeln!(text, "    {:4}  {}", line.number, line.text);
    }
    text
}

fn run_file(name: &str) {
    let file = format!("{name}.txt");
    let text = fs::read_to_string(folder().join(&file)).unwrap();
    if let Err(report) = run(&file, &text) {
        panic!("{report}");
    }
}

/// A test for each script, and the list of them.
macro_rules! scripts {
    ($($name:ident,)*) => {
        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run_file(stringify!($name));
            }
        )*
    };
}

scripts! {
    a_campaign_elects_a_leader_that_commits_a_noop,
    a_follower_that_missed_a_commit_is_told_again,
    a_group_of_one_commits_alone,
    a_probe_that_is_lost_is_sent_again,
    a_slow_follower_is_not_flooded,
    c05_a_voter_that_crashes_keeps_its_word,
    c20_a_follower_that_lost_what_it_acknowledged_stops,
    figure_7_every_follower_gets_the_leaders_log,
    figure_8_an_old_entry_is_safe_below_one_of_the_current_term,
    figure_8_an_old_entry_on_a_majority_can_still_be_overwritten,
    h12_a_later_term_with_an_older_log_does_not_block,
    h12_a_node_that_was_away_disturbs_nobody,
    h13_a_leader_that_hears_nobody_steps_down,
    h21_answers_out_of_order_go_nowhere,
    h22_a_short_delayed_append_cuts_off_nothing,
    h25_a_vote_that_comes_late_elects_nobody,
    h28_what_a_deposed_leader_was_given_is_unknown,
    h31_a_write_that_was_overtaken_makes_nothing_newer_durable,
    h43_what_others_committed_is_applied_once_it_is_durable_here,
    silent_for_longer_than_its_promise_a_voter_helps_another,
    two_candidates_split_the_votes_and_one_wins_later,
    votes_go_to_who_has_as_much,
    writes_and_messages_go_on_while_disks_are_slow,
}

#[test]
fn every_script_is_run() {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let found: BTreeSet<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let listed: BTreeSet<String> = SCRIPTS.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(found, listed, "main.rs lists the scripts");
}

#[test]
fn an_expectation_that_does_not_hold_is_shown_with_what_was_found() {
    let script = "# A story.\nnodes 1 2 3\nelect 1\n\nexpect 1 leader / term 7\n";
    let report = run("a.txt", script).unwrap_err();
    for part in ["a.txt:5: expect 1 leader / term 7", "expected node 1 term 7", "found 2", "   3  elect 1"] {
        assert!(report.contains(part), "no \"{part}\" in\n{report}");
    }
    let report = run("a.txt", "nodes 1 2 3\nelect 1\npropose 1 a\nexpect proposal a committed").unwrap_err();
    assert!(report.contains("expected proposal a committed, found open"), "{report}");
    let report = run("a.txt", "nodes 1 2 3\nwithin 1s expect nobody leads\nwithin 2s expect 1 stopped").unwrap_err();
    assert!(report.contains("a.txt:3:") && report.contains("within 2s"), "{report}");
}

#[test]
fn a_wrong_script_is_an_error_with_its_line() {
    let wrong = [
        ("nodes 1 2 3\nfly 1\nexpect nobody leads", "a.txt:2: no such step"),
        ("nodes 1 x\nexpect nobody leads", "a.txt:1: \"x\" is no node"),
        ("nodes 1\nexpect 1 happy", "a.txt:2: \"happy\" is nothing that a node can be expected to be"),
        ("nodes 1\nexpect 1", "a.txt:2: nothing is expected of the nodes"),
        ("nodes 1\nrun 5 minutes\nexpect nobody leads", "a.txt:2: no such step"),
        ("nodes 1\nrun 5m\nexpect nobody leads", "a.txt:2: \"5m\" is no duration"),
        ("nodes 1\ndeliver 1->2 letters\nexpect nobody leads", "a.txt:2: \"letters\" is no kind of message"),
        ("nodes 1\nexpect proposal a committed", "a.txt:2: expect proposal a committed\n  nobody proposed \"a\""),
        ("nodes 1\ncrash 2\nexpect nobody leads", "a.txt:2: crash 2\n  there is no node 2"),
        ("nodes 1\nelect 1\nread 1 r\nread 1 r\nexpect 1 leader", "a.txt:4: read 1 r\n  \"r\" is taken"),
        ("nodes 1\nelect 1", "a.txt: nothing is expected"),
    ];
    for (script, expected) in wrong {
        let error = run("a.txt", script).unwrap_err();
        assert!(error.starts_with(expected), "expected {expected}\nfound {error}");
    }
}

/// The invariants are checked after every step, whether or not a script expects anything.
#[test]
fn a_broken_invariant_is_a_failure() {
    let mut world = World::default();
    for line in step::parse("nodes 1 2 3\nelect 1\npropose 1 a\nrun 500ms").unwrap() {
        world.act(&line.step).unwrap();
    }
    let applied = &mut world.cluster.node(common::id(2)).applied;
    applied.last_mut().unwrap().2 = "another".into();
    let error = world.act(&Step::Run(Duration::from_millis(10))).unwrap_err();
    assert!(error.contains("node 2 applied something else at 3"), "{error}");
}
