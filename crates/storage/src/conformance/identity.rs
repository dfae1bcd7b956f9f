//! Identity.

use std::collections::BTreeMap;

use coracle_core::{ClusterId, GroupId, Incarnation, NodeId};

use super::{Subject, reopened};
use crate::Identity;

pub(super) fn check<S: Subject>(factory: &impl Fn() -> S) {
    a_new_store_has_no_identity(factory());
    the_last_identity_is_kept(factory());
}

fn a_new_store_has_no_identity<S: Subject>(subject: S) {
    assert_eq!(subject.store().identity().expect("identity of a new store"), None);
    assert!(!subject.store().engine().is_empty(), "the engine has a name");
}

fn the_last_identity_is_kept<S: Subject>(subject: S) {
    let store = subject.store();
    let new = Identity {
        node: NodeId(0x0123_4567_89ab_cdef),
        incarnation: Incarnation(u64::MAX),
        engine: store.engine().to_owned(),
        cluster_name: "a name with = and é".to_owned(),
        clusters: BTreeMap::new(),
    };
    store.set_identity(&new).expect("set the identity");
    assert_eq!(store.identity().expect("identity"), Some(new.clone()));
    drop(store);
    let subject = reopened(subject);
    let store = subject.store();
    assert_eq!(store.identity().expect("identity after reopening"), Some(new.clone()));
    let clusters = BTreeMap::from([(GroupId(1), ClusterId(7)), (GroupId(300), ClusterId(u64::MAX))]);
    let founded = Identity { clusters, ..new };
    store.set_identity(&founded).expect("set the identity again");
    drop(store);
    assert_eq!(reopened(subject).store().identity().expect("identity once founded"), Some(founded));
}
