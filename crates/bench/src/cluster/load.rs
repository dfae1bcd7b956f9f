//! Clients that each ask, wait for the answer, and ask again.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cpu_time::ProcessTime;
use hdrhistogram::Histogram;
use tokio::{task::JoinSet, time};

use super::{
    Failure,
    system::{Client, System},
    usage::Usage,
};

/// How many connections the clients share at most.
pub(crate) const CONNECTIONS: usize = 4;

/// Longer latencies are counted as this one.
const LATENCY_NANOS_MAX: u64 = 100_000_000_000;

/// What each client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Sets a key.
    Put,
    /// The same, on streams, where the system has any.
    StreamPut,
    /// Gets a key, as of now.
    Get,
    /// Gets a key, as the node has it.
    StaleGet,
}

/// How many clients ask for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) work: Work,
    pub(crate) clients: usize,
    /// How many different keys there are.
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
}

/// How long it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Before anything is measured.
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// What one run gave.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    /// In seconds.
    pub(crate) p50: f64,
    /// In seconds.
    pub(crate) p99: f64,
    /// What the servers used per operation: the CPU time in seconds.
    pub(crate) cpu: f64,
    pub(crate) switches: f64,
    pub(crate) writes: f64,
    /// How often the disk was flushed per operation, by anybody.
    pub(crate) flushes: Option<f64>,
    /// CPU time of the clients per operation, in seconds.
    pub(crate) client_cpu: f64,
    /// Bytes of each server's memory at the end, the leader's first.
    pub(crate) memory: Vec<u64>,
}

/// What all clients of a run share; they are tasks of one thread.
struct Shared {
    load: Load,
    data: Data,
    next: Cell<u64>,
    is_measuring: Cell<bool>,
    is_over: Cell<bool>,
    /// Of the operations that ended while it was measured, in nanoseconds.
    latencies: RefCell<Histogram<u64>>,
}

/// Keys and values.
pub(crate) struct Data {
    /// A value is a piece of this.
    bytes: Bytes,
    value_bytes: usize,
}

/// A key.
pub(crate) fn key(number: u64) -> Bytes {
    Bytes::from(format!("key/{number:012}"))
}

/// How many values differ.
const VALUES: usize = 4096;

impl Data {
    pub(crate) fn new(value_bytes: usize) -> Data {
        // A generator of Knuth's, so that no value compresses.
        let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let states = std::iter::successors(Some(1), next);
        let bytes = states.map(|state| state.to_le_bytes()[7]).take(value_bytes + VALUES).collect();
        Data { bytes, value_bytes }
    }

    pub(crate) fn value(&self, number: u64) -> Bytes {
        let begin = number as usize % VALUES;
        self.bytes.slice(begin..begin + self.value_bytes)
    }
}

/// Runs a load on the node that leads.
pub(crate) async fn run(system: &System, load: Load, timing: Timing) -> Result<Sample, Failure> {
    let window = async {
        time::sleep(timing.window).await;
        Ok(())
    };
    Ok(run_during(system, load, timing.warm_up, window).await?.0)
}

/// Runs a load on the node that leads, and measures it, after the warm-up, while something else goes on.
pub(crate) async fn run_during<T>(
    system: &System,
    load: Load,
    warm_up: Duration,
    what: impl Future<Output = Result<T, Failure>>,
) -> Result<(Sample, T), Failure> {
    let leader = system.wait_until_ready().await?;
    let connections = load.clients.min(CONNECTIONS);
    let clients = match load.work {
        Work::StreamPut => system.stream_clients(leader, load.clients, connections).await?,
        _ => system.clients(leader, load.clients, connections).await?,
    };
    let shared = Rc::new(Shared {
        load,
        data: Data::new(load.value_bytes),
        next: Cell::new(0),
        is_measuring: Cell::new(false),
        is_over: Cell::new(false),
        latencies: RefCell::new(Histogram::new_with_max(LATENCY_NANOS_MAX, 3)?),
    });
    let mut tasks = JoinSet::new();
    for client in clients {
        tasks.spawn_local(ask(client, Rc::clone(&shared)));
    }
    time::sleep(warm_up).await;
    let meter = Meter::start(system)?;
    shared.is_measuring.set(true);
    let done = what.await;
    shared.is_measuring.set(false);
    let metered = meter.read(system)?;
    shared.is_over.set(true);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let latencies = shared.latencies.replace(Histogram::new_with_max(LATENCY_NANOS_MAX, 3)?);
    Ok((metered.sample(&latencies, system.memory(leader)?)?, done?))
}

async fn ask(mut client: Client, shared: Rc<Shared>) -> Result<(), Failure> {
    let Load { work, keys, .. } = shared.load;
    while !shared.is_over.get() {
        let number = shared.next.replace(shared.next.get() + 1);
        let key = key(scattered(number, keys));
        let begun = Instant::now();
        match work {
            Work::Put | Work::StreamPut => client.put(key, shared.data.value(number)).await?,
            Work::Get | Work::StaleGet => {
                let length = client.get(key, work == Work::StaleGet).await?;
                if length != Some(shared.load.value_bytes) {
                    return Err(format!("a key that was set has a value of length {length:?}").into());
                }
            }
        }
        if shared.is_measuring.get() {
            let nanos = begun.elapsed().as_nanos().try_into().unwrap_or(LATENCY_NANOS_MAX);
            shared.latencies.borrow_mut().saturating_record(nanos);
        }
    }
    Ok(())
}

