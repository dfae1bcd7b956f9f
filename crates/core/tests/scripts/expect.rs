//! What a script expects, compared as text so that a failure shows both sides.

use std::fmt::Write as _;

use coracle_core::{Body, Index, NodeId, Outcome, RejectReason, Role};

use crate::{
    step::{self, Link},
    world::World,
};

/// The kinds of messages, as scripts name them.
pub(crate) const KINDS: &[&str] = &[
    "pre-vote",
    "pre-vote-answer",
    "vote",
    "vote-answer",
    "append",
    "append-answer",
    "heartbeat",
    "heartbeat-answer",
    "read",
    "read-answer",
    "timeout-now",
    "snapshot",
    "snapshot-answer",
];

/// The kind of a message.
pub(crate) fn kind(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "pre-vote",
        Body::PreVoteResponse { .. } => "pre-vote-answer",
        Body::RequestVote { .. } => "vote",
        Body::RequestVoteResponse { .. } => "vote-answer",
        Body::AppendEntries { .. } => "append",
        Body::AppendEntriesResponse { .. } => "append-answer",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatResponse { .. } => "heartbeat-answer",
        Body::ReadIndex { .. } => "read",
        Body::ReadIndexResponse { .. } => "read-answer",
        Body::TimeoutNow => "timeout-now",
        Body::InstallSnapshot(_) => "snapshot",
        Body::InstallSnapshotResponse { .. } => "snapshot-answer",
        _ => "other",
    }
}

/// What is to hold.
#[derive(Clone, Debug)]
pub(crate) enum Expectation {
    /// Whether anybody who is up leads.
    SomebodyLeads(bool),
    Proposal(String, String),
    Read(String, String),
    /// Whether a message of this kind is on its way, or none at all.
    OnTheWay(Link, Option<String>),
    /// Each of these nodes, all of them when none is named, has each of these properties.
    Nodes(Vec<NodeId>, Vec<Property>),
}

/// Something about a node, as text.
#[derive(Clone, Debug)]
pub(crate) struct Property {
    what: What,
    is_not: bool,
    expected: String,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Role,
    Term,
    Leader,
    Vote,
    Log,
    Disk,
    Terms,
    Commands,
    Last,
    Commit,
    Applied,
    Base,
    Members,
    MembersAt,
    Match(NodeId),
    Next(NodeId),
    Sending(NodeId),
    WantedBy(NodeId),
    Handover,
    Health,
    Truncated,
}

/// Reads what follows `expect`.
///
/// # Errors
/// Why it cannot be expected.
pub(crate) fn parse(words: &[&str]) -> Result<Expectation, String> {
    Ok(match words {
        ["nobody", "leads"] => Expectation::SomebodyLeads(false),
        ["somebody", "leads"] => Expectation::SomebodyLeads(true),
        ["proposal", name, outcome @ ..] => ["open", "committed", "rejected", "unknown"]
            .contains(outcome.first().unwrap_or(&""))
            .then(|| Expectation::Proposal((*name).to_owned(), outcome.join(" ")))
            .ok_or("a proposal is open, committed, rejected or unknown")?,
        ["read", name, outcome @ ..] => ["open", "at", "failed"]
            .contains(outcome.first().unwrap_or(&""))
            .then(|| Expectation::Read((*name).to_owned(), outcome.join(" ")))
            .ok_or("a read is open, at an index, or failed")?,
        [over, "nothing"] => Expectation::OnTheWay(step::link(over)?, None),
        [over, kind] if over.contains("->") && KINDS.contains(kind) => {
            Expectation::OnTheWay(step::link(over)?, Some((*kind).to_owned()))
        }
        ["all", properties @ ..] => Expectation::Nodes(Vec::new(), of_nodes(properties)?),
        _ => {
            let count = words.iter().take_while(|word| word.parse::<u64>().is_ok()).count();
            let ids = words[..count].iter().map(|word| step::node(word)).collect::<Result<Vec<_>, _>>()?;
            if ids.is_empty() {
                return Err(format!("\"{}\" cannot be expected", words.join(" ")));
            }
            Expectation::Nodes(ids, of_nodes(&words[count..])?)
        }
    })
}

fn of_nodes(words: &[&str]) -> Result<Vec<Property>, String> {
    let parts = words.split(|word| *word == "/").map(|part| match part {
        ["not", part @ ..] => Ok(Property { is_not: true, ..property(part)? }),
        _ => property(part),
    });
    parts.collect()
}

