//! A few seeds on every build, and a look at whether the checkers see anything.

use std::time::Duration;

use coracle_sim::{Bug, FaultMix, Invariant, Nodes, Options, Report, run_seed};

fn options(nodes: Nodes) -> Options {
    Options { nodes, faults: FaultMix::Swarm, duration: Duration::from_secs(20), ..Options::default() }
}

#[test]
fn forty_seeds_hold_every_invariant() {
    let mut sum = Report::default();
    for seed in 0..40 {
        match run_seed(seed, &options(Nodes::Mixed)) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    let happened =
        [sum.snapshots_installed, sum.truncations, sum.leader_changes, sum.left_open, sum.answered_from_session];
    assert!(happened.iter().all(|count| *count > 0), "{sum}");
    for fault in ["crash", "power-cut", "partition", "stall", "clock-rate", "clock-step", "disk-error", "disk-full"] {
        assert!(sum.faults.of(fault) > 0, "{fault}: {sum}");
    }
    assert!(sum.acknowledged > 1000 && sum.answered > 500, "{sum}");
}

/// Seeds that showed a fault once; a seed stops showing it when anything draws its numbers otherwise.
#[test]
fn seeds_that_failed_once_hold_every_invariant() {
    for seed in [36, 5004, 5046, 5255, 5550, 6249, 201_885] {
        if let Err(failure) = run_seed(seed, &Options::default()) {
            panic!("{failure}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 2, 3] {
        let options = options(Nodes::Exactly(3));
        let (first, second) = (run_seed(seed, &options).unwrap(), run_seed(seed, &options).unwrap());
        assert_eq!(first, second);
        assert_ne!(first.hash, run_seed(seed + 100, &options).unwrap().hash);
    }
}

#[test]
fn one_node_alone_is_a_group() {
    let report = run_seed(7, &options(Nodes::Exactly(1))).unwrap();
    assert!(report.acknowledged > 0, "{report}");
}

/// Runs seeds until one fails, which has to be soon.
fn caught(bug: Bug, seeds: u64) -> Invariant {
    caught_with(bug, seeds, &options(Nodes::Mixed))
}

fn caught_with(bug: Bug, seeds: u64, options: &Options) -> Invariant {
    let options = Options { bug: Some(bug), ..options.clone() };
    let failure = (0..seeds).find_map(|seed| run_seed(seed, &options).err());
    let failure = failure.unwrap_or_else(|| panic!("{bug} is not caught within {seeds} seeds"));
    assert!(!failure.lines.is_empty() && failure.lines.len() <= 60);
    assert!(failure.command.contains(&format!("--seed {}", failure.seed)), "{}", failure.command);
    assert!(failure.command.contains(&format!("--bug {bug}")), "{}", failure.command);
    assert_eq!(failure.command.contains("--history-only"), options.history_only, "{}", failure.command);
    failure.violation.invariant
}

#[test]
fn an_acknowledgement_before_the_disk_is_caught() {
    assert_eq!(caught(Bug::AcknowledgeBeforeDurable, 10), Invariant::AckDurability);
}

#[test]
fn commands_applied_twice_are_caught() {
    assert_eq!(caught(Bug::SkipSessionCheck, 30), Invariant::ExactlyOnce);
}

#[test]
fn a_forgotten_vote_is_caught() {
    assert_eq!(caught(Bug::ForgetVote, 30), Invariant::ElectionSafety);
}

#[test]
fn a_log_that_lost_entries_is_caught() {
    caught(Bug::TruncateLog, 30);
}

#[test]
fn stale_reads_are_caught() {
    assert_eq!(caught(Bug::StaleRead, 30), Invariant::ReadFreshness);
}

#[test]
fn stale_reads_are_caught_by_the_history_alone() {
    let options = Options { history_only: true, ..options(Nodes::Mixed) };
    assert_eq!(caught_with(Bug::StaleRead, 30, &options), Invariant::Linearizability);
}

#[test]
fn commands_applied_twice_are_caught_by_the_history_alone() {
    let options = Options { history_only: true, ..options(Nodes::Mixed) };
    assert_eq!(caught_with(Bug::SkipSessionCheck, 60, &options), Invariant::Linearizability);
}

#[test]
fn a_state_that_parts_from_the_others_is_caught() {
    caught(Bug::SkipEntry, 30);
}

#[test]
fn the_canary_fails() {
    assert_eq!(caught(Bug::Canary, 30), Invariant::Canary);
}
