//! What processes have used, as the kernel counts it.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// The unit of CPU times in `/proc`: 100 a second on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// What some processes have used since they began; the difference of two is what they used in between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time of all threads, in user space and in the kernel.
    pub(crate) cpu: Duration,
    /// Context switches of all threads that live.
    pub(crate) switches: u64,
    /// System calls that write, to files and to sockets.
    pub(crate) writes: u64,
}

impl Usage {
    /// Of these processes together.
    ///
    /// # Errors
    /// When one of them has ended.
    pub(crate) fn of(pids: &[u32]) -> io::Result<Usage> {
        let mut sum = Usage::default();
        for &pid in pids {
            sum.cpu += cpu(pid)?;
            sum.switches += switches(pid)?;
            sum.writes += field(&fs::read_to_string(format!("/proc/{pid}/io"))?, "syscw:").unwrap_or_default();
        }
        Ok(sum)
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(before.cpu),
            // A thread that has ended takes its count with it.
            switches: self.switches.saturating_sub(before.switches),
            writes: self.writes.saturating_sub(before.writes),
        }
    }
}

/// CPU time of a process, threads that have ended included.
fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    cpu_in(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has another form: {stat}")))
}

fn cpu_in(stat: &str) -> Option<Duration> {
    // The name, in brackets, may hold anything.
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    let user: u32 = words.nth(11)?.parse().ok()?;
    let system: u32 = words.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

fn switches(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since the folder was read.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        let of = |name| field(&status, name).unwrap_or_default();
        sum += of("voluntary_ctxt_switches:") + of("nonvoluntary_ctxt_switches:");
    }
    Ok(sum)
}

/// How much memory a process has at this moment, in bytes.
///
/// # Errors
/// When it has ended.
pub(crate) fn memory(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // What has ended and was not waited for has none.
    field(&status, "VmRSS:").map(|kib| kib * 1024).ok_or_else(|| io::Error::other(format!("process {pid} has ended")))
}

/// How often the disk under a directory was told to make writes durable, by anybody, where the system counts it.
pub(crate) fn flushes(dir: &Path) -> Option<u64> {
    let device = fs::metadata(dir).ok()?.dev();
    // As the C library takes device numbers to pieces.
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    flushes_in(&fs::read_to_string("/proc/diskstats").ok()?, major, minor)
}

fn flushes_in(diskstats: &str, major: u64, minor: u64) -> Option<u64> {
    let (major, minor) = (major.to_string(), minor.to_string());
    let mut lines = diskstats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words.get(..2) == Some(&[&*major, &*minor]))?;
    line.get(18)?.parse().ok()
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 30 12 5 5 20 0 1 0 99";
        assert_eq!(cpu_in(stat), Some(Duration::from_millis(420)));
        assert_eq!(cpu_in("7 (a) S 1"), None);
    }

    #[test]
    fn flushes_are_those_of_the_disk() {
        let text = " 7 0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0\n 254 0 vda 1 0 8 0 2 0 9 0 0 1 1 0 0 0 0 4711 5\n 1 1 short\n";
        assert_eq!(flushes_in(text, 254, 0), Some(4711));
        assert_eq!(flushes_in(text, 254, 1), None);
        assert_eq!(flushes_in(text, 1, 1), None);
    }

    #[test]
    fn what_this_process_does_is_counted() {
        let pids = [std::process::id()];
        let before = Usage::of(&pids).unwrap();
        let mut used = Usage::default();
        while used.cpu < TICK * 3 {
            fs::write("/dev/null", "x").unwrap();
            used = Usage::of(&pids).unwrap().since(before);
        }
        assert!(used.writes > 0, "{used:?}");
        assert!(memory(pids[0]).unwrap() > 1 << 20);
    }
}
