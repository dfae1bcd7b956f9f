//! Runs a target on files, without a fuzzer, and writes the corpus.
#![allow(clippy::print_stdout, reason = "a command line tool answers on standard output")]

use std::{env, fs, path::Path, process::ExitCode};

use coracle_fuzz::{TARGETS, find};

const USAGE: &str = "usage: coracle-fuzz seeds | coracle-fuzz list | coracle-fuzz TARGET FILE...";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((word, [])) if word == "seeds" => write_seeds(),
        Some((word, [])) if word == "list" => {
            TARGETS.iter().for_each(|target| println!("{}", target.name));
            Ok(())
        }
        Some((name, files)) if !files.is_empty() => replay(name, files),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
    }
}

/// Writes what the corpus begins with. Other files in it stay: they are what was found once.
fn write_seeds() -> Result<(), String> {
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let file = folder.join(format!("seed-{number:02}"));
            fs::write(&file, seed).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        }
    }
    Ok(())
}

fn replay(name: &str, files: &[String]) -> Result<(), String> {
    let target = find(name).ok_or_else(|| format!("there is no target {name}; {USAGE}"))?;
    for file in files {
        let data = fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?;
        (target.body)(&data);
        println!("{name} holds on {file}");
    }
    Ok(())
}
