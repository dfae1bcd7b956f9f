//! `cargo xtask sim`: the deterministic simulator.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::process::{cargo, pass_through};

/// Options that ask for a deliberate bug, or may.
const NEED_BUGS: [&str; 3] = ["--bug", "--bugs", "--schedule"];

/// Builds and runs it; without a deliberate bug it is built from the very code of the product.
pub(crate) fn run(args: &[OsString]) -> Result<ExitCode> {
    let mut cargo = cargo();
    cargo.args(["run", "--release", "--package", "coracle-sim", "--bin", "coracle-sim"]);
    if args.iter().any(needs_bugs) {
        cargo.args(["--features", "bugs"]);
    }
    pass_through(cargo.arg("--").args(args))
}

fn needs_bugs(arg: &OsString) -> bool {
    let text = arg.to_string_lossy();
    let name = text.split_once('=').map_or(&*text, |(name, _)| name);
    NEED_BUGS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deliberate_bug_builds_the_hooks() {
        for (arg, needs) in [("--bug", true), ("--bugs", true), ("--bug=no-noop", true), ("--seeds", false)] {
            assert_eq!(needs_bugs(&arg.into()), needs, "{arg}");
        }
    }
}
