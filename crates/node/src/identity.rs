//! Who a store speaks for (C1), and what a founded store keeps of its founding (C2).

use coracle_core::{Entry, EntryKind, GroupId, HardState, Incarnation, Index, LogRead, Membership, NodeId, Run, Term};
use coracle_storage::{Identity, LogBatch, LogStore, RecoveredLog, StorageError, Store};

use bytes::Bytes;

use crate::{Configuration, NodeOptions, StartError};

/// The log in which a node keeps the first entry of its group's log: there it outlives compaction, since peers may ask for it at any time.
pub(crate) fn founding_group(group: GroupId) -> GroupId {
    GroupId(group.0 | 1 << 63)
}

/// Reads the store's identity, or draws one and keeps it durably before anybody is answered.
pub(crate) fn establish(store: &dyn Store, options: &NodeOptions) -> Result<Identity, StartError> {
    let Some(identity) = store.identity()? else {
        let recovered = store.log().recover(options.group, 0)?;
        if !recovered.is_empty() {
            return Err(Configuration::IdentityMissing.into());
        }
        let identity = Identity {
            node: NodeId(random()?),
            incarnation: Incarnation(random()?),
            engine: store.engine().to_owned(),
            cluster_name: options.cluster_name.clone(),
            cluster: None,
        };
        store.set_identity(&identity)?;
        return Ok(identity);
    };
    if identity.engine != store.engine() {
        return Err(Configuration::Engine { found: identity.engine, expected: store.engine() }.into());
    }
    if identity.cluster_name != options.cluster_name {
        let expected = options.cluster_name.clone();
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
    keep_cluster(store, identity, membership)
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
    if identity.cluster.is_some_and(|cluster| cluster != membership.cluster) {
        let of = identity.cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
        return Err(Configuration::ClusterId { identity: of, log: membership.cluster.to_string() }.into());
    }
    if identity.cluster.is_none() {
        let is_own = membership.node(identity.node).is_some_and(|node| node.incarnation == identity.incarnation);
        if !is_own {
            return Err(Configuration::NotInLog { node: identity.node.to_string() }.into());
        }
        keep_cluster(store, identity, membership)?;
    }
    let kept = founding_group(group);
    if !log.recover(kept, 0)?.is_empty() {
        return Ok(read_first(&*log, kept)?);
    }
    let first = if recovered.base.index == Index::ZERO { read_first(&*log, group)? } else { None };
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

fn keep_cluster(store: &dyn Store, identity: &mut Identity, membership: &Membership) -> Result<(), StorageError> {
    identity.cluster = Some(membership.cluster);
    store.set_identity(identity)
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
