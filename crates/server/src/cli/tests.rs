//! The command line is understood as it is meant.

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn endpoints(line: &str) -> Vec<String> {
    parse(line).unwrap().cluster.endpoints
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn endpoints_may_stand_before_and_after_the_command() {
    assert_eq!(endpoints("coracle --endpoints a:1,b:2 status"), ["a:1", "b:2"]);
    assert_eq!(endpoints("coracle demo words --endpoints a:1,b:2 --clients 2"), ["a:1", "b:2"]);
}

#[test]
fn values_and_amounts_may_be_negative_or_a_dash() {
    assert!(matches!(parse("coracle put k -5").unwrap().command, Command::Put(args) if args.value == "-5"));
    assert!(matches!(parse("coracle put k -").unwrap().command, Command::Put(args) if args.value == "-"));
    assert!(matches!(parse("coracle incr k -5").unwrap().command, Command::Incr(args) if args.by == -5));
    assert!(matches!(parse("coracle incr k").unwrap().command, Command::Incr(args) if args.by == 1));
}

#[test]
fn what_is_wrong_is_named_with_its_flag() {
    for (line, flag, part) in [
        ("coracle --endpoints localhost status", "--endpoints", "port is missing"),
        ("coracle --timeout 5 status", "--timeout", "unit is missing"),
        ("coracle serve /memory/1 --api localhost:1", "--api", "IP address"),
        ("coracle serve /memory/1 --election-timeout 2s..1s", "--election-timeout", "not less"),
        ("coracle serve /memory/1 --heartbeat x", "--heartbeat", "not a"),
        ("coracle serve /ip4/127.0.0.1/udp/9490", "<ADDRESS>", "udp"),
        ("coracle serve /memory/1 --peers /memory/2,nonsense", "--peers", "nonsense"),
        ("coracle serve /memory/1 --storage rocks:./a", "--storage", "rocks"),
        ("coracle demo words --clients 0", "--clients", "0"),
        ("coracle join nonsense", "<ADDRESS>", "nonsense"),
        ("coracle leave xyz", "<ID>", "coracle members"),
        ("coracle weaken 7f --for 5", "--for", "unit is missing"),
    ] {
        let error = parse(line).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{text}");
        assert!(error.exit_code() == 2 && text.contains(flag) && text.contains(part), "{text}");
    }
}

#[test]
fn only_a_node_that_joins_by_itself_chooses_to_be_a_learner() {
    assert!(parse("coracle serve /memory/1 --join /memory/2 --learner").is_ok());
    for line in ["--learner", "--standby --learner", "--peers /memory/1,/memory/2 --learner"] {
        let error = parse(&format!("coracle serve /memory/1 {line}")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_node_has_no_use_for_endpoints_and_says_so() {
    let of = |line: &str| Cli::of(&Cli::command().try_get_matches_from(line.split_whitespace()).unwrap());
    of("coracle serve /memory/1").unwrap();
    of("coracle --timeout 1s status").unwrap();
    for line in ["coracle serve /memory/1 --endpoints a:1", "coracle --timeout 1s serve /memory/1"] {
        let error = of(line).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("`serve` runs a node"), "{error}");
    }
}

#[test]
fn a_prefix_excludes_bounds() {
    assert_eq!(parse("coracle scan --prefix a --from b").unwrap_err().kind(), ErrorKind::ArgumentConflict);
}

#[test]
fn a_new_directory_founds_joins_or_stands_by_and_not_two_of_them() {
    for rest in ["--peers /memory/2", "--join /memory/2,/memory/3", "--join /memory/2 --learner", "--standby"] {
        parse(&format!("coracle serve /memory/1 {rest}")).unwrap();
    }
    for rest in ["--peers /memory/2 --join /memory/3", "--join /memory/2 --standby", "--standby --peers /memory/2"] {
        let error = parse(&format!("coracle serve /memory/1 {rest}")).unwrap_err();
        assert!(error.kind() == ErrorKind::ArgumentConflict && error.exit_code() == 2, "{error}");
    }
    let error = parse("coracle serve /memory/1 --learner").unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("--join"), "{error}");
}

#[test]
fn to_join_takes_longer_than_other_commands_unless_it_is_told() {
    let longer = Duration::from_secs(60);
    let told = |line: &str| parse(line).unwrap().cluster.timeout_or(longer);
    assert_eq!(told("coracle join /memory/4"), longer);
    assert_eq!(told("coracle join /memory/4 --timeout 5s"), Duration::from_secs(5));
    assert_eq!(parse("coracle status").unwrap().cluster.timeout(), Duration::from_secs(10));
}
