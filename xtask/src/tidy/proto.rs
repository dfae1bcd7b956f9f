//! The copies of `proto/` in the crates that compile it: packaging needs them, and they must not differ.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::Findings;
use crate::process::root;

pub(super) fn check(findings: &mut Findings) -> Result<()> {
    let original = files_in(&root().join("proto"))?;
    for entry in fs::read_dir(root().join("crates")).context("cannot read crates")? {
        let copy = entry?.path().join("proto");
        if copy.is_dir() {
            findings.faults.extend(differences(&copy, &original, &files_in(&copy)?));
        }
    }
    Ok(())
}

/// A crate may compile only some of the files, but what it has is equal.
fn differences(copy: &Path, original: &BTreeMap<PathBuf, Vec<u8>>, copied: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let differs = copied.iter().filter(|(name, bytes)| original.get(*name) != Some(*bytes));
    differs
        .map(|(name, _)| format!("{}: not the same as proto/{}", copy.join(name).display(), name.display()))
        .collect()
}

/// All files below a folder, by their path in it; none if there is no such folder.
fn files_in(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop().filter(|path| path.is_dir()) {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                files.insert(name, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_differs_or_has_no_original_is_named() {
        let file = |name: &str, text: &str| (PathBuf::from(name), text.as_bytes().to_vec());
        let original = BTreeMap::from([file("a.proto", "1"), file("b.proto", "2")]);
        assert!(differences(Path::new("c"), &original, &BTreeMap::from([file("a.proto", "1")])).is_empty());
        let copied = BTreeMap::from([file("a.proto", "other"), file("c.proto", "3")]);
        assert_eq!(differences(Path::new("c"), &original, &copied).len(), 2);
    }
}
