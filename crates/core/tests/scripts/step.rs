//! The lines of a script: what each asks for.

use std::time::Duration;

use coracle_core::NodeId;

use crate::expect::{self, Expectation};

/// A line of a script.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) text: String,
    pub(crate) step: Step,
}

/// What a line asks for; `README.md` explains each.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Limit(String, u64),
    Nodes(Vec<NodeId>),
    Outsiders(Vec<NodeId>),
    Log(NodeId, Vec<u64>),
    Term(NodeId, u64),
    Campaign(NodeId),
    Elect(NodeId),
    Tick(Option<NodeId>, Duration),
    Run(Duration),
    DeliverAll,
    Exchange(Vec<NodeId>),
    Deliver(Letters),
    Drop(Letters),
    Duplicate(Letters),
    Reverse(Letters),
    Hold(Link),
    Release(Option<Link>),
    Partition(Vec<Vec<NodeId>>),
    Cut(Link),
    Heal,
    Pause(NodeId),
    Resume(NodeId),
    HoldDisk(NodeId),
    ReleaseDisk(NodeId),
    /// As many writes, or all.
    Persist(NodeId, Option<usize>),
    FailDisk(NodeId),
    HoldApply(NodeId),
    ReleaseApply(NodeId),
    Crash(NodeId),
    Restart(NodeId),
    LoseState(NodeId),
    Propose(NodeId, Vec<String>),
    Read(NodeId, String),
    Transfer(NodeId, Option<NodeId>),
    Change(NodeId, String, Vec<Change>),
    Flush(NodeId),
    Compact(NodeId, u64),
    Snapshot(NodeId, NodeId, Option<u64>),
    FailSnapshot(NodeId, NodeId),
    Expect(Expectation),
    Within(Duration, Expectation),
}

/// A part of a change of membership.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Voter(NodeId),
    Learner(NodeId),
    Remove(NodeId),
}

/// Directed links, from and to somebody or anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) from: Option<NodeId>,
    pub(crate) to: Option<NodeId>,
}

impl Link {
    pub(crate) fn holds(self, from: NodeId, to: NodeId) -> bool {
        self.from.is_none_or(|id| id == from) && self.to.is_none_or(|id| id == to)
    }
}

/// Messages that are on their way over a link, all or of one kind, and of these all or the first ones.
#[derive(Clone, Debug)]
pub(crate) struct Letters {
    pub(crate) link: Link,
    pub(crate) kind: Option<String>,
    pub(crate) count: usize,
}

/// Reads a script. Empty lines, and what follows a `#`, are the story.
///
/// # Errors
/// The number of the first line that is wrong, and why.
pub(crate) fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (at, text) in text.lines().enumerate() {
        let text = text.split('#').next().unwrap_or_default().trim();
        if !text.is_empty() {
            let words: Vec<&str> = text.split_whitespace().collect();
            let step = step(&words).map_err(|why| format!("{}: {why}", at + 1))?;
            lines.push(Line { number: at + 1, text: text.to_owned(), step });
        }
    }
    Ok(lines)
}

fn step(words: &[&str]) -> Result<Step, String> {
    Ok(match words {
        ["expect", what @ ..] => Step::Expect(expect::parse(what)?),
        ["within", duration, "expect", what @ ..] => Step::Within(span(duration)?, expect::parse(what)?),
        ["limit", what, value] => Step::Limit((*what).to_owned(), number(value)?),
        ["nodes", ids @ ..] => Step::Nodes(nodes(ids)?),
        ["outsiders", ids @ ..] => Step::Outsiders(nodes(ids)?),
        ["log", id, "has", "terms", terms @ ..] => Step::Log(node(id)?, numbers(terms)?),
        ["term", id, "is", term] => Step::Term(node(id)?, number(term)?),
        ["propose", id, names @ ..] if !names.is_empty() => {
            Step::Propose(node(id)?, names.iter().map(|name| (*name).to_owned()).collect())
        }
        ["read", id, name] => Step::Read(node(id)?, (*name).to_owned()),
        ["transfer", id] => Step::Transfer(node(id)?, None),
        ["transfer", id, "to", to] => Step::Transfer(node(id)?, Some(node(to)?)),
        ["change", id, name, what @ ..] => Step::Change(node(id)?, (*name).to_owned(), changes(what)?),
        ["tick", id, duration] => Step::Tick(Some(node(id)?), span(duration)?),
        ["tick", duration] => Step::Tick(None, span(duration)?),
        ["run", duration] => Step::Run(span(duration)?),
        _ => return detail(words),
    })
}

