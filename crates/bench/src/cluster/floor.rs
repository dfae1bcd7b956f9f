//! What the machine itself takes for one durable put on three processes: a sync of the disk while three processes sync, and two round trips on loopback.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::FileExt, process::CommandExt},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const PROCESSES: usize = 3;
const BLOCK: usize = 4096;
/// How large the file is; it is written over and over.
const BLOCKS: u64 = 1024;
const MESSAGE_BYTES: usize = 100;

/// The medians, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// One `fdatasync` of 4 KiB written to a file whose blocks all exist, while three processes sync.
    pub(crate) sync: f64,
    /// One round trip of 100 bytes between two processes.
    pub(crate) round_trip: f64,
}

impl Floor {
    /// What a durable put cannot beat.
    pub(crate) fn put(&self) -> f64 {
        self.sync + 2.0 * self.round_trip
    }
}

/// Measures both, each for so long.
///
/// # Errors
/// When a process or a file cannot be made.
pub(crate) fn measure(dir: &Path, duration: Duration) -> io::Result<Floor> {
    Ok(Floor { sync: sync(dir, duration)?, round_trip: round_trip(duration)? })
}

/// The median over the processes of each one's median.
fn sync(dir: &Path, duration: Duration) -> io::Result<f64> {
    let millis = duration.as_millis().to_string();
    let start = |number| {
        let file = dir.join(format!("floor-{number}-{}", std::process::id())).display().to_string();
        Helper::start(&["sync", &file, &millis])
    };
    let mut helpers = (0..PROCESSES).map(start).collect::<io::Result<Vec<_>>>()?;
    for helper in &mut helpers {
        helper.line()?;
    }
    // All are ready before one begins.
    for helper in &mut helpers {
        helper.say("go\n")?;
    }
    let mut medians = helpers.iter_mut().map(Helper::number).collect::<io::Result<Vec<_>>>()?;
    medians.sort_by(f64::total_cmp);
    Ok(medians[PROCESSES / 2])
}

fn round_trip(duration: Duration) -> io::Result<f64> {
    let mut helper = Helper::start(&["echo"])?;
    let mut stream = TcpStream::connect(helper.line()?.trim())?;
    stream.set_nodelay(true)?;
    let mut message = [7; MESSAGE_BYTES];
    median(duration, || {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)
    })
}

/// The median of how long something takes that is done again and again, in seconds.
fn median(duration: Duration, mut what: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let mut took = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let begun = Instant::now();
        what()?;
        took.push(begun.elapsed());
    }
    took.sort();
    Ok(took[took.len() / 2].as_secs_f64())
}

/// What a process does that was started to help: `sync FILE MILLISECONDS` or `echo`.
///
/// # Errors
/// When it cannot.
pub fn help<'a>(mut words: impl Iterator<Item = &'a str>) -> io::Result<()> {
    match (words.next(), words.next(), words.next().map(str::parse)) {
        (Some("sync"), Some(file), Some(Ok(millis))) => help_to_sync(Path::new(file), Duration::from_millis(millis)),
        (Some("echo"), None, None) => help_to_echo(),
        _ => Err(io::Error::other("this is for the benchmark itself")),
    }
}

fn help_to_sync(path: &Path, duration: Duration) -> io::Result<()> {
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    // Whoever has it open keeps it: nothing stays behind.
    std::fs::remove_file(path)?;
    let block = [7; BLOCK];
    for number in 0..BLOCKS {
        file.write_all_at(&block, number * BLOCK as u64)?;
    }
    file.sync_all()?;
    println_flushed("ready")?;
    io::stdin().read_line(&mut String::new())?;
    let mut number = 0;
    let median = median(duration, || {
        number = (number + 1) % BLOCKS;
        file.write_all_at(&block, number * BLOCK as u64)?;
        file.sync_data()
    })?;
    println_flushed(&median.to_string())
}

fn help_to_echo() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println_flushed(&listener.local_addr()?.to_string())?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(())
}

fn println_flushed(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

/// This program once more, to help.
struct Helper {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Helper {
    fn start(words: &[&str]) -> io::Result<Helper> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("cluster-floor").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for this process, which then ends it.
        let mut child = command.process_group(0).spawn()?;
        let out = child.stdout.take().ok_or_else(|| io::Error::other("a process without output"))?;
        Ok(Helper { child, out: BufReader::new(out) })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.out.read_line(&mut line)? {
            0 => Err(io::Error::other("a process that measures the floor has ended")),
            _ => Ok(line),
        }
    }

    fn number(&mut self) -> io::Result<f64> {
        let line = self.line()?;
        line.trim().parse().map_err(|_| io::Error::other(format!("expected seconds, got {line}")))
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.child.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(line.as_bytes()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It has usually ended by itself, and then this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_takes_a_sync_and_two_round_trips() {
        assert_eq!(Floor { sync: 3.0, round_trip: 0.5 }.put(), 4.0);
    }

    #[test]
    fn the_median_is_of_what_was_done() {
        let mut done = 0;
        let median = median(Duration::from_millis(5), || {
            done += 1;
            Ok(())
        });
        assert!(done > 0 && median.unwrap() < 0.005);
    }
}
