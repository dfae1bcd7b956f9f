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
    a_change_that_cannot_be_is_refused_with_the_reason,
    a_change_whose_learner_never_comes_is_called_off,
    a_learner_that_takes_nothing_in_is_called_off,
    a_removal_that_would_leave_no_majority_is_called_off,
    what_others_asked_for_does_not_end_with_a_silent_joiner,
    a_follower_behind_the_compacted_log_gets_a_snapshot,
    a_follower_that_missed_a_commit_is_told_again,
    a_group_of_one_commits_alone,
    a_probe_that_is_lost_is_sent_again,
    a_slow_follower_is_not_flooded,
    a_snapshot_that_is_older_than_the_leaders_log_start_still_helps,
    a_snapshot_whose_answer_is_lost_does_not_hold_a_follower_up,
    c05_a_voter_that_crashes_keeps_its_word,
    c07_a_node_whose_state_is_behind_its_log_votes_and_does_not_lead,
    c12_a_read_is_asked_again_when_the_question_is_lost,
    c12_too_many_reads_are_refused,
    c14_a_handover_to_nobody_is_given_up,
    c14_leadership_moves_without_waiting_for_a_timeout,
    c16_a_group_of_one_grows_to_three,
    c16_one_voter_joins_a_group_of_two,
    c16_two_voters_are_replaced_at_once,
    c20_a_follower_that_lost_what_it_acknowledged_stops,
    figure_7_every_follower_gets_the_leaders_log,
    figure_8_an_old_entry_is_safe_below_one_of_the_current_term,
    figure_8_an_old_entry_on_a_majority_can_still_be_overwritten,
    h02_no_change_before_a_leader_has_committed_in_its_term,
    h02_two_leaders_changes_add_and_add,
    h02_two_leaders_changes_add_and_remove,
    h02_two_leaders_changes_remove_and_remove,
    h03_removed_nodes_that_lag_elect_nobody,
    h04_changes_that_are_cut_off_are_rolled_back_after_restarts,
    h05_a_snapshot_carries_the_membership_of_its_index,
    h06_a_promoted_learner_that_does_not_know_it_votes,
    h07_a_leader_that_is_removed_hands_over,
    h08_a_removed_node_that_comes_back_disturbs_nobody,
    h09_a_new_leader_ends_a_joint_configuration_that_it_finds,
    h10_a_joint_configuration_needs_both_halves,
    h10_a_leader_needs_to_hear_both_halves,
    h11_a_quorum_that_shrinks_answers_what_waits,
    h12_a_later_term_with_an_older_log_does_not_block,
    h12_a_node_that_was_away_disturbs_nobody,
    h13_a_leader_that_hears_nobody_steps_down,
    h17_a_fresh_leader_answers_no_read_before_it_has_committed,
    h18_a_late_answer_to_a_follower_answers_no_later_read,
    h18_late_answers_to_one_round_confirm_no_other,
    h19_reads_end_when_leadership_moves,
    h21_answers_out_of_order_go_nowhere,
    h22_a_short_delayed_append_cuts_off_nothing,
    h25_a_vote_that_comes_late_elects_nobody,
    h28_what_a_deposed_leader_was_given_is_unknown,
    h29_a_new_follower_cuts_off_only_what_conflicts,
    h31_a_write_that_was_overtaken_makes_nothing_newer_durable,
    h39_a_restart_applies_every_entry_once_by_small_portions,
    h40_a_crash_before_the_logs_new_start_is_durable_leaves_the_old_log,
    h40_a_snapshot_does_not_race_with_entries_that_wait_to_be_applied,
    h40_a_snapshot_that_is_older_than_what_is_applied_is_ignored,
    h41_a_new_leader_goes_on_where_a_snapshot_was_cut_short,
    h41_a_snapshot_is_tried_again_when_its_sender_gives_up,
    h43_what_others_committed_is_applied_once_it_is_durable_here,
    h46_time_that_passed_at_once_is_one_timeout,
    h53_refused_and_unknown_are_told_apart,
    h62_a_late_snapshot_leaves_a_longer_log_alone,
    h64_only_the_log_says_that_a_learner_is_to_be_promoted,
    h67_a_paused_node_hears_what_waits_before_its_timers_fire,
    reads_are_answered_wherever_they_are_asked,
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

/// H42: what the core holds in memory is compared with the disk, and a difference is found.
#[test]
fn h42_a_log_in_memory_that_differs_from_the_disk_is_noticed() {
    let mut world = World::default();
    for line in step::parse("nodes 1 2 3\nelect 1\npropose 1 a\nrun 500ms").unwrap() {
        world.act(&line.step).unwrap();
    }
    world.cluster.node(common::id(2)).disk.runs.pop();
    let error = world.act(&Step::Run(Duration::from_millis(10))).unwrap_err();
    assert!(error.contains("node 2: where the log begins or ends differs from the disk"), "{error}");
}
