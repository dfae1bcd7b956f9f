//! `cargo xtask bench`: the benchmarks, and what they need.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    debian,
    process::{build_binary, cargo, pass_through},
    redis,
};

/// The one that runs when none is named.
const DEFAULT: &str = "core";

/// The benchmarks of real processes, which need nothing that the others need.
const OF_PROCESSES: [&str; 2] = ["cluster", "growth"];

pub(crate) fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let (what, args) = named(args);
    let mut command = cargo();
    command.args(["run", "--release", "--manifest-path", "crates/bench/Cargo.toml"]);
    if OF_PROCESSES.iter().any(|of_processes| what == *of_processes) {
        // What the servers are made of is not compiled twice.
        command.args(["--target-dir", "target", "--no-default-features", "--features", "cluster"]);
        if !asks_for_help(&args) {
            command.envs(programs(&args)?);
        }
    }
    command.arg("--").arg(what).args(args);
    pass_through(&mut command)
}

/// Which benchmark, and its options.
fn named(mut args: Vec<OsString>) -> (OsString, Vec<OsString>) {
    match args.first() {
        Some(first) if !first.as_encoded_bytes().starts_with(b"-") => (args.remove(0), args),
        _ => (DEFAULT.into(), args),
    }
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
    args.windows(2).any(|pair| pair[0] == "--against" && pair[1] == *peer)
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
    }

    #[test]
    fn the_first_argument_names_the_benchmark_unless_it_is_an_option() {
        let args = |args: &[&str]| args.iter().map(OsString::from).collect::<Vec<_>>();
        for (given, what, rest) in [
            (&[][..], "core", &[][..]),
            (&["--quick"], "core", &["--quick"]),
            (&["cluster", "--help"], "cluster", &["--help"]),
            (&["growth"], "growth", &[]),
        ] {
            assert_eq!(named(args(given)), (what.into(), args(rest)));
        }
    }

    #[test]
    fn help_needs_no_servers() {
        assert!(asks_for_help(&["--help".into()]));
    }
}
