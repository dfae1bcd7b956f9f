//! Recovery: how long a node takes to start with a large log.

use std::time::{Duration, Instant};

use tokio::time;

use super::{Plan, mebibytes, memory::size, say};
use crate::cluster::{Client, Failure, Filling, Progress, System, fill};

/// Many entries, and yet the log is soon large.
const VALUE_BYTES: usize = 1024;
/// So that the state stays small, and the log is what takes time.
const KEYS: u64 = 10_000;
/// Nothing is compacted.
const WHOLE_LOG: [&str; 4] = ["--log-entries-max", "1000000000", "--log-bytes-max", "1000000000000"];
const AIM: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
const ANSWER_WAIT: Duration = Duration::from_secs(300);

/// Measures it, and prints a table.
pub(super) async fn measure(plan: &Plan, progress: &Progress) -> Result<(), Failure> {
    let puts = plan.log_bytes / VALUE_BYTES as u64;
    say(&format!(
        "\nRecovery: one node, {}, {puts} puts of {VALUE_BYTES} bytes in its log ({:.0} MiB of values), killed, started again.\n",
        plan.ours().name(),
        mebibytes(puts * VALUE_BYTES as u64)
    ))?;
    progress.show("starting a process")?;
    let options = WHOLE_LOG.map(str::to_owned);
    let mut system = System::start_with(&plan.ours(), 1, &options, &plan.dir).await?;
    let tell = |done| Ok(progress.show(&format!("{done} of {puts} puts"))?);
    fill(&system, Filling { keys: KEYS, value_bytes: VALUE_BYTES, puts }, tell).await?;
    let on_disk = size(system.dir())?;
    if on_disk < plan.log_bytes {
        return Err(format!("{on_disk} bytes are on the disk: the log of {} was compacted", plan.log_bytes).into());
    }
    progress.clear()?;
    say(&format!("{:.0} MiB are on the disk.\n", mebibytes(on_disk)))?;
    say("| Start | until it answers a linearizable get, s | Aim | Reached | MiB |\n|---|---|---|---|---|")?;
    for round in 1..=plan.rounds {
        progress.show(&format!("start {round} of {}", plan.rounds))?;
        let begun = Instant::now();
        system.restart(0)?;
        until_it_answers(&system).await?;
        let took = begun.elapsed();
        progress.clear()?;
        let reached = if took <= AIM { "yes" } else { "no" };
        let memory = mebibytes(system.memory(0)?.iter().sum());
        say(&format!("| {round} | {:.2} | under {:?} | {reached} | {memory:.0} |", took.as_secs_f64(), AIM))?;
    }
    Ok(())
}

async fn until_it_answers(system: &System) -> Result<(), Failure> {
    let deadline = Instant::now() + ANSWER_WAIT;
    loop {
        system.check()?;
        match ask(system).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => time::sleep(PAUSE).await,
        }
    }
}

/// A linearizable get of the last key that was set.
async fn ask(system: &System) -> Result<(), Failure> {
    let mut clients = system.clients(0, 1, 1).await?;
    let client: &mut Client = clients.first_mut().ok_or("there is no client")?;
    let key = crate::cluster::key(KEYS - 1);
    match client.get(key, false).await? {
        Some(VALUE_BYTES) => Ok(()),
        other => Err(format!("the key has a value of length {other:?}").into()),
    }
}
