//! What the command line asks for.

mod bugs;
mod failing;
mod many;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use coracle_sim::{Bug, FaultMix, Nodes, Options, Plan};

/// Runs groups of replicas on virtual time, under faults drawn from seeds, and checks what they do.
#[derive(Debug, clap::Parser)]
#[command(name = "coracle-sim")]
pub(crate) struct Arguments {
    /// How many seeds to run; 1000 by default, and 2000 at most for each bug under `--bugs`.
    #[arg(long, conflicts_with = "minutes")]
    seeds: Option<u64>,
    /// Run seeds for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many nodes a group has: a number, or "mixed" for 1, 2, 3, 4, 5 or 7, drawn per seed.
    #[arg(long, default_value_t = Nodes::Mixed)]
    nodes: Nodes,
    /// Which faults there are: "crashes", "swarm" for all kinds, or "mixed" for two seeds with crashes and one of the swarm.
    #[arg(long, default_value_t = FaultMix::Mixed)]
    faults: FaultMix,
    /// How many virtual seconds faults go on in each run.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// How many seeds run at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Run this seed alone, with a line for each transition.
    #[arg(long)]
    seed: Option<u64>,
    /// Build in a bug, which has to be caught.
    #[arg(long)]
    bug: Option<Bug>,
    /// Show that each known bug is caught, and that nothing is without one.
    #[arg(long, conflicts_with_all = ["bug", "seed", "minutes", "nodes", "faults"])]
    bugs: bool,
    /// Run the schedule in this file, with a line for each transition.
    #[arg(long, conflicts_with_all = ["bug", "bugs", "seed", "seeds", "minutes", "nodes", "faults", "history_only"])]
    schedule: Option<PathBuf>,
    /// Do not look for the least that fails the same way when a seed fails.
    #[arg(long)]
    no_minimise: bool,
    /// Judge clients' answers by nothing but whether their history is linearizable.
    #[arg(long)]
    history_only: bool,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            nodes: self.nodes,
            faults: self.faults,
            duration: Duration::from_secs(self.seconds),
            bug: self.bug,
            history_only: self.history_only,
            ..Options::default()
        }
    }
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if let Some(path) = &arguments.schedule {
        return failing::replay(path);
    }
    match arguments.seed {
        Some(seed) => run_one(seed, arguments),
        None if arguments.bugs => bugs::run(arguments),
        None => many::run(arguments),
    }
}

fn run_one(seed: u64, arguments: &Arguments) -> ExitCode {
    let plan = Plan::draw(seed, &arguments.options());
    match plan.replay(Box::new(|line| println!("{line}"))) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(mut failure) => {
            // They have just been shown.
            failure.lines.clear();
            failing::show(&plan, &failure, !arguments.no_minimise);
            ExitCode::FAILURE
        }
    }
}

/// Runs something whose panics are no news: that of a run is its failure, and shown with it.
fn quietly<T>(run: impl FnOnce() -> T) -> T {
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    drop(std::panic::take_hook());
    result
}
