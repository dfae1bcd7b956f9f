//! `coracle join`: takes a node in, and waits until it votes.

use std::time::Duration;

use coracle::client::{Client, ClusterError, RefusalKind, pb};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{called_off::Reason, members::is_of_leader};
use crate::{
    cli::{ClusterArgs, JoinArgs},
    connect,
    exit::{Code, Failure, Outcome},
    out,
    status::id,
};

/// How long a node may take by default: it has to catch up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a node that does not answer is asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often to look how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(150);

pub(crate) async fn join(cluster: &ClusterArgs, args: JoinArgs) -> Outcome {
    let patience = cluster.timeout_or(PATIENCE);
    let client = connect::client_within(cluster, patience)?;
    let deadline = Instant::now() + patience;
    let progress = progress();
    let node = invite(&client, &args, deadline, &progress).await?;
    let mut seen = Seen::Nothing;
    let watched = watch(&client, node, args.learner, &mut seen, &progress);
    let end = timeout_at(deadline, watched).await.unwrap_or(Ok(None));
    progress.finish_and_clear();
    match end? {
        Some(End::Joined(as_voter)) => out::line(joined(node, as_voter, args.learner)),
        Some(End::CalledOff(reason)) => Err(called_off(node, reason, &args)),
        Some(End::Removed) => {
            let text = format!("node {} was removed before it became a {}", id(node), role(args.learner));
            Err(Failure::new(Code::Refused, text).hint("Somebody else ran `coracle leave`: agree, and join again."))
        }
        None => Err(too_slow(node, &seen, patience)),
    }
}

fn role(learner: bool) -> &'static str {
    if learner { "learner" } else { "voter" }
}

fn joined(node: u64, as_voter: bool, learner: bool) -> String {
    let kept = if as_voter && learner { ": joining as a learner takes no vote away" } else { "" };
    format!("node {} is a {}{kept}", id(node), role(!as_voter))
}

/// A line on a terminal that says how far it is; nothing elsewhere.
fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

/// Asks for the node to be taken in, also while it is still being started.
async fn invite(client: &Client, args: &JoinArgs, deadline: Instant, progress: &ProgressBar) -> Outcome<u64> {
    loop {
        match client.join(&args.address.to_string(), args.learner).await {
            Err(ClusterError::Refused(refusal))
                if refusal.kind == RefusalKind::Unreachable && Instant::now() + ASK_EVERY < deadline =>
            {
                progress.set_message(refusal.reason);
                progress.tick();
                sleep(ASK_EVERY).await;
            }
            joined => return Ok(joined?),
        }
    }
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// And whether it votes, or is on its way there.
    Joined(bool),
    /// It stays a learner.
    CalledOff(Reason),
    Removed,
}

/// What the leader said last of the node.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// It has the log up to the first index, of the second.
    CaughtUp(u64, u64),
}

/// Looks until the node is what it is to be, or is not going to be.
async fn watch(
    client: &Client,
    node: u64,
    learner: bool,
    seen: &mut Seen,
    progress: &ProgressBar,
) -> Outcome<Option<End>> {
    loop {
        let next = Instant::now() + LOOK_EVERY;
        // Nobody answers while leadership moves.
        if let Ok(members) = client.members().await
            && is_of_leader(&members)
            && let Some(end) = judge(&members, node, learner, seen)
        {
            return Ok(Some(end));
        }
        if let Seen::CaughtUp(index, last) = seen {
            progress.set_message(format!("node {} has caught up to index {index} of {last}", id(node)));
        }
        progress.tick();
        sleep_until(next).await;
    }
}

/// Whether this is the end.
fn judge(members: &pb::MembersResponse, node: u64, learner: bool, seen: &mut Seen) -> Option<End> {
    let Some(member) = members.members.iter().find(|member| member.node_id == node) else {
        return (*seen != Seen::Nothing).then_some(End::Removed);
    };
    *seen = Seen::CaughtUp(member.match_index.unwrap_or(0), members.last_index);
    match member.role.as_str() {
        "promotable" => learner.then_some(End::Joined(true)),
        "learner" if learner => Some(End::Joined(false)),
        "learner" => Some(End::CalledOff(Reason::of(members, node))),
        _ => Some(End::Joined(true)),
    }
}

fn called_off(node: u64, reason: Reason, args: &JoinArgs) -> Failure {
    let node = id(node);
    let text = format!("the change was called off: node {node} stays a learner, since {}", reason.text());
    let address = &args.address;
    Failure::new(Code::Refused, text).hint(format!(
        "{}; then `coracle join {address}` again; or give it up with `coracle leave {node}`.",
        reason.remedy()
    ))
}

fn too_slow(node: u64, seen: &Seen, patience: Duration) -> Failure {
    let far = match seen {
        Seen::CaughtUp(index, last) => format!("it has caught up to index {index} of {last}"),
        Seen::Nothing => "no leader told how far it is".to_owned(),
    };
    let text = format!("node {} does not vote after {patience:?}: {far}", id(node));
    Failure::new(Code::Unavailable, text)
        .hint("It is a member and goes on catching up: `coracle members` shows how far it is; the command may be repeated, with a longer --timeout.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(role: Option<&str>, learner: bool) -> (Option<End>, Seen) {
        end_after(Seen::Nothing, role, learner)
    }

    fn end_after(mut seen: Seen, role: Option<&str>, learner: bool) -> (Option<End>, Seen) {
        let member =
            |role: &str| pb::Member { node_id: 4, role: role.to_owned(), match_index: Some(5), ..Default::default() };
        let members = role.map(member).into_iter().collect();
        let response = pb::MembersResponse { last_index: 9, members, ..Default::default() };
        (judge(&response, 4, learner, &mut seen), seen)
    }

    #[test]
    fn a_node_that_is_to_vote_is_waited_for_until_it_does_or_will_not() {
        assert_eq!(end(Some("promotable"), false), (None, Seen::CaughtUp(5, 9)));
        assert_eq!(end(Some("voter"), false).0, Some(End::Joined(true)));
        assert_eq!(end(Some("learner"), false).0, Some(End::CalledOff(Reason::Unknown)));
        assert_eq!(end(None, false), (None, Seen::Nothing));
        assert_eq!(end_after(Seen::CaughtUp(1, 9), None, false).0, Some(End::Removed));
    }

    #[test]
    fn a_learner_has_joined_at_once() {
        for (role, votes) in [("learner", false), ("promotable", true), ("voter", true)] {
            assert_eq!(end(Some(role), true).0, Some(End::Joined(votes)), "{role}");
        }
    }

    #[test]
    fn a_voter_is_not_called_a_learner() {
        assert_eq!(joined(4, true, false), "node 0000000000000004 is a voter");
        assert_eq!(joined(4, false, true), "node 0000000000000004 is a learner");
        assert!(joined(4, true, true).starts_with("node 0000000000000004 is a voter: "));
    }

    #[test]
    fn what_went_wrong_says_what_to_do_next() {
        let address = "/memory/4".parse().unwrap();
        let failure = called_off(4, Reason::Stalled(4), &JoinArgs { address, learner: false });
        let text = failure.to_string();
        assert!(failure.code == Code::Refused && text.contains("coracle leave 0000000000000004"), "{text}");
        assert!(text.contains("took nothing in") && text.contains("coracle join /memory/4"), "{text}");
        let failure = too_slow(4, &Seen::CaughtUp(5, 9), Duration::from_secs(60));
        let text = failure.to_string();
        assert!(failure.code == Code::Unavailable && text.contains("index 5 of 9"), "{text}");
    }
}
