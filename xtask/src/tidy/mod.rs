//! `cargo xtask tidy`: the style that no compiler checks.

mod files;
mod layers;
mod proto;

use anyhow::{Result, bail};

/// What was found: faults fail the check, hints do not.
#[derive(Default)]
pub(crate) struct Findings {
    faults: Vec<String>,
    hints: Vec<String>,
}

pub(crate) fn run() -> Result<()> {
    let mut findings = Findings::default();
    files::check(&mut findings)?;
    layers::check(&mut findings)?;
    proto::check(&mut findings)?;
    for hint in &findings.hints {
        println!("tidy: hint: {hint}");
    }
    if !findings.faults.is_empty() {
        bail!("tidy found {} faults:\n{}", findings.faults.len(), findings.faults.join("\n"));
    }
    println!("tidy: layers, files and copies are in order");
    Ok(())
}
