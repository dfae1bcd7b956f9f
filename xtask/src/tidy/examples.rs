//! The examples in README.md: each is the text of a file that is compiled and run.
//!
//! A comment that holds nothing but the file's path stands before the code block.

use std::fs;

use anyhow::{Context, Result};

use super::Findings;
use crate::process::root;

const MARK: &str = "<!-- crates/";

/// Compares the blocks with their files, or writes them anew.
pub(super) fn check(findings: &mut Findings, writes: bool) -> Result<()> {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).context("cannot read README.md")?;
    let expected = filled(&readme, |name| fs::read_to_string(root().join(name)).ok(), findings);
    if expected == readme {
        return Ok(());
    }
    if writes {
        fs::write(&path, expected).context("cannot write README.md")?;
        println!("tidy: wrote the examples into README.md");
    } else {
        findings.faults.push("README.md: an example differs from its file: run `cargo xtask tidy --write`".to_owned());
    }
    Ok(())
}

/// The text with each marked block replaced by its file's code.
fn filled(readme: &str, read: impl Fn(&str) -> Option<String>, findings: &mut Findings) -> String {
    let mut lines = readme.lines();
    let mut out = String::new();
    while let Some(line) = lines.next() {
        out.push_str(line);
        out.push('\n');
        let Some(name) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else { continue };
        if !line.starts_with(MARK) {
            continue;
        }
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        match read(name) {
            Some(code) => out.push_str(&format!("```rust\n{}```\n", without_header(&code))),
            None => {
                findings.faults.push(format!("README.md: there is no {name}"));
                out.push_str(&format!("{}\n```\n", block.join("\n")));
            }
        }
    }
    out
}

/// The code without the comment on the file itself, which the README's own words replace.
fn without_header(code: &str) -> String {
    let is_header = |line: &&str| line.starts_with("//!") || line.trim().is_empty();
    let mut text = String::new();
    for line in code.lines().skip_while(is_header) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# A\n<!-- crates/a.rs -->\n```rust\nold\n```\nmore\n";

    #[test]
    fn a_block_is_the_text_of_its_file() {
        let mut findings = Findings::default();
        let read = |_: &str| Some("//! What it is.\n\nfn main() {}\n".to_owned());
        let text = filled(README, read, &mut findings);
        assert_eq!(text, "# A\n<!-- crates/a.rs -->\n```rust\nfn main() {}\n```\nmore\n");
        assert_eq!(filled(&text, read, &mut findings), text);
        assert!(findings.faults.is_empty());
    }

    #[test]
    fn a_block_without_a_file_stays_and_is_named() {
        let mut findings = Findings::default();
        assert_eq!(filled(README, |_| None, &mut findings), README);
        assert_eq!(findings.faults, ["README.md: there is no crates/a.rs"]);
    }
}
