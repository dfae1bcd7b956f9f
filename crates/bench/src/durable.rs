//! `cargo xtask bench durable`: durable writes of the stores on disk, beside a plain file, in the same run.
//!
//! One writer, one write after another, each returns when it is durable.
//! The subjects take turns in short rounds, so that what the disk and the machine do meanwhile meets all of them; a ratio is that of neighbouring rounds.
//! A round is longer than a store needs to make a file ready in the background: what that costs the disk is the store's own.

mod neighbour;
mod round;
mod subject;
mod table;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::Duration,
};

use self::{
    neighbour::Neighbour,
    round::{Load, Writer},
    subject::{NAMES, PLAIN},
    table::Row,
};
use crate::machine;

/// What the arguments after `durable` ask for.
pub struct Plan {
    rounds: usize,
    /// How long each subject writes in a round.
    duration: Duration,
    /// The subjects, by name.
    names: Vec<&'static str>,
    loads: Vec<Load>,
    /// Whether something else writes to the same disk meanwhile.
    has_neighbour: bool,
    /// Where the files are.
    dir: PathBuf,
}

/// More is a mistake.
const ROUNDS_MAX: usize = 1000;

impl Plan {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse<'a>(mut args: impl Iterator<Item = &'a str>) -> Result<Plan, String> {
        let (duration, names) = (Duration::from_millis(100), NAMES.to_vec());
        let (loads, dir) = (LOADS.to_vec(), std::env::temp_dir());
        let mut plan = Plan { rounds: 80, duration, names, loads, has_neighbour: false, dir };
        while let Some(arg) = args.next() {
            match arg {
                "--quick" => (plan.rounds, plan.duration) = (12, Duration::from_millis(60)),
                "--rounds" => plan.rounds = parse_rounds(args.next())?,
                "--only" => plan.names = vec![parse_name(args.next())?],
                "--single" => plan.loads = vec![LOADS[0]],
                "--beside" => plan.has_neighbour = true,
                "--dir" => plan.dir = args.next().ok_or("--dir takes a directory")?.into(),
                _ => return Err(format!("unknown option `{arg}`")),
            }
        }
        Ok(plan)
    }
}

fn parse_rounds(value: Option<&str>) -> Result<usize, String> {
    let valid = value.and_then(|value| value.parse().ok()).filter(|rounds| (1..=ROUNDS_MAX).contains(rounds));
    valid.ok_or_else(|| format!("--rounds takes a number from 1 to {ROUNDS_MAX}, got `{}`", value.unwrap_or_default()))
}

fn parse_name(value: Option<&str>) -> Result<&'static str, String> {
    let known = NAMES.into_iter().find(|name| Some(*name) == value);
    known.ok_or_else(|| format!("--only takes one of {NAMES:?}, got `{}`", value.unwrap_or_default()))
}

const LOADS: [Load; 4] = [
    Load { entry_bytes: 256, batch: 1 },
    Load { entry_bytes: 256, batch: 64 },
    Load { entry_bytes: 100, batch: 1 },
    Load { entry_bytes: 100, batch: 64 },
];

/// Runs the plan, and prints a table.
///
/// # Errors
/// When a subject fails, or the output cannot be written.
pub fn run(plan: &Plan) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "One writer, one write after another, each returns when it is durable; the logs only grow.")?;
    writeln!(
        out,
        "`{PLAIN}`: the entries' data alone into a file filled with zeros, one pwrite and one fdatasync each."
    )?;
    let file_system = machine::file_system(&plan.dir).unwrap_or_else(|| "an unknown file system".to_owned());
    writeln!(out, "{}, {file_system}.", machine::describe())?;
    let Plan { rounds, duration, .. } = plan;
    writeln!(out, "{rounds} alternating rounds of {duration:?} each; medians over rounds, latencies of all writes.")?;
    writeln!(out, "Load average at the start: {}.", load_average())?;
    let _neighbour = plan.has_neighbour.then(|| Neighbour::begin(&plan.dir)).transpose()?;
    if plan.has_neighbour {
        writeln!(out, "{}", neighbour::WHAT)?;
    }
    out.write_all(b"\n")?;
    out.write_all(table::HEAD.as_bytes())?;
    for load in plan.loads.iter().copied() {
        for row in measure(plan, load)? {
            out.write_all(row.render().as_bytes())?;
        }
    }
    writeln!(out, "\nLoad average at the end: {}.", load_average())
}

fn load_average() -> String {
    machine::load().unwrap_or_else(|| "unknown".to_owned())
}

/// One load on all subjects, in directories of its own.
fn measure(plan: &Plan, load: Load) -> io::Result<Vec<Row>> {
    let dir = tempfile::Builder::new().prefix("coracle-durable-").tempdir_in(&plan.dir)?;
    let open = |name: &&'static str| Ok(Writer::new(name, subject::open(name, dir.path())?, load));
    let mut writers = plan.names.iter().map(open).collect::<io::Result<Vec<_>>>()?;
    let mut progress = Progress { is_shown: io::stderr().is_terminal() };
    progress.show(load, "warming up and counting")?;
    for writer in &mut writers {
        writer.round(plan.duration)?;
        writer.count()?;
        writer.forget();
    }
    for round in 0..plan.rounds {
        progress.show(load, &format!("round {} of {}", round + 1, plan.rounds))?;
        // There and back, so that none always follows the same one.
        let mut turns: Vec<&mut Writer> = writers.iter_mut().collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for writer in turns {
            writer.round(plan.duration)?;
        }
    }
    progress.clear()?;
    let plain = writers.iter().find(|writer| writer.name == PLAIN);
    Ok(writers.iter().map(|writer| Row::new(writer, plain)).collect())
}

/// A line on a terminal that says how far it is.
struct Progress {
    is_shown: bool,
}

impl Progress {
    fn show(&mut self, load: Load, what: &str) -> io::Result<()> {
        if self.is_shown {
            write!(io::stderr(), "\r\x1b[K{} entries of {} bytes: {what}", load.batch, load.entry_bytes)?;
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
        let plan = parse("--quick --rounds 7 --only file").unwrap();
        assert_eq!((plan.rounds, plan.names), (7, vec!["file"]));
        for wrong in ["--rounds", "--rounds 0", "--rounds 1001", "--only tape", "--only", "--dir", "--fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_small_plan_runs_to_its_end() {
        let plan = Plan { duration: Duration::from_millis(10), rounds: 2, ..Plan::parse([].into_iter()).unwrap() };
        let rows = measure(&plan, Load { entry_bytes: 100, batch: 64 }).unwrap();
        assert_eq!(rows.iter().map(|row| row.name).collect::<Vec<_>>(), NAMES);
        assert!(rows.iter().all(|row| row.writes.min > 0.0 && row.ratio.is_some()), "{rows:?}");
    }
}
