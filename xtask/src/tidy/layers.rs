//! Which crate may depend on which: the table of docs/architecture.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Findings;
use crate::process::workspace_metadata;

/// Arrows, downwards. Whoever may use a crate may also name what that one stands on.
const ARROWS: &[(&str, &[&str])] = &[
    ("coracle-core", &[]),
    ("coracle-storage", &["coracle-core"]),
    ("coracle-storage-memory", &["coracle-storage"]),
    ("coracle-storage-sled", &["coracle-storage"]),
    ("coracle-storage-redis", &["coracle-storage"]),
    ("coracle-storage-file", &["coracle-storage"]),
    ("coracle-replica", &["coracle-core", "coracle-storage"]),
    ("coracle-transport", &["coracle-core"]),
    ("coracle-transport-memory", &["coracle-transport"]),
    ("coracle-transport-tcp", &["coracle-transport"]),
    ("coracle-transport-grpc", &["coracle-transport"]),
    ("coracle-node", &["coracle-replica", "coracle-transport", "coracle-storage"]),
    ("coracle-level", &["coracle-storage"]),
    ("coracle-client", &["coracle-level"]),
    (
        "coracle",
        &[
            "coracle-client",
            "coracle-level",
            "coracle-node",
            "coracle-storage-file",
            "coracle-storage-memory",
            "coracle-storage-redis",
            "coracle-storage-sled",
            "coracle-transport-grpc",
            "coracle-transport-memory",
            "coracle-transport-tcp",
        ],
    ),
    ("coracle-server", &["coracle"]),
    ("coracle-sim", &["coracle-replica", "coracle-storage", "coracle-level"]),
    ("coracle-presence", &["coracle-level"]),
    ("coracle-discovery", &["coracle-transport"]),
    ("coracle-tests", &["coracle", "coracle-server", "coracle-sim"]),
    ("xtask", &[]),
];

/// Layers without I/O or threads of their own: they must not come to depend on a runtime.
const PURE: &[&str] = &["coracle-core", "coracle-storage", "coracle-replica", "coracle-sim"];
const RUNTIMES: &[&str] = &["tokio", "async-trait", "tonic", "futures-util", "futures-executor", "async-std", "smol"];

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    let metadata = workspace_metadata()?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        findings.faults.extend(arrow_faults(package));
        findings.faults.extend(lint_fault(package)?);
    }
    Ok(())
}

fn arrow_faults(package: &Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    if !arrows.contains_key(name) {
        return vec![format!(
            "{name} is not in the table of layers: add it to docs/architecture.md and to xtask's tidy"
        )];
    }
    let allowed = below(name, &arrows);
    let mut faults = Vec::new();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let target = dependency["name"].as_str().unwrap_or_default();
        if dependency["kind"] == "dev" {
            // Tests may wire up anything.
            continue;
        }
        if arrows.contains_key(target) && !allowed.contains(target) {
            faults.push(format!("{name} depends on {target}: the table of layers has no such arrow"));
        }
        if PURE.contains(&name) && RUNTIMES.contains(&target) {
            faults.push(format!("{name} depends on {target}: this layer has no I/O and no async"));
        }
    }
    faults
}

/// Everything that a crate stands on.
fn below<'a>(name: &str, arrows: &BTreeMap<&'a str, &'a [&'a str]>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = arrows.get(name).into_iter().flat_map(|targets| targets.iter().copied()).collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(arrows.get(next).into_iter().flat_map(|targets| targets.iter().copied()));
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

    fn faults(name: &str, dependency: &str, kind: &Value) -> usize {
        arrow_faults(&json!({"name": name, "dependencies": [{"name": dependency, "kind": kind}]})).len()
    }

    #[test]
    fn arrows_point_down_only() {
        assert_eq!(faults("coracle-node", "coracle-core", &Value::Null), 0);
        assert_eq!(faults("coracle-core", "coracle-storage", &Value::Null), 1);
        assert_eq!(faults("coracle-level", "coracle-node", &Value::Null), 1);
        assert_eq!(faults("coracle-level", "coracle-node", &json!("dev")), 0);
    }

    #[test]
    fn an_adapter_knows_no_other_adapter() {
        for (name, _) in ARROWS.iter().filter(|(name, _)| name.contains("-storage-") || name.contains("-transport-")) {
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
