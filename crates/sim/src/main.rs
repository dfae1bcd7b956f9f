//! The simulator's command line.
#![allow(clippy::print_stdout, reason = "a report on the standard output is what this program is for")]

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(&cli::Arguments::parse())
}
