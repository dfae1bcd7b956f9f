//! `cargo xtask check-nostd`: shows that the core needs no standard library.
//!
//! A static library with a panic handler and an allocator of its own cannot be built once anything in its tree links `std` (error E0152, a duplicate lang item).
//! That works on any host, without another target's `core`.
//! One variant links `std` on purpose and must fail: else the check could not fail at all.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context, Result, bail};

use crate::process::{cargo, root, stdout_of};

/// What the core may depend on, directly or not, with all features.
const ALLOWED: &[&str] = &[
    "bytes",
    "cfg-if",
    "coracle-core",
    "crc32fast",
    "proc-macro2",
    "quote",
    "serde",
    "serde_core",
    "serde_derive",
    "syn",
    "thiserror",
    "thiserror-impl",
    "unicode-ident",
];

/// What the core's sources must not name outside of tests, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("std::", "the core is no_std"),
    ("extern crate std", "the core is no_std"),
    ("Instant::", "time comes in as an argument"),
    ("SystemTime", "time comes in as an argument"),
    ("thread::", "the core has no threads"),
    ("TcpStream", "the core has no I/O"),
    ("UdpSocket", "the core has no I/O"),
    ("getrandom", "a seed comes in as an argument"),
    ("rand::", "a seed comes in as an argument"),
    ("thread_rng", "a seed comes in as an argument"),
    ("RandomState", "iteration must be the same in each run"),
    ("HashMap", "iteration must be the same in each run"),
    ("HashSet", "iteration must be the same in each run"),
    ("async fn", "the core has no async"),
    (".await", "the core has no async"),
    ("println!", "the core has no logger"),
    ("tracing::", "the core has no logger"),
    ("log::info", "the core has no logger"),
    ("unsafe ", "unsafe code is forbidden"),
];

const LIBRARY: &str = r#"#![no_std]
use coracle_core as _;
EXTRA
struct Nothing;

// SAFETY: it never hands out memory.
unsafe impl core::alloc::GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _: core::alloc::Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: core::alloc::Layout) {}
}

#[global_allocator]
static NOTHING: Nothing = Nothing;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
"#;

pub(crate) fn run() -> Result<()> {
    check_dependencies()?;
    check_sources(&root().join("crates/core/src"))?;
    for (name, features) in [("plain", ""), ("serde", "\"serde\"")] {
        let output = build(name, features, "")?;
        if !output.status.success() {
            bail!("the core ({name}) does not build without std:\n{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        println!("no_std: the core ({name}) builds with its own panic handler and allocator");
    }
    let output = build("control", "", "extern crate std;")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() || !said.contains("E0152") {
        bail!(
            "the control links std and should fail with E0152: the check proves nothing ({}):\n{said}",
            output.status
        );
    }
    println!("no_std: the control, which links std, fails as it should (E0152)");
    Ok(())
}

/// Makes a crate outside of the workspace that depends on the core, and builds it.
fn build(name: &str, features: &str, extra: &str) -> Result<Output> {
    let folder = root().join("target/nostd").join(name);
    fs::create_dir_all(folder.join("src")).with_context(|| format!("cannot make {}", folder.display()))?;
    let core = root().join("crates/core");
    let manifest = format!(
        "[package]\nname = \"nostd-{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\npublish = false\n\n\
         [lib]\ncrate-type = [\"staticlib\"]\n\n\
         [dependencies]\ncoracle-core = {{ path = {core:?}, default-features = false, features = [{features}] }}\n\n\
         [profile.dev]\npanic = \"abort\"\n\n[workspace]\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest)?;
    fs::write(folder.join("src/lib.rs"), LIBRARY.replace("EXTRA", extra))?;
    // The workspace's versions, so that nothing else has to be fetched.
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).context("cannot copy Cargo.lock")?;
    let mut command = cargo();
    command.args(["build", "--color", "never", "--manifest-path"]).arg(folder.join("Cargo.toml"));
    command.arg("--target-dir").arg(root().join("target/nostd/target"));
    command.output().context("cannot run cargo build")
}

fn check_dependencies() -> Result<()> {
    let tree = stdout_of(cargo().args([
        "tree",
        "--package",
        "coracle-core",
        "--edges",
        "normal,build",
        "--all-features",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let mut names: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_unstable();
    names.dedup();
    let strangers: Vec<&str> = names.iter().copied().filter(|name| !ALLOWED.contains(name)).collect();
    if !strangers.is_empty() {
        bail!("the core depends on {}, which the allow list of check-nostd does not have", strangers.join(", "));
    }
    println!("no_std: the core's tree has {} packages, all on the allow list", names.len());
    Ok(())
}

fn check_sources(folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    sources_in(folder, &mut files)?;
    let mut faults = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for (line, what, why) in faults_in(&text) {
            faults.push(format!("{}:{line}: {what}: {why}", path.display()));
        }
    }
    let library = fs::read_to_string(folder.join("lib.rs"))?;
    if !library.contains("#![no_std]") {
        faults.push(format!("{}: expected #![no_std]", folder.join("lib.rs").display()));
    }
    if !faults.is_empty() {
        bail!("the core names what it must not:\n{}", faults.join("\n"));
    }
    println!("no_std: {} source files of the core name no clock, thread, socket, randomness or logger", files.len());
    Ok(())
}

fn sources_in(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
        if is_test {
            continue;
        }
        if path.is_dir() {
            sources_in(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// The forbidden names in a source, comments and tests left out, with their lines.
fn faults_in(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut faults = Vec::new();
    let mut is_for_tests = false;
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if is_for_tests && code.trim_start().starts_with("mod ") && code.trim_end().ends_with('{') {
            // Tests are the last thing in a file.
            break;
        }
        let skipped = is_for_tests && !code.trim().is_empty();
        if !skipped {
            let found = FORBIDDEN.iter().filter(|(what, _)| code.contains(what));
            faults.extend(found.map(|(what, why)| (number + 1, *what, *why)));
        }
        is_for_tests = code.trim() == "#[cfg(test)]" || (is_for_tests && code.trim_start().starts_with("#["));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_the_core_is_found_and_named() {
        let faults = faults_in("fn now() {\n    std::time::Instant::now();\n}\n");
        assert_eq!(faults.len(), 2);
        assert_eq!(faults[0], (2, "std::", "the core is no_std"));
    }

    #[test]
    fn comments_and_tests_of_the_core_may_name_anything() {
        let text = "//! no std::time here\n#[cfg(test)]\nextern crate std;\nfn f() {}\n#[cfg(test)]\nmod tests {\n use std::vec;\n}\n";
        assert_eq!(faults_in(text), []);
    }
}
