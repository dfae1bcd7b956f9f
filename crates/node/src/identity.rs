//! Who a store speaks for (C1), and what a founded store keeps of its founding (C2).

use std::collections::BTreeMap;

use coracle_core::{
    Base, ClusterId, Entry, EntryKind, GroupId, HardState, Incarnation, Index, LogRead, Membership, NodeId, Recovered,
    Run, Term,
};
use coracle_storage::{Identity, LogBatch, LogStore, RecoveredLog, StorageError, Store};

use bytes::Bytes;

use crate::{Configuration, StartError};

/// Whether the group's number is free: its upper half is for the records of foundings.
pub(crate) fn is_valid_group(group: GroupId) -> bool {
    group.0 < FOUNDING_GROUPS
}

/// Where the numbers of the logs that keep foundings begin.
const FOUNDING_GROUPS: u64 = 1 << 63;

/// The log in which a node keeps the first entry of its group's log: there it outlives compaction, since peers may ask for it at any time.
pub(crate) fn founding_group(group: GroupId) -> GroupId {
    GroupId(group.0 | FOUNDING_GROUPS)
}

/// Reads the store's identity, or draws one and keeps it durably before anybody is answered. A new store must not hold a log of `group`.
pub(crate) fn establish(store: &dyn Store, cluster_name: &str, group: Option<GroupId>) -> Result<Identity, StartError> {
    let Some(identity) = store.identity()? else {
        if let Some(group) = group
            && !store.log().recover(group, 0)?.is_empty()
        {
            return Err(Configuration::IdentityMissing.into());
        }
        let identity = Identity {
            node: NodeId(random()?),
            incarnation: Incarnation(random()?),
            engine: store.engine().to_owned(),
            cluster_name: cluster_name.to_owned(),
            clusters: BTreeMap::new(),
        };
        store.set_identity(&identity)?;
        return Ok(identity);
    };
    if identity.engine != store.engine() {
        return Err(Configuration::Engine { found: identity.engine, expected: store.engine() }.into());
    }
    if identity.cluster_name != cluster_name {
        let expected = cluster_name.to_owned();
        return Err(Configuration::ClusterName { found: identity.cluster_name, expected }.into());
    }
    Ok(identity)
}

/// Keeps the first entry, then the cluster's id: a crash in between is repaired from the log.
pub(crate) fn keep_founding(
    store: &dyn Store,
    group: GroupId,
    identity: &mut Identity,
    first: &Bytes,
    membership: &Membership,
) -> Result<(), StorageError> {
    store.log().write(&[first_batch(founding_group(group), first), first_batch(group, first)])?;
    keep_cluster(store, group, identity, membership.cluster)
}

/// Keeps which cluster the node is to join, in the log's base and then in the identity: a crash in between is repaired from the log.
pub(crate) fn keep_joining(
    store: &dyn Store,
    group: GroupId,
    identity: &mut Identity,
    cluster: ClusterId,
) -> Result<(), StorageError> {
    let Recovered { base, hard_state, .. } = Recovered::joining(cluster);
    let batch = LogBatch { hard_state: Some(hard_state), base: Some(base), ..LogBatch::append(group, Vec::new()) };
    store.log().write(&[batch])?;
    keep_cluster(store, group, identity, cluster)
}

/// Where a node stands towards its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is to become a member, and has never known itself to be one.
    Joining,
    /// It is a member.
    Member,
    /// It was one.
    Removed,
}

/// Where the node stands, as its log tells it. A log that was cut below all that it says of the node is most likely that of one that was removed; should it be catching up, it learns better soon.
pub(crate) fn standing(identity: &Identity, recovered: &RecoveredLog) -> Standing {
    let is_listed = |membership: &Membership| {
        membership.node(identity.node).is_some_and(|node| node.incarnation == identity.incarnation)
    };
    let Base { membership: first, index: base, .. } = &recovered.base;
    let commit_index = recovered.hard_state.commit_index.max(*base);
    let committed = recovered.memberships.iter().filter(|(index, _)| *index <= commit_index);
    let committed: Vec<&Membership> = first.iter().chain(committed.map(|(_, membership)| membership)).collect();
    match committed.last() {
        Some(latest) if is_listed(latest) => Standing::Member,
        Some(_) if *base > Index::ZERO || committed.iter().any(|earlier| is_listed(earlier)) => Standing::Removed,
        _ => Standing::Joining,
    }
}

