//! Small parts of the scopes, and bugs that are to be found in them. `cargo xtask model` goes further.

use coracle_model::{Bug, Extent, Limits, Report, Scope, Settings, check};

fn look(settings: Settings) -> Report {
    check(settings, &Limits::default(), |_| {})
}

/// A scope that a debug build goes through in seconds.
fn quick() -> Scope {
    Scope { crashes: 0, ..Scope::snapshots() }
}

#[test]
fn everything_holds_in_a_whole_small_scope() {
    let report = look(quick().into());
    assert!(report.is_sound(), "{report}: {:#?}", report.counterexample);
    assert_eq!(report.extent, Extent::Whole);
    assert!(report.states > 10_000, "{report}");
}

#[test]
fn everything_holds_in_the_beginnings_of_all_scopes() {
    for scope in Scope::all() {
        let report = look(Scope { depth_max: Some(7), ..scope }.into());
        assert!(report.is_sound(), "{report}\n{:#?}", report.counterexample);
        assert_eq!(report.extent, Extent::Depth, "{report}");
    }
}

#[test]
fn the_same_is_found_each_time() {
    // One thread takes the shortest paths first.
    let limits = Limits { threads: 1, ..Limits::default() };
    let count = || {
        let report = check(Scope { depth_max: Some(7), ..Scope::everything() }.into(), &limits, |_| {});
        (report.states, report.steps)
    };
    assert_eq!(count(), count());
}

#[test]
fn a_goal_out_of_reach_is_told() {
    let report = look(Scope { depth_max: Some(3), ..quick() }.into());
    assert!(report.is_sound());
    assert!(!report.is_good(), "nothing is committed in three states: {report}");
}

fn find(bug: Bug, scope: Scope, invariant: &str) {
    let report = look(Settings { bug: Some(bug), ..scope.into() });
    assert!(!report.invariants[invariant], "{bug:?}: {report}");
    assert!(!report.counterexample.is_empty());
}

#[test]
fn a_forgotten_vote_makes_two_leaders() {
    let scope = Scope { terms: 1, is_ordered: true, depth_max: None, ..Scope::elections() };
    find(Bug::ForgetVote, scope, "one leader per term");
}

#[test]
fn a_disk_that_lies_is_found_out() {
    find(Bug::LyingDisk, Scope::elections(), "nothing is said that is not durable");
}
