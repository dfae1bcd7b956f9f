//! The tester is tested: each bug has to be found, and nothing without one.

use std::{process::ExitCode, time::Duration};

use coracle_sim::{Bug, FaultMix, KnownBug, Options};

use super::{
    Arguments,
    many::{Batch, Sum},
};

/// Within how many seeds a bug has to be found.
const SEEDS: u64 = 2000;

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let seeds = arguments.seeds.unwrap_or(SEEDS);
    println!("{:<28} {:>5} {:>6} {:>10} {:>8}  caught by", "bug", "nodes", "seed", "virtual", "wall");
    let missed: Vec<&str> = Bug::all().filter(|known| !is_found(arguments, known, seeds)).map(|it| it.name).collect();
    let has_control_failed = !is_control_clean(arguments, seeds);
    if !missed.is_empty() {
        println!("failed: not found within {seeds} seeds: {}", missed.join(", "));
    }
    if missed.is_empty() && !has_control_failed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn batch(arguments: &Arguments, seeds: u64, title: &str, options: Options) -> Batch {
    let title = format!("{title}: ");
    let options = Options { faults: FaultMix::Swarm, ..options };
    Batch { from: arguments.from, seeds, until: None, jobs: arguments.jobs, options, title }
}

fn is_found(arguments: &Arguments, known: &KnownBug, seeds: u64) -> bool {
    let options = Options { bug: Some(known.bug), nodes: known.nodes, ..arguments.options() };
    let sum = batch(arguments, seeds, known.name, options).run();
    let nodes = known.nodes.to_string();
    match &sum.failure {
        Some(failure) => {
            let virtual_time = sum.report.virtual_time + failure.virtual_time;
            row(known.name, &nodes, &failure.seed.to_string(), virtual_time, &sum);
            println!("  {}", failure.violation.invariant);
        }
        None => {
            row(known.name, &nodes, "-", sum.report.virtual_time, &sum);
            println!("  MISSED");
        }
    }
    sum.failure.is_some()
}

fn row(name: &str, nodes: &str, seed: &str, virtual_time: Duration, sum: &Sum) {
    let (virtual_time, wall) = (virtual_time.as_secs_f64(), sum.took.as_secs_f64());
    print!("{name:<28} {nodes:>5} {seed:>6} {virtual_time:>8.0} s {wall:>6.1} s");
}

/// As many seeds without a bug, of which none may fail.
fn is_control_clean(arguments: &Arguments, seeds: u64) -> bool {
    let sum = batch(arguments, seeds, "no bug", Options { bug: None, ..arguments.options() }).run();
    row("(none)", &arguments.nodes.to_string(), "-", sum.report.virtual_time, &sum);
    match &sum.failure {
        None => {
            println!("  nothing, as it should be");
            true
        }
        Some(failure) => {
            println!("  FAILED\n{failure}");
            false
        }
    }
}
