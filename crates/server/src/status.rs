//! `coracle status`: what each node says of itself.

use coracle::client::{NodeView, pb};
use serde_json::{Value as Json, json};

use crate::{
    cli::{ClusterArgs, StatusArgs},
    connect,
    exit::{Code, Failure, Outcome},
    out, text,
};

pub(crate) async fn run(cluster: &ClusterArgs, args: StatusArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let views = client.statuses().await;
    if args.json {
        out::line(Json::Array(views.iter().map(as_json).collect()))?;
    } else {
        out::line(table(&views))?;
    }
    if views.iter().any(|view| view.status.is_ok()) {
        return Ok(());
    }
    let failure = Failure::new(Code::Unavailable, format!("none of {} answered", cluster.endpoints.join(", ")));
    Err(failure.hint("Start the nodes with `coracle serve`, or name their client addresses with --endpoints."))
}

/// The role, as people write it.
pub(crate) fn role(status: &pb::StatusResponse) -> &'static str {
    match status.role() {
        _ if !status.stopped.is_empty() => "stopped",
        _ if status.damaged_entries > 0 => "repairing",
        pb::Role::Unspecified => "unknown",
        pb::Role::Follower => "follower",
        pb::Role::PreCandidate => "pre-candidate",
        pb::Role::Candidate => "candidate",
        pb::Role::Leader => "leader",
        pb::Role::Learner => "learner",
        pb::Role::Joining => "joining",
        pb::Role::Removed => "removed",
    }
}

/// An id, as it is shown everywhere.
pub(crate) fn id(id: u64) -> String {
    format!("{id:016x}")
}

const HEAD: [&str; 9] = ["ENDPOINT", "ID", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "STORAGE", "DURABILITY"];

fn table(views: &[NodeView]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(views.iter().map(row));
    let mut lines = vec![text::columns(&rows)];
    for view in views {
        match &view.status {
            Err(error) => lines.push(format!("{}: {error}", view.endpoint)),
            Ok(status) => lines.extend(remark(status).map(|remark| format!("{}: {remark}", view.endpoint))),
        }
    }
    lines.join("\n")
}

/// What an operator has to know of a node apart from its row.
fn remark(status: &pb::StatusResponse) -> Option<String> {
    match (status.stopped.as_str(), status.damaged_entries) {
        ("", 0) if !status.no_space.is_empty() => {
            Some(format!("{}; it refuses writes until there is space", status.no_space))
        }
        ("", 0) if status.is_disk_slow => {
            Some("a write of its log takes longer than its limit; it does not campaign meanwhile".to_owned())
        }
        ("", 0) if status.is_state_behind => {
            Some("its state is behind its log; it waits for a snapshot from a leader".to_owned())
        }
        ("", 0) => None,
        ("", missing) => Some(match status.lost_entry {
            Some(lost) => format!(
                "entry {lost} of its log is damaged, and no other member holds it; the others go on once they elect a leader without this node: bring back enough of them, or this node's file from a copy"
            ),
            None => {
                format!("repairing its log from its peers: {missing} damaged entries to go; it does not vote meanwhile")
            }
        }),
        (stopped, _) => Some(stopped.to_owned()),
    }
}

fn row(view: &NodeView) -> [String; HEAD.len()] {
    let dash = || "-".to_owned();
    let Ok(status) = &view.status else {
        let mut row = [(); HEAD.len()].map(|()| dash());
        row[0].clone_from(&view.endpoint);
        row[2] = "unreachable".to_owned();
        return row;
    };
    [
        view.endpoint.clone(),
        id(status.node_id),
        role(status).to_owned(),
        status.term.to_string(),
        status.leader_id.map_or_else(dash, id),
        status.commit_index.to_string(),
        status.applied_index.to_string(),
        status.engine.clone(),
        status.durability.clone(),
    ]
}

fn as_json(view: &NodeView) -> Json {
    let status = match &view.status {
        Ok(status) => status,
        Err(error) => return json!({ "endpoint": view.endpoint, "up": false, "error": error.to_string() }),
    };
    json!({
        "endpoint": view.endpoint,
        "up": true,
        "id": id(status.node_id),
        "incarnation": id(status.incarnation),
        "cluster_name": status.cluster_name,
        "cluster": status.cluster_id.map(id),
        "role": role(status),
        "term": status.term,
        "leader": status.leader_id.map(id),
        "leader_client_address": status.leader_client_address,
        "base": status.base_index,
        "last": status.last_index,
        "durable": status.durable_index,
        "damaged": status.damaged_entries,
        "no_space": (!status.no_space.is_empty()).then_some(&status.no_space),
        "disk_slow": status.is_disk_slow,
        "lost": status.lost_entry,
        "state_behind": status.is_state_behind,
        "commit": status.commit_index,
        "applied": status.applied_index,
        "storage": status.engine,
        "durability": status.durability,
        "version": status.version,
        "stopped": (!status.stopped.is_empty()).then_some(&status.stopped),
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
    })
}

