//! Looking at all of a scope.

use std::{
    collections::BTreeMap,
    fmt,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::{Settings, actions::Action, world::World};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How far to go.
#[derive(Clone, Debug)]
pub struct Limits {
    /// On how many threads.
    pub threads: usize,
    /// For how long.
    pub time: Duration,
    /// To how many states, counted each time that they are reached.
    pub steps: Option<usize>,
}

impl Default for Limits {
    /// All processors, and no hurry.
    fn default() -> Limits {
        let threads = available_parallelism().map_or(1, usize::from);
        Limits { threads, time: Duration::from_secs(24 * 60 * 60), steps: None }
    }
}

/// What was found in a scope.
#[derive(Clone, Debug)]
pub struct Report {
    /// The scope's name.
    pub scope: &'static str,
    /// How many states there are, as far as they differ.
    pub states: usize,
    /// How many ways were taken to them.
    pub steps: usize,
    /// The length of the longest path that was looked at, in states.
    pub depth: usize,
    /// How long it took.
    pub time: Duration,
    /// How much of the scope was looked at.
    pub extent: Extent,
    /// What must always hold, and whether it does.
    pub invariants: BTreeMap<&'static str, bool>,
    /// What has to be reached, and whether it was.
    pub goals: BTreeMap<&'static str, bool>,
    /// What led to the first thing that must not be: one line a step.
    pub counterexample: Vec<String>,
}

/// How much of a scope was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// All paths up to the depth of the scope, but for what is first reached by a longer one: threads do not wait for each other.
    Depth,
    /// As much as limits on time and steps, or a failure, allowed.
    Part,
}

impl Report {
    /// Whether everything holds that must, and everything was reached that has to be.
    pub fn is_good(&self) -> bool {
        self.is_sound() && self.goals.values().all(|is_reached| *is_reached)
    }

    /// Whether everything holds that must.
    pub fn is_sound(&self) -> bool {
        self.invariants.values().all(|holds| *holds)
    }

    /// What does not hold, or was not reached.
    pub fn failures(&self) -> impl Iterator<Item = &'static str> {
        self.invariants.iter().chain(&self.goals).filter(|(_, is_good)| !**is_good).map(|(name, _)| *name)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extent = match self.extent {
            Extent::Whole => "whole",
            Extent::Depth => "depth",
            Extent::Part => "part",
        };
        let count = |all: &BTreeMap<_, bool>| format!("{}/{}", all.values().filter(|it| **it).count(), all.len());
        write!(
            f,
            "{:<12} {:>10} {:>11} {:>6} {:>6} {:>7.1} s {:>6} {:>6}",
            self.scope,
            self.states,
            self.steps,
            self.depth,
            extent,
            self.time.as_secs_f64(),
            count(&self.invariants),
            count(&self.goals),
        )
    }
}

/// The heads of the columns of a [`Report`].
pub const HEAD: &str = "scope            states       steps  depth extent      time  holds   goals";

/// Looks at all states of a scope, as far as `limits` allow, and tells now and then how many it has seen.
pub fn check(settings: Settings, limits: &Limits, mut progress: impl FnMut(usize)) -> Report {
    let started = Instant::now();
    let scope = settings.scope.clone();
    let mut builder = settings
        .clone()
        .checker()
        .threads(limits.threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(limits.time);
    if let Some(depth) = scope.depth_max {
        builder = builder.target_max_depth(depth);
    }
    if let Some(steps) = limits.steps {
        builder = builder.target_state_count(steps);
    }
    let mut checker = builder.spawn_bfs();
    let handles = checker.handles();
    while !handles.iter().all(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(PROGRESS_INTERVAL.min(limits.time / 20));
        progress(checker.unique_state_count());
    }
    let is_panicked = handles.into_iter().any(|handle| handle.join().is_err());
    let discoveries = checker.discoveries();
    let mut report = Report {
        scope: scope.name,
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        time: started.elapsed(),
        extent: Extent::Part,
        invariants: BTreeMap::new(),
        goals: BTreeMap::new(),
        counterexample: Vec::new(),
    };
    for property in settings.properties() {
        let found = discoveries.get(property.name);
        if property.expectation == Expectation::Always {
            report.invariants.insert(property.name, found.is_none());
            if let Some(path) = found
                && report.counterexample.is_empty()
            {
                report.counterexample = describe(&settings, path.clone());
            }
        } else {
            report.goals.insert(property.name, found.is_some());
        }
    }
    report.invariants.insert("the model itself does not panic", !is_panicked);
    let is_cut = limits.steps.is_some_and(|steps| report.steps >= steps) || report.time >= limits.time;
    if !is_cut && report.is_sound() {
        let is_deep = scope.depth_max.is_some_and(|depth| report.depth >= depth);
        report.extent = if is_deep { Extent::Depth } else { Extent::Whole };
    }
    report
}

fn describe(settings: &Settings, path: Path<World, Action>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fault = None;
    for (world, action) in path.into_vec() {
        lines.extend(action.map(|action| settings.describe(&world, action)));
        fault = world.ghost.fault;
    }
    lines.extend(fault.map(|fault| format!("and so: {fault:?}")));
    lines
}
