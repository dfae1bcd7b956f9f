//! The tables of tests in docs/hazards.md and docs/contracts.md: each number has a line, and what a line names exists.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result};

use super::Findings;
use crate::process::{root, stdout_of};

/// The tables: the page, the letter of its numbers, and how many there are.
const TABLES: &[(&str, char, usize)] = &[("docs/hazards.md", 'H', 70), ("docs/contracts.md", 'C', 25)];
/// What stands above them.
const HEADING: &str = "## Where each is tested";
/// What a line says that names no test.
const NOT_BUILT: &str = "Not built";

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    let names = names()?;
    for (page, letter, count) in TABLES {
        let text = fs::read_to_string(root().join(page)).with_context(|| format!("cannot read {page}"))?;
        let faults = faults(&text, *letter, *count, &names);
        findings.faults.extend(faults.into_iter().map(|fault| format!("{page}: {fault}")));
    }
    Ok(())
}

/// Every function in the tracked Rust sources, and every script, which its test is named after.
fn names() -> Result<BTreeSet<String>> {
    let mut git = std::process::Command::new("git");
    let listed = stdout_of(git.current_dir(root()).args(["ls-files", "-z", "*.rs", "*.txt"]))?;
    let mut names = BTreeSet::new();
    for file in listed.split('\0').filter(|file| root().join(file).is_file()) {
        if let Some(script) = file.strip_suffix(".txt") {
            names.extend(script.rsplit('/').next().map(str::to_owned));
        } else {
            let text = fs::read_to_string(root().join(file)).with_context(|| format!("cannot read {file}"))?;
            names.extend(functions(&text));
        }
    }
    Ok(names)
}

/// The names that follow `fn`.
fn functions(text: &str) -> impl Iterator<Item = String> {
    let words = text.split("fn ").skip(1);
    words.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
}

fn faults(text: &str, letter: char, count: usize, names: &BTreeSet<String>) -> Vec<String> {
    let Some((_, table)) = text.split_once(HEADING) else { return vec![format!("expected \"{HEADING}\"")] };
    let mut faults = Vec::new();
    for number in 1..=count {
        let start = format!("| {letter}{number} |");
        let lines: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix(&start)).collect();
        let [line] = lines[..] else {
            faults.push(format!("{letter}{number} has {} lines in the table of tests, expected one", lines.len()));
            continue;
        };
        let named: Vec<&str> = line.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !line.contains(NOT_BUILT) {
            faults.push(format!("{letter}{number} names no test: expected one, or \"{NOT_BUILT}\" and why"));
        }
        let missing = named.into_iter().filter(|name| !names.contains(*name));
        faults.extend(missing.map(|name| format!("{letter}{number} names {name}: there is no such test")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let names = functions("    fn h01_one() {}\nasync fn h02_two() {}").collect();
        faults(&format!("| H1 | of another table |\n{HEADING}\n{text}"), 'H', 2, &names)
    }

    #[test]
    fn each_number_has_a_line_with_tests_that_exist() {
        assert_eq!(found("| H1 | `h01_one` |\n| H2 | `h02_two`, `h01_one` |\n"), Vec::<String>::new());
        assert_eq!(found("| H1 | `h01_one` |\n| H2 | Not built: later |\n"), Vec::<String>::new());
        let wrong = [
            ("| H1 | `h01_one` |\n", "H2 has 0 lines"),
            ("| H1 | `h01_one` |\n| H2 | `h02_two` |\n| H2 | `h02_two` |\n", "H2 has 2 lines"),
            ("| H1 | `h01_one` |\n| H2 | `h02_other` |\n", "H2 names h02_other"),
            ("| H1 | `h01_one` |\n| H2 | the simulator |\n", "H2 names no test"),
        ];
        for (text, expected) in wrong {
            let faults = found(text);
            assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
        }
        assert_eq!(faults("| H1 | `h01_one` |\n", 'H', 1, &BTreeSet::new()).len(), 1, "no heading");
    }
}
