//! `cargo xtask bench groups`: many groups on three processes beside one, in the same run.
//!
//! Three processes inside this one, over the network in memory, each with a store of its own; every client proposes 100 bytes on its group's leader, waits for the answer, and proposes again.

mod cluster;
mod store;

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use cpu_time::ProcessTime;

use self::cluster::Cluster;
use crate::{machine, measure::Spread};

/// What the arguments after `groups` ask for.
pub struct Plan {
    groups: usize,
    clients: usize,
    runs: usize,
    warm_up: Duration,
    duration: Duration,
    /// Where the stores on disk are.
    dir: PathBuf,
}

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Plan, String> {
        let mut plan = Plan {
            groups: 100,
            clients: 4,
            runs: 5,
            warm_up: Duration::from_millis(500),
            duration: Duration::from_secs(3),
            dir: std::env::temp_dir(),
        };
        while let Some(arg) = args.next() {
            match arg {
                "--quick" => (plan.runs, plan.duration) = (1, Duration::from_millis(500)),
                "--groups" => plan.groups = number(arg, args.next())?,
                "--clients" => plan.clients = number(arg, args.next())?,
                "--runs" => plan.runs = number(arg, args.next())?,
                "--dir" => plan.dir = args.next().ok_or("--dir takes a directory")?.into(),
                _ => return Err(format!("unknown option `{arg}`")),
            }
        }
        Ok(plan)
    }
}

/// Limits what is started: more is a mistake.
const NUMBER_MAX: usize = 1000;

fn number(option: &str, value: Option<&str>) -> Result<usize, String> {
    let valid = value.and_then(|value| value.parse().ok()).filter(|number| (1..=NUMBER_MAX).contains(number));
    valid.ok_or_else(|| format!("{option} takes a number from 1 to {NUMBER_MAX}, got `{}`", value.unwrap_or_default()))
}

/// Where the logs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// In memory.
    Memory,
    /// On disk, durable against a power loss.
    Sled,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Engine::Memory => "memory",
            Engine::Sled => "sled",
        }
    }
}

/// One thing that is measured.
#[derive(Clone, Copy, Debug)]
struct Load {
    engine: Engine,
    groups: usize,
    /// In each group.
    clients: usize,
}

/// What one run of a load gave.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Committed, applied and answered, per second.
    throughput: f64,
    /// Microseconds of the whole process's CPU per operation.
    cpu: f64,
    /// Calls of the three logs' `write` per operation: a store on disk syncs once in each.
    writes: f64,
    /// Groups in one such call.
    groups_written: f64,
    /// Part of a core that the processes take while nobody asks for anything: heartbeats.
    rest: f64,
}

/// Runs the plan, and prints a table.
///
/// # Errors
/// When a cluster cannot be started, or the output cannot be written.
pub fn run(plan: &Plan) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = io::stdout();
    writeln!(out, "Three processes in one, network in memory, commands of 100 bytes, clients on the leaders.")?;
    writeln!(out, "{}. {} alternating runs of {:?} each, medians.\n", machine::describe(), plan.runs, plan.duration)?;
    for engine in [Engine::Memory, Engine::Sled] {
        let load = |groups, clients| Load { engine, groups, clients };
        let all = plan.groups * plan.clients;
        let loads = [load(1, plan.clients), load(1, all), load(plan.groups, plan.clients)];
        let mut results = vec![Vec::new(); loads.len()];
        for _ in 0..plan.runs {
            for (load, results) in loads.iter().zip(&mut results) {
                results.push(runtime.block_on(measure(plan, *load))?);
            }
        }
        out.write_all(render(&loads, &results).as_bytes())?;
        writeln!(out)?;
    }
    Ok(())
}

/// One run, on a cluster of its own: what an earlier one left behind is not measured.
async fn measure(plan: &Plan, load: Load) -> io::Result<Run> {
    let cluster = Cluster::start(load.engine, &plan.dir, load.groups).await.map_err(io::Error::other)?;
    let (start, cpu) = (Instant::now(), ProcessTime::now());
    tokio::time::sleep(plan.warm_up).await;
    let rest = cpu.elapsed().as_secs_f64() / start.elapsed().as_secs_f64();
    let clients = cluster.clients(load.clients);
    tokio::time::sleep(plan.warm_up).await;
    let (start, cpu, before) = (Instant::now(), ProcessTime::now(), cluster.counted());
    tokio::time::sleep(plan.duration).await;
    let (took, cpu, after) = (start.elapsed(), cpu.elapsed(), cluster.counted());
    clients.stop().await.map_err(io::Error::other)?;
    cluster.stop().await;
    let (operations, writes) = ((after.operations - before.operations) as f64, (after.writes - before.writes) as f64);
    Ok(Run {
        throughput: operations / took.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / operations,
        writes: writes / operations,
        groups_written: (after.groups_written - before.groups_written) as f64 / writes,
        rest,
    })
}

/// All loads of one engine, each beside the first.
fn render(loads: &[Load], results: &[Vec<Run>]) -> String {
    let mut out = String::from(
        "| Store | Groups | Clients in each | Operations/s (min to max) | of one group's | CPU us per operation | writes of a log per operation, of three | groups in a write | CPU at rest |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let throughput = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.throughput));
    let median = |runs: &[Run], of: fn(&Run) -> f64| Spread::of(runs.iter().map(of)).median;
    let one = results.first().map_or(f64::NAN, |runs| throughput(runs).median);
    for (load, runs) in loads.iter().zip(results) {
        let Spread { min, median: middle, max } = throughput(runs);
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {middle:.0} ({min:.0} to {max:.0}) | {:.2} | {:.0} | {:.3} | {:.1} | {:.1} % |",
            load.engine.name(),
            load.groups,
            load.clients,
            middle / one,
            median(runs, |run| run.cpu),
            median(runs, |run| run.writes),
            median(runs, |run| run.groups_written),
            median(runs, |run| run.rest * 100.0),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let parse = |args: &str| Plan::parse(args.split_whitespace());
        assert_eq!(parse("--groups 7 --clients 2 --quick").map(|plan| (plan.groups, plan.runs)), Ok((7, 1)));
        for wrong in ["--groups", "--groups 0", "--clients 1001", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_row_stands_beside_one_group() {
        let run = |throughput| Run { throughput, cpu: 10.0, writes: 0.5, groups_written: 2.0, rest: 0.03 };
        let load = |groups| Load { engine: Engine::Sled, groups, clients: 4 };
        let text = render(&[load(1), load(100)], &[vec![run(100.0)], vec![run(250.0)]]);
        assert!(text.contains("| sled | 100 | 4 | 250 (250 to 250) | 2.50 | 10 | 0.500 | 2.0 | 3.0 % |"), "{text}");
    }

    #[test]
    fn a_small_plan_runs_to_its_end() {
        let plan = Plan { warm_up: Duration::ZERO, ..Plan::parse("--groups 3 --quick".split_whitespace()).unwrap() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let load = Load { engine: Engine::Sled, groups: 3, clients: 4 };
        let run = runtime.block_on(measure(&plan, load)).unwrap();
        assert!(run.throughput > 0.0 && run.groups_written >= 1.0, "{run:?}");
    }
}
