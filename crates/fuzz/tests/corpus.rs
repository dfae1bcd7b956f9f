//! Every target holds on its corpus, and on what is close to it.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use coracle_core::Rng;
use coracle_fuzz::{TARGETS, Target, find};

/// How many changed inputs are tried of each target.
const CHANGED: u64 = 1_500;

fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name)
}

/// The files of a target, in order.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("{}: {error}", target.name));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn hold(target: &Target, what: &str, data: &[u8]) {
    let held = catch_unwind(AssertUnwindSafe(|| (target.body)(data)));
    assert!(held.is_ok(), "{} does not hold on {what}: {:?}", target.name, data.escape_ascii().to_string());
}

#[test]
fn every_target_holds_on_its_corpus() {
    for target in TARGETS {
        for (path, data) in corpus(target) {
            hold(target, &path.display().to_string(), &data);
        }
    }
}

/// A fuzzer in small, from a fixed seed.
#[test]
fn every_target_holds_close_to_its_corpus() {
    for target in TARGETS {
        let corpus = corpus(target);
        let mut rng = Rng::new(7);
        for round in 0..CHANGED {
            let (path, data) = &corpus[rng.below(corpus.len() as u64) as usize];
            let changed = changed(data, &mut rng);
            hold(target, &format!("{} changed in round {round}", path.display()), &changed);
        }
    }
}

/// One to three changes of a few bytes.
fn changed(data: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut out = data.to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.below(out.len() as u64 + 1) as usize;
        let other = [0, 1, 0x7f, 0x80, 0xff, rng.next_u64() as u8][rng.below(6) as usize];
        match rng.below(5) {
            0 => out.truncate(at),
            1 => out.insert(at, other),
            2 if at < out.len() => drop(out.remove(at)),
            3 if at < out.len() => out[at] = other,
            _ if at < out.len() => out[at] ^= 1 << rng.below(8),
            _ => out.push(other),
        }
    }
    out
}

#[test]
fn the_corpus_has_what_it_begins_with_and_stays_small() {
    let mut bytes = 0;
    for target in TARGETS {
        let corpus = corpus(target);
        bytes += corpus.iter().map(|(_, data)| data.len()).sum::<usize>();
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let is_there = corpus.iter().any(|(_, data)| data == seed);
            assert!(is_there, "{}: seed {number} is missing: cargo run -p coracle-fuzz -- seeds", target.name);
        }
    }
    assert!(bytes < 300 << 10, "the corpus has {bytes} bytes");
}

/// Each has a binary of its own, in a workspace of its own.
#[test]
fn every_target_has_a_binary() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let path = format!("fuzz_targets/{}.rs", target.name);
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{path} is not in fuzz/Cargo.toml");
        let code = fs::read_to_string(fuzz.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(code.contains(&format!("run(\"{}\", data)", target.name)), "{path} runs another target");
    }
    assert!(TARGETS.is_sorted_by_key(|target| target.name));
    assert!(find("none").is_none());
}
