//! `cargo xtask bench process`: three nodes in one process, beside a peer in the same run.
//!
//! Network, store and state machine are in memory, so that what is measured is everything between a client's call and its answer that is no device.
//! Every client is a task that proposes 100 bytes on the leader, waits for the answer, and proposes again.

#[cfg(feature = "peers")]
mod openraft;
mod ours;
mod table;

use std::{
    error::Error,
    future::Future,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use cpu_time::ProcessTime;
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinSet,
};

#[cfg(feature = "peers")]
use self::openraft::OpenRaft;
use self::{ours::Ours, table::Row};
use crate::{counting, machine, measure::Spread, payload};

/// Why a run came to nothing.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What all subjects are told alike.
#[derive(Clone, Copy, Debug)]
struct Settings {
    heartbeat: Duration,
    election_timeout: (Duration, Duration),
    /// A snapshot is taken after so many entries, and the log cut.
    snapshot_every: u64,
    /// So many entries stay then.
    entries_kept: u64,
}

/// Coracle's defaults.
const SETTINGS: Settings = Settings {
    heartbeat: Duration::from_millis(100),
    election_timeout: (Duration::from_millis(500), Duration::from_secs(1)),
    snapshot_every: 100_000,
    entries_kept: 10_000,
};

/// Three nodes with a leader.
trait Subject: Sized + Send + 'static {
    /// What a client holds.
    type Client: Send + Sync + 'static;

    /// Starts them, and waits until one leads.
    fn start(settings: &Settings) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// A client of the leader's.
    fn client(&self) -> Self::Client;

    /// Proposes, and waits until it is committed, applied and answered.
    fn write(client: &Self::Client, command: Bytes) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Ends them.
    fn stop(self) -> impl Future<Output = ()> + Send;
}

/// On what everything runs: nodes and clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Threads {
    /// tokio's `current_thread`.
    One,
    /// tokio's `multi_thread` with two workers.
    Two,
}

impl Threads {
    fn runtime(self) -> io::Result<Runtime> {
        match self {
            Threads::One => Builder::new_current_thread().enable_all().build(),
            Threads::Two => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Threads::One => "Nodes and clients on one thread",
            Threads::Two => "Nodes and clients on two workers",
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    #[cfg(feature = "peers")]
    OpenRaft,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ours => table::OURS,
            #[cfg(feature = "peers")]
            Kind::OpenRaft => "openraft 0.9",
        }
    }

    fn time(self, plan: &Plan, threads: Threads, clients: usize) -> Result<Run, Failure> {
        match self {
            Kind::Ours => time::<Ours>(plan, threads, clients),
            #[cfg(feature = "peers")]
            Kind::OpenRaft => time::<OpenRaft>(plan, threads, clients),
        }
    }

    fn count(self, threads: Threads, clients: usize, operations: usize) -> Result<Counted, Failure> {
        match self {
            Kind::Ours => count::<Ours>(threads, clients, operations),
            #[cfg(feature = "peers")]
            Kind::OpenRaft => count::<OpenRaft>(threads, clients, operations),
        }
    }
}

/// What the arguments after `process` ask for.
#[derive(Debug)]
pub struct Plan {
    kinds: Vec<Kind>,
    threads: Vec<Threads>,
    clients: Vec<usize>,
    runs: usize,
    warm_up: Duration,
    duration: Duration,
    counted_operations: usize,
}

/// More than Coracle lets wait at a time would be refused.
const CLIENTS_MAX: usize = 65_536;

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Plan, String> {
        let mut plan = Plan {
            kinds: vec![
                Kind::Ours,
                #[cfg(feature = "peers")]
                Kind::OpenRaft,
            ],
            threads: vec![Threads::One, Threads::Two],
            clients: vec![1, 64, 1024],
            runs: 7,
            warm_up: Duration::from_millis(300),
            duration: Duration::from_secs(1),
            counted_operations: 50_000,
        };
        while let Some(arg) = args.next() {
            match arg {
                "--quick" => {
                    (plan.runs, plan.counted_operations) = (1, 10_000);
                    (plan.warm_up, plan.duration) = (Duration::from_millis(50), Duration::from_millis(200));
                }
                "--alone" => plan.kinds = vec![Kind::Ours],
                "--clients" => plan.clients = vec![number(arg, args.next(), CLIENTS_MAX)?],
                "--runs" => plan.runs = number(arg, args.next(), 1000)?,
                "--threads" => {
                    let threads = number(arg, args.next(), 2)?;
                    plan.threads = vec![if threads == 1 { Threads::One } else { Threads::Two }];
                }
                _ => return Err(format!("unknown option `{arg}`")),
            }
        }
        Ok(plan)
    }
}

