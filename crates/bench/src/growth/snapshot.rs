//! A snapshot of many keys: how long it takes to take it, and to send it to a new node that installs it; and what puts feel of it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time;

use super::{Plan, mebibytes, say};
use crate::{
    ENTRY_BYTES,
    cluster::{Failure, Filling, Load, Progress, System, Work, fill, run_during},
};

const NODES: usize = 3;
/// Few enough that they do not take the machine for themselves.
const CLIENTS: usize = 4;
const WARM_UP: Duration = Duration::from_millis(500);
/// How long puts are watched with nothing else going on.
const USUAL: Duration = Duration::from_secs(5);
/// How long a new node may take until it has everything.
const INSTALL_WAIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(2);
/// The most times that reading and writing the bytes may be exceeded.
const AIM_TIME: f64 = 2.0;
/// The most times that the usual p99 of puts may be exceeded.
const AIM_P99: f64 = 3.0;

/// Measures it, and prints a table.
pub(super) async fn measure(plan: &Plan, progress: &Progress) -> Result<(), Failure> {
    let keys = plan.keys;
    say(&format!(
        "\nSnapshot of {keys} keys of {ENTRY_BYTES} bytes, {}; {CLIENTS} clients put meanwhile.\n",
        plan.ours().name()
    ))?;
    progress.show("starting three processes")?;
    let mut system = System::start(&plan.ours(), NODES, &plan.dir).await?;
    let tell = |done| Ok(progress.show(&format!("{done} of {keys} keys"))?);
    fill(&system, Filling::once(keys, ENTRY_BYTES), tell).await?;
    let load = Load { work: Work::Put, clients: CLIENTS, keys, value_bytes: ENTRY_BYTES };
    progress.show("puts as usual")?;
    let (usual, ()) = run_during(&system, load, WARM_UP, async {
        time::sleep(USUAL).await;
        Ok(())
    })
    .await?;
    let leader = system.wait_until_ready().await?;
    progress.show("taking a snapshot")?;
    let mut client = system.coracle(leader).await?;
    let (during_take, taken) = run_during(&system, load, WARM_UP, timed(client.take_snapshot())).await?;
    let file = newest_snapshot(&system.dir().join(format!("n{}", leader + 1)))?;
    let bytes = fs::metadata(&file)?.len();
    let copied = copy(&file, &system.dir().join("copy"))?;
    progress.show("a new node joins, and installs it")?;
    let target = system.coracle(leader).await?.status().await?.commit_index;
    let begun = Instant::now();
    let node = system.add_node()?;
    let installs = async {
        is_taken_in(&system, leader).await?;
        let joined = begun.elapsed();
        has_applied(&system, node, target).await?;
        Ok((joined, begun.elapsed() - joined))
    };
    let (during_install, (joined, installed)) = run_during(&system, load, Duration::ZERO, installs).await?;
    progress.clear()?;
    let outcome = Outcome { bytes, copied, taken, joined, installed };
    say(&outcome.render())?;
    say("\n| Puts | p50 ms | p99 ms | of the usual p99 | Aim | Reached |\n|---|---|---|---|---|---|")?;
    for (name, sample) in
        [("as usual", &usual), ("while it is taken", &during_take), ("while it is sent and installed", &during_install)]
    {
        let times = sample.p99 / usual.p99;
        let reached = if times <= AIM_P99 { "yes" } else { "no" };
        say(&format!(
            "| {name} | {:.2} | {:.2} | {times:.2} | under {AIM_P99} | {reached} |",
            sample.p50 * 1e3,
            sample.p99 * 1e3
        ))?;
    }
    Ok(())
}

/// How long everything took.
struct Outcome {
    bytes: u64,
    copied: Copied,
    taken: Duration,
    /// From a new node's start until it is a member, which no snapshot has a part in.
    joined: Duration,
    installed: Duration,
}

