//! The identity, in a file of lines that people can read.
//!
//! It lies outside of the engine's own files, so that a damaged database cannot pass for a new node.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{Identity, Result, StorageError};
use coracle_core::{ClusterId, GroupId, Incarnation, NodeId};

use super as files;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;

/// The first line; the number is the version of this file and of the directory's layout.
const TITLE: &str = "coracle identity 1";

/// The group whose cluster has no number in its name: that of a process with a single group.
const FIRST_GROUP: GroupId = GroupId(1);
const CLUSTER: &str = "cluster";
/// And a group's number, in decimal.
const CLUSTER_OF: &str = "cluster-of-group-";

/// Where it is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("identity")
}

/// Reads it; `None` when there is none yet.
///
/// # Errors
/// When it cannot be read, or is damaged.
pub fn read(dir: &Path) -> Result<Option<Identity>> {
    let path = path(dir);
    let Some(content) = files::read(&path)? else { return Ok(None) };
    let identity = parse(&content).map_err(|what| StorageError::damaged(path.display().to_string(), what))?;
    Ok(Some(identity))
}

/// Refuses what another engine than `expected` has made.
///
/// # Errors
/// [`StorageError::Engine`] then.
pub fn check_engine(dir: &Path, identity: &Identity, expected: &str) -> Result<()> {
    if identity.engine == expected {
        return Ok(());
    }
    let place = dir.display().to_string();
    Err(StorageError::Engine { place, found: identity.engine.clone(), expected: expected.into() })
}

/// Writes it, durably when this returns.
///
/// # Errors
/// When it cannot be written, or a name in it has more than one line.
pub fn write(dir: &Path, identity: &Identity) -> Result<()> {
    if [&identity.cluster_name, &identity.engine].iter().any(|text| text.contains(['\n', '\r'])) {
        return Err(StorageError::Invalid("a cluster's name is one line".into()));
    }
    files::replace(&path(dir), encode(identity).as_bytes())
}

fn encode(identity: &Identity) -> String {
    let Identity { node, incarnation, engine, cluster_name, clusters } = identity;
    let mut lines = format!(
        "{TITLE}\nengine = {engine}\nnode = {node}\nincarnation = {incarnation}\ncluster-name = {cluster_name}\n"
    );
    let first = clusters.get(&FIRST_GROUP).map_or(String::new(), |id| id.to_string());
    lines.push_str(&format!("{CLUSTER} = {first}\n"));
    for (group, cluster) in clusters.iter().filter(|(group, _)| **group != FIRST_GROUP) {
        lines.push_str(&format!("{CLUSTER_OF}{group} = {cluster}\n"));
    }
    let checksum = crc32fast::hash(lines.as_bytes());
    format!("{lines}checksum = {checksum:08x}\n")
}

fn parse(content: &[u8]) -> std::result::Result<Identity, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
    let title = text.lines().next().unwrap_or_default();
    if title != TITLE {
        return Err(format!("it begins with {title:?}, expected {TITLE:?}"));
    }
    let (lines, checksum) = text.rsplit_once("checksum = ").ok_or("it has no checksum")?;
    if checksum != format!("{:08x}\n", crc32fast::hash(lines.as_bytes())) {
        return Err("the checksum does not match; delete it only to make this a new node".into());
    }
    let field = |name: &str| {
        let mut values = lines.lines().filter_map(|line| line.split_once(" = "));
        values.find(|(key, _)| *key == name).map(|(_, value)| value).ok_or(format!("it has no {name}"))
    };
    let number = |name: &str| {
        u64::from_str_radix(field(name)?, 16).map_err(|_| format!("{name} is not a hexadecimal number of 64 bits"))
    };
    let mut clusters = clusters_of_others(lines)?;
    if !field(CLUSTER)?.is_empty() {
        clusters.insert(FIRST_GROUP, ClusterId(number(CLUSTER)?));
    }
    Ok(Identity {
        node: NodeId(number("node")?),
        incarnation: Incarnation(number("incarnation")?),
        engine: field("engine")?.to_owned(),
        cluster_name: field("cluster-name")?.to_owned(),
        clusters,
    })
}

/// The lines of groups that are not the first.
fn clusters_of_others(lines: &str) -> std::result::Result<BTreeMap<GroupId, ClusterId>, String> {
    let named = lines.lines().filter_map(|line| line.strip_prefix(CLUSTER_OF));
    let parsed = named.map(|line| {
        let (group, cluster) = line.split_once(" = ")?;
        Some((GroupId(group.parse().ok()?), ClusterId(u64::from_str_radix(cluster, 16).ok()?)))
    });
    parsed.collect::<Option<_>>().ok_or_else(|| format!("a line \"{CLUSTER_OF}\" names no group and cluster"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            node: NodeId(0x7f),
            incarnation: Incarnation(0x0123_4567_89ab_cdef),
            engine: "sled".into(),
            cluster_name: "kitchen".into(),
            clusters: BTreeMap::from([(GroupId(1), ClusterId(1))]),
        }
    }

    #[test]
    fn the_file_has_exactly_these_bytes() {
        let expected = "coracle identity 1\nengine = sled\nnode = 000000000000007f\nincarnation = 0123456789abcdef\ncluster-name = kitchen\ncluster = 0000000000000001\nchecksum = 320b27c3\n";
        assert_eq!(encode(&identity()), expected);
        assert_eq!(parse(expected.as_bytes()), Ok(identity()));
        let unfounded = Identity { clusters: BTreeMap::new(), cluster_name: String::new(), ..identity() };
        assert_eq!(parse(encode(&unfounded).as_bytes()), Ok(unfounded));
    }

    #[test]
    fn further_groups_have_lines_of_their_own() {
        let clusters = BTreeMap::from([(GroupId(1), ClusterId(1)), (GroupId(12), ClusterId(0xab))]);
        let several = Identity { clusters, ..identity() };
        let text = encode(&several);
        assert!(text.contains("\ncluster = 0000000000000001\ncluster-of-group-12 = 00000000000000ab\n"), "{text}");
        assert_eq!(parse(text.as_bytes()), Ok(several.clone()));
        let without_first = Identity { clusters: BTreeMap::from([(GroupId(2), ClusterId(5))]), ..several };
        assert_eq!(parse(encode(&without_first).as_bytes()), Ok(without_first));
    }

    #[test]
    fn damage_is_told() {
        let whole = encode(&identity()).into_bytes();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at} was flipped");
            assert!(parse(&whole[..at]).is_err(), "cut after {at} bytes");
        }
    }

    #[test]
    fn a_name_of_two_lines_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let twisted = Identity { cluster_name: "a\nnode = 1".into(), ..identity() };
        assert!(matches!(write(dir.path(), &twisted), Err(StorageError::Invalid(_))));
        assert_eq!(read(dir.path()).unwrap(), None);
    }
}
