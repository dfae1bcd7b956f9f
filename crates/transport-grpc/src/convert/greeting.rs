//! What processes say before, and between, frames.

use coracle_core::{ClusterId, GroupId, Incarnation, NodeId};
use coracle_transport::{GroupHello, Hello, Refusal};

use super::{Malformed, missing};
use crate::{
    pb::{self, envelope::Content, refusal},
    wire::{Greeting, Said},
};

pub(crate) fn encode_greeting(greeting: Greeting) -> pb::Envelope {
    let content = match greeting {
        Greeting::Hello(hello) => Content::Hello(encode_hello(hello)),
        Greeting::Welcome => Content::Welcome(pb::Welcome {}),
        Greeting::Refused(refusal) => Content::Refusal(encode_refusal(refusal)),
        Greeting::RefusedOtherwise(reason) => {
            Content::Refusal(pb::Refusal { reason: Some(refusal::Reason::Other(reason)) })
        }
    };
    pb::Envelope { content: Some(content) }
}

/// What an envelope holds; its frames are not looked at yet.
pub(crate) fn decode_envelope(envelope: pb::Envelope) -> Result<Said, Malformed> {
    Ok(match envelope.content.ok_or_else(|| missing("Envelope", "content"))? {
        Content::Hello(hello) => Said::Greeting(Greeting::Hello(decode_hello(hello))),
        Content::Welcome(pb::Welcome {}) => Said::Greeting(Greeting::Welcome),
        Content::Refusal(refusal) => Said::Greeting(decode_refusal(refusal)?),
        Content::Frames(frames) => Said::Frames(frames.frames),
    })
}

fn encode_hello(hello: Hello) -> pb::Hello {
    let group = |group: GroupHello| pb::GroupHello {
        group: group.group.0,
        cluster_name: group.cluster_name,
        cluster: group.cluster.map(|id| id.0),
        node: group.node.0,
        incarnation: group.incarnation.0,
    };
    let Hello { version, features, boot_nonce, groups } = hello;
    pb::Hello { version, features, boot_nonce, groups: groups.into_iter().map(group).collect() }
}

fn decode_hello(hello: pb::Hello) -> Hello {
    let group = |group: pb::GroupHello| GroupHello {
        group: GroupId(group.group),
        cluster_name: group.cluster_name,
        cluster: group.cluster.map(ClusterId),
        node: NodeId(group.node),
        incarnation: Incarnation(group.incarnation),
    };
    let pb::Hello { version, features, boot_nonce, groups } = hello;
    Hello { version, features, boot_nonce, groups: groups.into_iter().map(group).collect() }
}

fn encode_refusal(refusal: Refusal) -> pb::Refusal {
    use refusal::Reason;
    let reason = match refusal {
        Refusal::Version { ours, theirs } => Reason::Version(refusal::Version { ours, theirs }),
        Refusal::ClusterName { ours, theirs } => Reason::ClusterName(refusal::ClusterName { ours, theirs }),
        Refusal::Cluster { ours, theirs } => Reason::Cluster(refusal::Cluster { ours: ours.0, theirs: theirs.0 }),
        Refusal::Stranger { node } => Reason::Stranger(refusal::Stranger { node: node.0 }),
        Refusal::Incarnation { node } => Reason::Incarnation(refusal::Incarnation { node: node.0 }),
        Refusal::NotHosted { group, node } => Reason::NotHosted(refusal::NotHosted { group: group.0, node: node.0 }),
        Refusal::NoGroup => Reason::NoGroup(refusal::NoGroup {}),
        Refusal::Certificate { node, expected, presented } => {
            Reason::Certificate(refusal::Certificate { node: node.0, expected, presented })
        }
        other => Reason::Other(other.to_string()),
    };
    pb::Refusal { reason: Some(reason) }
}

fn decode_refusal(refusal: pb::Refusal) -> Result<Greeting, Malformed> {
    use refusal::Reason;
    Ok(Greeting::Refused(match refusal.reason.ok_or_else(|| missing("Refusal", "reason"))? {
        Reason::Version(version) => Refusal::Version { ours: version.ours, theirs: version.theirs },
        Reason::ClusterName(name) => Refusal::ClusterName { ours: name.ours, theirs: name.theirs },
        Reason::Cluster(id) => Refusal::Cluster { ours: ClusterId(id.ours), theirs: ClusterId(id.theirs) },
        Reason::Stranger(stranger) => Refusal::Stranger { node: NodeId(stranger.node) },
        Reason::Incarnation(stranger) => Refusal::Incarnation { node: NodeId(stranger.node) },
        Reason::NotHosted(absent) => Refusal::NotHosted { group: GroupId(absent.group), node: NodeId(absent.node) },
        Reason::NoGroup(refusal::NoGroup {}) => Refusal::NoGroup,
        Reason::Certificate(refusal::Certificate { node, expected, presented }) => {
            Refusal::Certificate { node: NodeId(node), expected, presented }
        }
        Reason::Other(reason) => return Ok(Greeting::RefusedOtherwise(reason)),
    }))
}
