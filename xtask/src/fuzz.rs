//! `cargo xtask fuzz`: each target for a while, several at once.

use std::{
    env, fs,
    fs::File,
    io::{BufRead, BufReader, Write},
    num::NonZero,
    path::{Path, PathBuf},
    process::{self, Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use crate::process::{cargo, root, stdout_of, step, tail};

/// How much memory a target may take, in MiB.
const MEMORY_MIB_MAX: u32 = 1536;
/// How much of a finding's output is shown.
const SHOWN_LINES: usize = 40;

/// What to fuzz, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Which targets; all when none is named
    targets: Vec<String>,
    /// For how long each
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// How many at once; one for each core of the machine when it is not told
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// How long an input may take: far above what any takes on a busy machine; more on one that pauses what it runs
    #[arg(long, default_value_t = 20)]
    input_seconds: u32,
    /// Name the targets, and run none
    #[arg(long)]
    list: bool,
}

/// What came of a target.
struct Outcome {
    target: String,
    executions: u64,
    inputs: u64,
    edges: u64,
    /// Where its output is, when something was found.
    failed: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let all = targets()?;
    if options.list {
        all.iter().for_each(|target| println!("{target}"));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = options.targets.iter().find(|target| !all.contains(target)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    let chosen = if options.targets.is_empty() { &all } else { &options.targets };
    let fuzz = cargo_fuzz()?;
    fs::create_dir_all(place().join("logs")).context("cannot make target/fuzz")?;
    fs::create_dir_all(scratch()).with_context(|| format!("cannot make {}", scratch().display()))?;
    build(&fuzz)?;
    let jobs = options.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let outcomes = run_all(&fuzz, chosen, options, jobs)?;
    // What stores left there when the fuzzer ended the process.
    fs::remove_dir_all(scratch()).with_context(|| format!("cannot delete {}", scratch().display()))?;
    Ok(print_table(&outcomes))
}

/// Builds all targets: not while some run already.
fn build(fuzz: &Path) -> Result<()> {
    let mut command = Command::new(fuzz);
    command.args(["fuzz", "build", "--sanitizer", "none"]).current_dir(root());
    step("build the targets", &mut command)
}

/// Runs targets in their order, `jobs` at a time.
fn run_all(fuzz: &Path, targets: &[String], options: &Options, jobs: usize) -> Result<Vec<Outcome>> {
    let queue = Mutex::new(targets.iter().enumerate());
    let work = || -> Result<Vec<(usize, Outcome)>> {
        let mut outcomes = Vec::new();
        loop {
            // What a panic leaves behind is whole.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, target)) = next else { return Ok(outcomes) };
            println!("== {target} ({} of {}), {} s", number + 1, targets.len(), options.seconds);
            let outcome = run_one(fuzz, target, options)?;
            if let Some(log) = &outcome.failed {
                print_finding(target, log);
            }
            outcomes.push((number, outcome));
        }
    };
    let joined: Vec<Result<Vec<_>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(targets.len())).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(anyhow!("a thread of the fuzzer has panicked"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
    });
    let mut outcomes: Vec<_> = joined.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    outcomes.sort_by_key(|(number, _)| *number);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// What fuzzing leaves behind, but for findings.
fn place() -> PathBuf {
    root().join("target/fuzz")
}

/// Where targets write files: in memory where there is such a place, since a disk makes a store's inputs few.
fn scratch() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.join(format!("coracle-fuzz-{}", process::id())) } else { place().join("tmp") }
}

fn seeds(target: &str) -> PathBuf {
    root().join("crates/fuzz/seeds").join(target)
}

fn targets() -> Result<Vec<String>> {
    let mut list = cargo();
    list.args(["run", "--quiet", "--package", "coracle-fuzz", "--", "list"]).stderr(Stdio::inherit());
    Ok(stdout_of(&mut list)?.lines().map(str::to_owned).collect())
}

/// cargo-fuzz: the system's, or one that is built here.
fn cargo_fuzz() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let ours = tools.join("bin/cargo-fuzz");
    if ours.is_file() {
        return Ok(ours);
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    if let Some(found) = env::split_paths(&paths).map(|folder| folder.join("cargo-fuzz")).find(|file| file.is_file()) {
        return Ok(found);
    }
    println!("== there is no cargo-fuzz: it is built into target/tools");
    let mut install = cargo();
    install.args(["install", "--locked", "--root"]).arg(&tools).arg("cargo-fuzz");
    let status = install.status().context("cannot run cargo install")?;
    if !status.success() {
        bail!("cargo-fuzz could not be built: {status}");
    }
    Ok(ours)
}

fn command(fuzz: &Path, target: &str, options: &Options) -> Result<Command> {
    let corpus = place().join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut command = Command::new(fuzz);
    // Coverage works on stable Rust, sanitizers do not; there is no unsafe code for them to watch.
    command.args(["fuzz", "run", "--sanitizer", "none", target]).arg(corpus).arg(seeds(target)).arg("--");
    command.args([
        format!("-max_total_time={}", options.seconds),
        format!("-timeout={}", options.input_seconds),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    command.current_dir(root()).env("TMPDIR", scratch()).env("RUST_LOG", "off").stdin(Stdio::null());
    Ok(command)
}

/// Runs a target; its output goes to a file, and how far it is to the terminal.
fn run_one(fuzz: &Path, target: &str, options: &Options) -> Result<Outcome> {
    let path = place().join("logs").join(format!("{target}.txt"));
    let mut log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = command(fuzz, target, options)?;
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let mut outcome = Outcome { target: target.to_owned(), executions: 0, inputs: 0, edges: 0, failed: None };
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(|lines| lines.split(b'\n')) {
        let line = String::from_utf8_lossy(&line?).into_owned();
        writeln!(log, "{line}")?;
        if outcome.take(&line) {
            println!("   {target}: {line}");
        }
    }
    let status = child.wait()?;
    outcome.failed = (!status.success()).then_some(path);
    Ok(outcome)
}

impl Outcome {
    /// Reads one of libFuzzer's lines; whether it is one of those, now and then, that say how far it is.
    fn take(&mut self, line: &str) -> bool {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
            return false;
        }
        let Some(rest) = line.strip_prefix('#') else { return false };
        let mut words = rest.split_whitespace();
        let Some(executions) = words.next().and_then(|count| count.parse().ok()) else { return false };
        self.executions = self.executions.max(executions);
        let kind = words.next().unwrap_or_default();
        while let Some(word) = words.next() {
            match word {
                "cov:" => self.edges = number(words.next()).unwrap_or(self.edges),
                "corp:" => self.inputs = number(words.next()).unwrap_or(self.inputs),
                _ => {}
            }
        }
        matches!(kind, "INITED" | "pulse" | "DONE")
    }
}

/// A number, or the one before a slash.
fn number(word: Option<&str>) -> Option<u64> {
    word?.split('/').next()?.parse().ok()
}

fn print_finding(target: &str, log: &Path) {
    let text = tail(log, SHOWN_LINES);
    println!("FOUND in {target}:\n{text}");
    println!("the whole output: {}", log.display());
    let artifact = text.lines().find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file));
    if let Some(file) = artifact {
        println!("replay: cargo run -p coracle-fuzz -- {target} {file}");
        println!("once it is mended, keep it in crates/fuzz/seeds/{target}");
    }
}

