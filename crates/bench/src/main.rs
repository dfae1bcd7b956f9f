//! `cargo xtask bench`: the protocol alone beside a peer, many groups beside one, or stores beside a plain file, each in one table.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use coracle_bench::{Trio, counting::Counting, machine, measure, measure::Spread, ours::Ours, table, table::Row};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HELP: &str = "\
Three replicas in one thread, 100-byte entries, applied on all three, log in memory: CPU time, allocations and messages per entry.

Usage: cargo xtask bench core [--quick] [--alone] [--in-flight <entries>]

  --quick                  short runs: to see that it works, not to believe the figures
  --alone                  Coracle without its peer, as a profiler wants it
  --in-flight <entries>    this load only, instead of 1, 16 and 256
  --help                   this text

Three processes in one with many groups, beside the same with one group: throughput, CPU time, and writes of the logs per operation, in memory and on disk.

Usage: cargo xtask bench groups [--quick] [--groups <number>] [--clients <number>] [--runs <number>] [--dir <directory>]

  --quick                  one short run
  --groups <number>        instead of 100
  --clients <number>       in each group, instead of 4
  --runs <number>          instead of 5
  --dir <directory>        where the stores on disk are, instead of the system's directory for temporary files

Durable writes of the stores on disk, beside a plain file that is written and synced: per second, latency, CPU time and allocations.

Usage: cargo xtask bench durable [--quick] [--rounds <number>] [--only <subject>] [--single] [--beside] [--dir <directory>]

  --quick                  few rounds: to see that it works, not to believe the figures
  --rounds <number>        instead of 80
  --only <subject>         `plain`, `file` or `sled` alone, as a profiler wants it
  --single                 single entries of 256 bytes only
  --beside                 while another thread writes to the same disk
  --dir <directory>        where the files are, instead of the system's directory for temporary files

Three nodes in one process with network, store and state machine in memory, beside a peer: operations per second, CPU time, latency and allocations.

Usage: cargo xtask bench process [--quick] [--alone] [--clients <number>] [--threads <number>] [--runs <number>]

  --quick                  one short run: to see that it works, not to believe the figures
  --alone                  Coracle without its peer, as a profiler wants it
  --clients <number>       this load only, instead of 1, 64 and 1024
  --threads <number>       1 or 2 only, instead of both
  --runs <number>          instead of 7

Three real processes over gRPC on loopback, durable, puts and gets of 100 bytes, beside etcd and Redis: throughput, latency, the servers' CPU time and memory.

Usage: cargo xtask bench cluster [--against etcd] [--against redis] [--quick] [--only <row>]... [--rounds <number>] [--storage <URL>]... [--dir <directory>]

  --against <peer>         etcd (three processes with fsync) or redis (one with `appendfsync always`), of Debian's packages, fetched if the system has none
  --quick                  one short round: to see that it works, not to believe the figures
  --only <row>             put-1, put-64, put-512, put-stream, get-64 or stale-64; may be repeated
  --rounds <number>        instead of 5
  --storage <URL>          instead of file:DIR?state=memory, where DIR stands for each node's directory; each is a cluster of its own
  --dir <directory>        where the data are, instead of the system's directory for temporary files

The same processes with more and more of everything: throughput and memory, plotted into target/bench; memory after many puts, snapshots, recovery. Takes as long as it takes.

Usage: cargo xtask bench growth [--only <part>]... [--against etcd] [--quick] [--rounds <number>] [--storage <URL>] [--dir <directory>] [--keys-max <number>] [--keys <number>] [--puts <number>] [--log-bytes <number>]

  --only <part>            clients, values, keys, nodes, memory, snapshot or recovery; may be repeated
  --against <peer>         etcd or redis; snapshots and recovery are Coracle's alone
  --quick                  about two minutes: to see that it works, not to believe the figures
  --rounds <number>        instead of 3
  --storage <URL>          instead of file:DIR?state=memory
  --dir <directory>        where the data are, instead of the system's directory for temporary files
  --keys-max <number>      the most keys of the part keys, instead of 10,000,000
  --keys <number>          the keys of memory and snapshot, instead of 1,000,000
  --puts <number>          the puts of memory, instead of 10,000,000
  --log-bytes <number>     the log of recovery, instead of a gigabyte
";

/// What to measure, how long and how often.
struct Plan {
    /// How many entries are in flight.
    loads: Vec<usize>,
    is_alone: bool,
    runs: usize,
    duration: Duration,
    counted_entries: usize,
}

impl Plan {
    fn full() -> Plan {
        let (runs, duration) = (9, Duration::from_secs(1));
        Plan { loads: vec![1, 16, 256], is_alone: false, runs, duration, counted_entries: 200_000 }
    }

    /// What the arguments after `core` ask for; what is wrong with them otherwise.
    fn parse<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Plan, String> {
        let mut plan = Plan::full();
        while let Some(arg) = args.next() {
            match arg {
                "--quick" => {
                    (plan.runs, plan.duration) = (3, Duration::from_millis(100));
                    plan.counted_entries = 20_000;
                }
                "--alone" => plan.is_alone = true,
                "--in-flight" => plan.loads = vec![parse_load(args.next())?],
                _ => return Err(format!("unknown option `{arg}`")),
            }
        }
        Ok(plan)
    }
}

