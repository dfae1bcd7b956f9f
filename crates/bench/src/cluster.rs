//! `cargo xtask bench cluster`: three real processes with real disks on loopback, beside etcd and Redis, in the same run.
//!
//! One load generator for all: a gRPC client as generated, on one thread, whose tasks each ask, wait for the answer, and ask again, over a few connections to the leader.
//! The systems run side by side and take turns in short rounds, so that what else the machine does meets all of them.

mod coracle;
mod etcd;
pub mod floor;
mod load;
mod redis;
mod rows;
mod servers;
mod system;
mod table;
mod usage;

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use tokio::{task::LocalSet, time};

use self::{
    load::CONNECTIONS,
    rows::{Aim, ROWS, Row},
    table::Measured,
};
pub(crate) use self::{
    load::{Filling, Load, Sample, Timing, Work, fill, key, run as run_load, run_during},
    system::{Client, Kind, System},
};
use crate::{ENTRY_BYTES, machine};

/// Why a benchmark could not be run to its end.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// How many nodes a system has.
const NODES: usize = 3;
/// How many keys there are.
const KEYS: u64 = 10_000;
/// Between two runs, for what the last one left to do.
const PAUSE: Duration = Duration::from_millis(300);
/// How long each part of the floor is measured in a round.
const FLOOR: Duration = Duration::from_millis(700);
/// More is a mistake.
const ROUNDS_MAX: usize = 100;

/// The storage that is measured unless another is asked for.
pub(crate) const STORAGE: &str = "file:DIR?state=memory";

/// What the arguments after `cluster` ask for.
pub struct Plan {
    rows: Vec<Row>,
    rounds: usize,
    timing: Timing,
    /// Coracle's; each is a system of its own.
    storages: Vec<String>,
    peers: Vec<Kind>,
    /// Where the data are.
    dir: PathBuf,
}

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Plan, String> {
        let timing = Timing { warm_up: Duration::from_millis(700), window: Duration::from_secs(3) };
        let (rows, storages, peers) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Plan { rows, rounds: 5, timing, storages, peers, dir: std::env::temp_dir() };
        while let Some(arg) = args.next() {
            match arg {
                "--quick" => {
                    plan.rounds = 1;
                    plan.timing = Timing { warm_up: Duration::from_millis(300), window: Duration::from_secs(1) };
                }
                "--rounds" => plan.rounds = parse_rounds(args.next())?,
                "--only" => plan.rows.push(parse_row(args.next())?),
                "--against" => plan.peers.push(parse_peer(args.next())?),
                "--storage" => plan.storages.push(parse_storage(args.next())?),
                "--dir" => plan.dir = args.next().ok_or("--dir takes a directory")?.into(),
                _ => return Err(format!("unknown option `{arg}`")),
            }
        }
        if plan.rows.is_empty() {
            plan.rows = ROWS.to_vec();
        }
        if plan.storages.is_empty() {
            plan.storages = vec![STORAGE.to_owned()];
        }
        Ok(plan)
    }

    /// All systems, Coracle first.
    fn kinds(&self) -> Vec<Kind> {
        let ours = self.storages.iter().map(|storage| Kind::Coracle { storage: storage.clone() });
        ours.chain(self.peers.iter().cloned()).collect()
    }
}

pub(crate) fn parse_rounds(value: Option<&str>) -> Result<usize, String> {
    let valid = value.and_then(|value| value.parse().ok()).filter(|rounds| (1..=ROUNDS_MAX).contains(rounds));
    valid.ok_or_else(|| format!("--rounds takes a number from 1 to {ROUNDS_MAX}, got `{}`", value.unwrap_or_default()))
}

fn parse_row(value: Option<&str>) -> Result<Row, String> {
    let known = ROWS.into_iter().find(|row| Some(row.name) == value);
    known.ok_or_else(|| format!("--only takes one of {}, got `{}`", rows::names(), value.unwrap_or_default()))
}

pub(crate) fn parse_peer(value: Option<&str>) -> Result<Kind, String> {
    match value {
        Some("etcd") => Ok(Kind::Etcd),
        Some("redis") => Ok(Kind::Redis),
        other => Err(format!("--against takes etcd or redis, got `{}`", other.unwrap_or_default())),
    }
}

pub(crate) fn parse_storage(value: Option<&str>) -> Result<String, String> {
    let valid = value.filter(|value| value.starts_with("memory:") || value.contains(":DIR"));
    let what = "--storage takes a URL such as file:DIR or file:DIR?state=memory, where DIR stands for a directory of each node's own";
    valid.map(str::to_owned).ok_or_else(|| format!("{what}, got `{}`", value.unwrap_or_default()))
}

/// Runs the plan, and prints a table; on Ctrl-C it stops what it started.
///
/// # Errors
/// When a system fails, or the output cannot be written.
pub fn run(plan: &Plan) -> io::Result<()> {
    until_interrupted(measure(plan))
}

