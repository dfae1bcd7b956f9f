//! Changes of voters that were called off: why, and what to do next.

use coracle::client::pb;
use serde_json::{Value as Json, json};

use crate::status::id;

/// Why a change was called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// This node was not heard of.
    Silent(u64),
    /// It answers, and takes nothing in.
    Stalled(u64),
    /// It is too slow to catch up.
    TooSlow(u64),
    /// Of those who would vote no majority is alive.
    NoMajority,
    /// The leader that did so does not lead any more, or has a reason that this build does not know.
    Unknown,
}

impl Reason {
    /// Why the last change of `node` was called off, as far as the leader tells.
    pub(super) fn of(members: &pb::MembersResponse, node: u64) -> Reason {
        let last = members.called_off.iter().rev().find(|it| it.nodes.contains(&node));
        match last.map(|it| (it.reason.as_str(), it.blamed)) {
            Some(("silent", Some(blamed))) => Reason::Silent(blamed),
            Some(("stalled", Some(blamed))) => Reason::Stalled(blamed),
            Some(("too-slow", Some(blamed))) => Reason::TooSlow(blamed),
            Some(("no-majority", _)) => Reason::NoMajority,
            _ => Reason::Unknown,
        }
    }

    /// The same in words.
    pub(super) fn text(self) -> String {
        match self {
            Reason::Silent(node) => format!("node {} was not heard of for the --promotion-timeout", id(node)),
            Reason::Stalled(node) => {
                format!("node {} answers, but took nothing in for the --promotion-timeout", id(node))
            }
            Reason::TooSlow(node) => format!("node {} takes in less than is written meanwhile", id(node)),
            Reason::NoMajority => "no majority of those who would vote was up for the --promotion-timeout".to_owned(),
            Reason::Unknown => "it did not come to an end in time".to_owned(),
        }
    }

    /// What to see to before the command is repeated.
    pub(super) fn remedy(self) -> String {
        match self {
            Reason::Silent(node) => format!("See that node {} runs, and is reached at its address", id(node)),
            Reason::Stalled(node) => {
                format!("The log of node {} says what holds it up, such as a disk that hangs or is full", id(node))
            }
            Reason::TooSlow(node) => {
                format!("Give node {} a faster disk or network, or wait until less is written", id(node))
            }
            Reason::NoMajority => {
                "`coracle members` shows who is silent: start them, or `coracle leave` one of them first".to_owned()
            }
            Reason::Unknown => {
                "`coracle members` shows who is silent or lags, and the log of the node that led then says why"
                    .to_owned()
            }
        }
    }
}

/// The same for programs.
pub(super) fn as_json(called_off: &pb::CalledOff) -> Json {
    json!({
        "index": called_off.index,
        "nodes": called_off.nodes.iter().copied().map(id).collect::<Vec<_>>(),
        "reason": called_off.reason,
        "blamed": called_off.blamed.map(id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_change_of_a_node_is_the_one_that_counts() {
        let called_off = |node, reason: &str, blamed| pb::CalledOff {
            index: 7,
            nodes: vec![node],
            reason: reason.to_owned(),
            blamed,
        };
        let members = pb::MembersResponse {
            called_off: vec![
                called_off(4, "silent", Some(4)),
                called_off(4, "stalled", Some(4)),
                called_off(5, "no-majority", None),
            ],
            ..Default::default()
        };
        assert_eq!(Reason::of(&members, 4), Reason::Stalled(4));
        assert_eq!(Reason::of(&members, 5), Reason::NoMajority);
        assert_eq!(Reason::of(&members, 6), Reason::Unknown);
    }
}
