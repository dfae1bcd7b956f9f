//! The examples do what they say.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::PathBuf, process::Command};

/// Runs an example, which `cargo test` has built beside this test.
fn run(example: &str) {
    let test = std::env::current_exe().unwrap();
    let built: PathBuf = test.ancestors().nth(2).unwrap().join("examples").join(example);
    assert!(built.exists(), "{} is not built: run `cargo build -p coracle --examples`", built.display());
    let output = Command::new(built).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_embedded_example_runs() {
    run("embedded");
}

#[test]
fn the_state_machine_example_runs() {
    run("state_machine");
}

#[test]
fn the_groups_example_runs() {
    run("groups");
}
