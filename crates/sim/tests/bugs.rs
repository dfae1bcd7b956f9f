//! Deliberate bugs inside the core are caught: those that a few seeds show. `cargo xtask sim --bugs` shows all.

use coracle_sim::{Bug, Failure, FaultMix, Invariant, Options, run_seed};

/// The first failure with the bug called `name`, which has to come within `seeds`.
fn caught(name: &str, seeds: u64) -> Box<Failure> {
    let Some(known) = Bug::all().find(|known| known.name == name) else { panic!("{name} is no bug") };
    let options = Options { bug: Some(known.bug), nodes: known.nodes, faults: FaultMix::Swarm, ..Options::default() };
    let failure = (1..=seeds).find_map(|seed| run_seed(seed, &options).err());
    failure.unwrap_or_else(|| panic!("{name} is not caught within {seeds} seeds"))
}

#[test]
fn bugs_of_the_core_are_caught_by_what_they_break() {
    for (name, invariant) in [
        ("vote-not-persisted", Invariant::AckDurability),
        ("term-not-persisted", Invariant::AckDurability),
        ("campaign-before-durable", Invariant::AckDurability),
        ("vote-for-older-log", Invariant::LeaderCompleteness),
        ("pre-vote-raises-term", Invariant::PreVote),
        ("quorum-too-small", Invariant::PreVote),
        ("old-term-committed", Invariant::CommitOnQuorum),
        ("count-unwritten", Invariant::CommitOnQuorum),
        ("acknowledge-unwritten", Invariant::AckDurability),
        ("old-ticket-acknowledges", Invariant::AckDurability),
        ("read-without-round", Invariant::ReadFreshness),
        ("read-before-own-commit", Invariant::ReadFreshness),
        ("apply-before-durable", Invariant::Ordering),
        ("snapshot-without-membership", Invariant::Liveness),
        ("lead-without-election", Invariant::ElectionSafety),
        ("forwarded-twice", Invariant::Linearizability),
    ] {
        let failure = caught(name, 60);
        assert_eq!(failure.violation.invariant, invariant, "{name}: {failure}");
        assert!(failure.command.ends_with(&format!("--bug {name}")), "{}", failure.command);
    }
}

#[test]
fn bugs_of_the_core_that_its_own_assertions_notice_are_caught() {
    for name in ["truncate-on-append", "heartbeat-commit-unchecked"] {
        caught(name, 20);
    }
}

#[test]
fn at_least_thirty_bugs_are_known() {
    assert!(Bug::all().count() >= 30);
}
