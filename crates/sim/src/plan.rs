//! Everything that a run is a function of, as numbers that can be written down, read back and changed one by one.

mod minimise;
mod setting;

use std::{fmt, str::FromStr, time::Duration};

use coracle_core::{Rng, Time};

pub use self::minimise::Minimised;
use self::setting::{Read, Setting, Settings};
use crate::{
    NODES_MAX, Nodes, Options,
    faults::Faults,
    schedule::{self, Fault, FaultKind},
    world::Shape,
};

/// What the first line of a file says.
const HEADER: &str = "coracle-sim schedule 1";

/// Everything that a run is a function of: drawn from a seed, or read from a file.
///
/// A file goes on showing what it shows when other numbers are drawn from its seed: the faults stand in it with their times, and what drew their rates does not matter any more.
/// What strikes whom is drawn from each fault's own number when it strikes, so leaving one out leaves the others as they are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What nodes, disks, the network and clients draw their numbers from.
    pub(crate) seed: u64,
    /// How many nodes found the group.
    pub(crate) members: usize,
    /// How many may join it.
    pub(crate) spares: usize,
    pub(crate) options: Options,
    pub(crate) shape: Shape,
    pub(crate) faults: Faults,
    /// In order of time.
    pub(crate) schedule: Vec<Fault>,
}

/// A file that is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is something else.
    #[error("expected \"{HEADER}\" on the first line that is no comment, got \"{got}\"")]
    Header {
        /// What is there.
        got: String,
    },
    /// A line that means nothing.
    #[error("line {line}: {what}")]
    Line {
        /// Its number.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// There is no seed.
    #[error("expected a line \"seed = NUMBER\", found none")]
    NoSeed,
}

impl Plan {
    /// Draws what `options` leave open from `seed`.
    pub fn draw(seed: u64, options: &Options) -> Plan {
        let mut rng = Rng::new(seed);
        let members = match options.nodes {
            Nodes::Exactly(count) => count,
            Nodes::Mixed => [1, 2, 3, 3, 3, 3, 4, 5, 5, 7][rng.below(10) as usize],
        };
        let faults = Faults::draw(&mut rng, options.faults.of_seed(seed));
        let shape = Shape::draw(&mut rng);
        // Machines that may join; there is nothing to join when nobody changes the membership.
        let has_spares = faults.every(FaultKind::Membership).is_some();
        let spares = if has_spares { (1 + rng.below(4) as usize).min(NODES_MAX.saturating_sub(members)) } else { 0 };
        let schedule = schedule::draw(&mut stream(seed, "nemesis"), &faults, options.duration);
        Plan { seed, members, spares, options: options.clone(), shape, faults, schedule }
    }

    /// How many faults it has that strike at some time.
    pub fn faults(&self) -> usize {
        self.schedule.len()
    }

    /// How many nodes there are, those included that may join.
    pub fn nodes(&self) -> usize {
        self.members + self.spares
    }

    /// The numbers for one part of the world: what one part draws is no other's business.
    pub(crate) fn stream(&self, name: &str) -> Rng {
        stream(self.seed, name)
    }

    /// Makes room for another number of founders, and of others, as far as groups may have so many.
    fn check(&self) -> Result<(), String> {
        if self.members == 0 || self.nodes() > NODES_MAX {
            return Err(format!("expected from 1 to {NODES_MAX} nodes, got {} and {}", self.members, self.spares));
        }
        Ok(())
    }

    fn settings(&mut self) -> Settings<'_> {
        let Plan { seed: _, members, spares, options, shape, faults, schedule: _ } = self;
        let mut settings = Settings::default();
        settings.add("members", members).add("spares", spares);
        settings.add("duration", &mut options.duration).add("clients", &mut options.clients_max);
        settings.add("bug", &mut options.bug).add("history_only", &mut options.history_only);
        shape.settings(&mut settings);
        faults.settings(&mut settings);
        settings
    }
}

