//! Which crate may depend on which: the table of docs/architecture.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;
use crate::process::{root, workspace_metadata};

/// The crates that each crate may use, by their packages' names.
type Arrows = BTreeMap<String, Vec<String>>;

const TABLE: &str = "docs/architecture.md";

/// Layers without I/O or threads of their own: they must not come to depend on a runtime.
const PURE: &[&str] = &["coracle-core", "coracle-storage", "coracle-replica", "coracle-sim"];
const RUNTIMES: &[&str] = &["tokio", "async-trait", "tonic", "futures-util", "futures-executor", "async-std", "smol"];

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    let text = fs::read_to_string(root().join(TABLE)).with_context(|| format!("cannot read {TABLE}"))?;
    let arrows = table(&text);
    let metadata = workspace_metadata()?;
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    for package in &packages {
        findings.faults.extend(arrow_faults(package, &arrows));
        findings.faults.extend(lint_fault(package)?);
    }
    let is_there = |name: &&String| packages.iter().any(|package| package["name"] == name.as_str());
    let missing = arrows.keys().filter(|name| !is_there(name));
    findings.faults.extend(missing.map(|name| format!("{TABLE}: there is no package {name}")));
    Ok(())
}

/// The arrows in the table of crates: folder, package, what it is, arrows.
fn table(text: &str) -> Arrows {
    let mut arrows = Arrows::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let &[_, package, _, targets] = cells.as_slice() else { continue };
        let Some(name) = package.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else { continue };
        let targets = match targets {
            "-" => Vec::new(),
            // What the table lists below an "all" does not stand under it.
            "all" | "all of the above" => all.clone(),
            names => names.split(',').map(|name| package_of(name.trim())).collect(),
        };
        arrows.insert(name.to_owned(), targets);
        all.push(name.to_owned());
    }
    arrows
}

/// The table leaves out what all names begin with.
fn package_of(name: &str) -> String {
    if name == "coracle" { name.to_owned() } else { format!("coracle-{name}") }
}

fn arrow_faults(package: &Value, arrows: &Arrows) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    if !arrows.contains_key(name) {
        return vec![format!("{name} is not in the table of crates in {TABLE}")];
    }
    let allowed = below(name, arrows);
    let mut faults = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let target = dependency["name"].as_str().unwrap_or_default();
        if dependency["kind"] == "dev" {
            // Tests may wire up anything.
            continue;
        }
        if arrows.contains_key(target) && !allowed.contains(target) {
            faults.push(format!("{name} depends on {target}: the table of crates in {TABLE} has no such arrow"));
        }
        if PURE.contains(&name) && RUNTIMES.contains(&target) {
            faults.push(format!("{name} depends on {target}: this layer has no I/O and no async"));
        }
    }
    faults
}

/// Everything that a crate stands on.
fn below<'a>(name: &str, arrows: &'a Arrows) -> BTreeSet<&'a str> {
    let targets = |name: &str| arrows.get(name).into_iter().flatten().map(String::as_str);
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = targets(name).collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(targets(next));
        }
    }
    found
}

fn lint_fault(package: &Value) -> Result<Option<String>> {
    let path = package["manifest_path"].as_str().unwrap_or_default();
    let manifest = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let lints = manifest.split("[lints]").nth(1).map(|rest| rest.trim_start().starts_with("workspace = true"));
    let is_missing = lints != Some(true);
    Ok(is_missing.then(|| format!("{path}: expected [lints] workspace = true")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ours() -> Arrows {
        table(&fs::read_to_string(root().join(TABLE)).unwrap())
    }

    fn faults(name: &str, dependency: &str, kind: &Value) -> usize {
        arrow_faults(&json!({"name": name, "dependencies": [{"name": dependency, "kind": kind}]}), &ours()).len()
    }

    #[test]
    fn a_row_names_a_package_and_what_it_may_use() {
        let text = "| Folder | Package | What | Arrows |\n|---|---|---|---|\n| `a` | `coracle-a` | A | - |\n\
            | `b` | `coracle` | B, the second | a |\n| `c` | `coracle-c` | C | all of the above |\n| `d` | - | D | all |\n";
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected =
            [("coracle-a", of(&[])), ("coracle", of(&["coracle-a"])), ("coracle-c", of(&["coracle-a", "coracle"]))];
        assert_eq!(table(text), expected.map(|(name, targets)| (name.to_owned(), targets)).into());
    }

    #[test]
    fn arrows_point_down_only() {
        assert_eq!(faults("coracle-node", "coracle-core", &Value::Null), 0);
        assert_eq!(faults("coracle-core", "coracle-storage", &Value::Null), 1);
        assert_eq!(faults("coracle-level", "coracle-node", &Value::Null), 1);
        assert_eq!(faults("coracle-level", "coracle-node", &json!("dev")), 0);
        assert_eq!(faults("coracle", "coracle-server", &Value::Null), 1);
    }

    #[test]
    fn an_adapter_knows_no_other_adapter() {
        let ours = ours();
        let adapters: Vec<&String> =
            ours.keys().filter(|name| name.contains("-storage-") || name.contains("-transport-")).collect();
        assert!(adapters.len() >= 4, "{adapters:?}");
        for name in adapters {
            assert_eq!(faults(name, "coracle-node", &Value::Null), 1, "{name}");
            assert_eq!(faults(name, "coracle-storage-memory", &Value::Null), 1, "{name}");
        }
    }

    #[test]
    fn pure_layers_have_no_runtime_and_strangers_are_named() {
        assert_eq!(faults("coracle-replica", "tokio", &Value::Null), 1);
        assert_eq!(faults("coracle-node", "tokio", &Value::Null), 0);
        assert_eq!(faults("coracle-other", "tokio", &Value::Null), 1);
    }
}