/// The keys in no order that a tree or a cache would like.
fn scattered(number: u64, keys: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) % keys
}

/// How much is written, from many clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filling {
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// How many puts there are; the first ones set each key once.
    pub(crate) puts: u64,
}

impl Filling {
    /// Sets each key once.
    pub(crate) fn once(keys: u64, value_bytes: usize) -> Filling {
        Filling { keys, value_bytes, puts: keys }
    }

    fn key(&self, number: u64) -> Bytes {
        key(if number < self.keys { number } else { scattered(number, self.keys) })
    }
}

/// Writes all of it, and tells now and then how many puts were sent.
pub(crate) async fn fill(
    system: &System,
    filling: Filling,
    mut tell: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    /// Fewer when values are large: a server limits what is under way.
    const CLIENTS: usize = 256;
    const UNDER_WAY_BYTES: usize = 16 << 20;
    let clients = CLIENTS.min((UNDER_WAY_BYTES / filling.value_bytes.max(1)).max(1));
    let leader = system.wait_until_ready().await?;
    let next = Rc::new(Cell::new(0));
    let data = Rc::new(Data::new(filling.value_bytes));
    let mut tasks = JoinSet::new();
    for mut client in system.clients(leader, clients, CONNECTIONS).await? {
        let (next, data) = (Rc::clone(&next), Rc::clone(&data));
        tasks.spawn_local(async move {
            loop {
                let number = next.replace(next.get() + 1);
                if number >= filling.puts {
                    return Ok::<(), Failure>(());
                }
                client.put(filling.key(number), data.value(number)).await?;
            }
        });
    }
    let mut tick = time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(()),
            },
            _ = tick.tick() => tell(next.get().min(filling.puts))?,
        }
    }
}

/// What was counted when a measurement began.
struct Meter {
    begun: Instant,
    usage: Usage,
    client_cpu: ProcessTime,
    flushes: Option<u64>,
}

/// What was used while it was measured.
struct Metered {
    took: Duration,
    usage: Usage,
    client_cpu: Duration,
    flushes: Option<u64>,
}

impl Meter {
    fn start(system: &System) -> Result<Meter, Failure> {
        let (flushes, client_cpu) = (system.flushes(), ProcessTime::now());
        Ok(Meter { usage: system.usage()?, client_cpu, flushes, begun: Instant::now() })
    }

    fn read(self, system: &System) -> Result<Metered, Failure> {
        let took = self.begun.elapsed();
        let usage = system.usage()?.since(self.usage);
        let flushes = self.flushes.zip(system.flushes()).map(|(before, after)| after - before);
        Ok(Metered { took, usage, client_cpu: self.client_cpu.elapsed(), flushes })
    }
}

impl Metered {
    fn sample(&self, latencies: &Histogram<u64>, memory: Vec<u64>) -> Result<Sample, Failure> {
        let operations = latencies.len() as f64;
        if operations == 0.0 {
            return Err("no operation ended while it was measured".into());
        }
        let quantile = |of| latencies.value_at_quantile(of) as f64 / 1e9;
        Ok(Sample {
            per_second: operations / self.took.as_secs_f64(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            cpu: self.usage.cpu.as_secs_f64() / operations,
            switches: self.usage.switches as f64 / operations,
            writes: self.usage.writes as f64 / operations,
            flushes: self.flushes.map(|flushes| flushes as f64 / operations),
            client_cpu: self.client_cpu.as_secs_f64() / operations,
            memory,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_have_their_length() {
        let data = Data::new(100);
        assert_eq!(data.value(5).len(), 100);
        assert_ne!(data.value(5), data.value(6));
        assert_eq!(key(7), "key/000000000007");
    }

    #[test]
    fn figures_are_per_operation() {
        let usage = Usage { cpu: Duration::from_millis(300), switches: 20, writes: 10 };
        let took = Duration::from_secs(2);
        let metered = Metered { took, usage, client_cpu: Duration::from_millis(100), flushes: Some(5) };
        let mut latencies = Histogram::new_with_max(LATENCY_NANOS_MAX, 3).unwrap();
        latencies.record_n(1_000_000, 10).unwrap();
        let sample = metered.sample(&latencies, vec![1]).unwrap();
        assert_eq!((sample.per_second, sample.cpu, sample.switches), (5.0, 0.03, 2.0));
        assert_eq!((sample.writes, sample.flushes, sample.client_cpu), (1.0, Some(0.5), 0.01));
        assert!((sample.p50 - 0.001).abs() < 0.000_01, "{sample:?}");
        latencies.clear();
        assert!(metered.sample(&latencies, vec![]).is_err());
    }
}