impl Outcome {
    fn render(&self) -> String {
        let Copied { write, read } = self.copied;
        let row = |what: &str, took: Duration, floor: Duration, of: &str| {
            let times = took.as_secs_f64() / floor.as_secs_f64();
            let reached = if times <= AIM_TIME { "yes" } else { "no" };
            format!(
                "| {what} | {:.0} | {of}: {:.0} | {times:.2} | {AIM_TIME} | {reached} |\n",
                took.as_secs_f64() * 1e3,
                floor.as_secs_f64() * 1e3
            )
        };
        let mut text = format!("The snapshot has {:.0} MiB.\n\n", mebibytes(self.bytes));
        text.push_str("| Step | ms | Its bytes alone, ms | Times | Aim | Reached |\n|---|---|---|---|---|---|\n");
        text.push_str(&row("take, durably", self.taken, write, "write and sync"));
        text.push_str(&row(
            "send and install on a new node, since it is a member",
            self.installed,
            read + write,
            "read, write and sync",
        ));
        text.push_str(&row("both", self.taken + self.installed, write + read + write, "write, read, write"));
        text.push_str(&format!("\nThe new node was a member {} ms after its start.\n", self.joined.as_millis()));
        text
    }
}

/// How long the snapshot's bytes alone take.
#[derive(Clone, Copy)]
struct Copied {
    write: Duration,
    read: Duration,
}

async fn timed(what: impl Future<Output = Result<(), Failure>>) -> Result<Duration, Failure> {
    let begun = Instant::now();
    what.await?;
    Ok(begun.elapsed())
}

/// Waits until the leader counts a new node as a member.
async fn is_taken_in(system: &System, leader: usize) -> Result<(), Failure> {
    let mut client = system.coracle(leader).await?;
    let deadline = Instant::now() + INSTALL_WAIT;
    while Instant::now() < deadline {
        if client.status().await?.members.len() > NODES {
            return Ok(());
        }
        time::sleep(PAUSE).await;
    }
    Err(format!("a new node was not taken in within {INSTALL_WAIT:?}").into())
}

/// Waits until a node has applied what was committed when it was started.
async fn has_applied(system: &System, node: usize, target: u64) -> Result<(), Failure> {
    let deadline = Instant::now() + INSTALL_WAIT;
    while Instant::now() < deadline {
        // It does not listen for clients until it was taken in.
        if applied(system, node).await.is_ok_and(|applied| applied >= target) {
            return Ok(());
        }
        time::sleep(PAUSE).await;
    }
    Err(format!("a new node had not applied everything within {INSTALL_WAIT:?}").into())
}

async fn applied(system: &System, node: usize) -> Result<u64, Failure> {
    Ok(system.coracle(node).await?.status().await?.applied_index)
}

/// The largest snapshot anywhere in a folder.
fn newest_snapshot(folder: &Path) -> Result<PathBuf, Failure> {
    let mut found = Vec::new();
    snapshots(folder, &mut found)?;
    let largest = found.into_iter().max_by_key(|(bytes, _)| *bytes).map(|(_, path)| path);
    largest.ok_or_else(|| format!("{} has no snapshot", folder.display()).into())
}

fn snapshots(folder: &Path, found: &mut Vec<(u64, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if metadata.is_dir() {
            snapshots(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "snapshot") {
            found.push((metadata.len(), path));
        }
    }
    Ok(())
}

/// Reads a file and writes its bytes to another one, which it syncs and deletes.
fn copy(from: &Path, to: &Path) -> io::Result<Copied> {
    let begun = Instant::now();
    let mut bytes = Vec::new();
    File::open(from)?.read_to_end(&mut bytes)?;
    let read = begun.elapsed();
    let begun = Instant::now();
    let mut file = File::create(to)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    let write = begun.elapsed();
    fs::remove_file(to)?;
    Ok(Copied { write, read })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_stand_beside_their_bytes() {
        let ms = Duration::from_millis;
        let copied = Copied { write: ms(100), read: ms(50) };
        let text = Outcome { bytes: 10 << 20, copied, taken: ms(150), joined: ms(7), installed: ms(600) }.render();
        assert!(text.contains("| take, durably | 150 | write and sync: 100 | 1.50 | 2 | yes |"), "{text}");
        assert!(text.contains("a member 7 ms after its start"), "{text}");
        assert!(text.contains("| both | 750 | write, read, write: 250 | 3.00 | 2 | no |"), "{text}");
    }

    #[test]
    fn the_largest_snapshot_is_found_and_copied() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("snapshots/1");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("1.snapshot"), "short").unwrap();
        fs::write(inner.join("2.snapshot"), "the longer one").unwrap();
        fs::write(inner.join("2.meta"), "something else that is longer still").unwrap();
        let found = newest_snapshot(dir.path()).unwrap();
        assert!(found.ends_with("snapshots/1/2.snapshot"), "{found:?}");
        let copy_path = dir.path().join("copy");
        copy(&found, &copy_path).unwrap();
        assert!(!copy_path.exists());
    }
}
