//! How figures are taken.

use std::time::{Duration, Instant};

use cpu_time::ThreadTime;

use crate::{Trio, counting};

/// Entries that run before anything is measured, so that buffers have their size.
const WARM_UP: usize = 20_000;

/// Entries between two looks at the clock.
const CHUNK: usize = 2_048;

/// What one run took, per entry.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// CPU time of the thread, in nanoseconds.
    pub cpu: f64,
    /// Wall time, in nanoseconds.
    pub wall: f64,
}

/// What does not depend on the machine, per entry.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Calls of the allocator.
    pub allocations: f64,
    /// Bytes asked for.
    pub bytes: f64,
    /// Messages between the replicas.
    pub messages: f64,
}

/// The middle of several runs, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.into_iter().collect();
        assert!(!values.is_empty(), "a spread is of at least one value");
        values.sort_by(f64::total_cmp);
        Spread { min: values[0], median: values[values.len() / 2], max: values[values.len() - 1] }
    }
}

/// Runs until buffers have their size and the log was compacted a few times.
pub fn warm_up(trio: &mut dyn Trio, in_flight: usize) {
    run(trio, in_flight, WARM_UP);
}

/// One run of at least `duration`.
///
/// # Panics
/// If the thread's CPU time cannot be read.
pub fn time(trio: &mut dyn Trio, in_flight: usize, duration: Duration) -> Timed {
    let (cpu, wall) = (ThreadTime::now(), Instant::now());
    let mut entries = 0;
    while wall.elapsed() < duration {
        entries += run(trio, in_flight, CHUNK);
    }
    let per_entry = |took: Duration| took.as_nanos() as f64 / entries as f64;
    Timed { cpu: per_entry(cpu.elapsed()), wall: per_entry(wall.elapsed()) }
}

/// Counts over at least `entries` entries; allocations are zero unless [`counting::Counting`] is the allocator.
pub fn count(trio: &mut dyn Trio, in_flight: usize, entries: usize) -> Counted {
    let messages = trio.messages();
    let mut ran = 0;
    let allocated = counting::count(|| ran = run(trio, in_flight, entries));
    let per_entry = |count: u64| count as f64 / ran as f64;
    Counted {
        allocations: per_entry(allocated.allocations),
        bytes: per_entry(allocated.bytes),
        messages: per_entry(trio.messages() - messages),
    }
}

/// Runs at least `entries` entries, and says how many.
fn run(trio: &mut dyn Trio, in_flight: usize, entries: usize) -> usize {
    let mut ran = 0;
    while ran < entries {
        trio.round(in_flight);
        ran += in_flight;
    }
    ran
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(Spread::of([3.0, 9.0, 1.0]), Spread { min: 1.0, median: 3.0, max: 9.0 });
    }
}
