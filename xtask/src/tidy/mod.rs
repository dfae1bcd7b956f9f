//! `cargo xtask tidy`: the style that no compiler checks.

mod examples;
mod files;
mod inventory;
mod layers;
mod proto;

use anyhow::{Result, bail};
use clap::Args;

/// What was found: faults fail the check, hints do not.
#[derive(Default)]
pub(crate) struct Findings {
    faults: Vec<String>,
    hints: Vec<String>,
}

/// What to do with what can be repaired.
#[derive(Args)]
pub(crate) struct Options {
    /// Write the examples into README.md anew
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut findings = Findings::default();
    files::check(&mut findings)?;
    layers::check(&mut findings)?;
    proto::check(&mut findings)?;
    inventory::check(&mut findings)?;
    examples::check(&mut findings, options.write)?;
    for hint in &findings.hints {
        println!("tidy: hint: {hint}");
    }
    if !findings.faults.is_empty() {
        bail!("tidy found {} faults:\n{}", findings.faults.len(), findings.faults.join("\n"));
    }
    println!("tidy: layers, files and copies are in order");
    Ok(())
}
