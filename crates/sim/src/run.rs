//! Runs of one seed.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use coracle_core::{Rng, Time};

use crate::{
    Failure, Invariant, LevelWorkload, Options, Plan, Report, Violation, Workload, trace::Trace, world::World,
};

/// The seed's bits for the workload, so that its numbers are not the world's.
const WORKLOAD: u64 = 0x776f_726b_6c6f_6164;

/// Runs one seed with clients of the level state machine.
///
/// # Errors
/// When a checker objects; the failure tells what was seen before it.
pub fn run_seed(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    Plan::draw(seed, options).run()
}

/// Runs one seed with a workload of one's own, which `make` draws from the numbers that it is given.
///
/// # Errors
/// When a checker objects; the failure tells what was seen before it.
pub fn run_with(
    seed: u64,
    options: &Options,
    make: &dyn Fn(&mut Rng) -> Box<dyn Workload>,
) -> Result<Report, Box<Failure>> {
    run_plan(&Plan::draw(seed, options), make)
}

/// Runs one seed with clients of the level state machine, and shows `listener` a line for each transition.
///
/// # Errors
/// When a checker objects.
pub fn replay(seed: u64, options: &Options, listener: Box<dyn FnMut(&str) + Send>) -> Result<Report, Box<Failure>> {
    Plan::draw(seed, options).replay(listener)
}

impl Plan {
    /// Runs it with clients of the level state machine.
    ///
    /// # Errors
    /// When a checker objects; the failure tells what was seen before it.
    pub fn run(&self) -> Result<Report, Box<Failure>> {
        run_plan(self, &level(&self.options))
    }

    /// Runs it with clients of the level state machine, and shows `listener` a line for each transition.
    ///
    /// # Errors
    /// When a checker objects.
    pub fn replay(&self, listener: Box<dyn FnMut(&str) + Send>) -> Result<Report, Box<Failure>> {
        let trace = Trace::on(Some(listener));
        attempt_level(self, trace.clone())
            .map_err(|(violation, at)| Box::new(failure(self, Some((violation.clone(), at)), violation, &trace)))
    }
}

fn run_plan(plan: &Plan, make: &dyn Fn(&mut Rng) -> Box<dyn Workload>) -> Result<Report, Box<Failure>> {
    let violation = match attempt(plan, make, Trace::default()) {
        Ok(report) => return Ok(report),
        Err((violation, _)) => violation,
    };
    // The lines cost more than the run: they are made only when there is something to show, by running it again.
    let trace = Trace::on(None);
    let again = attempt(plan, make, trace.clone());
    Err(Box::new(failure(plan, again.err(), violation, &trace)))
}

fn level(options: &Options) -> impl Fn(&mut Rng) -> Box<dyn Workload> {
    let options = options.clone();
    move |rng| Box::new(LevelWorkload::new(rng, &options))
}

/// Runs a plan once, with clients of the level state machine.
pub(crate) fn attempt_level(plan: &Plan, trace: Trace) -> Result<Report, (Violation, Time)> {
    attempt(plan, &level(&plan.options), trace)
}

/// How many clients a plan has.
pub(crate) fn clients(plan: &Plan) -> usize {
    level(&plan.options)(&mut Rng::new(plan.seed ^ WORKLOAD)).clients()
}

fn attempt(
    plan: &Plan,
    make: &dyn Fn(&mut Rng) -> Box<dyn Workload>,
    trace: Trace,
) -> Result<Report, (Violation, Time)> {
    let run = || {
        let workload = make(&mut Rng::new(plan.seed ^ WORKLOAD));
        World::new(plan, workload, trace.clone()).run(plan)
    };
    // Nothing of the run is looked at after a panic but the trace, which is whole after each line.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let what = format!("panic: {}", message(&*panic));
        Err((Violation::new(Invariant::NoPanic, what), trace.last().1))
    })
}

fn failure(plan: &Plan, again: Option<(Violation, Time)>, first: Violation, trace: &Trace) -> Failure {
    let (lines, last) = trace.last();
    let (violation, at) = match again {
        Some((violation, at)) if violation == first => (violation, at),
        Some((other, at)) => (unequal(&first, &format!("fails otherwise: {other}")), at),
        None => (unequal(&first, "does not fail"), last),
    };
    let virtual_time = Duration::from_nanos(at.0);
    let command = Failure::command(plan.seed, &plan.options);
    Failure { seed: plan.seed, violation, virtual_time, lines, command }
}

fn unequal(first: &Violation, second: &str) -> Violation {
    Violation::new(Invariant::Determinism, format!("a second run of the seed {second}; the first: {first}"))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("of an unknown kind")
}
