//! What a process asked of the system, as `strace` saw it: whether what it acknowledged had been written and synced before.

use std::{collections::HashMap, fs, path::Path, process::Command};

use crate::tools;

const CALLS: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,rename,renameat,renameat2";
/// Longer than any buffer of a store under test: a text that is cut short is not found.
const TEXT_BYTES_MAX: &str = "16777216";

/// A call of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    name: String,
    /// The file behind the first argument.
    path: String,
    /// All arguments, as text.
    arguments: String,
    /// The lines of the trace at which it begins and ends.
    begins: usize,
    ends: usize,
    /// What it returned.
    result: String,
}

/// The calls of a process and all its threads, in the order in which they began.
#[derive(Debug)]
pub struct Trace {
    calls: Vec<Call>,
}

impl Trace {
    /// Runs a program to its end under `strace`, and gives what it printed and called.
    ///
    /// # Errors
    /// When `strace` is missing or may not trace here, or the program fails.
    pub fn of(program: &str, arguments: &[&str], output: &Path) -> Result<(String, Trace), String> {
        let mut strace: Command = tools::command("strace")?;
        strace.args(["-f", "-y", "-s", TEXT_BYTES_MAX, "-e", CALLS, "-e", "signal=none", "-o"]).arg(output);
        let ended = strace.arg("--").arg(program).args(arguments).output();
        let ended = ended.map_err(|error| format!("strace does not run: {error}"))?;
        if !ended.status.success() {
            return Err(format!("strace {program}: {}", String::from_utf8_lossy(&ended.stderr).trim()));
        }
        Ok((String::from_utf8_lossy(&ended.stdout).into_owned(), Trace::read(output)?))
    }

    /// Reads what `strace -f -y` wrote.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(output: &Path) -> Result<Trace, String> {
        let text = fs::read(output).map_err(|error| format!("{} cannot be read: {error}", output.display()))?;
        Ok(Trace::parse(&String::from_utf8_lossy(&text)))
    }

    fn parse(text: &str) -> Trace {
        let (mut calls, mut begun) = (Vec::new(), HashMap::new());
        for (at, line) in text.lines().enumerate() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some(call) = rest.strip_suffix(" <unfinished ...>").and_then(|rest| Call::begin(rest, at)) {
                begun.insert(thread, calls.len());
                calls.push(call);
            } else if rest.starts_with("<... ") {
                if let Some(call) = begun.remove(thread).and_then(|call: usize| calls.get_mut(call)) {
                    call.end(rest, at);
                }
            } else if let Some(mut call) = Call::begin(rest, at) {
                call.end(rest, at);
                calls.push(call);
            }
        }
        Trace { calls }
    }

    /// Checks that what has `token` in it was written to a file, that the file was synced afterwards, and that it had its name durably, all before `line` was printed.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn synced_before(&self, token: &str, line: &str) -> Result<(), String> {
        let said = format!("\"{line}\\n\"");
        let is_it = |call: &&Call| call.name == "write" && call.arguments.contains(&said);
        let printed = self.calls.iter().find(is_it).ok_or_else(|| format!("\"{line}\" was never printed"))?.begins;
        let mut missing = format!("\"{token}\" is in no write before \"{line}\"");
        let writes = self.calls.iter().filter(|call| call.name.contains("write") && call.arguments.contains(token));
        for write in writes.filter(|write| write.ends < printed) {
            let Some(sync) = self.sync(&write.path, write.ends, printed) else {
                missing = format!("{} was written and not synced before \"{line}\"", write.path);
                continue;
            };
            if self.is_named(&write.path, sync.ends, printed) {
                return Ok(());
            }
            missing = format!("{} was renamed, and its folder not synced before \"{line}\"", write.path);
        }
        Err(missing)
    }

    /// A sync of `path` that begins after `from`, ends before `to`, and succeeds.
    fn sync(&self, path: &str, from: usize, to: usize) -> Option<&Call> {
        let syncs = self.calls.iter().filter(|call| call.name.ends_with("sync") && call.path == path);
        syncs.filter(|call| call.result == "0").find(|call| call.begins > from && call.ends < to)
    }

    /// Whether a file was not renamed between `from` and `to`, or its folder was synced afterwards.
    fn is_named(&self, path: &str, from: usize, to: usize) -> bool {
        let quoted = format!("\"{path}\"");
        let is_rename = |call: &&Call| call.name.starts_with("rename") && call.arguments.contains(&quoted);
        let Some(rename) = self.calls.iter().filter(is_rename).find(|call| call.begins > from && call.ends < to) else {
            return true;
        };
        let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
        self.sync(&folder.to_string_lossy(), rename.ends, to).is_some()
    }

    /// The files of which a sync failed, each with the calls that synced it again.
    pub fn failed_syncs(&self) -> Vec<(&str, Vec<&str>)> {
        let syncs = || self.calls.iter().filter(|call| call.name.ends_with("sync"));
        let again = |first: &Call| {
            let later = syncs().filter(|call| call.path == first.path && call.begins > first.ends);
            later.map(|call| call.name.as_str()).collect()
        };
        let failed = syncs().filter(|call| call.result.starts_with('-'));
        failed.map(|first| (first.path.as_str(), again(first))).collect()
    }

    /// How many syncs succeeded.
    pub fn syncs(&self) -> usize {
        self.calls.iter().filter(|call| call.name.ends_with("sync") && call.result == "0").count()
    }
}