/// The steps about what is on its way and what a node keeps.
fn detail(words: &[&str]) -> Result<Step, String> {
    Ok(match words {
        ["deliver", "all"] => Step::DeliverAll,
        ["heal"] => Step::Heal,
        ["release", "all"] => Step::Release(None),
        ["deliver", what @ ..] => Step::Deliver(letters(what)?),
        ["drop", what @ ..] => Step::Drop(letters(what)?),
        ["duplicate", what @ ..] => Step::Duplicate(letters(what)?),
        ["reverse", what @ ..] => Step::Reverse(letters(what)?),
        ["exchange", ids @ ..] => Step::Exchange(nodes(ids)?),
        ["partition", groups @ ..] => {
            Step::Partition(groups.split(|word| *word == "|").map(nodes).collect::<Result<_, _>>()?)
        }
        ["cut", over] => Step::Cut(link(over)?),
        ["hold", "disk", id] => Step::HoldDisk(node(id)?),
        ["release", "disk", id] => Step::ReleaseDisk(node(id)?),
        ["hold", "apply", id] => Step::HoldApply(node(id)?),
        ["release", "apply", id] => Step::ReleaseApply(node(id)?),
        ["hold", over] => Step::Hold(link(over)?),
        ["release", over] => Step::Release(Some(link(over)?)),
        ["fail", "disk", id] => Step::FailDisk(node(id)?),
        ["fail", "snapshot", over] => directed(over).map(|(from, to)| Step::FailSnapshot(from, to))?,
        ["snapshot", over] => directed(over).map(|(from, to)| Step::Snapshot(from, to, None))?,
        ["snapshot", over, "at", index] => {
            let (from, to) = directed(over)?;
            Step::Snapshot(from, to, Some(number(index)?))
        }
        ["persist", id] => Step::Persist(node(id)?, None),
        ["persist", id, count] => Step::Persist(node(id)?, Some(number(count)? as usize)),
        ["compact", id, index] => Step::Compact(node(id)?, number(index)?),
        ["flush", id] => Step::Flush(node(id)?),
        ["campaign", id] => Step::Campaign(node(id)?),
        ["elect", id] => Step::Elect(node(id)?),
        ["pause", id] => Step::Pause(node(id)?),
        ["resume", id] => Step::Resume(node(id)?),
        ["crash", id] => Step::Crash(node(id)?),
        ["lose", "state", id] => Step::LoseState(node(id)?),
        ["restart", id] => Step::Restart(node(id)?),
        _ => return Err("no such step; README.md beside the scripts has them all".to_owned()),
    })
}

pub(crate) fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("\"{word}\" is no number"))
}

fn numbers(words: &[&str]) -> Result<Vec<u64>, String> {
    words.iter().map(|word| number(word)).collect()
}

pub(crate) fn node(word: &str) -> Result<NodeId, String> {
    word.parse().map(NodeId).map_err(|_| format!("\"{word}\" is no node"))
}

fn nodes(words: &[&str]) -> Result<Vec<NodeId>, String> {
    if words.is_empty() {
        return Err("nodes are missing".to_owned());
    }
    words.iter().map(|word| node(word)).collect()
}

fn span(word: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{word}\" is no duration: it ends in ms or s");
    if let Some(count) = word.strip_suffix("ms") {
        return Ok(Duration::from_millis(count.parse().map_err(|_| wrong())?));
    }
    let count = word.strip_suffix('s').ok_or_else(wrong)?;
    Ok(Duration::from_secs(count.parse().map_err(|_| wrong())?))
}

/// `1->2`, where either may be `*`.
pub(crate) fn link(word: &str) -> Result<Link, String> {
    let (from, to) = word.split_once("->").ok_or_else(|| format!("\"{word}\" is no link such as 1->2"))?;
    let end = |word: &str| if word == "*" { Ok(None) } else { node(word).map(Some) };
    Ok(Link { from: end(from)?, to: end(to)? })
}

fn directed(word: &str) -> Result<(NodeId, NodeId), String> {
    match link(word)? {
        Link { from: Some(from), to: Some(to) } => Ok((from, to)),
        _ => Err(format!("\"{word}\" names not one node at each end")),
    }
}

fn letters(words: &[&str]) -> Result<Letters, String> {
    let (over, kind, count) = match words {
        [over] => (over, None, usize::MAX),
        [over, kind] => (over, Some(kind), usize::MAX),
        [over, kind, count] => (over, Some(kind), number(count)? as usize),
        _ => return Err("a link, at most one kind of message, and how many of them".to_owned()),
    };
    if let Some(kind) = kind.filter(|kind| !expect::KINDS.contains(kind)) {
        return Err(format!("\"{kind}\" is no kind of message, which are: {}", expect::KINDS.join(", ")));
    }
    Ok(Letters { link: link(over)?, kind: kind.map(|kind| (*kind).to_owned()), count })
}

fn changes(mut words: &[&str]) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    loop {
        words = match words {
            [] if !changes.is_empty() => return Ok(changes),
            ["voter", id, rest @ ..] => {
                changes.push(Change::Voter(node(id)?));
                rest
            }
            ["learner", id, rest @ ..] => {
                changes.push(Change::Learner(node(id)?));
                rest
            }
            ["remove", id, rest @ ..] => {
                changes.push(Change::Remove(node(id)?));
                rest
            }
            _ => return Err("a change is made of: voter N, learner N, remove N".to_owned()),
        };
    }
}
