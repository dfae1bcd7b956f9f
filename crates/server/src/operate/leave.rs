//! `coracle leave`: removes a member, and waits until it is gone.

use std::time::Duration;

use coracle::client::{Client, pb};
use tokio::time::{Instant, sleep_until, timeout};

use super::{called_off::Reason, ids, members::is_of_leader};
use crate::{
    cli::{ClusterArgs, LeaveArgs},
    connect,
    exit::{Code, Failure, Outcome},
    out,
    status::id,
};

/// How long it may take by default: a change that does not go on is called off before.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) async fn leave(cluster: &ClusterArgs, args: LeaveArgs) -> Outcome {
    let patience = cluster.timeout_or(PATIENCE);
    let client = connect::client_within(cluster, patience)?;
    let node = ids::find(&client, &args.id).await?;
    client.leave(node).await?;
    match timeout(patience, watch(&client, node)).await {
        Ok(End::Gone) => out::line(format_args!("node {} has left", id(node))),
        Ok(End::CalledOff(reason)) => Err(called_off(node, reason)),
        Err(_) => Err(too_slow(node, patience)),
    }
}

fn called_off(node: u64, reason: Reason) -> Failure {
    let node = id(node);
    let text = format!("the change was called off: node {node} stays a voter, since {}", reason.text());
    Failure::new(Code::Refused, text).hint(format!("{}; then `coracle leave {node}` again.", reason.remedy()))
}

fn too_slow(node: u64, patience: Duration) -> Failure {
    let text = format!("node {} is still on its way out after {patience:?}", id(node));
    Failure::new(Code::Unavailable, text).hint(
        "A majority of those who stay has to be up, and so has who is promotable: `coracle members` shows them. The change goes on by itself, or is called off after the --promotion-timeout of the leader: then the command is to be repeated.",
    )
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Gone,
    /// It votes as before.
    CalledOff(Reason),
}

/// What leaders have said so far.
#[derive(Debug, Default)]
struct Seen {
    /// In which term the node was on its way out.
    leaving: Option<u64>,
    /// Since when it was not listed any more: the term, and the last index of the log at that moment.
    absent: Option<(u64, u64)>,
}

/// Looks until a leader does not list the node any more, and that is committed, or the change is called off.
async fn watch(client: &Client, node: u64) -> End {
    let mut seen = Seen::default();
    loop {
        let next = Instant::now() + LOOK_EVERY;
        // A leader that removes itself hands over: nobody answers meanwhile.
        if let Ok(members) = client.members().await
            && is_of_leader(&members)
            && let Some(end) = judge(&members, node, &mut seen)
        {
            return end;
        }
        sleep_until(next).await;
    }
}

/// Whether this is the end. A membership is in force before it is committed: until then the node may be needed still, and must not be stopped.
fn judge(members: &pb::MembersResponse, node: u64, seen: &mut Seen) -> Option<End> {
    let Some(member) = members.members.iter().find(|member| member.node_id == node) else {
        let since = seen.absent.filter(|(term, _)| *term == members.term);
        let (_, index) = *seen.absent.insert(since.unwrap_or((members.term, members.last_index)));
        return (members.commit_index >= index).then_some(End::Gone);
    };
    seen.absent = None;
    match (member.role.as_str(), seen.leaving) {
        ("retiring", _) => seen.leaving = Some(members.term),
        // An older leader may not know yet that it is to leave.
        ("voter", Some(term)) if members.term >= term => return Some(End::CalledOff(Reason::of(members, node))),
        _ => {}
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(role: Option<&str>, term: u64, last_index: u64, commit_index: u64) -> pb::MembersResponse {
        let member = |role: &str| pb::Member { node_id: 4, role: role.to_owned(), ..Default::default() };
        let members = role.map(member).into_iter().collect();
        pb::MembersResponse { term, last_index, commit_index, members, ..Default::default() }
    }

    #[test]
    fn a_node_has_left_once_that_is_committed() {
        let mut seen = Seen::default();
        assert_eq!(judge(&members(Some("retiring"), 1, 5, 5), 4, &mut seen), None);
        assert_eq!(judge(&members(None, 1, 7, 6), 4, &mut seen), None, "in force, but not committed");
        assert_eq!(judge(&members(None, 2, 8, 7), 4, &mut seen), None, "another leader counts anew");
        assert_eq!(judge(&members(None, 2, 9, 8), 4, &mut seen), Some(End::Gone));
    }

    #[test]
    fn a_change_that_is_called_off_is_told() {
        let mut seen = Seen::default();
        assert_eq!(judge(&members(Some("voter"), 1, 5, 5), 4, &mut seen), None, "an older leader may say so");
        assert_eq!(judge(&members(Some("retiring"), 2, 5, 5), 4, &mut seen), None);
        assert_eq!(judge(&members(Some("voter"), 1, 5, 5), 4, &mut seen), None);
        let mut end = members(Some("voter"), 2, 6, 6);
        assert_eq!(judge(&end, 4, &mut seen), Some(End::CalledOff(Reason::Unknown)));
        let reason = "no-majority".to_owned();
        end.called_off.push(pb::CalledOff { index: 6, nodes: vec![4], reason, blamed: None });
        assert_eq!(judge(&end, 4, &mut seen), Some(End::CalledOff(Reason::NoMajority)));
    }

    #[test]
    fn what_went_wrong_says_what_to_do_next() {
        let failure = called_off(4, Reason::NoMajority);
        let text = failure.to_string();
        assert!(failure.code == Code::Refused && text.contains("coracle leave 0000000000000004"), "{text}");
        assert!(text.contains("no majority") && text.contains("coracle members"), "{text}");
        let failure = too_slow(4, Duration::from_secs(10));
        assert!(failure.code == Code::Unavailable && failure.to_string().contains("promotable"), "{failure}");
    }
}
