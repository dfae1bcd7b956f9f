//! `coracle-model`: checks small scopes of the consensus exhaustively.
#![allow(clippy::print_stdout, reason = "a command line tool answers on standard output")]

use std::{
    io::{IsTerminal, Write, stderr},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, ValueEnum};
use coracle_model::{Bug, HEAD, Limits, Report, Scope, Settings, check};

/// Checks small scopes of the consensus exhaustively: every order of messages, timers, writes and crashes
#[derive(Parser)]
#[command(name = "cargo xtask model", bin_name = "cargo xtask model")]
struct Cli {
    /// Look at this scope only; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = names())]
    scope: Vec<String>,
    /// Stop each scope after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Stop each scope after so many steps
    #[arg(long, value_name = "COUNT")]
    steps: Option<usize>,
    /// Look at paths of at most so many states, whatever the scope says
    #[arg(long, value_name = "COUNT")]
    depth: Option<usize>,
    /// Go beyond the depth of each scope, for as long as it may take
    #[arg(long, conflicts_with = "depth")]
    deep: bool,
    /// On how many threads; all processors by default
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// With a deliberate bug round the core, which must be found
    #[arg(long)]
    bug: Option<BugName>,
    /// Fail unless so many different states are seen in all
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    states_min: usize,
    /// Say what the scopes are, and look at none
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum BugName {
    /// A node that crashes forgets its vote
    ForgetVote,
    /// A disk says that a write is durable when it has only begun
    LyingDisk,
}

fn names() -> Vec<&'static str> {
    Scope::all().iter().map(|scope| scope.name).collect()
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        for scope in Scope::all() {
            println!("{:<12} {}", scope.name, scope.about);
        }
        return ExitCode::SUCCESS;
    }
    println!("{HEAD}");
    let chosen = |scope: &Scope| cli.scope.is_empty() || cli.scope.iter().any(|name| name == scope.name);
    let reports: Vec<Report> = Scope::all().into_iter().filter(chosen).map(|scope| run(&cli, scope)).collect();
    let states: usize = reports.iter().map(|report| report.states).sum();
    let seconds: f64 = reports.iter().map(|report| report.time.as_secs_f64()).sum();
    println!("{states} different states in {seconds:.1} s");
    verdict(&cli, &reports, states)
}

fn run(cli: &Cli, mut scope: Scope) -> Report {
    let defaults = Limits::default();
    let limits = Limits {
        threads: cli.threads.map_or(defaults.threads, usize::from),
        time: Duration::from_secs(cli.seconds),
        steps: cli.steps,
    };
    scope.depth_max = if cli.deep { None } else { cli.depth.or(scope.depth_max) };
    let name = scope.name;
    let bug = cli.bug.map(|bug| match bug {
        BugName::ForgetVote => Bug::ForgetVote,
        BugName::LyingDisk => Bug::LyingDisk,
    });
    let is_terminal = stderr().is_terminal();
    let progress = |states| {
        if is_terminal {
            eprint!("\r{name}: {states} states");
            // A line that is not shown is no loss.
            let _ = stderr().flush();
        }
    };
    let report = check(Settings { bug, ..scope.into() }, &limits, progress);
    if is_terminal {
        eprint!("\r{:60}\r", "");
    }
    println!("{report}");
    for failure in report.failures() {
        println!("  FAILED: {failure}");
    }
    for (number, line) in report.counterexample.iter().enumerate() {
        println!("  {:>3}. {line}", number + 1);
    }
    report
}

/// A bug has to be found in some scope; without one everything has to be as it is to be.
fn verdict(cli: &Cli, reports: &[Report], states: usize) -> ExitCode {
    let is_good = match cli.bug {
        Some(_) => reports.iter().any(|report| !report.is_sound()),
        None => reports.iter().all(Report::is_good) && states >= cli.states_min,
    };
    match (is_good, cli.bug.is_some()) {
        (true, true) => println!("the bug was found"),
        (true, false) => println!("everything holds"),
        (false, true) => println!("FAILED: the bug was not found"),
        (false, false) => println!("FAILED, or fewer than {} states", cli.states_min),
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
