//! `coracle members`: who is in the cluster.

use std::collections::BTreeMap;

use coracle::client::{Client, pb};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::called_off;
use crate::{
    cli::{ClusterArgs, MembersArgs},
    connect,
    exit::Outcome,
    out, status,
    status::id,
    text,
};

const HEAD: [&str; 10] =
    ["ID", "ROLE", "LEADER", "PEERS", "CLIENTS", "CONNECTED", "MATCH", "LAG", "STATE", "DURABILITY"];

/// What an acknowledged write survives on each member that answers at its client address.
type Durabilities = BTreeMap<u64, String>;

pub(crate) async fn members(cluster: &ClusterArgs, args: MembersArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let members = client.members().await?;
    let durabilities = durabilities(&client, &members).await;
    if args.json { out::line(as_json(&members, &durabilities)) } else { out::line(table(&members, &durabilities)) }
}

/// Asks all members at once: each knows its own store only, and a server's settings may have changed since it was opened.
async fn durabilities(client: &Client, members: &pb::MembersResponse) -> Durabilities {
    let mut asked = JoinSet::new();
    for member in members.members.iter().filter(|member| !member.client_address.is_empty()) {
        let (client, id, address) = (client.clone(), member.node_id, member.client_address.clone());
        asked.spawn(async move { (id, client.status(&address).await) });
    }
    let mut found = Durabilities::new();
    while let Some(answer) = asked.join_next().await {
        // Somebody else may be at that address from here.
        if let Ok((id, Ok(status))) = answer
            && status.node_id == id
            && status.stopped.is_empty()
        {
            found.insert(id, status.durability);
        }
    }
    found
}

/// Whether the leader itself says so: only it knows how far the others are.
pub(super) fn is_of_leader(members: &pb::MembersResponse) -> bool {
    members.leader_id == Some(members.node_id)
}

fn table(response: &pb::MembersResponse, durabilities: &Durabilities) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(response.members.iter().map(|member| row(response, member, durabilities)));
    let mut text = text::columns(&rows);
    if !is_of_leader(response) {
        let node = id(response.node_id);
        text.push_str(&format!("\nnode {node} answered, which does not lead: it does not know how far the others are"));
    }
    text
}

fn row(response: &pb::MembersResponse, member: &pb::Member, durabilities: &Durabilities) -> [String; HEAD.len()] {
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
        or_dash(durabilities.get(&member.node_id).cloned().unwrap_or_default()),
    ]
}

fn as_json(response: &pb::MembersResponse, durabilities: &Durabilities) -> Json {
    let member = |member: &pb::Member| {
        let mut shown = status::member(member);
        shown["durability"] = json!(durabilities.get(&member.node_id));
        shown
    };
    json!({
        "answered_by": id(response.node_id),
        "leader": response.leader_id.map(id),
        "term": response.term,
        "last": response.last_index,
        "commit": response.commit_index,
        "members": response.members.iter().map(member).collect::<Vec<_>>(),
        "called_off": response.called_off.iter().map(called_off::as_json).collect::<Vec<_>>(),
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
        pb::MembersResponse {
            node_id: 1,
            leader_id: Some(1),
            term: 2,
            last_index: 12,
            commit_index: 11,
            members,
            ..Default::default()
        }
    }

    fn durabilities() -> Durabilities {
        [(1, "power-loss"), (2, "process-crash")].map(|(id, text)| (id, text.to_owned())).into()
    }

    #[test]
    fn the_table_shows_who_leads_and_how_far_the_others_are() {
        let table = table(&response(), &durabilities());
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], HEAD);
        assert_eq!(
            lines[1],
            ["0000000000000001", "voter", "*", "/memory/1", "-", "yes", "12", "0", "leading", "power-loss"]
        );
        assert_eq!(lines[2][1..], ["promotable", "/memory/2", "-", "yes", "5", "7", "replicating", "process-crash"]);
        assert_eq!(lines[3][1..], ["voter", "/memory/3", "-", "no", "-", "-", "silent", "-"]);
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn an_answer_of_another_node_than_the_leader_says_so() {
        let table = table(&pb::MembersResponse { node_id: 2, ..response() }, &durabilities());
        assert!(table.ends_with("it does not know how far the others are"), "{table}");
    }

    #[test]
    fn json_has_an_object_for_each_member() {
        let json = as_json(&response(), &durabilities());
        assert_eq!((&json["leader"], &json["last"]), (&json!("0000000000000001"), &json!(12)));
        assert_eq!(json["members"][1]["state"], json!("replicating"));
        assert_eq!(json["members"][0]["durability"], json!("power-loss"));
        assert_eq!(json["members"][2]["durability"], json!(null));
        assert_eq!(json["members"].as_array().map(Vec::len), Some(3));
    }
}
