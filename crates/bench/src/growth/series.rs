//! Puts with more and more of one thing: throughput, CPU time and memory at each step.

use std::time::Duration;

use tokio::time;

use super::{Plan, draw, mebibytes, say, shown};
use crate::{
    ENTRY_BYTES,
    cluster::{Failure, Filling, Kind, Load, Progress, Sample, System, Work, fill, run_load},
    measure::Spread,
    plot::{Axis, Line, Plot, Scale},
};

/// Of what there is more and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    Clients,
    Values,
    Keys,
    Nodes,
}

/// What is the same at each step, unless it is what grows.
const NODES: usize = 3;
const CLIENTS: usize = 64;
const KEYS: u64 = 10_000;
/// The most that all values of a step have together.
const DATA_BYTES_MAX: u64 = 64 << 20;
/// More clients with large values would only meet the limit on what is under way.
const CLIENTS_OF_VALUES: usize = 16;
/// Between the keys' coming into being and the load.
const PAUSE: Duration = Duration::from_millis(300);

/// One step.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// How much there is of what grows.
    x: u64,
    nodes: usize,
    load: Load,
}

impl Dimension {
    fn name(self) -> &'static str {
        match self {
            Dimension::Clients => "clients",
            Dimension::Values => "values",
            Dimension::Keys => "keys",
            Dimension::Nodes => "nodes",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Dimension::Clients => "Clients",
            Dimension::Values => "Bytes of a value",
            Dimension::Keys => "Keys",
            Dimension::Nodes => "Nodes",
        }
    }

    fn xs(self, plan: &Plan) -> Vec<u64> {
        match (self, plan.is_quick) {
            (Dimension::Clients, false) => vec![1, 4, 16, 64, 256, 1024, 4096],
            (Dimension::Clients, true) => vec![1, 64, 1024],
            (Dimension::Values, false) => vec![16, 100, 1024, 16 << 10, 128 << 10, 1 << 20],
            (Dimension::Values, true) => vec![16, 4096, 256 << 10],
            (Dimension::Keys, _) => (3..).map(|power| 10_u64.pow(power)).take_while(|x| *x <= plan.keys_max).collect(),
            (Dimension::Nodes, _) => vec![1, 3, 5, 7],
        }
    }

    fn step(self, x: u64) -> Step {
        let load = Load { work: Work::Put, clients: CLIENTS, keys: KEYS, value_bytes: ENTRY_BYTES };
        let step = Step { x, nodes: NODES, load };
        match self {
            Dimension::Clients => Step { load: Load { clients: x as usize, ..load }, ..step },
            Dimension::Values => {
                let keys = (DATA_BYTES_MAX / x).clamp(1, KEYS);
                Step { load: Load { clients: CLIENTS_OF_VALUES, keys, value_bytes: x as usize, ..load }, ..step }
            }
            Dimension::Keys => Step { load: Load { keys: x, ..load }, ..step },
            Dimension::Nodes => Step { nodes: x as usize, ..step },
        }
    }
}

/// What one system did at one step.
struct Point {
    x: u64,
    samples: Vec<Sample>,
}

impl Point {
    fn of(&self, value: fn(&Sample) -> f64) -> Spread {
        Spread::of(self.samples.iter().map(value))
    }

    /// The memory of the largest server at the end, in MiB.
    fn memory(&self) -> f64 {
        let last = self.samples.last().and_then(|sample| sample.memory.iter().max());
        last.map_or(f64::NAN, |bytes| mebibytes(*bytes))
    }

    fn render(&self, kind: &Kind) -> String {
        let per_second = self.of(|sample| sample.per_second);
        let memory = self.samples.last().map(|sample| shown(&sample.memory)).unwrap_or_default();
        format!(
            "| {} | {} | {:.0} ({:.0} to {:.0}) | {:.2} | {:.2} | {:.1} | {memory} |",
            self.x,
            kind.name(),
            per_second.median,
            per_second.min,
            per_second.max,
            self.of(|sample| sample.p50 * 1e3).median,
            self.of(|sample| sample.p99 * 1e3).median,
            self.of(|sample| sample.cpu * 1e6).median,
        )
    }
}

/// One series, its table and its plots.
pub(super) async fn measure(plan: &Plan, dimension: Dimension, progress: &Progress) -> Result<(), Failure> {
    let Plan { rounds, timing, .. } = plan;
    say(&format!(
        "\nPuts, {rounds} rounds of {:?} each at every step, medians; every step on empty directories.\n",
        timing.window
    ))?;
    say(&format!(
        "| {} | System | ops/s (min to max) | p50 ms | p99 ms | servers' CPU us per op | MiB per server, leader first |\n|---|---|---|---|---|---|---|",
        dimension.label()
    ))?;
    let mut throughput: Vec<Line> = Vec::new();
    let mut memory: Vec<Line> = Vec::new();
    // Redis has no nodes to count.
    let kinds = plan.kinds().into_iter().filter(|kind| dimension != Dimension::Nodes || *kind != Kind::Redis);
    for kind in kinds {
        let mut points = Vec::new();
        for x in dimension.xs(plan) {
            let point = point(plan, &kind, dimension.step(x), progress).await?;
            progress.clear()?;
            say(&point.render(&kind))?;
            points.push(point);
        }
        let line = |value: fn(&Point) -> f64| points.iter().map(|point| (point.x as f64, value(point))).collect();
        throughput.push((kind.name(), line(|point| point.of(|sample| sample.per_second).median)));
        memory.push((kind.name(), line(Point::memory)));
    }
    let scale = if dimension == Dimension::Nodes { Scale::Linear } else { Scale::Log };
    let x = Axis { label: dimension.label(), scale };
    let plot = |title: &str, label, scale, lines| Plot { title: title.to_owned(), x, y: Axis { label, scale }, lines };
    draw(&plot("Throughput", "puts/s", Scale::Log, throughput), &format!("{}-throughput", dimension.name()))?;
    draw(&plot("Memory", "MiB of the largest server", Scale::Linear, memory), &format!("{}-memory", dimension.name()))
}

async fn point(plan: &Plan, kind: &Kind, step: Step, progress: &Progress) -> Result<Point, Failure> {
    let Step { x, nodes, load } = step;
    progress.show(&format!("{}: starting {nodes} processes", kind.name()))?;
    let system = System::start(kind, nodes, &plan.dir).await?;
    let tell = |done| Ok(progress.show(&format!("{}, {x}: {done} of {} keys", kind.name(), load.keys))?);
    fill(&system, Filling::once(load.keys, load.value_bytes), tell).await?;
    let mut samples = Vec::new();
    for round in 0..plan.rounds {
        progress.show(&format!("{}, {x}: round {} of {}", kind.name(), round + 1, plan.rounds))?;
        time::sleep(PAUSE).await;
        samples.push(run_load(&system, load, plan.timing).await?);
    }
    Ok(Point { x, samples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grows_differs() {
        let step = Dimension::Values.step(1 << 20);
        assert_eq!((step.nodes, step.load.keys, step.load.value_bytes), (3, 64, 1 << 20));
        assert_eq!(Dimension::Clients.step(4096).load.clients, 4096);
        assert_eq!(Dimension::Nodes.step(7).nodes, 7);
        let plan = Plan::parse(["--keys-max", "1000000"].into_iter()).unwrap();
        assert_eq!(Dimension::Keys.xs(&plan), [1000, 10_000, 100_000, 1_000_000]);
    }
}