impl Call {
    fn begin(text: &str, at: usize) -> Option<Call> {
        let (name, arguments) = text.split_once('(')?;
        let path = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or("", |(path, _)| path);
        let (name, path) = (name.to_owned(), path.to_owned());
        // As long as it has not ended, it ends never.
        let (ends, result) = (usize::MAX, String::new());
        Some(Call { name, path, arguments: arguments.to_owned(), begins: at, ends, result })
    }

    fn end(&mut self, text: &str, at: usize) {
        self.ends = at;
        self.result = text.rsplit_once("= ").map_or("", |(_, result)| result).to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: &str = "7 pwrite64(9</x/db>, \"\\1<log 5>\", 8, 0) = 8\n";
    const SYNC: &str = "7 fdatasync(9</x/db>) = 0\n";
    const SAID: &str = "7 write(1<pipe:[3]>, \"log 5\\n\", 6) = 6\n";

    fn check(lines: &[&str]) -> Result<(), String> {
        Trace::parse(&lines.concat()).synced_before("<log 5>", "log 5")
    }

    #[test]
    fn a_sync_between_a_write_and_its_acknowledgement_is_found() {
        assert_eq!(check(&[WRITE, SYNC, SAID]), Ok(()));
        let begins = "8 fdatasync(9</x/db> <unfinished ...>\n";
        let ends = "8 <... fdatasync resumed>) = 0\n";
        assert_eq!(check(&[WRITE, begins, ends, SAID]), Ok(()));
        assert!(check(&[WRITE, begins, SAID, ends]).unwrap_err().contains("not synced"));
        assert!(check(&[begins, WRITE, ends, SAID]).unwrap_err().contains("not synced"), "it began before the write");
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(check(&[SYNC, SAID]).unwrap_err().contains("in no write"));
        assert!(check(&[SYNC, WRITE, SAID]).unwrap_err().contains("not synced"));
        assert!(check(&[WRITE, SAID, SYNC]).unwrap_err().contains("not synced"));
        assert!(check(&[WRITE, &SYNC.replace("db", "other"), SAID]).unwrap_err().contains("/x/db was written"));
        assert!(check(&[WRITE, &SYNC.replace("= 0", "= -1 EIO (Input/output error)"), SAID]).is_err());
        assert!(check(&[WRITE, SYNC]).unwrap_err().contains("never printed"));
    }

    #[test]
    fn a_file_that_is_synced_again_after_a_failure_is_found() {
        let failed = "8 fdatasync(9</x/db>) = -1 EIO (Input/output error) (INJECTED)\n";
        let other = "7 fsync(4</x/other>) = 0\n";
        let trace = |lines: &[&str]| Trace::parse(&lines.concat());
        assert_eq!(trace(&[SYNC, other]).failed_syncs(), []);
        assert_eq!(trace(&[SYNC, failed, other]).failed_syncs(), [("/x/db", vec![])]);
        assert_eq!(trace(&[failed, other, SYNC]).failed_syncs(), [("/x/db", vec!["fdatasync"])]);
    }

    #[test]
    fn a_file_that_is_renamed_needs_its_folder_synced() {
        let rename = "7 rename(\"/x/db\", \"/x/new\") = 0\n";
        assert!(check(&[WRITE, SYNC, rename, SAID]).unwrap_err().contains("folder"));
        assert_eq!(check(&[WRITE, SYNC, rename, "7 fsync(4</x>) = 0\n", SAID]), Ok(()));
    }
}
