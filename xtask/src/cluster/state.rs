//! What the nodes say of themselves.

use std::{
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Deserializer, Value};

use super::node::Node;
use crate::process::tail;

/// One node's view of itself; what it does not say is empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) endpoint: String,
    pub(super) is_up: bool,
    pub(super) leads: bool,
    pub(super) role: String,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) applied: u64,
}

impl State {
    /// Whether it is a voter, as far as it knows.
    pub(super) fn votes(&self) -> bool {
        !matches!(self.role.as_str(), "learner" | "joining" | "removed" | "")
    }
}

/// The endpoints of all nodes, as `--endpoints` takes them.
pub(super) fn endpoints(nodes: &[Node]) -> String {
    let all: Vec<String> = nodes.iter().map(|node| node.ports.endpoint()).collect();
    all.join(",")
}

/// Asks all nodes with `coracle status`.
pub(super) fn query(binary: &Path, nodes: &[Node]) -> Result<Vec<State>> {
    let mut command = Command::new(binary);
    command.args(["--endpoints", &endpoints(nodes), "--timeout", "2s", "status", "--json"]).stdin(Stdio::null());
    // The exit code says whether all nodes answered; here some may be down.
    let output = command.output().context("cannot run coracle status")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut states = Vec::new();
    for value in Deserializer::from_str(&text).into_iter::<Value>() {
        states.extend(states_in(&value.context("coracle status --json did not print JSON")?));
    }
    Ok(states)
}

/// Waits until one of the nodes leads.
pub(super) fn wait_for_leader<'a>(binary: &Path, nodes: &'a [Node], wait: Duration) -> Result<&'a Node> {
    let start = Instant::now();
    while start.elapsed() < wait {
        let states = query(binary, nodes)?;
        if let Some(leader) = leader_in(&states) {
            return nodes.iter().find(|node| is_of(leader, node)).context("a stranger leads this cluster");
        }
        thread::sleep(Duration::from_millis(100));
    }
    let logs: Vec<String> =
        nodes.iter().map(|node| format!("{}:\n{}", node.log().display(), tail(node.log(), 8))).collect();
    bail!("no node led within {} s; the ends of the logs:\n{}", wait.as_secs(), logs.join("\n"))
}

/// Whoever leads in the highest term: an old leader that was cut off may still think that it does.
pub(super) fn leader_in(states: &[State]) -> Option<&State> {
    states.iter().filter(|state| state.leads && state.is_up).max_by_key(|state| state.term)
}

/// Whether this is the state of that node.
pub(super) fn is_of(state: &State, node: &Node) -> bool {
    let endpoint = state.endpoint.trim_start_matches("http://");
    endpoint == node.ports.endpoint()
}

/// Every object that names an endpoint, wherever it is in a document.
pub(super) fn states_in(value: &Value) -> Vec<State> {
    match value {
        Value::Object(object) if object.get("endpoint").is_some_and(Value::is_string) => vec![state_of(value)],
        Value::Object(object) => object.values().flat_map(states_in).collect(),
        Value::Array(array) => array.iter().flat_map(states_in).collect(),
        _ => Vec::new(),
    }
}

fn state_of(node: &Value) -> State {
    let field = |name: &str| if node[name].is_null() { &node["status"][name] } else { &node[name] };
    let number = |names: [&str; 2]| names.iter().find_map(|name| field(name).as_u64()).unwrap_or_default();
    let role = field("role").as_str().unwrap_or_default().to_lowercase();
    State {
        endpoint: node["endpoint"].as_str().unwrap_or_default().to_owned(),
        is_up: field("up").as_bool().unwrap_or(!role.is_empty()),
        leads: field("leader").as_bool().unwrap_or(role == "leader"),
        term: number(["term", "current_term"]),
        commit: number(["commit", "commit_index"]),
        applied: number(["applied", "applied_index"]),
        role,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_found_wherever_they_are() {
        let flat = json!([{"endpoint": "a:1", "up": true, "role": "leader", "term": 2, "commit": 7, "applied": 6}]);
        let states = states_in(&flat);
        assert_eq!(states.len(), 1);
        assert!(states[0].leads && states[0].is_up);
        assert_eq!((states[0].term, states[0].commit, states[0].applied), (2, 7, 6));
        let nested = json!({"nodes": [{"endpoint": "a:1", "status": {"role": "Follower", "applied_index": 9}}]});
        assert_eq!(states_in(&nested)[0].applied, 9);
        assert!(!states_in(&nested)[0].leads);
    }

    #[test]
    fn of_two_leaders_the_later_one_counts() {
        let leader = |endpoint: &str, term| State {
            endpoint: endpoint.to_owned(),
            term,
            leads: true,
            is_up: true,
            ..State::default()
        };
        assert_eq!(leader_in(&[leader("a:1", 3), leader("b:1", 2)]).map(|state| state.term), Some(3));
        assert_eq!(leader_in(&[State::default()]), None);
    }
}