fn number(option: &str, value: Option<&str>, max: usize) -> Result<usize, String> {
    let valid = value.and_then(|value| value.parse().ok()).filter(|number| (1..=max).contains(number));
    valid.ok_or_else(|| format!("{option} takes a number from 1 to {max}, got `{}`", value.unwrap_or_default()))
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Committed, applied and answered, per second.
    throughput: f64,
    /// Microseconds of the whole process's CPU per operation.
    cpu: f64,
    /// Microseconds that half of the operations took at most.
    p50: f64,
    /// And ninety-nine of a hundred.
    p99: f64,
}

/// What does not depend on the machine, per operation.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Calls of the allocator.
    pub allocations: f64,
    /// Bytes asked for.
    pub bytes: f64,
}

/// Runs the plan, and prints a table for each number of threads.
///
/// # Errors
/// When nodes cannot be started, or the output cannot be written.
pub fn run(plan: &Plan) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "Three nodes in one process, network, store and state machine in memory, commands of 100 bytes,")?;
    writeln!(out, "each client a task on the leader with one proposal at a time.")?;
    let load = machine::load().map_or_else(String::new, |load| format!(", load average {load}"));
    let (machine, Plan { runs, duration, .. }) = (machine::describe(), plan);
    writeln!(out, "{machine}{load}. {runs} alternating runs of {duration:?} each, medians.\n")?;
    let mut progress = Progress::new(plan);
    for &threads in &plan.threads {
        let mut rows = Vec::new();
        for &clients in &plan.clients {
            rows.extend(load_rows(plan, threads, clients, &mut progress).map_err(io::Error::other)?);
        }
        progress.clear()?;
        writeln!(out, "{}:\n\n{}", threads.describe(), table::render(&rows))?;
    }
    Ok(())
}

/// One load on all subjects. Their runs alternate, so that what else the machine does meets all of them.
fn load_rows(plan: &Plan, threads: Threads, clients: usize, progress: &mut Progress) -> Result<Vec<Row>, Failure> {
    let mut counted = Vec::new();
    for kind in &plan.kinds {
        progress.step(kind.name(), clients)?;
        counted.push(kind.count(threads, clients, plan.counted_operations)?);
    }
    let mut timed = vec![Vec::new(); plan.kinds.len()];
    for _ in 0..plan.runs {
        for (kind, timed) in plan.kinds.iter().zip(&mut timed) {
            progress.step(kind.name(), clients)?;
            timed.push(kind.time(plan, threads, clients)?);
        }
    }
    let rows = plan.kinds.iter().zip(timed).zip(counted).map(|((kind, runs), counted)| {
        let spread = |of: fn(&Run) -> f64| Spread::of(runs.iter().map(of));
        let (throughput, cpu) = (spread(|run| run.throughput), spread(|run| run.cpu));
        Row {
            name: kind.name(),
            clients,
            throughput,
            cpu,
            p50: spread(|run| run.p50),
            p99: spread(|run| run.p99),
            counted,
        }
    });
    Ok(rows.collect())
}

/// What clients are to do.
const WARMING_UP: u8 = 0;
const MEASURED: u8 = 1;
const OVER: u8 = 2;

/// Of how many operations one has its latency taken: reading the clock is not to be what is measured.
const SAMPLED: u64 = 8;

/// More are a fault of the subject's.
const REFUSED_MAX: u64 = 100_000;

/// What one client did while it was measured.
#[derive(Default)]
struct Done {
    operations: u64,
    /// Proposals that were refused, for the leader had changed.
    refused: u64,
    /// Nanoseconds.
    latencies: Vec<u64>,
}

/// One run on nodes of its own: what an earlier one left behind is not measured.
fn time<S: Subject>(plan: &Plan, threads: Threads, clients: usize) -> Result<Run, Failure> {
    threads.runtime()?.block_on(time_clients::<S>(plan, clients))
}

async fn time_clients<S: Subject>(plan: &Plan, clients: usize) -> Result<Run, Failure> {
    let subject = S::start(&SETTINGS).await?;
    let phase = Arc::new(AtomicU8::new(WARMING_UP));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (client, phase) = (subject.client(), phase.clone());
        tasks.spawn(async move { attend::<S>(&client, &phase).await });
    }
    tokio::time::sleep(plan.warm_up).await;
    let (start, cpu) = (Instant::now(), ProcessTime::now());
    phase.store(MEASURED, Relaxed);
    tokio::time::sleep(plan.duration).await;
    phase.store(OVER, Relaxed);
    let (took, cpu) = (start.elapsed(), cpu.elapsed());
    let done: Result<Vec<Done>, Failure> = tasks.join_all().await.into_iter().collect();
    subject.stop().await;
    Ok(summary(done?, took, cpu))
}

