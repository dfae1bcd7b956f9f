//! Runs seeds of the simulator, many at a time.
#![allow(clippy::print_stdout, reason = "a report on the standard output is what this program is for")]

use std::{
    io::{IsTerminal, Write, stderr},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use coracle_sim::{Bug, Failure, FaultMix, Nodes, Options, Report, replay, run_seed};

/// From how many seeds on a run has to have seen everything that has to happen now and then.
const SEEDS_FOR_COVERAGE: u64 = 1000;

/// Runs groups of replicas on virtual time, under faults drawn from seeds, and checks what they do.
#[derive(Debug, Parser)]
#[command(name = "coracle-sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many nodes a group has: a number, or "mixed" for 1, 2, 3, 4, 5 or 7, drawn per seed.
    #[arg(long, default_value_t = Nodes::Mixed)]
    nodes: Nodes,
    /// Which faults there are: "crashes", "swarm" for all kinds, or "mixed" for two seeds with crashes and one of the swarm.
    #[arg(long, default_value_t = FaultMix::Mixed)]
    faults: FaultMix,
    /// How many virtual seconds faults go on in each run.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How many seeds run at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Run this seed alone, with a line for each transition.
    #[arg(long)]
    seed: Option<u64>,
    /// Build in a bug, which has to be caught.
    #[arg(long)]
    bug: Option<Bug>,
    /// Judge clients' answers by nothing but whether their history is linearizable.
    #[arg(long)]
    history_only: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            nodes: self.nodes,
            faults: self.faults,
            duration: Duration::from_secs(self.seconds),
            bug: self.bug,
            history_only: self.history_only,
            ..Options::default()
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => run_one(seed, &arguments.options()),
        None => run_many(&arguments),
    }
}

fn run_one(seed: u64, options: &Options) -> ExitCode {
    match replay(seed, options, Box::new(|line| println!("{line}"))) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("seed {seed} failed at {:.6} s: {}", failure.virtual_time.as_secs_f64(), failure.violation);
            ExitCode::FAILURE
        }
    }
}

/// What the threads share.
struct Shared {
    next: AtomicU64,
    stop: AtomicBool,
    sum: Mutex<Sum>,
}

#[derive(Default)]
struct Sum {
    report: Report,
    failure: Option<Box<Failure>>,
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let shared = Shared { next: AtomicU64::new(0), stop: AtomicBool::new(false), sum: Mutex::default() };
    let begun = Instant::now();
    // A panic of a run is a failure of that run, and shown with it.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| work(arguments, &shared, begun));
        }
    });
    drop(std::panic::take_hook());
    let sum = shared.sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    show(arguments, &sum, begun.elapsed())
}

fn work(arguments: &Arguments, shared: &Shared, begun: Instant) {
    let options = arguments.options();
    while !shared.stop.load(Ordering::Relaxed) {
        let seed = shared.next.fetch_add(1, Ordering::Relaxed);
        if seed >= arguments.seeds {
            return;
        }
        let result = run_seed(arguments.from.wrapping_add(seed), &options);
        let mut sum = shared.sum.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(report) => sum.report.add(&report),
            Err(failure) => {
                shared.stop.store(true, Ordering::Relaxed);
                // Of several that fail at the same time, the smallest seed is shown.
                if sum.failure.as_ref().is_none_or(|other| other.seed > failure.seed) {
                    sum.failure = Some(failure);
                }
            }
        }
        progress(arguments, &sum.report, begun);
    }
}

fn progress(arguments: &Arguments, report: &Report, begun: Instant) {
    let mut out = stderr();
    if !out.is_terminal() {
        return;
    }
    let rate = report.virtual_time.as_secs_f64() / begun.elapsed().as_secs_f64();
    // The line is for eyes only: where it cannot be written nobody misses it.
    drop(write!(out, "\r{} of {} seeds, {rate:.0} times real time ", report.seeds, arguments.seeds));
    drop(out.flush());
}

fn show(arguments: &Arguments, sum: &Sum, took: Duration) -> ExitCode {
    if stderr().is_terminal() {
        drop(writeln!(stderr()));
    }
    println!("{}", sum.report);
    let seconds = took.as_secs_f64().max(f64::EPSILON);
    println!(
        "speed: {:.1} s, {:.0} events/s, {:.0} times real time",
        took.as_secs_f64(),
        sum.report.events as f64 / seconds,
        sum.report.virtual_time.as_secs_f64() / seconds
    );
    if let Some(failure) = &sum.failure {
        println!("{failure}");
        return ExitCode::FAILURE;
    }
    let missing = sum.report.never_happened(arguments.nodes);
    if arguments.seeds >= SEEDS_FOR_COVERAGE && arguments.bug.is_none() && !missing.is_empty() {
        println!("failed: over {} seeds it never happened that {}", arguments.seeds, missing.join(", or that "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
