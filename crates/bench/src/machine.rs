//! What the figures were taken on.

use std::{fs, path::Path, thread};

/// One line: operating system, architecture, cores, and the processor where the system tells it.
pub fn describe() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let os = format!("{} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH);
    match processor() {
        Some(name) => format!("{os}, {name}"),
        None => os,
    }
}

/// The kind of file system that a directory is on, and what is mounted there, where the system tells it.
pub fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let text = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (device, place, kind) = (words.next()?, Path::new(words.next()?), words.next()?);
        dir.starts_with(place).then(|| (place.components().count(), format!("{kind} on {device}")))
    });
    // Of two on the same place, the later one hides the other.
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, mount)| mount)
}

/// How many processes wanted to run, on average over the last minute, where the system tells it.
pub fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').next().map(str::to_owned)
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
