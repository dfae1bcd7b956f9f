//! Many seeds, several at a time.

use std::{
    io::{IsTerminal, Write, stderr},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use coracle_sim::{Failure, Options, Plan, Report, run_seed};

use super::{Arguments, failing, quietly};

/// From how many seeds on a run has to have seen everything that has to happen now and then.
const SEEDS_FOR_COVERAGE: u64 = 1000;
/// How many seeds run when nothing else is said.
const SEEDS: u64 = 1000;

/// Which seeds, and how.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// The first seed.
    pub(super) from: u64,
    /// How many.
    pub(super) seeds: u64,
    /// None begins after this.
    pub(super) until: Option<Instant>,
    pub(super) jobs: u16,
    pub(super) options: Options,
    /// What the line of progress begins with.
    pub(super) title: String,
}

/// What came of them.
#[derive(Default)]
pub(super) struct Sum {
    pub(super) report: Report,
    /// Of several that fail at the same time, the one of the smallest seed.
    pub(super) failure: Option<Box<Failure>>,
    pub(super) took: Duration,
}

/// What the threads share.
struct Shared<'a> {
    batch: &'a Batch,
    begun: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    sum: Mutex<Sum>,
}

impl Batch {
    /// Runs the seeds in order, until one fails.
    pub(super) fn run(&self) -> Sum {
        let shared = Shared {
            batch: self,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            sum: Mutex::default(),
        };
        quietly(|| {
            std::thread::scope(|scope| {
                for _ in 0..self.jobs {
                    scope.spawn(|| shared.work());
                }
            });
        });
        if stderr().is_terminal() {
            // The line of progress goes.
            drop(write!(stderr(), "\r\x1b[K"));
        }
        let sum = shared.sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        Sum { took: shared.begun.elapsed(), ..sum }
    }
}

impl Shared<'_> {
    /// Every seed below a failing one has run when the threads end: the smallest that fails is the same each time.
    fn work(&self) {
        let is_over = || self.batch.until.is_some_and(|until| Instant::now() >= until);
        while !self.stop.load(Ordering::Relaxed) && !is_over() {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.batch.seeds {
                return;
            }
            let result = run_seed(self.batch.from.wrapping_add(seed), &self.batch.options);
            let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(report) => sum.report.add(&report),
                Err(failure) => {
                    self.stop.store(true, Ordering::Relaxed);
                    if sum.failure.as_ref().is_none_or(|other| other.seed > failure.seed) {
                        sum.failure = Some(failure);
                    }
                }
            }
            self.progress(&sum.report);
        }
    }

    fn progress(&self, report: &Report) {
        let mut out = stderr();
        if !out.is_terminal() {
            return;
        }
        let rate = report.virtual_time.as_secs_f64() / self.begun.elapsed().as_secs_f64();
        let left = match self.batch.until {
            Some(until) => format!("{:.0} s left", until.saturating_duration_since(Instant::now()).as_secs_f64()),
            None => format!("of {} seeds", self.batch.seeds),
        };
        // The line is for eyes only: where it cannot be written nobody misses it.
        drop(write!(out, "\r\x1b[K{}{}, {left}, {rate:.0} times real time ", self.batch.title, report.seeds));
        drop(out.flush());
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let minutes = arguments.minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let batch = Batch {
        from: arguments.from,
        seeds: arguments.seeds.unwrap_or(if minutes.is_some() { u64::MAX } else { SEEDS }),
        until: minutes.and_then(|minutes| Instant::now().checked_add(minutes)),
        jobs: arguments.jobs,
        options: arguments.options(),
        title: String::new(),
    };
    let sum = batch.run();
    show(&sum);
    if let Some(failure) = &sum.failure {
        failing::show(&Plan::draw(failure.seed, &batch.options), failure, !arguments.no_minimise);
        return ExitCode::FAILURE;
    }
    let missing = sum.report.never_happened(arguments.nodes);
    if sum.report.seeds >= SEEDS_FOR_COVERAGE && arguments.bug.is_none() && !missing.is_empty() {
        println!("failed: over {} seeds it never happened that {}", sum.report.seeds, missing.join(", or that "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn show(sum: &Sum) {
    println!("{}", sum.report);
    let seconds = sum.took.as_secs_f64().max(f64::EPSILON);
    println!(
        "speed: {:.1} s, {:.0} events/s, {:.0} times real time",
        sum.took.as_secs_f64(),
        sum.report.events as f64 / seconds,
        sum.report.virtual_time.as_secs_f64() / seconds
    );
}