fn print_table(outcomes: &[Outcome]) -> ExitCode {
    println!("{:20} {:>12} {:>8} {:>8}  found", "target", "executions", "inputs", "edges");
    for Outcome { target, executions, inputs, edges, failed } in outcomes {
        let found = if failed.is_some() { "SOMETHING" } else { "nothing" };
        println!("{target:20} {executions:>12} {inputs:>8} {edges:>8}  {found}");
    }
    if outcomes.iter().any(|outcome| outcome.failed.is_some()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_says_is_read() {
        let mut outcome = Outcome { target: "t".to_owned(), executions: 0, inputs: 0, edges: 0, failed: None };
        assert!(outcome.take("#8192\tpulse  cov: 301 ft: 517 corp: 43/2107b lim: 80 exec/s: 4096 rss: 44Mb"));
        assert_eq!((outcome.executions, outcome.edges, outcome.inputs), (8192, 301, 43));
        assert!(!outcome.take("#8200\tNEW    cov: 302 ft: 518 corp: 44/2107b lim: 80 exec/s: 4096 rss: 44Mb"));
        assert!(!outcome.take("# a line of a report"));
        assert!(!outcome.take("stat::number_of_executed_units: 9000"));
        assert_eq!((outcome.executions, outcome.edges, outcome.inputs), (9000, 302, 44));
    }
}
