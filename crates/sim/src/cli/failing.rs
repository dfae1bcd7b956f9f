//! What is shown of a run that fails: the command that shows it again, a trace, and the least that fails the same way.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use coracle_sim::{Failure, Minimised, Plan};

use super::quietly;

/// Where files go: the folder of what is built, which nobody minds losing.
const FOLDER: &str = "target/sim";
/// How long something smaller is looked for.
const LIMIT: Duration = Duration::from_secs(60);
/// How many faults are listed.
const LISTED_MAX: usize = 40;

/// Shows a failure, and the files that it leaves.
pub(super) fn show(plan: &Plan, failure: &Failure, minimise: bool) {
    println!("{failure}");
    let name = format!("seed-{}", failure.seed);
    match written(&name, "trace", |out| write_trace(plan, out)) {
        Ok(path) => println!("trace:  {}", path.display()),
        Err(error) => println!("trace:  cannot be written: {error}"),
    }
    if minimise {
        show_smallest(plan, &name);
    }
}

/// Runs a plan from a file.
pub(super) fn replay(path: &Path) -> ExitCode {
    let read = fs::read_to_string(path).map_err(|error| error.to_string());
    let plan: Plan = match read.and_then(|text| text.parse().map_err(|error: coracle_sim::PlanError| error.to_string()))
    {
        Ok(plan) => plan,
        Err(error) => {
            println!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    };
    match plan.replay(Box::new(|line| println!("{line}"))) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("failed at {:.6} s: {}", failure.virtual_time.as_secs_f64(), failure.violation);
            ExitCode::FAILURE
        }
    }
}

fn written(
    name: &str,
    extension: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<PathBuf> {
    fs::create_dir_all(FOLDER)?;
    let path = Path::new(FOLDER).join(name).with_extension(extension);
    let mut out = BufWriter::new(File::create(&path)?);
    write(&mut out)?;
    out.flush()?;
    Ok(path)
}

/// All lines, as they come.
fn write_trace(plan: &Plan, out: &mut BufWriter<File>) -> io::Result<()> {
    // The listener outlives this function's borrow, so lines come over a channel's worth of memory at a time.
    let (lines, arrived) = std::sync::mpsc::sync_channel::<String>(1024);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever writes may have given up.
            let listener = move |line: &str| drop(lines.send(line.to_owned()));
            drop(quietly(|| plan.replay(Box::new(listener))));
        });
        let mut result = Ok(());
        for line in arrived {
            result = result.and_then(|()| writeln!(out, "{line}"));
        }
        result
    })
}

fn show_smallest(plan: &Plan, name: &str) {
    let begun = Instant::now();
    let mut goes_on = |best: &Plan| {
        progress(best, begun);
        begun.elapsed() < LIMIT
    };
    let smallest = quietly(|| plan.minimise(&mut goes_on));
    if stderr().is_terminal() {
        drop(write!(stderr(), "\r\x1b[K"));
    }
    let Some(smallest) = smallest else { return };
    let text = describe(plan, &smallest, begun.elapsed());
    print!("{text}");
    let comments: String = text.lines().fold(String::new(), |all, line| all + "# " + line.trim_end() + "\n");
    match written(name, "txt", |out| write!(out, "{comments}{}", smallest.plan)) {
        Ok(path) => println!("replay: cargo xtask sim --schedule {}", path.display()),
        Err(error) => println!("the schedule cannot be written: {error}"),
    }
}

fn progress(best: &Plan, begun: Instant) {
    let mut out = stderr();
    if out.is_terminal() {
        let took = begun.elapsed().as_secs();
        // For eyes only: where it cannot be written nobody misses it.
        drop(write!(out, "\r\x1b[Kminimising: {} faults, {} nodes, {took} s ", best.faults(), best.nodes()));
        drop(out.flush());
    }
}

fn describe(plan: &Plan, smallest: &Minimised, took: Duration) -> String {
    let Minimised { plan: least, violation, tried, .. } = smallest;
    let mut text = format!(
        "minimised in {:.1} s and {tried} runs: {} of {} faults, {} of {} nodes\n",
        took.as_secs_f64(),
        least.faults(),
        plan.faults(),
        least.nodes(),
        plan.nodes()
    );
    let strikes = quietly(|| least.strikes());
    for strike in strikes.iter().take(LISTED_MAX) {
        text.push_str(&format!("  {strike}\n"));
    }
    if strikes.len() > LISTED_MAX {
        text.push_str(&format!("  and {} more\n", strikes.len() - LISTED_MAX));
    }
    text.push_str(&format!("  {violation}\n"));
    text
}
