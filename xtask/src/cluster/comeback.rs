//! How a node that was killed comes back: on its directory, or as a new node in the place of the one that is lost.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{node::Node, state::endpoints, storage::Storage};

/// Starts the process of a node again, and says how.
pub(super) fn restart(binary: &Path, storage: &Storage, nodes: &mut [Node], place: usize) -> Result<String> {
    let number = nodes[place].number;
    if *storage != Storage::Memory {
        nodes[place].start()?;
        return Ok(format!("restarted node {number} on its directory"));
    }
    // Whatever it acknowledged is lost: it must never speak for its old self again (C1).
    let old = match member_at(&ask(binary, nodes, &["members", "--json"])?, &nodes[place].ports.endpoint())? {
        Some(old) => {
            ask(binary, nodes, &["leave", &old])?;
            old
        }
        None => "gone already".to_owned(),
    };
    let others: Vec<String> =
        nodes.iter().filter(|node| node.number != number).map(|node| node.address.clone()).collect();
    nodes[place].start_to_join(&others.join(","))?;
    Ok(format!("node {number} had its data in memory: its old id ({old}) has left, and it joins as a new node"))
}

/// What a command of the binary prints.
fn ask(binary: &Path, nodes: &[Node], arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(["--endpoints", &endpoints(nodes)]).args(arguments).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run coracle {}", arguments.join(" ")))?;
    if !output.status.success() {
        bail!(
            "coracle {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The id of the member that clients reach there.
fn member_at(members: &str, endpoint: &str) -> Result<Option<String>> {
    let members: Value = serde_json::from_str(members).context("coracle members --json did not print JSON")?;
    let members = members["members"].as_array().context("coracle members --json named no members")?;
    let found = members.iter().find(|member| member["client_address"] == endpoint);
    Ok(found.and_then(|member| member["id"].as_str()).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_id_of_a_node_is_found_by_its_clients_address() {
        let members =
            r#"{"leader":"7f","members":[{"id":"7e","client_address":"a:1"},{"id":"7f","client_address":"b:1"}]}"#;
        assert_eq!(member_at(members, "b:1").unwrap(), Some("7f".to_owned()));
        assert_eq!(member_at(members, "c:1").unwrap(), None);
        assert!(member_at("[]", "c:1").is_err());
    }
}
