//! Memory after many keys and many more puts: how much, and whether it still grows.

use std::{fs, io, path::Path};

use super::{Plan, draw, mebibytes, say, shown};
use crate::{
    ENTRY_BYTES,
    cluster::{Failure, Filling, Kind, Progress, System, fill},
    plot::{Axis, Line, Plot, Scale},
};

/// How many nodes there are.
const NODES: usize = 3;
/// What counts as flat: by how much the last tenth of the puts may be above the tenth before the last half.
const FLAT_MAX: f64 = 1.05;
/// The most of a peer's memory that Coracle is to have.
const AIM: f64 = 0.25;

/// What was seen after so many puts.
#[derive(Clone, Debug)]
struct Seen {
    puts: u64,
    /// Of each server, the leader's first.
    memory: Vec<u64>,
}

impl Seen {
    fn mean(&self) -> f64 {
        mebibytes(self.memory.iter().sum()) / self.memory.len() as f64
    }
}

/// Fills, goes on putting, and watches.
pub(super) async fn measure(plan: &Plan, progress: &Progress) -> Result<(), Failure> {
    let Plan { keys, puts, .. } = plan;
    say(&format!("\nMemory: {keys} keys of {ENTRY_BYTES} bytes, then {puts} more puts on them, from 256 clients.\n"))?;
    say(
        "| System | MiB per server after the keys | after the puts | mean | of the peer's | last half (1 is flat) | flat | MiB on disk per server | puts/s |\n|---|---|---|---|---|---|---|---|---|",
    )?;
    let mut lines: Vec<Line> = Vec::new();
    let mut outcomes = Vec::new();
    // Coracle comes last, to stand beside its peers.
    for kind in plan.kinds().into_iter().rev() {
        let outcome = watch(plan, &kind, progress).await?;
        progress.clear()?;
        lines.push((kind.name(), outcome.seen.iter().map(|seen| (seen.puts as f64, seen.mean())).collect()));
        let peer = outcomes.iter().find(|(kind, _)| *kind == Kind::Etcd).map(|(_, outcome): &(_, Outcome)| outcome);
        say(&outcome.render(&kind, *keys, peer))?;
        outcomes.push((kind, outcome));
    }
    let (_, ours) = &outcomes[outcomes.len() - 1];
    if let Some((_, etcd)) = outcomes.iter().find(|(kind, _)| *kind == Kind::Etcd) {
        let part = ours.last_mean() / etcd.last_mean();
        say(&format!("\nAim: at most {AIM} of etcd's memory: {part:.2}, {}.", reached(part <= AIM)))?;
    }
    if let Some(growth) = growth(&ours.seen) {
        say(&format!("Aim: flat over the last half: {growth:.3}, {}.", reached(growth <= FLAT_MAX)))?;
    }
    let axis = |label| Axis { label, scale: Scale::Linear };
    let (x, y) = (axis("Puts"), axis("MiB per server, mean"));
    draw(&Plot { title: "Memory over puts".to_owned(), x, y, lines }, "memory")
}

fn reached(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "not reached" }
}

/// What one system came to.
struct Outcome {
    seen: Vec<Seen>,
    disk: u64,
    per_second: f64,
}

impl Outcome {
    fn last_mean(&self) -> f64 {
        self.seen.last().map_or(f64::NAN, Seen::mean)
    }

    fn render(&self, kind: &Kind, keys: u64, peer: Option<&Outcome>) -> String {
        let after_keys = self.seen.iter().find(|seen| seen.puts >= keys);
        let memory = |seen: Option<&Seen>| seen.map(|seen| shown(&seen.memory)).unwrap_or_default();
        let growth = growth(&self.seen);
        let nodes = self.seen.last().map_or(1, |seen| seen.memory.len()) as f64;
        format!(
            "| {} | {} | {} | {:.0} | {} | {} | {} | {:.0} | {:.0} |",
            kind.name(),
            memory(after_keys),
            memory(self.seen.last()),
            self.last_mean(),
            peer.map_or_else(|| "-".to_owned(), |peer| format!("{:.2}", self.last_mean() / peer.last_mean())),
            growth.map_or_else(|| "-".to_owned(), |growth| format!("{growth:.3}")),
            growth.map_or("-", |growth| if growth <= FLAT_MAX { "yes" } else { "no" }),
            mebibytes(self.disk) / nodes,
            self.per_second,
        )
    }
}

async fn watch(plan: &Plan, kind: &Kind, progress: &Progress) -> Result<Outcome, Failure> {
    progress.show(&format!("starting {}", kind.name()))?;
    let system = System::start(kind, NODES, &plan.dir).await?;
    let leader = system.wait_until_ready().await?;
    let puts = plan.keys + plan.puts;
    let mut seen = Vec::new();
    let begun = std::time::Instant::now();
    let filling = Filling { keys: plan.keys, value_bytes: ENTRY_BYTES, puts };
    fill(&system, filling, |done| {
        let memory = system.memory(leader)?;
        progress.show(&format!("{}: {done} of {puts} puts, {} MiB", kind.name(), shown(&memory)))?;
        seen.push(Seen { puts: done, memory });
        Ok(())
    })
    .await?;
    let per_second = puts as f64 / begun.elapsed().as_secs_f64();
    seen.push(Seen { puts, memory: system.memory(leader)? });
    Ok(Outcome { seen, disk: size(system.dir())?, per_second })
}

/// How many times as much memory there was in the last tenth of the puts as in the tenth before the last half.
fn growth(seen: &[Seen]) -> Option<f64> {
    let puts = seen.last()?.puts as f64;
    let mean = |from: f64, to: f64| {
        let part = seen.iter().filter(|seen| (from..=to).contains(&(seen.puts as f64 / puts)));
        let means: Vec<f64> = part.map(Seen::mean).collect();
        (!means.is_empty()).then(|| means.iter().sum::<f64>() / means.len() as f64)
    };
    Some(mean(0.9, 1.0)? / mean(0.4, 0.5)?)
}

/// How many bytes the files in a folder take on disk.
pub(super) fn size(folder: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path())?,
            Ok(metadata) => metadata.blocks() * 512,
            // A store deletes files when it likes to.
            Err(_) => 0,
        };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(memory: impl Fn(u64) -> u64) -> Vec<Seen> {
        (1..=100).map(|puts| Seen { puts, memory: vec![memory(puts) << 20] }).collect()
    }

    #[test]
    fn memory_is_flat_when_the_end_is_like_the_middle() {
        assert_eq!(growth(&seen(|_| 50)), Some(1.0));
        assert!(growth(&seen(|puts| puts)).unwrap() > 1.9);
        // What came before the last half is no matter.
        assert_eq!(growth(&seen(|puts| if puts < 40 { puts } else { 50 })), Some(1.0));
        assert_eq!(growth(&[]), None);
    }

    #[test]
    fn a_row_stands_beside_the_peers() {
        let outcome = |mib| Outcome { seen: seen(|_| mib), disk: 7 << 20, per_second: 1000.0 };
        let kind = Kind::Coracle { storage: "file:DIR".to_owned() };
        let text = outcome(50).render(&kind, 10, Some(&outcome(200)));
        assert_eq!(text, "| coracle file:DIR | 50 | 50 | 50 | 0.25 | 1.000 | yes | 7 | 1000 |");
    }
}
