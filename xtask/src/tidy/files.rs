//! What is in the tracked files.

use std::fs;

use anyhow::{Context, Result};

use super::Findings;
use crate::process::{root, stdout_of};

const LINES_MAX: usize = 600;
const LINES_HINT: usize = 400;

/// What must not stand in Rust sources. Put together here, so that this file does not have it.
const FORBIDDEN_IN_RUST: &[(&str, &str)] = &[
    (concat!("to", "do!("), "finish it or leave it out"),
    (concat!("unimple", "mented!("), "finish it or leave it out"),
    (concat!("#[ig", "nore"), "a test that does not run shows nothing"),
    (concat!("db", "g!("), "a leftover"),
];

/// What must not stand in any tracked text.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "fix it, or say in a comment why it is as it is"),
    (concat!("XX", "X:"), "fix it, or say in a comment why it is as it is"),
    (concat!("<<<", "<<<< "), "a conflict that was not resolved"),
    (concat!(">>>", ">>>> "), "a conflict that was not resolved"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/Us", "ers/"), "a path of one machine"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp/", "bin"), "a path of one machine"),
];

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    let mut git = std::process::Command::new("git");
    let listed = stdout_of(git.current_dir(root()).args(["ls-files", "-z"]))?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let path = root().join(name);
        if !path.is_file() {
            // Deleted, and not committed yet.
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
        // Fixtures may be anything.
        if let Ok(text) = String::from_utf8(bytes) {
            check_text(name, &text, findings);
        }
    }
    Ok(())
}

fn check_text(name: &str, text: &str, findings: &mut Findings) {
    let is_rust = name.ends_with(".rs");
    let of_rust = FORBIDDEN_IN_RUST.iter().filter(|_| is_rust);
    for (what, why) in of_rust.chain(FORBIDDEN) {
        for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains(what)) {
            findings.faults.push(format!("{name}:{}: \"{what}\": {why}", number + 1));
        }
    }
    if !is_rust {
        return;
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        findings.faults.push(format!("{name}: {lines} lines, at most {LINES_MAX}: it is two things"));
    } else if lines > LINES_HINT {
        findings.hints.push(format!("{name}: {lines} lines; around 300 reads well"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        check_text(name, text, &mut findings);
        findings.faults
    }

    #[test]
    fn a_leftover_is_named_with_its_line() {
        let text = concat!("fn f() {\n    to", "do!()\n}\n");
        assert_eq!(faults("a.rs", text).len(), 1);
        assert!(faults("a.rs", text)[0].starts_with("a.rs:2:"));
        assert!(faults("a.md", text).is_empty());
    }

    #[test]
    fn a_file_that_is_two_things_is_a_fault() {
        assert!(faults("a.rs", &"x\n".repeat(600)).is_empty());
        assert_eq!(faults("a.rs", &"x\n".repeat(601)).len(), 1);
    }
}
