//! `cargo xtask bench growth`: what becomes of throughput and memory with more clients, larger values, more keys and more nodes; and of memory, snapshots and recovery after many writes.

mod memory;
mod recovery;
mod series;
mod snapshot;

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use self::series::Dimension;
use crate::{
    cluster::{self, Failure, Kind, Progress, Timing},
    machine,
    plot::Plot,
};

/// Where the plots go.
const PLOTS: &str = "target/bench";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Series(Dimension),
    Memory,
    Snapshot,
    Recovery,
}

/// All parts, by the names that `--only` takes.
const PARTS: [(&str, Part); 7] = [
    ("clients", Part::Series(Dimension::Clients)),
    ("values", Part::Series(Dimension::Values)),
    ("keys", Part::Series(Dimension::Keys)),
    ("nodes", Part::Series(Dimension::Nodes)),
    ("memory", Part::Memory),
    ("snapshot", Part::Snapshot),
    ("recovery", Part::Recovery),
];

/// What the arguments after `growth` ask for.
pub struct Plan {
    parts: Vec<Part>,
    is_quick: bool,
    rounds: usize,
    timing: Timing,
    /// The most keys of the series over keys.
    keys_max: u64,
    /// How many keys there are where it is about memory and snapshots.
    keys: u64,
    /// How many puts follow where it is about memory.
    puts: u64,
    /// How much log there is where it is about recovery.
    log_bytes: u64,
    storage: String,
    peers: Vec<Kind>,
    /// Where the data are.
    dir: PathBuf,
}

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(args: impl Iterator<Item = &'a str>) -> Result<Plan, String> {
        let args: Vec<&str> = args.collect();
        let mut plan = if args.contains(&"--quick") { Plan::quick() } else { Plan::full() };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg {
                "--quick" => {}
                "--only" => plan.parts.push(parse_part(args.next())?),
                "--against" => plan.peers.push(cluster::parse_peer(args.next())?),
                "--storage" => plan.storage = cluster::parse_storage(args.next())?,
                "--dir" => plan.dir = args.next().ok_or("--dir takes a directory")?.into(),
                "--rounds" => plan.rounds = cluster::parse_rounds(args.next())?,
                "--keys-max" => plan.keys_max = parse_number(arg, args.next())?,
                "--keys" => plan.keys = parse_number(arg, args.next())?,
                "--puts" => plan.puts = parse_number(arg, args.next())?,
                "--log-bytes" => plan.log_bytes = parse_number(arg, args.next())?,
                _ => return Err(format!("unknown option `{arg}`")),
            }
        }
        if plan.parts.is_empty() {
            plan.parts = PARTS.map(|(_, part)| part).to_vec();
        }
        Ok(plan)
    }

    fn full() -> Plan {
        Plan {
            parts: Vec::new(),
            is_quick: false,
            rounds: 3,
            timing: Timing { warm_up: Duration::from_millis(700), window: Duration::from_secs(2) },
            keys_max: 10_000_000,
            keys: 1_000_000,
            puts: 10_000_000,
            log_bytes: 1 << 30,
            storage: cluster::STORAGE.to_owned(),
            peers: Vec::new(),
            dir: std::env::temp_dir(),
        }
    }

    fn quick() -> Plan {
        Plan {
            is_quick: true,
            rounds: 1,
            timing: Timing { warm_up: Duration::from_millis(200), window: Duration::from_millis(500) },
            keys_max: 10_000,
            keys: 20_000,
            puts: 100_000,
            log_bytes: 64 << 20,
            ..Plan::full()
        }
    }

    /// All systems, Coracle first.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![self.ours()];
        kinds.extend(self.peers.iter().cloned());
        kinds
    }

    fn ours(&self) -> Kind {
        Kind::Coracle { storage: self.storage.clone() }
    }
}

fn parse_part(value: Option<&str>) -> Result<Part, String> {
    let known = PARTS.into_iter().find(|(name, _)| Some(*name) == value);
    let names = PARTS.map(|(name, _)| name).join(", ");
    known
        .map(|(_, part)| part)
        .ok_or_else(|| format!("--only takes one of {names}, got `{}`", value.unwrap_or_default()))
}

fn parse_number(option: &str, value: Option<&str>) -> Result<u64, String> {
    let valid = value.and_then(|value| value.parse().ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| format!("{option} takes a number from 1, got `{}`", value.unwrap_or_default()))
}

/// Runs the plan, and prints tables; on Ctrl-C it stops what it started.
///
/// # Errors
/// When a system fails, or the output cannot be written.
pub fn run(plan: &Plan) -> io::Result<()> {
    cluster::until_interrupted(measure(plan))
}

async fn measure(plan: &Plan) -> Result<(), Failure> {
    say(
        "Real processes on loopback, TCP, gRPC, the release build; Coracle and etcd are durable, Redis is alone with `appendfsync always`.",
    )?;
    let file_system = machine::file_system(&plan.dir).unwrap_or_else(|| "an unknown file system".to_owned());
    let load = machine::load().unwrap_or_else(|| "unknown".to_owned());
    say(&format!("{}, {file_system}; load average {load}.", machine::describe()))?;
    let progress = Progress::new();
    for part in &plan.parts {
        match part {
            Part::Series(dimension) => series::measure(plan, *dimension, &progress).await?,
            Part::Memory => memory::measure(plan, &progress).await?,
            Part::Snapshot => snapshot::measure(plan, &progress).await?,
            Part::Recovery => recovery::measure(plan, &progress).await?,
        }
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Writes a plot, and says where it is.
fn draw(plot: &Plot, name: &str) -> Result<(), Failure> {
    let path = plot.write(Path::new(PLOTS), &format!("growth-{name}"))?;
    Ok(writeln!(io::stderr(), "== plotted in {}", path.display())?)
}

/// Bytes as the tables show them.
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

/// Each server's memory, the leader's first.
fn shown(memory: &[u64]) -> String {
    let each: Vec<String> = memory.iter().map(|bytes| format!("{:.0}", mebibytes(*bytes))).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let parse = |args: &str| Plan::parse(args.split_whitespace());
        let plan = parse("--puts 7 --quick --only memory --against etcd").unwrap();
        assert_eq!((plan.puts, plan.parts, plan.rounds), (7, vec![Part::Memory], 1));
        assert_eq!(parse("").unwrap().parts.len(), PARTS.len());
        for wrong in ["--only everything", "--puts 0", "--keys", "--storage tape:", "--against", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
