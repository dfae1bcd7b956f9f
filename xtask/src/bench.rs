//! `cargo xtask bench`: the benchmarks, and what they need.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    Passed, debian,
    process::{build_binary, cargo, pass_through},
    redis,
};

/// A benchmark to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Which benchmark: `core` is the protocol alone, three replicas in one thread; `process` is three nodes in one process, in memory; `cluster` is three real processes over gRPC, beside etcd; `growth` is what becomes of them with more of everything; `groups` is many groups on three processes; `durable` is the stores on disk beside a plain file
    #[arg(default_value = "core")]
    what: String,
    #[command(flatten)]
    passed: Passed,
}

/// The benchmarks of real processes, which need nothing that the others need.
const OF_PROCESSES: [&str; 2] = ["cluster", "growth"];

pub(crate) fn run(Options { what, passed: Passed { args } }: Options) -> Result<ExitCode> {
    let mut command = cargo();
    command.args(["run", "--release", "--manifest-path", "crates/bench/Cargo.toml"]);
    if OF_PROCESSES.contains(&&*what) {
        // What the servers are made of is not compiled twice.
        command.args(["--target-dir", "target", "--no-default-features", "--features", "cluster"]);
        if !asks_for_help(&args) {
            command.envs(programs(&args)?);
        }
    }
    command.arg("--").arg(what).args(args);
    pass_through(&mut command)
}

fn asks_for_help(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--help" || arg == "-h")
}

/// The variables that say where the servers are, each built or fetched.
fn programs(args: &[OsString]) -> Result<Vec<(&'static str, PathBuf)>> {
    eprintln!("== building the release binary");
    let mut programs = vec![("CORACLE_BENCH_CORACLE", build_binary("coracle-server", "coracle", true)?)];
    if is_against(args, "etcd") {
        programs.push(("CORACLE_BENCH_ETCD", etcd()?));
    }
    if is_against(args, "redis") {
        programs.push(("CORACLE_BENCH_REDIS", redis::server()?));
    }
    Ok(programs)
}

/// Whether the arguments have `--against peer`.
fn is_against(args: &[OsString], peer: &str) -> bool {
    args.windows(2).any(|pair| pair[0] == "--against" && pair[1] == peer)
}

/// etcd: the system's own, or that of its package, which needs no libraries of others.
fn etcd() -> Result<PathBuf> {
    let by_hand = "there is no etcd; install it (Debian: `apt-get install etcd-server`), or run without --against etcd";
    let command = debian::program("etcd", "etcd-server").context(by_hand)?;
    Ok(command.get_program().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_fetched_only_when_they_are_asked_for() {
        let args: Vec<OsString> = ["--quick", "--against", "etcd"].map(OsString::from).to_vec();
        assert!(is_against(&args, "etcd"));
        assert!(!is_against(&args, "redis"));
        assert!(!asks_for_help(&args));
        assert!(asks_for_help(&["--help".into()]));
    }
}