fn stream(seed: u64, name: &str) -> Rng {
    let name = name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(257).wrapping_add(u64::from(byte)));
    Rng::new(Rng::new(seed ^ name.rotate_left(17)).next_u64())
}

impl Shape {
    fn settings<'a>(&'a mut self, settings: &mut Settings<'a>) {
        let Shape {
            election_timeout_max,
            heartbeat_interval,
            loop_delay,
            log_entries_max,
            log_entries_kept,
            snapshot_chunk_bytes,
            append_bytes_max,
            inflight_messages_max,
            inflight_bytes_max,
            uncommitted_bytes_max,
            unapplied_bytes_max,
            apply_bytes_max,
            reads_max,
            requests_max,
            tail_bytes_max,
            forward_timeout,
            promotion_timeout,
            lease_drift_percent,
            state_latency,
        } = self;
        settings.add("shape.election_timeout_max", election_timeout_max);
        settings.add("shape.heartbeat_interval", heartbeat_interval).add("shape.loop_delay", loop_delay);
        settings.add("shape.log_entries_max", log_entries_max).add("shape.log_entries_kept", log_entries_kept);
        settings.add("shape.snapshot_chunk_bytes", snapshot_chunk_bytes);
        settings.add("shape.append_bytes_max", append_bytes_max);
        settings.add("shape.inflight_messages_max", inflight_messages_max);
        settings.add("shape.inflight_bytes_max", inflight_bytes_max);
        settings.add("shape.uncommitted_bytes_max", uncommitted_bytes_max);
        settings.add("shape.unapplied_bytes_max", unapplied_bytes_max).add("shape.apply_bytes_max", apply_bytes_max);
        settings.add("shape.reads_max", reads_max).add("shape.requests_max", requests_max);
        settings.add("shape.tail_bytes_max", tail_bytes_max).add("shape.forward_timeout", forward_timeout);
        settings.add("shape.lease_drift_percent", lease_drift_percent);
        settings.add("shape.promotion_timeout", promotion_timeout).add("shape.state_latency", state_latency);
    }
}

impl Faults {
    fn settings<'a>(&'a mut self, settings: &mut Settings<'a>) {
        settings.add("network.delay", &mut self.network.delay).add("network.tail", &mut self.network.tail);
        settings.add("network.drop", &mut self.network.drop).add("network.duplicate", &mut self.network.duplicate);
        settings.add("network.duplicate_delay_max", &mut self.network.duplicate_delay_max);
        settings.add("network.in_order", &mut self.network.in_order);
        settings.add("network.queue_max", &mut self.network.queue_max);
        settings.add("disk.latency", &mut self.disk.latency).add("disk.slow_max", &mut self.disk.slow_max);
        settings.add("disk.torn", &mut self.disk.torn);
        settings.add("faults.crash_between_effects", &mut self.crash_between_effects);
        settings.add("faults.down", &mut self.down).add("faults.partition", &mut self.partition);
        settings.add("faults.pause_max", &mut self.pause_max).add("faults.stall_max", &mut self.stall_max);
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        writeln!(f, "seed = {}", self.seed)?;
        for (name, setting) in self.clone().settings().iter() {
            writeln!(f, "{name} = {}", setting.show())?;
        }
        for fault in &self.schedule {
            let at = Duration::from_nanos(fault.at.0);
            writeln!(f, "fault {} {} {:016x}", at.show(), fault.kind.name(), fault.seed)?;
        }
        Ok(())
    }
}

impl FromStr for Plan {
    type Err = PlanError;

