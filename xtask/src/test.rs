//! `cargo xtask test`: everything that `cargo test` runs, and what it leaves out.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{
    process::{build_binary, cargo, step, workspace_metadata},
    redis, tools,
};

/// What to test.
#[derive(Args)]
pub(crate) struct Options {
    /// Arguments for `cargo test --workspace`; with any, only that is run
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if cfg!(target_os = "linux")
        && let Err(error) = tools::run()
    {
        // The tests that need it say so too, and fail.
        println!("== {error:#}");
    }
    println!("== the binary that the tests across crates start");
    let binary = build_binary("coracle-server", "coracle", false)?;
    println!("== CORACLE_BIN={}", binary.display());
    println!("== a Redis server");
    let server = redis::server()?;
    println!("== {}={}", redis::SERVER_VARIABLE, server.display());
    let mut all = cargo();
    // A run takes many minutes: it shows all that fails, not only the first.
    all.args(["test", "--workspace", "--no-fail-fast"]).args(&options.args).env("CORACLE_BIN", &binary);
    all.env(redis::SERVER_VARIABLE, &server);
    step("unit, integration and documentation tests", &mut all)?;
    if !options.args.is_empty() {
        return Ok(());
    }
    // Apart from the rest: the workspace's tests are to see the product's code without any hook.
    let mut bugs = cargo();
    bugs.args(["test", "--package", "coracle-sim", "--features", "bugs", "--test", "bugs", "--test", "schedules"]);
    step("the simulator finds deliberate bugs", &mut bugs)?;
    step("tests in examples", cargo().args(["test", "--workspace", "--examples"]).env("CORACLE_BIN", &binary))?;
    for feature in features_of("coracle")? {
        let mut one = cargo();
        one.args(["check", "--package", "coracle", "--no-default-features", "--features", &feature]);
        step(&format!("coracle with nothing but \"{feature}\""), &mut one)?;
    }
    Ok(())
}

/// The features of a package, but for the default.
fn features_of(package: &str) -> Result<Vec<String>> {
    let metadata = workspace_metadata()?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let features = packages.filter(|one| one["name"] == package).filter_map(|one| one["features"].as_object());
    Ok(features.flat_map(|one| one.keys()).filter(|name| *name != "default").cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapters_are_features_of_the_integration_crate() {
        let features = features_of("coracle").unwrap();
        assert!(features.iter().any(|name| name == "memory"), "{features:?}");
        assert!(features.iter().all(|name| name != "default"), "{features:?}");
    }
}
