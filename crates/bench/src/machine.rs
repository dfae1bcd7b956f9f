//! What the figures were taken on.

use std::{fs, thread};

/// One line: operating system, architecture, cores, and the processor where the system tells it.
pub fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let os = format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH);
    match processor() {
        Some(name) => format!("{os}, {name}"),
        None => os,
    }
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