/// Runs something on one thread, to its end or to Ctrl-C.
pub(crate) fn until_interrupted(what: impl Future<Output = Result<(), Failure>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = io::Error::new(io::ErrorKind::Interrupted, "interrupted; everything that was started is stopped");
    let done = LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Err(Failure::from(interrupted)),
            done = what => done,
        }
    });
    done.map_err(io::Error::other)
}

async fn measure(plan: &Plan) -> Result<(), Failure> {
    let progress = Progress::new();
    let mut systems = Vec::new();
    for kind in plan.kinds() {
        progress.show(&format!("starting {}", kind.name()))?;
        let system = System::start(&kind, NODES, &plan.dir).await?;
        load::fill(&system, Filling::once(KEYS, ENTRY_BYTES), |_| Ok(())).await?;
        systems.push(system);
    }
    progress.clear()?;
    print_method(plan)?;
    let mut all = Vec::new();
    for row in &plan.rows {
        let measured = measure_row(plan, *row, &systems, &progress).await?;
        progress.clear()?;
        io::stdout().write_all(measured.render().as_bytes())?;
        all.push(measured);
    }
    let mut out = io::stdout();
    for floor in all.iter().filter_map(Measured::floor) {
        writeln!(out, "\n{floor}")?;
    }
    writeln!(out)?;
    out.write_all(table::AIMS_HEAD.as_bytes())?;
    out.write_all(all.iter().map(Measured::render_aims).collect::<String>().as_bytes())?;
    writeln!(out, "\nLoad average at the end: {}.", load_average())?;
    Ok(())
}

fn print_method(plan: &Plan) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(
        out,
        "Three processes on loopback, TCP, values of {ENTRY_BYTES} bytes, {KEYS} keys; each client asks, waits for the answer, and asks again."
    )?;
    writeln!(
        out,
        "Clients are tasks on one thread that share at most {CONNECTIONS} gRPC connections to the leader; Redis, one process, has a connection for each."
    )?;
    writeln!(
        out,
        "Coracle: release build. etcd: with fsync. Redis: `appendfsync always`. Data are durable unless the storage is `memory:`."
    )?;
    let file_system = machine::file_system(&plan.dir).unwrap_or_else(|| "an unknown file system".to_owned());
    writeln!(out, "{}, {file_system}.", machine::describe())?;
    let Plan { rounds, timing: Timing { window, .. }, .. } = plan;
    writeln!(out, "{rounds} alternating rounds of {window:?} each; medians over rounds.")?;
    writeln!(out, "Load average at the start: {}.\n", load_average())?;
    out.write_all(table::HEAD.as_bytes())
}

fn load_average() -> String {
    machine::load().unwrap_or_else(|| "unknown".to_owned())
}

async fn measure_row(plan: &Plan, row: Row, systems: &[System], progress: &Progress) -> Result<Measured, Failure> {
    let load = Load { work: row.work, clients: row.clients, keys: KEYS, value_bytes: ENTRY_BYTES };
    let mut samples: Vec<Vec<_>> = systems.iter().map(|_| Vec::new()).collect();
    let mut floors = Vec::new();
    for round in 0..plan.rounds {
        if matches!(row.aim, Aim::Floor(_)) {
            progress.show(&format!("{}: the floor", row.title))?;
            floors.push(floor::measure(&plan.dir, FLOOR)?);
        }
        let mut turns: Vec<_> = systems.iter().zip(&mut samples).collect();
        // There and back, so that none always follows the same one.
        if round % 2 == 1 {
            turns.reverse();
        }
        for (system, samples) in turns {
            if system.kind == Kind::Redis && row.work == Work::StaleGet {
                continue;
            }
            progress.show(&format!("{}: round {} of {}, {}", row.title, round + 1, plan.rounds, system.kind.name()))?;
            time::sleep(PAUSE).await;
            samples.push(load::run(system, load, plan.timing).await?);
        }
    }
    let systems = systems.iter().map(|system| system.kind.clone()).zip(samples);
    Ok(Measured { row, systems: systems.filter(|(_, samples)| !samples.is_empty()).collect(), floors })
}

/// A line on a terminal that says what goes on.
pub(crate) struct Progress {
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { is_shown: io::stderr().is_terminal() }
    }

    pub(crate) fn show(&self, what: &str) -> io::Result<()> {
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K{what}")?;
        }
        Ok(())
    }

    pub(crate) fn clear(&self) -> io::Result<()> {
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let parse = |args: &str| Plan::parse(args.split_whitespace());
        let plan = parse("--quick --rounds 7 --only put-64 --against etcd --storage file:DIR").unwrap();
        assert_eq!((plan.rounds, plan.rows.len(), plan.rows[0].clients), (7, 1, 64));
        assert_eq!(plan.kinds(), [Kind::Coracle { storage: "file:DIR".to_owned() }, Kind::Etcd]);
        let plan = parse("").unwrap();
        assert_eq!((plan.rows.len(), plan.kinds().len()), (ROWS.len(), 1));
        let wrong =
            ["--rounds 0", "--rounds", "--only put-65", "--against zookeeper", "--storage file:/data", "--fast"];
        for wrong in wrong {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