fn property(words: &[&str]) -> Result<Property, String> {
    let with = |what, expected: String| Ok(Property { what, is_not: false, expected });
    let number = |what, word: &str| step::number(word).and_then(|number| with(what, number.to_string()));
    match words {
        [] => Err("nothing is expected of the nodes".to_owned()),
        ["leader" | "follower" | "candidate" | "pre-candidate"] => with(What::Role, words[0].to_owned()),
        ["term", term] => number(What::Term, term),
        ["follows", leader] => with(What::Leader, somebody(leader)?),
        ["voted", "for", candidate] => with(What::Vote, somebody(candidate)?),
        ["log", entries @ ..] => with(What::Log, entries.join(" ")),
        ["disk", entries @ ..] => with(What::Disk, entries.join(" ")),
        ["terms", terms @ ..] => with(What::Terms, terms.join(" ")),
        ["commands", commands @ ..] => with(What::Commands, commands.join(" ")),
        ["last", index] => number(What::Last, index),
        ["commit", index] => number(What::Commit, index),
        ["applied", index] => number(What::Applied, index),
        ["base", index] => number(What::Base, index),
        ["members", "at", index] => number(What::MembersAt, index),
        ["members", members @ ..] => with(What::Members, members.join(" ")),
        ["match", peer, "at", index] => number(What::Match(step::node(peer)?), index),
        ["next", peer, "at", index] => number(What::Next(step::node(peer)?), index),
        ["sending", "snapshot", "to", peer] => with(What::Sending(step::node(peer)?), "yes".to_owned()),
        ["asked", "for", "snapshot", "to", peer] => with(What::WantedBy(step::node(peer)?), "yes".to_owned()),
        ["handing", "over"] => with(What::Handover, "yes".to_owned()),
        ["stopped" | "running"] => with(What::Health, words[0].to_owned()),
        ["truncated"] => with(What::Truncated, "yes".to_owned()),
        _ => Err(format!("\"{}\" is nothing that a node can be expected to be", words.join(" "))),
    }
}

fn somebody(word: &str) -> Result<String, String> {
    if word == "nobody" { Ok(word.to_owned()) } else { step::node(word).map(|id| id.0.to_string()) }
}

fn name_of(id: Option<NodeId>) -> String {
    id.map_or_else(|| "nobody".to_owned(), |id| id.0.to_string())
}

/// Whether it holds.
///
/// # Errors
/// What was expected and what was found.
pub(crate) fn check(expectation: &Expectation, world: &World) -> Result<(), String> {
    match expectation {
        Expectation::SomebodyLeads(expected) => {
            let leader = world.up().find(|id| world.cluster.raft(*id).is_leader());
            let found = leader.is_some() == *expected;
            found.then_some(()).ok_or_else(|| format!("leader: found {}", name_of(leader)))
        }
        Expectation::Proposal(name, expected) => compare(&format!("proposal {name}"), expected, &world.outcome(name)?),
        Expectation::Read(name, expected) => compare(&format!("read {name}"), expected, &world.read_outcome(name)?),
        Expectation::OnTheWay(link, expected) => check_messages(*link, expected.as_deref(), world),
        Expectation::Nodes(ids, properties) => {
            let ids = if ids.is_empty() { world.up().collect() } else { ids.clone() };
            ids.iter().try_for_each(|id| {
                world.known(*id)?;
                properties.iter().try_for_each(|property| check_property(*id, property, world))
            })
        }
    }
}

/// Equal, or what was found only says more.
fn compare(subject: &str, expected: &str, found: &str) -> Result<(), String> {
    let says_more = found.strip_prefix(expected).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
    says_more.then_some(()).ok_or_else(|| format!("expected {subject} {expected}, found {found}"))
}

/// An outcome, as scripts name it.
pub(crate) fn render_outcome(outcome: Option<Outcome>) -> String {
    match outcome {
        None => "open".to_owned(),
        Some(Outcome::Committed { first_index }) => format!("committed at {first_index}"),
        Some(Outcome::Unknown) => "unknown".to_owned(),
        Some(Outcome::Rejected(reason)) => match reason {
            RejectReason::NotLeader { .. } => "rejected not-leader".to_owned(),
            RejectReason::Busy => "rejected busy".to_owned(),
            RejectReason::Stopped => "rejected stopped".to_owned(),
            RejectReason::ChangeInProgress => "rejected change-in-progress".to_owned(),
            RejectReason::Membership { why } => format!("rejected membership ({why})"),
            other => format!("rejected {other:?}"),
        },
    }
}

