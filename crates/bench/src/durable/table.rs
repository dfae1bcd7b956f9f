//! The table of durable writes, in Markdown, as the documentation shows it.

use std::time::Duration;

use super::round::{Load, Writer};
use crate::measure::Spread;

pub(super) const HEAD: &str = "| Entries | Store | Writes/s (min to max) | Entries/s | p50 us | p90 | p99 | max | Stalled rounds | CPU us | Allocations | Time, of the plain file's (quartiles) |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n";
/// A round with a slower write counts as stalled.
const STALL: Duration = Duration::from_millis(20);

/// One subject under one load.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) load: Load,
    /// Per second, over the rounds.
    pub(super) writes: Spread,
    /// Microseconds: half of all writes, nine of ten, 99 of 100, and all were no slower.
    pub(super) latencies: [f64; 4],
    /// How many rounds had a write over [`STALL`], and how many there were.
    pub(super) stalled: (usize, usize),
    /// Microseconds of CPU per write.
    pub(super) cpu: f64,
    pub(super) allocations: f64,
    /// How often as long as the plain file a write took, over the pairs of neighbouring rounds: median and quartiles.
    pub(super) ratio: Option<[f64; 3]>,
}

impl Row {
    /// What a subject gave, beside the plain file.
    pub(super) fn new(writer: &Writer, plain: Option<&Writer>) -> Row {
        let rate = |writer: &Writer| writer.rounds.iter().map(|round| round.writes_per_second).collect::<Vec<_>>();
        let ratio = plain.map(|plain| quartiles(rate(plain).iter().zip(rate(writer)).map(|(plain, it)| plain / it)));
        let mut latencies = writer.latencies.clone();
        latencies.sort_unstable();
        let latency = |part: f64| percentile(&latencies, part) as f64 / 1e3;
        Row {
            name: writer.name,
            load: writer.load,
            writes: Spread::of(rate(writer)),
            latencies: [0.5, 0.9, 0.99, 1.0].map(latency),
            stalled: (writer.rounds.iter().filter(|round| round.slowest > STALL).count(), writer.rounds.len()),
            cpu: Spread::of(writer.rounds.iter().map(|round| round.cpu)).median,
            allocations: writer.allocations,
            ratio,
        }
    }

    /// One line.
    pub(super) fn render(&self) -> String {
        let Row { name, load, writes, latencies, stalled: (stalled, rounds), cpu, allocations, ratio } = self;
        let Spread { min, median, max } = writes;
        let [p50, p90, p99, slowest] = latencies;
        let ratio = match ratio {
            Some([low, middle, high]) => format!("{middle:.2} ({low:.2} to {high:.2})"),
            None => "-".to_owned(),
        };
        format!(
            "| {} of {} bytes | {name} | {median:.0} ({min:.0} to {max:.0}) | {:.0} | {p50:.0} | {p90:.0} | {p99:.0} | {slowest:.0} | {stalled} of {rounds} | {cpu:.0} | {allocations:.1} | {ratio} |\n",
            load.batch,
            load.entry_bytes,
            median * load.batch as f64,
        )
    }
}

/// The value that so many of the sorted ones do not exceed.
fn percentile(sorted: &[u64], part: f64) -> u64 {
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or(0)
}

fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<u64> = (1..=200).collect();
        let percentiles = [0.0, 0.5, 0.9, 0.99, 1.0].map(|part| percentile(&values, part));
        assert_eq!(percentiles, [1, 100, 180, 198, 200]);
        assert_eq!(quartiles([4.0, 1.0, 3.0, 2.0].into_iter()), [2.0, 3.0, 4.0]);
    }

    #[test]
    fn a_row_shows_its_part_of_the_plain_files_time() {
        let row = Row {
            name: "file",
            load: Load { entry_bytes: 256, batch: 64 },
            writes: Spread { min: 90.0, median: 100.0, max: 110.0 },
            latencies: [1.0, 2.0, 3.0, 4.0],
            stalled: (5, 80),
            cpu: 12.3,
            allocations: 1.25,
            ratio: Some([1.1, 1.2, 1.3]),
        };
        let expected = "| 64 of 256 bytes | file | 100 (90 to 110) | 6400 | 1 | 2 | 3 | 4 | 5 of 80 | 12 | 1.2 | 1.20 (1.10 to 1.30) |\n";
        assert_eq!(row.render(), expected);
    }
}
