//! Builds and starts things: `cargo xtask --help`.
#![allow(clippy::print_stdout, reason = "a command line tool answers on standard output")]

mod bench;
mod cluster;
mod debian;
mod fuzz;
mod nostd;
mod process;
mod redis;
mod sim;
mod test;
mod tidy;
mod tools;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Builds and starts things in this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Start a cluster of real processes, count words on it, and kill its leader half-way
    ///
    /// Builds the release binary, starts the nodes on loopback, and counts the words of a text with one replicated increment per word from several clients at once.
    /// Half-way it kills the leader (SIGKILL), restarts it on its directory, and compares the counts at the end: equal to the last word, or not.
    /// With `--storage memory:` the killed node has lost its data: its old id leaves, and it joins as a new node.
    /// On a terminal it shows the nodes while it runs, and stays up afterwards until Ctrl-C; otherwise it ends by itself.
    /// The nodes' logs are in target/cluster.
    Cluster(cluster::Options),
    /// Run all tests: unit, integration, documentation, examples, and each adapter alone
    Test(test::Options),
    /// Print the path of a Redis server for the tests; fetch one from the system's packages, without installing it, if there is none
    Redis,
    /// Show that the core needs no standard library, no clock, no threads, no sockets
    CheckNostd,
    /// Run the deterministic simulator; its own options follow (see `cargo xtask sim --help`)
    #[command(disable_help_flag = true)]
    Sim(Passed),
    /// Check small scopes of the consensus exhaustively; its own options follow (see `cargo xtask model --help`)
    #[command(disable_help_flag = true)]
    Model(Passed),
    /// Run a benchmark: `core` (also when none is named) is the protocol alone, `process` three nodes in one process, `cluster` three real processes, `growth` what becomes of them with more of everything, `groups` many groups, `durable` the stores on disk; its own options follow (see `cargo xtask bench --help`)
    #[command(disable_help_flag = true)]
    Bench(Passed),
    /// Fuzz the decoders, and recovery from what is damaged: each target for a while, several at once (`cargo xtask fuzz --seconds 60 --jobs 2`)
    ///
    /// Runs on stable Rust, through cargo-fuzz, which is built into target/tools when the system has none.
    /// Begins with the corpus in crates/fuzz/seeds; what is found on the way is kept in target/fuzz/corpus.
    Fuzz(fuzz::Options),
    /// Fetch the programs that tests use and the system lacks, into target/tools
    Tools,
    /// Check the style that no compiler checks: layers, file sizes, copies, leftovers
    Tidy(tidy::Options),
}

/// Arguments that are passed on.
#[derive(Args)]
struct Passed {
    /// What to pass on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Cluster(options) => return cluster::run(&options),
        Task::Test(options) => test::run(&options)?,
        Task::Redis => redis::run()?,
        Task::CheckNostd => nostd::run()?,
        Task::Sim(Passed { args }) => return sim::run(&args),
        Task::Model(Passed { args }) => {
            let mut cargo = process::cargo();
            cargo.args(["run", "--release", "--package", "coracle-model", "--bin", "coracle-model", "--"]).args(args);
            return process::pass_through(&mut cargo);
        }
        Task::Bench(Passed { args }) => return bench::run(args),
        Task::Fuzz(options) => return fuzz::run(&options),
        Task::Tools => tools::run()?,
        Task::Tidy(options) => tidy::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_simulator_and_model_are_passed_on() {
        let cli = Cli::try_parse_from(["xtask", "sim", "--seeds", "5", "--help"]).unwrap();
        let Task::Sim(Passed { args }) = cli.task else { panic!("another task") };
        assert_eq!(args, ["--seeds", "5", "--help"]);
        let cli = Cli::try_parse_from(["xtask", "model", "--scope", "reads"]).unwrap();
        let Task::Model(Passed { args }) = cli.task else { panic!("another task") };
        assert_eq!(args, ["--scope", "reads"]);
    }
}