fn check_messages(link: Link, expected: Option<&str>, world: &World) -> Result<(), String> {
    let on_the_way = world.cluster.network.iter().filter(|message| link.holds(message.from, message.to));
    let found: Vec<&str> = on_the_way.map(|message| kind(&message.body)).collect();
    let holds = expected.map_or(found.is_empty(), |kind| found.contains(&kind));
    let expected = expected.unwrap_or("nothing");
    holds.then_some(()).ok_or_else(|| format!("expected {expected} on the way, found [{}]", found.join(", ")))
}

fn check_property(id: NodeId, property: &Property, world: &World) -> Result<(), String> {
    let found = found(id, property.what, world);
    if (found == property.expected) != property.is_not {
        return Ok(());
    }
    let not = if property.is_not { "not " } else { "" };
    let subject = format!("{:?}", property.what).to_lowercase();
    Err(format!("expected node {} {not}{subject} {}, found {found}", id.0, property.expected))
}

fn found(id: NodeId, what: What, world: &World) -> String {
    let node = &world.cluster.nodes[&id];
    let status = node.raft.status();
    let progress = |peer: NodeId| status.peers.iter().find(|progress| progress.id == peer);
    let flag = |is: bool| if is { "yes" } else { "no" }.to_owned();
    match what {
        What::Role => role(status.role).to_owned(),
        What::Term => status.term.to_string(),
        What::Leader => name_of(status.leader),
        What::Vote => name_of(node.disk.hard_state.voted_for),
        What::Log => entries(log(id, world)),
        What::Disk => entries(node.disk.runs.iter().flat_map(|run| run.iter().map(|(i, _)| (i, run.term().0)))),
        What::Terms => words(log(id, world).map(|(_, term)| term)),
        What::Commands => words(node.applied.iter().filter_map(|(.., data)| command(data))),
        What::Last => status.last_index.to_string(),
        What::Commit => status.commit_index.to_string(),
        What::Applied => status.applied_index.to_string(),
        What::Base => status.base_index.to_string(),
        What::Members => members(&status.membership),
        What::MembersAt => status.membership_index.to_string(),
        What::Match(peer) => progress(peer).map_or("nothing".to_owned(), |peer| peer.match_index.to_string()),
        What::Next(peer) => progress(peer).map_or("nothing".to_owned(), |peer| peer.next_index.to_string()),
        What::Sending(peer) => flag(progress(peer).is_some_and(|peer| peer.is_installing)),
        What::WantedBy(peer) => flag(node.snapshots_wanted.contains(&peer)),
        What::Handover => flag(node.raft.is_transferring()),
        What::Health => if node.fatal.is_some() { "stopped" } else { "running" }.to_owned(),
        What::Truncated => flag(node.events.iter().any(|event| matches!(event, coracle_core::Event::Truncated { .. }))),
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// The log in the core, each entry's index and term.
fn log(id: NodeId, world: &World) -> impl Iterator<Item = (Index, u64)> {
    let raft = world.cluster.raft(id);
    let status = raft.status();
    let term = |index| raft.term_at(Index(index)).map(|term| (Index(index), term.0));
    (status.base_index.0 + 1..=status.last_index.0).filter_map(term)
}

fn entries(log: impl Iterator<Item = (Index, u64)>) -> String {
    words(log.map(|(index, term)| format!("{index}:{term}")))
}

fn words(items: impl Iterator<Item = impl std::fmt::Display>) -> String {
    let mut text = String::new();
    for item in items {
        let gap = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{gap}{item}");
    }
    text
}

/// A command's name, for what is applied that a script proposed.
fn command(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok().filter(|text| !text.is_empty() && text.chars().all(|c| !c.is_control()))
}

/// `voters 1 2 learners 3 promotable 4 leaving 5 outgoing 1 2`, without what is empty.
fn members(membership: &coracle_core::Membership) -> String {
    use coracle_core::MemberRole::{Demoting, Learner, Promotable, Retiring};
    let with = |wanted: &[coracle_core::MemberRole]| -> Vec<u64> {
        membership.nodes.iter().filter(|node| wanted.contains(&node.role)).map(|node| node.id.0).collect()
    };
    let groups = [
        ("voters", membership.voters().map(|id| id.0).collect()),
        ("learners", with(&[Learner])),
        ("promotable", with(&[Promotable])),
        ("leaving", with(&[Retiring, Demoting])),
        ("outgoing", membership.outgoing.iter().map(|id| id.0).collect()),
    ];
    let named = groups.into_iter().filter(|(_, ids)| !ids.is_empty());
    words(named.map(|(name, ids)| format!("{name} {}", words(ids.into_iter()))))
}