    /// Reads what [`Display`](fmt::Display) writes; what it leaves out is drawn from the seed. Lines that begin with `#` are comments.
    fn from_str(text: &str) -> Result<Plan, PlanError> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let header = lines.next().map_or("", |(_, line)| line);
        if header != HEADER {
            return Err(PlanError::Header { got: header.chars().take(60).collect() });
        }
        let lines: Vec<(usize, &str)> = lines.collect();
        let seed = lines.iter().find_map(|(_, line)| line.strip_prefix("seed = ")).ok_or(PlanError::NoSeed)?;
        let seed = seed.parse().map_err(|_| PlanError::NoSeed)?;
        let mut plan = Plan::draw(seed, &Options::default());
        plan.schedule.clear();
        let mut last = 0;
        for (line, text) in lines {
            plan.read(text).map_err(|what| PlanError::Line { line, what })?;
            last = line;
        }
        plan.check().map_err(|what| PlanError::Line { line: last, what })?;
        plan.schedule.sort_by_key(|fault| fault.at);
        plan.number();
        Ok(plan)
    }
}

impl Plan {
    fn read(&mut self, line: &str) -> Result<(), String> {
        if let Some(fault) = line.strip_prefix("fault ") {
            self.schedule.push(read_fault(fault)?);
            return Ok(());
        }
        let expected = || format!("expected \"NAME = VALUE\" or \"fault TIME KIND NUMBER\", got \"{line}\"");
        let (name, value) = line.split_once(" = ").ok_or_else(expected)?;
        if name == "seed" { Ok(()) } else { self.settings().set(name, value) }
    }

    /// Faults are numbered in order of time.
    fn number(&mut self) {
        for (number, fault) in self.schedule.iter_mut().enumerate() {
            fault.number = number;
        }
    }
}

fn read_fault(text: &str) -> Result<Fault, String> {
    let mut words = text.split_whitespace();
    let mut word = |what: &str| words.next().ok_or_else(|| format!("expected {what} after \"fault {text}\""));
    let (at, kind, seed) = (word("a time")?, word("a kind")?, word("a number")?);
    let at = Duration::read(at).ok_or_else(|| format!("expected seconds, got \"{at}\""))?;
    let known = FaultKind::ALL.into_iter().find(|known| known.name() == kind);
    let names = || FaultKind::ALL.map(FaultKind::name).join(", ");
    let kind = known.ok_or_else(|| format!("expected one of {}; got \"{kind}\"", names()))?;
    let seed = u64::from_str_radix(seed, 16).map_err(|_| format!("expected 16 hexadecimal digits, got \"{seed}\""))?;
    Ok(Fault { number: 0, at: Time::ZERO.plus(at), kind, seed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FaultMix;

    fn swarm() -> Options {
        Options { faults: FaultMix::Swarm, duration: Duration::from_secs(20), ..Options::default() }
    }

    #[test]
    fn what_is_written_reads_back() {
        for seed in 0..50 {
            let plan = Plan::draw(seed, &swarm());
            let read: Plan = plan.to_string().parse().unwrap();
            assert_eq!(read.to_string(), plan.to_string());
            assert_eq!(read.schedule, plan.schedule);
        }
    }

    #[test]
    fn a_plan_that_was_read_runs_like_the_one_that_was_drawn() {
        for seed in 0..5 {
            let plan = Plan::draw(seed, &swarm());
            let read: Plan = format!("# a comment\n\n{plan}").parse().unwrap();
            assert_eq!(read.run().unwrap().hash, plan.run().unwrap().hash);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let error = |text: &str| text.parse::<Plan>().unwrap_err();
        assert!(matches!(error("something else"), PlanError::Header { .. }));
        assert_eq!(error(&format!("{HEADER}\nmembers = 3")), PlanError::NoSeed);
        for (line, what) in [
            ("members = many", "many"),
            ("members = 10", "10"),
            ("no-such-thing = 1", "no-such-thing"),
            ("fault 1.5 no-such-fault 00", "no-such-fault"),
            ("fault soon crash 00", "soon"),
            ("fault 1.5 crash", "a number"),
            ("nonsense", "nonsense"),
        ] {
            let error = error(&format!("{HEADER}\nseed = 1\n{line}"));
            assert!(matches!(&error, PlanError::Line { line: 3, what: told } if told.contains(what)), "{error}");
        }
    }
}
