//! `coracle members`: who is in the cluster.

use coracle::client::pb;
use serde_json::{Value as Json, json};

use crate::{
    cli::{ClusterArgs, MembersArgs},
    connect,
    exit::Outcome,
    out, status,
    status::id,
    text,
};

const HEAD: [&str; 9] = ["ID", "ROLE", "LEADER", "PEERS", "CLIENTS", "CONNECTED", "MATCH", "LAG", "STATE"];

pub(crate) async fn members(cluster: &ClusterArgs, args: MembersArgs) -> Outcome {
    let members = connect::client(cluster)?.members().await?;
    if args.json { out::line(as_json(&members)) } else { out::line(table(&members)) }
}

/// Whether the leader itself says so: only it knows how far the others are.
pub(super) fn is_of_leader(members: &pb::MembersResponse) -> bool {
    members.leader_id == Some(members.node_id)
}

fn table(response: &pb::MembersResponse) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(response.members.iter().map(|member| row(response, member)));
    let mut text = text::columns(&rows);
    if !is_of_leader(response) {
        let node = id(response.node_id);
        text.push_str(&format!("\nnode {node} answered, which does not lead: it does not know how far the others are"));
    }
    text
}

fn row(response: &pb::MembersResponse, member: &pb::Member) -> [String; HEAD.len()] {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let lag = member.match_index.map(|index| response.last_index.saturating_sub(index).to_string());
    [
        id(member.node_id),
        member.role.clone(),
        if response.leader_id == Some(member.node_id) { "*".to_owned() } else { String::new() },
        or_dash(member.addresses.join(",")),
        or_dash(member.client_address.clone()),
        if member.connected { "yes" } else { "no" }.to_owned(),
        or_dash(member.match_index.map_or_else(String::new, |index| index.to_string())),
        or_dash(lag.unwrap_or_default()),
        or_dash(member.state.clone()),
    ]
}

fn as_json(response: &pb::MembersResponse) -> Json {
    json!({
        "answered_by": id(response.node_id),
        "leader": response.leader_id.map(id),
        "term": response.term,
        "last": response.last_index,
        "commit": response.commit_index,
        "members": response.members.iter().map(status::member).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> pb::MembersResponse {
        let member = |node_id, role: &str, match_index, state: &str| pb::Member {
            node_id,
            addresses: vec![format!("/memory/{node_id}")],
            role: role.to_owned(),
            connected: node_id != 3,
            match_index,
            state: state.to_owned(),
            ..Default::default()
        };
        let members = vec![
            member(1, "voter", Some(12), "leading"),
            member(2, "promotable", Some(5), "replicating"),
            member(3, "voter", None, "silent"),
        ];
        pb::MembersResponse { node_id: 1, leader_id: Some(1), term: 2, last_index: 12, commit_index: 11, members }
    }

    #[test]
    fn the_table_shows_who_leads_and_how_far_the_others_are() {
        let table = table(&response());
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], HEAD);
        assert_eq!(lines[1], ["0000000000000001", "voter", "*", "/memory/1", "-", "yes", "12", "0", "leading"]);
        assert_eq!(lines[2][1..], ["promotable", "/memory/2", "-", "yes", "5", "7", "replicating"]);
        assert_eq!(lines[3][1..], ["voter", "/memory/3", "-", "no", "-", "-", "silent"]);
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn an_answer_of_another_node_than_the_leader_says_so() {
        let table = table(&pb::MembersResponse { node_id: 2, ..response() });
        assert!(table.ends_with("it does not know how far the others are"), "{table}");
    }

    #[test]
    fn json_has_an_object_for_each_member() {
        let json = as_json(&response());
        assert_eq!((&json["leader"], &json["last"]), (&json!("0000000000000001"), &json!(12)));
        assert_eq!(json["members"][1]["state"], json!("replicating"));
        assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    }
}