fn summary(done: Vec<Done>, took: Duration, cpu: Duration) -> Run {
    let operations = done.iter().map(|done| done.operations).sum::<u64>() as f64;
    let mut latencies: Vec<u64> = done.into_iter().flat_map(|done| done.latencies).collect();
    latencies.sort_unstable();
    let at =
        |part: f64| latencies.get((latencies.len() as f64 * part) as usize).map_or(f64::NAN, |&ns| ns as f64 / 1e3);
    Run {
        throughput: operations / took.as_secs_f64(),
        cpu: cpu.as_secs_f64() * 1e6 / operations,
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// A client's life.
async fn attend<S: Subject>(client: &S::Client, phase: &AtomicU8) -> Result<Done, Failure> {
    let (command, mut done) = (payload(), Done::default());
    loop {
        let now = phase.load(Relaxed);
        if now == OVER {
            return Ok(done);
        }
        let start = (now == MEASURED && done.operations % SAMPLED == 0).then(Instant::now);
        match S::write(client, command.clone()).await {
            Ok(()) if now == MEASURED => {
                done.latencies.extend(start.map(|start| start.elapsed().as_nanos() as u64));
                done.operations += 1;
            }
            Ok(()) => {}
            Err(error) if done.refused == REFUSED_MAX => return Err(error),
            Err(_) => {
                done.refused += 1;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Counts what a run of so many operations allocates, nodes and clients together.
fn count<S: Subject>(threads: Threads, clients: usize, operations: usize) -> Result<Counted, Failure> {
    let runtime = threads.runtime()?;
    let each = operations.div_ceil(clients);
    let subject = runtime.block_on(S::start(&SETTINGS))?;
    // Once before it counts, so that buffers have their size.
    runtime.block_on(write_each(&subject, clients, each))?;
    let mut written = Ok(());
    let allocated = counting::count(|| written = runtime.block_on(write_each(&subject, clients, each)));
    written?;
    runtime.block_on(subject.stop());
    let per_operation = |count: u64| count as f64 / (clients * each) as f64;
    Ok(Counted { allocations: per_operation(allocated.allocations), bytes: per_operation(allocated.bytes) })
}

async fn write_each<S: Subject>(subject: &S, clients: usize, each: usize) -> Result<(), Failure> {
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    for _ in 0..clients {
        let (client, command) = (subject.client(), payload());
        tasks.spawn(async move {
            for _ in 0..each {
                S::write(&client, command.clone()).await?;
            }
            Ok(())
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// What Coracle's nodes allocate per operation on one thread, for those who hold it to a bound; zero unless [`counting::Counting`] is the allocator.
///
/// # Errors
/// When nodes cannot be started.
pub fn counted(clients: usize, operations: usize) -> Result<Counted, Failure> {
    count::<Ours>(Threads::One, clients, operations)
}

/// A line on a terminal that says how far it is.
struct Progress {
    done: usize,
    steps: usize,
    is_shown: bool,
}

impl Progress {
    fn new(plan: &Plan) -> Progress {
        let steps = plan.threads.len() * plan.clients.len() * plan.kinds.len() * (plan.runs + 1);
        Progress { done: 0, steps, is_shown: io::stderr().is_terminal() }
    }

    fn step(&mut self, name: &str, clients: usize) -> io::Result<()> {
        self.done += 1;
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K{} of {}: {name}, {clients} clients", self.done, self.steps)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_checked() {
        let parse = |args: &str| Plan::parse(args.split_whitespace());
        let plan = parse("--quick --alone --clients 7 --threads 1").unwrap();
        assert_eq!(
            (plan.kinds, plan.clients, plan.threads, plan.runs),
            (vec![Kind::Ours], vec![7], vec![Threads::One], 1)
        );
        for wrong in ["--clients", "--clients 0", "--clients 65537", "--threads 3", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_short_plan_runs_to_its_end_on_every_subject() {
        let plan = Plan { counted_operations: 300, ..Plan::parse("--quick".split_whitespace()).unwrap() };
        let mut progress = Progress::new(&plan);
        for threads in [Threads::One, Threads::Two] {
            let rows = load_rows(&plan, threads, 3, &mut progress).unwrap();
            assert_eq!(rows.len(), plan.kinds.len());
            for row in rows {
                assert!(row.throughput.min > 0.0 && row.p99.median >= row.p50.median, "{row:?}");
            }
        }
    }
}