fn parse_load(value: Option<&str>) -> Result<usize, String> {
    let valid = value.and_then(|value| value.parse().ok()).filter(|load| (1..=LOAD_MAX).contains(load));
    valid.ok_or_else(|| format!("--in-flight takes a number from 1 to {LOAD_MAX}, got `{}`", value.unwrap_or_default()))
}

/// More would not fit into what a leader takes uncommitted.
const LOAD_MAX: usize = 65_536;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let mut words = args.iter().map(String::as_str);
    if words.clone().any(|arg| arg == "--help" || arg == "-h") {
        return finish(io::stdout().write_all(HELP.as_bytes()), ExitCode::SUCCESS);
    }
    let done = match words.next() {
        Some("core") => Plan::parse(words).map(|plan| core(&plan)),
        #[cfg(feature = "cluster")]
        Some("cluster") => coracle_bench::cluster::Plan::parse(words).map(|plan| coracle_bench::cluster::run(&plan)),
        #[cfg(feature = "cluster")]
        Some("cluster-floor") => Ok(coracle_bench::cluster::floor::help(words)),
        #[cfg(feature = "cluster")]
        Some("growth") => coracle_bench::growth::Plan::parse(words).map(|plan| coracle_bench::growth::run(&plan)),
        #[cfg(feature = "groups")]
        Some("groups") => coracle_bench::groups::Plan::parse(words).map(|plan| coracle_bench::groups::run(&plan)),
        #[cfg(feature = "durable")]
        Some("durable") => coracle_bench::durable::Plan::parse(words).map(|plan| coracle_bench::durable::run(&plan)),
        Some("process") => coracle_bench::process::Plan::parse(words).map(|plan| coracle_bench::process::run(&plan)),
        other => Err(format!(
            "the benchmarks are `core`, `process`, `cluster`, `growth`, `groups` and `durable`, got `{}`",
            other.unwrap_or_default()
        )),
    };
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => finish(writeln!(io::stderr(), "error: {error}"), ExitCode::from(74)),
        Err(what) => finish(writeln!(io::stderr(), "error: {what}\n\n{HELP}"), ExitCode::from(2)),
    }
}

/// The exit code: output that could not be written is a failure of its own.
fn finish(written: io::Result<()>, code: ExitCode) -> ExitCode {
    if written.is_ok() { code } else { ExitCode::from(74) }
}

fn core(plan: &Plan) -> io::Result<()> {
    let mut trios: Vec<(&'static str, Box<dyn Trio>)> = vec![(table::OURS, Box::new(Ours::new()))];
    if !plan.is_alone {
        trios.extend(peers()?);
    }
    let mut progress = Progress::new(plan.loads.len() * (plan.runs + 1));
    let mut rows = Vec::new();
    for &in_flight in &plan.loads {
        rows.extend(load(plan, &mut trios, in_flight, &mut progress)?);
    }
    progress.clear()?;
    let mut out = io::stdout();
    writeln!(out, "Three replicas in one thread, entries of 100 bytes applied on all three, log in memory.")?;
    writeln!(out, "{}. {} runs of {:?} each, medians.\n", machine::describe(), plan.runs, plan.duration)?;
    out.write_all(table::render(&rows).as_bytes())
}

#[cfg(feature = "peers")]
fn peers() -> io::Result<Vec<(&'static str, Box<dyn Trio>)>> {
    let raft_rs = coracle_bench::raft_rs::RaftRs::new().map_err(io::Error::other)?;
    Ok(vec![("raft-rs 0.7", Box::new(raft_rs))])
}

#[cfg(not(feature = "peers"))]
fn peers() -> io::Result<Vec<(&'static str, Box<dyn Trio>)>> {
    Ok(Vec::new())
}

/// One load on all implementations. Their runs alternate, so that what else the machine does meets all of them.
fn load(
    plan: &Plan,
    trios: &mut [(&'static str, Box<dyn Trio>)],
    in_flight: usize,
    progress: &mut Progress,
) -> io::Result<Vec<Row>> {
    let mut timed = vec![Vec::new(); trios.len()];
    let mut counted = Vec::new();
    progress.step(in_flight)?;
    for (_, trio) in trios.iter_mut() {
        measure::warm_up(trio.as_mut(), in_flight);
        counted.push(measure::count(trio.as_mut(), in_flight, plan.counted_entries));
    }
    for _ in 0..plan.runs {
        progress.step(in_flight)?;
        for ((_, trio), timed) in trios.iter_mut().zip(&mut timed) {
            timed.push(measure::time(trio.as_mut(), in_flight, plan.duration));
        }
    }
    let rows = trios.iter().zip(timed).zip(counted).map(|(((name, _), timed), counted)| Row {
        name,
        in_flight,
        cpu: Spread::of(timed.iter().map(|run| run.cpu)),
        wall: Spread::of(timed.iter().map(|run| run.wall)),
        counted,
    });
    Ok(rows.collect())
}

/// A line on a terminal that says how far it is.
struct Progress {
    done: usize,
    steps: usize,
    is_shown: bool,
}

impl Progress {
    fn new(steps: usize) -> Progress {
        Progress { done: 0, steps, is_shown: io::stderr().is_terminal() }
    }

    fn step(&mut self, in_flight: usize) -> io::Result<()> {
        self.done += 1;
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K{} of {}: {in_flight} in flight", self.done, self.steps)?;
        }
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        Ok(())
    }
}
