//! What a run is made of, apart from its seed.

use std::{fmt, str::FromStr, time::Duration};

use crate::Bug;

/// What a run is made of, apart from its seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes a group has.
    pub nodes: Nodes,
    /// Which faults there are. Default [`FaultMix::Mixed`].
    pub faults: FaultMix,
    /// How long faults go on, in virtual time, before everything heals and has to converge. Default 120 s.
    pub duration: Duration,
    /// A deliberate bug, which the checkers have to notice.
    pub bug: Option<Bug>,
    /// Judges clients' answers by nothing but whether their history is linearizable (I9), to see what that finds alone. Default false.
    pub history_only: bool,
    /// The most clients; fewer when fewer are drawn. Default: no limit.
    pub clients_max: Option<usize>,
    /// The most events of one run: a run beyond it is a failure of liveness. Default 20 million.
    pub events_max: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: Nodes::Mixed,
            faults: FaultMix::Mixed,
            duration: Duration::from_secs(120),
            bug: None,
            history_only: false,
            clients_max: None,
            events_max: 20_000_000,
        }
    }
}

/// Which faults a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultMix {
    /// Every third seed is of the swarm, the others have crashes only.
    Mixed,
    /// Nodes lose their power, one or all; everything else works.
    Crashes,
    /// Every kind of fault is there or not, by chance.
    Swarm,
}

impl FaultMix {
    /// What it means for a seed.
    pub(crate) fn of_seed(self, seed: u64) -> FaultMix {
        match self {
            FaultMix::Mixed if seed.is_multiple_of(3) => FaultMix::Swarm,
            FaultMix::Mixed => FaultMix::Crashes,
            other => other,
        }
    }
}

impl FromStr for FaultMix {
    type Err = String;

    fn from_str(text: &str) -> Result<FaultMix, String> {
        match text {
            "mixed" => Ok(FaultMix::Mixed),
            "crashes" => Ok(FaultMix::Crashes),
            "swarm" => Ok(FaultMix::Swarm),
            _ => Err(format!("expected \"mixed\", \"crashes\" or \"swarm\", got \"{text}\"")),
        }
    }
}

impl fmt::Display for FaultMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultMix::Mixed => "mixed",
            FaultMix::Crashes => "crashes",
            FaultMix::Swarm => "swarm",
        })
    }
}

/// How many nodes a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// Always as many.
    Exactly(usize),
    /// 1, 2, 3, 4, 5 or 7, drawn per seed.
    Mixed,
}

/// The most nodes that a simulated group may have.
pub const NODES_MAX: usize = 9;

impl FromStr for Nodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Nodes, String> {
        if text == "mixed" {
            return Ok(Nodes::Mixed);
        }
        match text.parse() {
            Ok(count) if (1..=NODES_MAX).contains(&count) => Ok(Nodes::Exactly(count)),
            _ => Err(format!("expected \"mixed\" or a number from 1 to {NODES_MAX}, got \"{text}\"")),
        }
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nodes::Exactly(count) => count.fmt(f),
            Nodes::Mixed => f.write_str("mixed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_mixes_read_back() {
        for mix in [FaultMix::Mixed, FaultMix::Crashes, FaultMix::Swarm] {
            assert_eq!(mix.to_string().parse::<FaultMix>(), Ok(mix));
        }
        assert!("none".parse::<FaultMix>().is_err());
    }

    #[test]
    fn numbers_of_nodes_are_checked() {
        assert_eq!("3".parse::<Nodes>(), Ok(Nodes::Exactly(3)));
        assert_eq!("mixed".parse::<Nodes>(), Ok(Nodes::Mixed));
        assert!("0".parse::<Nodes>().is_err());
        assert!("100".parse::<Nodes>().is_err());
    }
}