pub(crate) fn member(member: &pb::Member) -> Json {
    json!({
        "id": id(member.node_id),
        "incarnation": id(member.incarnation),
        "addresses": member.addresses,
        "client_address": member.client_address,
        "role": member.role,
        "connected": member.connected,
        "match": member.match_index,
        "state": (!member.state.is_empty()).then_some(&member.state),
    })
}

#[cfg(test)]
mod tests {
    use coracle::level::Error;

    use super::*;

    fn views() -> [NodeView; 2] {
        let status = pb::StatusResponse {
            node_id: 7,
            role: pb::Role::Leader.into(),
            term: 3,
            leader_id: Some(7),
            commit_index: 12,
            applied_index: 11,
            engine: "sled".to_owned(),
            durability: "power-loss".to_owned(),
            ..Default::default()
        };
        [
            NodeView { endpoint: "127.0.0.1:9590".to_owned(), status: Ok(status) },
            NodeView { endpoint: "127.0.0.1:9591".to_owned(), status: Err(Error::Unavailable("refused".to_owned())) },
        ]
    }

    #[test]
    fn the_table_shows_who_leads_and_who_is_unreachable() {
        let table = table(&views());
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], HEAD);
        let id = "0000000000000007";
        assert_eq!(lines[1], ["127.0.0.1:9590", id, "leader", "3", id, "12", "11", "sled", "power-loss"]);
        assert_eq!(lines[2][..3], ["127.0.0.1:9591", "-", "unreachable"]);
        assert!(table.ends_with("127.0.0.1:9591: unavailable: refused"), "{table}");
    }

    #[test]
    fn c18_a_node_without_space_or_with_a_slow_disk_says_so() {
        let [NodeView { endpoint, status }, _] = views();
        let lacks = "no space in /data: 7 bytes are needed";
        let slow = pb::StatusResponse { is_disk_slow: true, ..status.unwrap() };
        let full = pb::StatusResponse { no_space: lacks.to_owned(), ..slow.clone() };
        let views = [slow, full].map(|status| NodeView { endpoint: endpoint.clone(), status: Ok(status) });
        let json = views.each_ref().map(as_json);
        assert_eq!((&json[0]["no_space"], &json[0]["disk_slow"]), (&Json::Null, &json!(true)));
        assert_eq!(json[1]["no_space"], lacks);
        let table = table(&views);
        assert!(table.contains("longer than its limit") && table.contains(lacks), "{table}");
    }

    #[test]
    fn a_node_that_repairs_its_log_says_so() {
        let [NodeView { endpoint, status }, _] = views();
        let status = pb::StatusResponse { damaged_entries: 3, ..status.unwrap() };
        let view = NodeView { endpoint, status: Ok(status) };
        assert_eq!((&as_json(&view)["role"], &as_json(&view)["damaged"]), (&json!("repairing"), &json!(3)));
        let table = table(&[view]);
        assert!(table.contains("repairing") && table.contains("3 damaged entries to go"), "{table}");
    }

    #[test]
    fn c19_a_node_that_cannot_repair_its_log_or_waits_for_a_snapshot_says_so() {
        let [NodeView { endpoint, status }, _] = views();
        let behind = pb::StatusResponse { is_state_behind: true, ..status.unwrap() };
        let lost = pb::StatusResponse { damaged_entries: 3, lost_entry: Some(7), ..behind.clone() };
        let views = [behind, lost].map(|status| NodeView { endpoint: endpoint.clone(), status: Ok(status) });
        let json = views.each_ref().map(as_json);
        assert_eq!((&json[0]["state_behind"], &json[0]["lost"]), (&json!(true), &Json::Null));
        assert_eq!(json[1]["lost"], 7);
        let table = table(&views);
        assert!(table.contains("waits for a snapshot") && table.contains("entry 7 of its log"), "{table}");
    }

    #[test]
    fn json_has_an_object_for_each_endpoint() {
        let [up, down] = views().map(|view| as_json(&view));
        assert_eq!((&up["up"], &up["role"], &up["commit"]), (&json!(true), &json!("leader"), &json!(12)));
        assert_eq!((&down["up"], &down["endpoint"]), (&json!(false), &json!("127.0.0.1:9591")));
    }
}