/// Brings the identity and the record of the founding in line with what the log says, and returns the first entry's data if it is still known.
pub(crate) fn repair(
    store: &dyn Store,
    group: GroupId,
    identity: &mut Identity,
    recovered: &RecoveredLog,
) -> Result<Option<Bytes>, StartError> {
    let log = store.log();
    let membership = match recovered.memberships.first() {
        Some((_, membership)) => Some(membership),
        None => recovered.base.membership.as_ref(),
    };
    let membership = membership.ok_or_else(|| StorageError::damaged("the log", "it holds no membership"))?;
    let cluster = identity.clusters.get(&group);
    if let Some(cluster) = cluster.filter(|cluster| **cluster != membership.cluster) {
        let (identity, log) = (cluster.to_string(), membership.cluster.to_string());
        return Err(Configuration::ClusterId { identity, log }.into());
    }
    if cluster.is_none() {
        let is_own = membership.node(identity.node).is_some_and(|node| node.incarnation == identity.incarnation);
        let is_joining = recovered.base.membership.as_ref().is_some_and(|membership| membership.nodes.is_empty());
        if !is_own && !is_joining {
            return Err(Configuration::NotInLog { node: identity.node.to_string() }.into());
        }
        keep_cluster(store, group, identity, membership.cluster)?;
    }
    let kept = founding_group(group);
    if !log.recover(kept, 0)?.is_empty() {
        return Ok(read_first(&*log, kept)?);
    }
    let holds_first = recovered.base.index == Index::ZERO && recovered.last_index > Index::ZERO;
    let first = if holds_first { read_first(&*log, group)? } else { None };
    if let Some(first) = &first {
        log.write(&[first_batch(kept, first)])?;
    }
    Ok(first)
}

/// Writes the founding entry anew when it is damaged in the log and whole in the record of the founding (C19).
pub(crate) fn mend_founding(
    log: &dyn LogStore,
    group: GroupId,
    recovered: &RecoveredLog,
) -> Result<bool, StorageError> {
    if recovered.damaged.first() != Some(&Index(1)) || log.recover(founding_group(group), 0)?.is_empty() {
        return Ok(false);
    }
    let Some(data) = read_first(log, founding_group(group))? else { return Ok(false) };
    let entry = Entry { kind: EntryKind::Membership, data };
    let repaired = vec![Run::new(Index(1), Term(1), [entry])];
    log.write(&[LogBatch { repaired, ..LogBatch::append(group, Vec::new()) }])?;
    tracing::warn!("the founding entry was damaged in the log, and is repaired from the record of the founding");
    Ok(true)
}

/// `identity` is the one of all groups of the process: it never says more than the store does.
fn keep_cluster(
    store: &dyn Store,
    group: GroupId,
    identity: &mut Identity,
    cluster: ClusterId,
) -> Result<(), StorageError> {
    let mut next = identity.clone();
    next.clusters.insert(group, cluster);
    store.set_identity(&next)?;
    *identity = next;
    Ok(())
}

/// The write that founds a log: the membership at index 1, term 1, committed.
/// What is there makes way: a crash between the two logs' writes leaves an entry that was told to nobody.
fn first_batch(group: GroupId, first: &Bytes) -> LogBatch {
    let entry = Entry { kind: EntryKind::Membership, data: first.clone() };
    LogBatch {
        truncate_from: Some(Index(1)),
        hard_state: Some(HardState { term: Term(1), commit_index: Index(1), ..HardState::default() }),
        ..LogBatch::append(group, vec![Run::new(Index(1), Term(1), [entry])])
    }
}

/// The data of the entry at index 1, if it is the founding one and whole.
fn read_first(log: &dyn LogStore, group: GroupId) -> Result<Option<Bytes>, StorageError> {
    let LogRead::Entries(runs) = log.read(group, Index(1), Index(1), usize::MAX)? else { return Ok(None) };
    let entry = runs.first().and_then(|run| run.entries().first());
    Ok(entry.filter(|entry| entry.kind == EntryKind::Membership).map(|entry| entry.data.clone()))
}

/// A random number, from the operating system.
pub(crate) fn random() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| StartError::Environment {
        what: "cannot draw random numbers from the operating system",
        source: std::io::Error::other(error.to_string()),
    })
}
